//! Directories: the inner nodes of a snapshot.
//!
//! A directory is encoded as a list of entries, and its encoded bytes are content like any other: cut
//! into chunks of kind [`crate::chunk::ChunkKind::Tree`], so that what did not change is shared.

use std::ops::Range;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Result, strictly_ascending, within};
use crate::content::Content;
use crate::ids::Digest;
use crate::limits::{MAX_DIRECTORY, MAX_FILE_NAME, MAX_MAP_LEAVES, MAX_SYMLINK};

/// The encoded form of a directory, as content.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DirectoryRef {
    /// The length of the encoded directory in bytes.
    pub length: u64,
    /// What gives these bytes.
    pub content: Content,
}

impl DirectoryRef {
    /// Refuses a directory whose length is not that of its content.
    pub fn validate(&self) -> Result<()> {
        within("directory", self.length, MAX_DIRECTORY)?;
        if self.content.validate()? != self.length {
            return Err(DecodeError::malformed("directory", "its content has another length"));
        }
        Ok(())
    }
}

/// What is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// The name within the directory: bytes, as the file system has them.
    pub name: Vec<u8>,
    /// What it names.
    pub node: Node,
}

/// A directory, a file, or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Node {
    /// A directory.
    Directory {
        /// Its permission bits.
        mode: u32,
        /// Its entries.
        entries: DirectoryRef,
    } = 1,
    /// A regular file.
    File(File) = 2,
    /// A symbolic link that is part of the data directory (not a tablespace's).
    Symlink {
        /// Where it points: bytes, as the file system has them.
        target: Vec<u8>,
    } = 3,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct File {
    /// Its permission bits.
    pub mode: u32,
    /// When it was last modified, in seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Its length in bytes.
    pub size: u64,
    /// The keyed hash of its bytes.
    pub digest: Digest,
    /// What gives its bytes.
    pub content: Content,
}

/// The entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Directory {
    /// The entries, in ascending order of their names' bytes.
    pub entries: Vec<Entry>,
}

impl Directory {
    /// The encoded form.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let bytes = codec::encode(self);
        within("directory", bytes.len() as u64, MAX_DIRECTORY)?;
        Ok(bytes)
    }

    /// Decodes and validates a directory.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let directory: Directory = codec::decode("directory", bytes, MAX_DIRECTORY as usize)?;
        directory.validate()?;
        Ok(directory)
    }

    fn validate(&self) -> Result<()> {
        strictly_ascending("directory", self.entries.iter().map(|entry| &entry.name))?;
        self.entries.iter().try_for_each(Entry::validate)
    }
}

/// Encodes a directory whose entries come in any order. It holds them encoded: there may be millions.
#[derive(Debug, Clone, Default)]
pub struct DirectoryBuilder {
    /// The encoded entries, one after the other.
    encoded: Vec<u8>,
    /// Where each of them is.
    entries: Vec<Range<u32>>,
}

impl DirectoryBuilder {
    /// Adds an entry.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        entry.validate()?;
        let encoded = codec::encode(entry);
        let end = self.encoded.len() + encoded.len();
        within("directory", (COUNT + end) as u64, MAX_DIRECTORY)?;
        let place = |at: usize| u32::try_from(at).expect("a directory is not over 1 GiB");
        self.entries.push(place(self.encoded.len())..place(end));
        self.encoded.extend(encoded);
        Ok(())
    }

    /// The entry with this name.
    pub fn find(&self, name: &[u8]) -> Option<Entry> {
        let mut encoded = self.entries.iter().map(|entry| part(&self.encoded, entry));
        let found = encoded.find(|entry| name_of(entry) == name)?;
        codec::decode("directory", found, found.len()).ok()
    }

    /// The directory, with its entries in order.
    ///
    /// # Errors
    /// If two entries have the same name.
    pub fn finish(self) -> Result<EncodedDirectory> {
        let DirectoryBuilder { encoded, mut entries } = self;
        let name = |entry: &Range<u32>| name_of(part(&encoded, entry));
        entries.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        if let Some([one, _]) = entries.array_windows().find(|[one, next]| name(one) == name(next))
        {
            let detail = format!("{:?} is in it twice", String::from_utf8_lossy(name(one)));
            return Err(DecodeError::malformed("directory", detail));
        }
        let count = u32::try_from(entries.len()).expect("an entry is longer than a byte");
        Ok(EncodedDirectory { count: count.to_le_bytes(), encoded, entries })
    }
}

/// A directory that is encoded, in pieces.
#[derive(Debug, Clone)]
pub struct EncodedDirectory {
    count: [u8; COUNT],
    encoded: Vec<u8>,
    entries: Vec<Range<u32>>,
}

impl EncodedDirectory {
    /// The pieces that make it up.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let entries = self.entries.iter().map(|entry| part(&self.encoded, entry));
        std::iter::once(self.count.as_slice()).chain(entries)
    }

    /// The entry with this name.
    pub fn find(&self, name: &[u8]) -> Option<Entry> {
        let encoded = |entry: &Range<u32>| part(&self.encoded, entry);
        let at = self.entries.binary_search_by(|entry| name_of(encoded(entry)).cmp(name)).ok()?;
        let found = encoded(self.entries.get(at)?);
        codec::decode("directory", found, found.len()).ok()
    }
}

fn part<'e>(encoded: &'e [u8], entry: &Range<u32>) -> &'e [u8] {
    encoded.get(entry.start as usize..entry.end as usize).unwrap_or_default()
}

/// The name with which an encoded entry begins, behind its length.
fn name_of(entry: &[u8]) -> &[u8] {
    entry
        .split_first_chunk()
        .and_then(|(length, rest)| rest.get(..u32::from_le_bytes(*length) as usize))
        .unwrap_or_default()
}

/// The bytes in front of the entries, which say how many there are.
const COUNT: usize = 4;

/// No encoded entry is longer: the map of the largest file takes the most.
const MAX_ENTRY: usize = MAX_MAP_LEAVES * 40 + MAX_SYMLINK;

/// Decodes a directory entry by entry, while its bytes come.
#[derive(Debug, Clone, Default)]
pub struct DirectoryDecoder {
    /// Bytes that were not decoded yet, from `start`.
    bytes: Vec<u8>,
    start: usize,
    /// How many entries are still to come.
    left: Option<u32>,
    last: Option<Vec<u8>>,
}

impl DirectoryDecoder {
    /// Takes the next bytes of the directory.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.drain(..self.start);
        self.start = 0;
        within("entry of a directory", self.bytes.len() as u64, MAX_ENTRY as u64)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// How many bytes are here that are not decoded.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// How many it is worth to look for an entry again with: a large one that comes in small pieces would
    /// otherwise be gone through again and again.
    pub fn wanted(&self) -> usize {
        (2 * self.pending()).min(MAX_ENTRY)
    }

    /// The next entry; nothing if more bytes are needed for it, or if there is none.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut rest = self.bytes.get(self.start..).unwrap_or_default();
        let length = rest.len();
        let left = match self.left {
            Some(left) => left,
            None => match u32::deserialize(&mut rest) {
                Ok(count) => count,
                Err(_) => return Ok(None),
            },
        };
        self.start += length - rest.len();
        self.left = Some(left);
        let length = rest.len();
        // What is malformed, and not only cut short, is found at the end.
        let Some(left) = left.checked_sub(1) else { return Ok(None) };
        let Ok(entry) = Entry::deserialize(&mut rest) else { return Ok(None) };
        self.start += length - rest.len();
        entry.validate()?;
        strictly_ascending("directory", self.last.iter().chain([&entry.name]))?;
        self.last = Some(entry.name.clone());
        self.left = Some(left);
        Ok(Some(entry))
    }

    /// Refuses bytes that were not what a directory is made of, when all have come.
    pub fn finish(&self) -> Result<()> {
        match self.left {
            Some(0) if self.start == self.bytes.len() => Ok(()),
            Some(0) => Err(DecodeError::malformed("directory", "bytes follow its end")),
            _ => Err(DecodeError::malformed("directory", "an entry is no entry, or cut short")),
        }
    }
}

impl Entry {
    fn validate(&self) -> Result<()> {
        validate_name(&self.name)?;
        match &self.node {
            Node::Directory { mode, entries } => {
                validate_mode(*mode)?;
                entries.validate()
            }
            Node::File(file) => {
                validate_mode(file.mode)?;
                if file.content.validate()? != file.size {
                    let detail = "the content of a file has another length than the file";
                    return Err(DecodeError::malformed("directory", detail));
                }
                Ok(())
            }
            Node::Symlink { target } if target.is_empty() || target.contains(&0) => {
                Err(DecodeError::malformed("directory", "a symbolic link points nowhere"))
            }
            Node::Symlink { target } => {
                within("symbolic link", target.len() as u64, MAX_SYMLINK as u64)
            }
        }
    }
}

/// A name must stay within its directory, whatever program makes a file of it.
fn validate_name(name: &[u8]) -> Result<()> {
    within("file name", name.len() as u64, MAX_FILE_NAME as u64)?;
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        let detail = format!("{:?} cannot name a file", String::from_utf8_lossy(name));
        return Err(DecodeError::malformed("directory", detail));
    }
    Ok(())
}

/// Permission bits are the lowest twelve; the kind of file is not among them.
pub(crate) fn validate_mode(mode: u32) -> Result<()> {
    within("permission bits", u64::from(mode), 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Run;

    fn directory() -> Directory {
        let file = |size| File {
            mode: 0o600,
            mtime: 7,
            size,
            digest: Digest::from_bytes([1; 32]),
            content: Content::Runs(vec![Run::Zero { length: size }]),
        };
        let mut entries: Vec<Entry> = (1..300)
            .map(|n| Entry { name: n.to_string().into_bytes(), node: Node::File(file(n)) })
            .collect();
        entries.push(Entry { name: b"link".into(), node: Node::Symlink { target: b"1".into() } });
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Directory { entries }
    }

    #[test]
    fn entries_in_any_order_give_the_one_encoding() {
        let directory = directory();
        let mut builder = DirectoryBuilder::default();
        directory.entries.iter().rev().for_each(|entry| builder.add(entry).unwrap());
        assert_eq!(
            builder.find(b"77"),
            directory.entries.iter().find(|e| e.name == b"77").cloned()
        );
        assert_eq!(builder.find(b"none"), None);
        let mut twice = builder.clone();
        let encoded = builder.finish().unwrap();
        assert!(encoded.pieces().collect::<Vec<_>>().concat() == directory.encode().unwrap());
        twice.add(&directory.entries[5]).unwrap();
        assert!(twice.finish().is_err());
    }

    #[test]
    fn bytes_in_any_pieces_give_the_entries() {
        let directory = directory();
        let encoded = directory.encode().unwrap();
        for size in [1, 3, 100, encoded.len()] {
            let mut decoder = DirectoryDecoder::default();
            let mut entries = vec![];
            for piece in encoded.chunks(size) {
                decoder.push(piece).unwrap();
                entries.extend(std::iter::from_fn(|| decoder.next_entry().unwrap()));
            }
            decoder.finish().unwrap();
            assert_eq!(entries, directory.entries);
        }
        let decode = |bytes: &[u8]| -> Result<()> {
            let mut decoder = DirectoryDecoder::default();
            decoder.push(bytes)?;
            while decoder.next_entry()?.is_some() {}
            decoder.finish()
        };
        assert!(decode(&[]).is_err());
        assert!(decode(&encoded[..encoded.len() - 1]).is_err());
        assert!(decode(&[&encoded[..], &[0]].concat()).is_err());
        let [one, two, ..] = directory.entries.as_slice() else { panic!("there are many") };
        let wrong = Directory { entries: vec![two.clone(), one.clone()] };
        assert!(decode(&codec::encode(&wrong)).is_err());
    }

    #[test]
    fn an_entry_that_never_ends_is_not_gone_through_for_each_of_its_pieces() {
        let mut decoder = DirectoryDecoder::default();
        // One entry, with a name of 40 MiB.
        decoder.push(&[1, 0, 0, 0, 0, 0, 128, 2]).unwrap();
        let (mut tries, mut wanted) = (0, 0);
        while decoder.push(&[0; 4096]).is_ok() {
            if decoder.pending() >= wanted {
                assert_eq!(decoder.next_entry().unwrap(), None);
                (tries, wanted) = (tries + 1, decoder.wanted());
            }
        }
        assert!(decoder.pending() > MAX_ENTRY && wanted == MAX_ENTRY && tries < 20, "{tries}");
    }
}
