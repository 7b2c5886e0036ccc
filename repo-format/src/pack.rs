//! Packs: many blobs in one immutable object, named by its hash.
//!
//! ```text
//! magic [8]  version u16  blob frames …  sealed footer  footer length u32  magic [8]
//! ```
//!
//! The footer lists the blobs. If it is lost, the frames are found by themselves.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::blob::{
    BlobHeader, ChunkSpan, Encoding, FRAME_PREFIX, Frame, SealedBlob, header_length,
    validate_chunks, validate_encoding,
};
use crate::chunk::ChunkKind;
use crate::codec::{self, DecodeError, Reader, Result, strictly_ascending, within};
use crate::envelope::{self, ObjectKind, PREFIX};
use crate::ids::{ChunkId, KeyId, PackId};
use crate::keys::KeyRing;
use crate::limits::{MAX_BASES, MAX_BLOB, MAX_BODY_OVERHEAD, MAX_PACK, MAX_PACK_BLOBS};
use crate::seal::{Domain, OVERHEAD};

/// The length of what follows the sealed footer.
pub const TRAILER: usize = 12;

/// One blob of a pack, as its footer and the index know it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PackEntry {
    /// Where its frame begins, in bytes from the start of the pack.
    pub offset: u64,
    /// The length of its sealed header in bytes.
    pub header_length: u32,
    /// The length of its sealed body in bytes.
    pub body_length: u32,
    /// What its chunks are.
    pub kind: ChunkKind,
    /// How its body is encoded.
    pub encoding: Encoding,
    /// Its chunks, in the order of its content.
    pub chunks: Vec<ChunkSpan>,
    /// The distinct chunks that a delta needs, in ascending order.
    pub bases: Vec<ChunkId>,
}

impl PackEntry {
    /// The entry of a sealed blob whose frame begins at `offset`.
    pub fn new(offset: u64, blob: &SealedBlob) -> Result<Self> {
        let (frame, rest) = Frame::split(&blob.frame)?;
        if !rest.is_empty() {
            return Err(DecodeError::malformed("blob", "bytes follow its frame"));
        }
        let (header, bases) = (blob.header.clone(), blob.bases.clone());
        let entry = PackEntry::assemble(offset, &frame, header, blob.encoding, bases);
        entry.validate()?;
        Ok(entry)
    }

    fn assemble(
        offset: u64,
        frame: &Frame<'_>,
        header: BlobHeader,
        encoding: Encoding,
        bases: Vec<ChunkId>,
    ) -> Self {
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a frame's lengths are 32 bit");
        PackEntry {
            offset,
            header_length: length(frame.header),
            body_length: length(frame.body),
            kind: header.kind,
            encoding,
            chunks: header.chunks,
            bases,
        }
    }

    /// The blob's frame, which `bytes` are: [`PackEntry::frame_length`] bytes from its offset on.
    pub fn frame<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>> {
        Frame::exactly(bytes, self.header_length, self.body_length)
    }

    /// The header that the blob has.
    pub fn header(&self) -> BlobHeader {
        BlobHeader { kind: self.kind, chunks: self.chunks.clone() }
    }

    /// The length of the blob's frame in bytes.
    pub fn frame_length(&self) -> u64 {
        FRAME_PREFIX as u64 + u64::from(self.header_length) + u64::from(self.body_length)
    }

    /// Where the blob's frame ends, in bytes from the start of the pack.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.frame_length())
    }

    /// The length of the blob's content in bytes.
    pub fn content_length(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let what = "list of blobs";
        validate_chunks(&self.chunks)?;
        validate_encoding(self.kind, self.encoding)?;
        if self.header_length as usize != header_length(self.chunks.len()) + OVERHEAD {
            return Err(DecodeError::malformed(what, "a blob's header has another length"));
        }
        let body = self.body_length as usize;
        within("blob body", body as u64, (MAX_BLOB + MAX_BODY_OVERHEAD + OVERHEAD) as u64)?;
        if body < OVERHEAD {
            return Err(DecodeError::Truncated { what: "blob body" });
        }
        within("number of bases", self.bases.len() as u64, MAX_BASES as u64)?;
        if (self.encoding == Encoding::Delta) == self.bases.is_empty() {
            return Err(DecodeError::malformed(what, "deltas, and only they, have bases"));
        }
        strictly_ascending(what, self.bases.iter())
    }
}

/// Checks entries against each other: frames follow one another from `start` to `end` without gaps.
pub fn validate_entries(entries: &[PackEntry], start: u64, end: u64) -> Result<()> {
    let what = "list of blobs";
    within("number of blobs in a pack", entries.len() as u64, MAX_PACK_BLOBS as u64)?;
    let mut at = start;
    for entry in entries {
        entry.validate()?;
        if entry.offset != at {
            return Err(DecodeError::malformed(what, "its blobs do not follow one another"));
        }
        at = entry.end();
    }
    if at != end {
        return Err(DecodeError::malformed(what, "its blobs do not end where they must"));
    }
    Ok(())
}

/// A finished pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The name of the pack.
    pub id: PackId,
    /// The bytes of the pack.
    pub bytes: Vec<u8>,
    /// Its blobs, in order.
    pub entries: Vec<PackEntry>,
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackBuilder {
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
    /// The length that the footer will have, sealed and with its trailer.
    footer: usize,
}

impl Default for PackBuilder {
    fn default() -> Self {
        PackBuilder {
            bytes: envelope::prefix(ObjectKind::Pack).to_vec(),
            entries: vec![],
            footer: 4 + OVERHEAD + TRAILER,
        }
    }
}

impl PackBuilder {
    /// Appends a blob. Refused, and nothing changed, if the pack would become too large.
    pub fn push(&mut self, blob: &SealedBlob) -> Result<()> {
        let entry = PackEntry::new(self.bytes.len() as u64, blob)?;
        let footer = self.footer + 26 + entry.chunks.len() * 36 + entry.bases.len() * ChunkId::LEN;
        let length = self.bytes.len() + blob.frame.len() + footer;
        within("number of blobs in a pack", self.entries.len() as u64 + 1, MAX_PACK_BLOBS as u64)?;
        within("pack", length as u64, MAX_PACK)?;
        self.bytes.extend_from_slice(&blob.frame);
        self.entries.push(entry);
        self.footer = footer;
        Ok(())
    }

    /// The length that the pack would have if it were finished now.
    pub fn length(&self) -> usize {
        self.bytes.len() + self.footer
    }

    /// Whether nothing has been pushed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the pack can take no further blob, whatever its length: by their number, or because
    /// the largest would be too large for it.
    pub fn is_full(&self) -> bool {
        const LARGEST: usize = MAX_BLOB + MAX_BODY_OVERHEAD + (1 << 20);
        self.entries.len() >= MAX_PACK_BLOBS || (self.length() + LARGEST) as u64 > MAX_PACK
    }

    /// Appends the footer and gives the pack its name.
    pub fn finish(mut self, keys: &KeyRing) -> std::result::Result<Pack, getrandom::Error> {
        let footer_at = self.bytes.len();
        let footer = codec::encode(&self.entries);
        keys.metadata().seal(
            &mut self.bytes,
            Domain::PackFooter,
            keys.repository(),
            &(footer_at as u64).to_le_bytes(),
            &footer,
        )?;
        let length = u32::try_from(self.bytes.len() - footer_at).expect("a pack is not over 1 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(b"BARMANPK");
        let id = PackId::from_bytes(*blake3::hash(&self.bytes).as_bytes());
        Ok(Pack { id, bytes: self.bytes, entries: self.entries })
    }
}

/// Where the sealed footer of a pack lies: its offset and its length, from the pack's last
/// [`TRAILER`] bytes.
pub fn footer_range(pack_length: u64, trailer: &[u8]) -> Result<(u64, u64)> {
    let what = "pack trailer";
    within("pack", pack_length, MAX_PACK)?;
    let mut reader = Reader::new(what, trailer);
    let length = u64::from(reader.u32()?);
    if reader.take(8)? != b"BARMANPK" {
        return Err(DecodeError::Magic { expected: what });
    }
    reader.end()?;
    let offset = pack_length
        .checked_sub(TRAILER as u64 + length)
        .filter(|offset| *offset >= PREFIX as u64 && length >= OVERHEAD as u64)
        .ok_or(DecodeError::Truncated { what: "pack" })?;
    Ok((offset, length))
}

/// Opens the footer of a pack, which begins at `offset`.
pub fn open_footer(keys: &KeyRing, offset: u64, sealed: &[u8]) -> Result<Vec<PackEntry>> {
    let footer = keys.open(Domain::PackFooter, &offset.to_le_bytes(), sealed)?;
    decode_footer(offset, &footer)
}

/// Decodes and validates the plaintext of a footer, which begins at `offset`.
pub fn decode_footer(offset: u64, footer: &[u8]) -> Result<Vec<PackEntry>> {
    let entries: Vec<PackEntry> = codec::decode("pack footer", footer, MAX_PACK as usize)?;
    validate_entries(&entries, PREFIX as u64, offset)?;
    Ok(entries)
}

/// Reads a whole pack: verifies its name, and lists its blobs from its footer.
pub fn open(keys: &KeyRing, id: &PackId, bytes: &[u8]) -> Result<Vec<PackEntry>> {
    verify_name(id, bytes)?;
    envelope::strip_prefix(ObjectKind::Pack, bytes)?;
    let (_, trailer) =
        bytes.split_last_chunk::<TRAILER>().ok_or(DecodeError::Truncated { what: "pack" })?;
    let (offset, length) = footer_range(bytes.len() as u64, trailer)?;
    let range = offset as usize..(offset + length) as usize;
    let sealed = bytes.get(range).ok_or(DecodeError::Truncated { what: "pack" })?;
    open_footer(keys, offset, sealed)
}

/// Verifies that a pack is what its name says; this needs no key.
pub fn verify_name(id: &PackId, bytes: &[u8]) -> Result<()> {
    if blake3::hash(bytes) == *id.as_bytes() {
        Ok(())
    } else {
        Err(DecodeError::Checksum { what: "pack" })
    }
}

/// Lists the blobs of a pack from their own headers and bodies: the way to read a pack whose footer
/// is lost. Where something is damaged, the search goes on behind it for whatever still opens.
pub fn scan(keys: &KeyRing, bytes: &[u8]) -> Vec<PackEntry> {
    let mut found = vec![];
    let mut at = PREFIX;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() > FRAME_PREFIX) {
        at += match scan_frame(keys, at, rest) {
            Some(entry) => {
                let length = entry.frame_length();
                found.push(entry);
                usize::try_from(length).unwrap_or(usize::MAX)
            }
            None => 1,
        };
    }
    found
}

fn scan_frame(keys: &KeyRing, at: usize, bytes: &[u8]) -> Option<PackEntry> {
    // A frame begins with two lengths and the id of a key: this is false almost everywhere, and cheap.
    let key = bytes.get(FRAME_PREFIX..)?.first_chunk()?;
    keys.find(&KeyId::from_bytes(*key))?;
    let (frame, _) = Frame::split(bytes).ok()?;
    let header = frame.open_header(keys).ok()?;
    let body = frame.open_body(keys, &header).ok()?;
    let (encoding, bases) = (body.encoding(), body.base_chunks());
    Some(PackEntry::assemble(at as u64, &frame, header, encoding, bases))
}
