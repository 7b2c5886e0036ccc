//! Packs: many blobs in one immutable object, named by its hash.
//!
//! ```text
//! magic [8]  version u16  blob frames …  sealed footer  footer length u32  magic [8]
//! ```
//!
//! The footer lists the blobs. If it is lost, the frames can be walked from the front.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::blob::{ChunkSpan, Encoding, FRAME_PREFIX, Frame, SealedBlob, distinct_bases};
use crate::chunk::ChunkKind;
use crate::codec::{self, DecodeError, Reader, Result, strictly_ascending, within};
use crate::envelope::{self, ObjectKind, PREFIX};
use crate::ids::{ChunkId, PackId};
use crate::keys::KeyRing;
use crate::limits::{MAX_BLOB_CHUNKS, MAX_PACK, MAX_PACK_BLOBS};
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
        let (frame, _) = Frame::split(&blob.frame)?;
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a frame's lengths are 32 bit");
        Ok(PackEntry {
            offset,
            header_length: length(frame.header),
            body_length: length(frame.body),
            kind: blob.header.kind,
            encoding: blob.encoding,
            chunks: blob.header.chunks.clone(),
            bases: blob.bases.clone(),
        })
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

    fn validate(&self) -> Result<()> {
        let what = "pack footer";
        within("number of chunks in a blob", self.chunks.len() as u64, MAX_BLOB_CHUNKS as u64)?;
        if self.chunks.is_empty() || self.chunks.iter().any(|chunk| chunk.length == 0) {
            return Err(DecodeError::malformed(what, "a blob or a chunk is empty"));
        }
        if (self.encoding == Encoding::Delta) == self.bases.is_empty() {
            return Err(DecodeError::malformed(what, "deltas, and only they, have bases"));
        }
        strictly_ascending(what, self.bases.iter())
    }
}

/// Checks entries against each other: frames follow one another from `start` to `end` without gaps.
pub fn validate_entries(entries: &[PackEntry], start: u64, end: u64) -> Result<()> {
    let what = "pack footer";
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
        return Err(DecodeError::malformed(what, "its blobs do not end where it begins"));
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
}

impl Default for PackBuilder {
    fn default() -> Self {
        PackBuilder { bytes: envelope::prefix(ObjectKind::Pack).to_vec(), entries: vec![] }
    }
}

impl PackBuilder {
    /// Appends a blob.
    pub fn push(&mut self, blob: &SealedBlob) -> Result<()> {
        let entry = PackEntry::new(self.bytes.len() as u64, blob)?;
        self.bytes.extend_from_slice(&blob.frame);
        self.entries.push(entry);
        Ok(())
    }

    /// The length of the pack so far, without its footer.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been pushed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the pack can take no further blob, whatever its length.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_PACK_BLOBS
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
    let entries: Vec<PackEntry> = codec::decode("pack footer", &footer, MAX_PACK as usize)?;
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

/// Lists the blobs of a pack from the blobs themselves: the way to read a pack whose footer is lost.
/// Stops at the first thing that is not a blob of this repository.
pub fn scan(keys: &KeyRing, bytes: &[u8]) -> Result<Vec<PackEntry>> {
    let mut rest = envelope::strip_prefix(ObjectKind::Pack, bytes)?;
    let mut found = vec![];
    while let Ok((frame, after)) = Frame::split(rest) {
        let Ok(header) = frame.open_header(keys) else { break };
        let Ok(body) = frame.open_body(keys, &header) else { break };
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a frame's lengths are 32 bit");
        found.push(PackEntry {
            offset: (bytes.len() - rest.len()) as u64,
            header_length: length(frame.header),
            body_length: length(frame.body),
            kind: header.kind,
            encoding: body.encoding(),
            chunks: header.chunks,
            bases: distinct_bases(&body),
        });
        rest = after;
    }
    Ok(found)
}
