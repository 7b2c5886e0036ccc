//! The files in which a server sends the pages of a relation that changed (PostgreSQL 17 and later).
//!
//! The layout is that of `sendFile()` in `basebackup.c`:
//!
//! ```text
//! magic u32   number of blocks u32   truncation block length u32   block numbers u32 …
//! zeros to the next multiple of 8192, if there is a block   the blocks
//! ```

use std::io::{self, Read};

use super::page::PAGE_SIZE;

const WHAT: &str = "an incremental file";
const MAGIC: u32 = 0xd3ae_1f0d;

/// How the names of such files begin.
const PREFIX: &str = "INCREMENTAL.";

/// What a file of changed pages says before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementalHeader {
    /// Which blocks of the segment file follow, ascending.
    pub blocks: Vec<u32>,
    /// The file has at least so many blocks.
    pub truncation_length: u32,
}

impl IncrementalHeader {
    /// Reads what is in front of the blocks, of a file of `size` bytes.
    ///
    /// # Errors
    /// If that is no incremental file.
    pub fn read(from: &mut impl Read, size: u64) -> io::Result<Self> {
        let invalid =
            |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{WHAT}: {why}"));
        let mut word = || -> io::Result<u32> {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes)?;
            Ok(u32::from_le_bytes(bytes))
        };
        if word()? != MAGIC {
            return Err(invalid("it begins with something else"));
        }
        let (count, truncation_length) = (word()?, word()?);
        let header = 12 + 4 * u64::from(count);
        let padded = if count == 0 { header } else { header.next_multiple_of(PAGE_SIZE as u64) };
        if size != padded + u64::from(count) * PAGE_SIZE as u64 {
            return Err(invalid("its length is not that of its blocks"));
        }
        let mut blocks = vec![];
        for _ in 0..count {
            let block = word()?;
            if blocks.last().is_some_and(|last| *last >= block) {
                return Err(invalid("its blocks are not in order"));
            }
            blocks.push(block);
        }
        let padding = io::copy(&mut from.take(padded - header), &mut io::sink())?;
        if padding != padded - header {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(IncrementalHeader { blocks, truncation_length })
    }

    /// The length of the whole file in blocks.
    pub fn length(&self) -> u32 {
        let behind = self.blocks.last().map_or(0, |last| last.saturating_add(1));
        self.truncation_length.max(behind)
    }
}

/// The path of the relation file of which changed pages come as `path`; nothing if that is another file.
pub fn whole_path(path: &[u8]) -> Option<Vec<u8>> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, name) = path.split_at(at);
    let name = name.strip_prefix(PREFIX.as_bytes())?;
    Some([directory, name].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(blocks: &[u32], truncation: u32) -> Vec<u8> {
        let words = [&[MAGIC, blocks.len() as u32, truncation], blocks].concat();
        let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if !blocks.is_empty() {
            file.resize(file.len().next_multiple_of(PAGE_SIZE), 0);
        }
        file.resize(file.len() + blocks.len() * PAGE_SIZE, 7);
        file
    }

    fn read(mut file: &[u8]) -> io::Result<(IncrementalHeader, usize)> {
        let size = file.len() as u64;
        Ok((IncrementalHeader::read(&mut file, size)?, file.len()))
    }

    #[test]
    fn headers_end_where_the_blocks_begin() {
        let (header, left) = read(&file(&[], 5)).unwrap();
        assert_eq!((header.length(), left), (5, 0));
        let many: Vec<u32> = (0..5000).map(|n| n * 2).collect();
        for blocks in [&[3][..], &[0, 1, 9], &many] {
            let (header, left) = read(&file(blocks, 4)).unwrap();
            assert_eq!(header.blocks, blocks);
            assert_eq!(header.length(), 4.max(blocks.last().unwrap() + 1));
            assert_eq!(left, blocks.len() * PAGE_SIZE);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let sound = file(&[1, 2], 3);
        assert!(read(&sound[..sound.len() - 1]).is_err());
        assert!(read(&[sound.as_slice(), &[0]].concat()).is_err());
        assert!(read(&file(&[2, 1], 3)).is_err());
        assert!(read(&file(&[2, 2], 3)).is_err());
        assert!(read(&sound[1..]).is_err());
        assert!(read(b"").is_err());
        let endless = [MAGIC, u32::MAX, 0].map(u32::to_le_bytes).concat();
        assert!(read(&endless).is_err());
        let mut from = endless.as_slice();
        let claimed = 12 + 4 * u64::from(u32::MAX) + u64::from(u32::MAX) * PAGE_SIZE as u64;
        let claimed = claimed.next_multiple_of(PAGE_SIZE as u64);
        assert!(IncrementalHeader::read(&mut from, claimed).is_err());
    }

    #[test]
    fn names_are_those_of_relation_files() {
        assert_eq!(
            whole_path(b"base/5/INCREMENTAL.16384_vm.1"),
            Some(b"base/5/16384_vm.1".to_vec())
        );
        assert_eq!(whole_path(b"base/5/16384"), None);
        assert_eq!(whole_path(b"INCREMENTAL.x/16384"), None);
    }
}
