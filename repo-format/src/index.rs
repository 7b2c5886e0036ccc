//! Index runs: where chunks are, sorted, in fixed layouts that are searched where they lie.
//!
//! ```text
//! run (plaintext):
//!   packs u32   blobs u32   chunks u32   bases u32   superseded u32
//!   packs      × { pack id [32]   length u64 }                                   40 bytes
//!   blobs      × { pack u32   offset u64   header length u32   body length u32
//!                  content length u32   kind u8   encoding u8   zero u16
//!                  first base u32   bases u32 }                                  36 bytes
//!   chunks     × { short id [20]   blob u32   offset u32   length u32 }          32 bytes
//!   bases      × { short id [20] }                                               20 bytes
//!   superseded × { index id [32] }                                               32 bytes
//! ```
//!
//! Packs are sorted by id, blobs by (pack, offset), chunks by (short id, blob, offset), superseded
//! runs by id; the bases of the blobs follow each other in the order of the blobs. A short id is the
//! first 20 bytes of a chunk's id: enough to find it, while the blob's own header proves it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::blob::{Encoding, FRAME_PREFIX, Frame, validate_encoding};
use crate::chunk::ChunkKind;
use crate::codec::{DecodeError, Reader, Result, strictly_ascending, within};
use crate::envelope::{self, ObjectKind, PREFIX};
use crate::ids::{ChunkId, IndexId, PackId, SHORT_ID};
use crate::keys::KeyRing;
use crate::limits::{MAX_BLOB, MAX_INDEX, MAX_PACK};
use crate::pack::PackEntry;
use crate::record::SealError;
use crate::seal::{Domain, OVERHEAD};

/// The short form of a chunk's id.
pub type ShortId = [u8; SHORT_ID];

const HEADER: usize = 20;
const PACK: usize = 40;
const BLOB: usize = 36;
const CHUNK: usize = 32;

/// A blob, as an index run describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLocation {
    /// The pack that holds it.
    pub pack: PackId,
    /// Where its frame begins in the pack, in bytes.
    pub offset: u64,
    /// The length of its sealed header in bytes.
    pub header_length: u32,
    /// The length of its sealed body in bytes.
    pub body_length: u32,
    /// The length of its content in bytes.
    pub content_length: u32,
    /// What its chunks are.
    pub kind: ChunkKind,
    /// How its body is encoded.
    pub encoding: Encoding,
}

impl BlobLocation {
    /// The blob's frame, which `bytes` are: [`BlobLocation::frame_length`] bytes from its offset on.
    pub fn frame<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>> {
        Frame::exactly(bytes, self.header_length, self.body_length)
    }

    /// The length of the blob's frame in bytes.
    pub fn frame_length(&self) -> u64 {
        FRAME_PREFIX as u64 + u64::from(self.header_length) + u64::from(self.body_length)
    }
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLocation {
    /// The number of the blob within the run, which identifies it there.
    pub blob_number: u32,
    /// The blob that holds the chunk.
    pub blob: BlobLocation,
    /// Where the chunk begins in the blob's content, in bytes.
    pub offset: u32,
    /// The length of the chunk in bytes.
    pub length: u32,
}

/// Collects packs into a run.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    packs: BTreeMap<PackId, (u64, Vec<PackEntry>)>,
    superseded: BTreeSet<IndexId>,
    chunks: usize,
    /// The length of the plaintext, without its head and superseded runs.
    length: usize,
}

impl IndexBuilder {
    /// Adds a pack of `length` bytes with these blobs, in the order of their offsets; a pack that was
    /// added before is left as it is.
    pub fn pack(&mut self, id: PackId, length: u64, entries: Vec<PackEntry>) -> Result<()> {
        within("pack", length, MAX_PACK)?;
        let mut end = PREFIX as u64;
        for entry in &entries {
            entry.validate()?;
            if entry.offset < end || entry.end() > length {
                let detail = "a blob lies outside its pack, or in another";
                return Err(DecodeError::malformed("index run", detail));
            }
            end = entry.end();
        }
        if let Entry::Vacant(vacant) = self.packs.entry(id) {
            let chunks = entries.iter().map(|entry| entry.chunks.len()).sum::<usize>();
            let bases = entries.iter().map(|entry| entry.bases.len()).sum::<usize>();
            self.chunks += chunks;
            self.length += PACK + entries.len() * BLOB + chunks * CHUNK + bases * SHORT_ID;
            vacant.insert((length, entries));
        }
        Ok(())
    }

    /// Says that this run holds everything that still counts of run `id`.
    pub fn supersede(&mut self, id: IndexId) {
        self.superseded.insert(id);
    }

    /// The length that the object would have, in bytes. Over [`MAX_INDEX`] it is refused: writers
    /// begin another run long before.
    pub fn length(&self) -> usize {
        let superseded = self.superseded.len() * IndexId::LEN;
        PREFIX + OVERHEAD + HEADER + self.length + superseded
    }

    /// How many chunks the run has so far.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.superseded.is_empty()
    }

    /// The plaintext of the run.
    pub fn encode(&self) -> Result<Vec<u8>> {
        within("index run", self.length() as u64, MAX_INDEX as u64)?;
        let number = |n: usize| u32::try_from(n).expect("a run has far fewer than 2^32 entries");
        let (mut packs, mut blobs, mut bases) = (vec![], vec![], vec![]);
        let mut chunks: Vec<(ShortId, u32, u32, u32)> = Vec::with_capacity(self.chunks);
        let mut blob_number = 0u32;
        for (pack, (id, (length, entries))) in self.packs.iter().enumerate() {
            packs.extend_from_slice(id.as_bytes());
            packs.extend_from_slice(&length.to_le_bytes());
            for entry in entries {
                blobs.extend_from_slice(&number(pack).to_le_bytes());
                blobs.extend_from_slice(&entry.offset.to_le_bytes());
                blobs.extend_from_slice(&entry.header_length.to_le_bytes());
                blobs.extend_from_slice(&entry.body_length.to_le_bytes());
                blobs.extend_from_slice(&number(entry.content_length() as usize).to_le_bytes());
                blobs.extend_from_slice(&[entry.kind as u8, entry.encoding as u8, 0, 0]);
                blobs.extend_from_slice(&number(bases.len() / SHORT_ID).to_le_bytes());
                blobs.extend_from_slice(&number(entry.bases.len()).to_le_bytes());
                for base in &entry.bases {
                    bases.extend_from_slice(&base.short());
                }
                let mut offset = 0;
                for chunk in &entry.chunks {
                    chunks.push((chunk.id.short(), blob_number, offset, chunk.length));
                    offset += chunk.length;
                }
                blob_number += 1;
            }
        }
        chunks.sort_unstable();
        let mut out = Vec::with_capacity(self.length());
        for count in [
            packs.len() / PACK,
            blobs.len() / BLOB,
            chunks.len(),
            bases.len() / SHORT_ID,
            self.superseded.len(),
        ] {
            out.extend_from_slice(&number(count).to_le_bytes());
        }
        out.extend_from_slice(&packs);
        out.extend_from_slice(&blobs);
        for (id, blob, offset, length) in chunks {
            out.extend_from_slice(&id);
            for value in [blob, offset, length] {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        out.extend_from_slice(&bases);
        for id in &self.superseded {
            out.extend_from_slice(id.as_bytes());
        }
        Ok(out)
    }

    /// The index object, and its name.
    pub fn finish(self, keys: &KeyRing) -> std::result::Result<(IndexId, Vec<u8>), SealError> {
        let mut object = envelope::prefix(ObjectKind::Index).to_vec();
        let run = self.encode()?;
        keys.metadata().seal(&mut object, Domain::Index, keys.repository(), &[], &run)?;
        let id = IndexId::from_bytes(*blake3::hash(&object).as_bytes());
        Ok((id, object))
    }
}

/// A run that has been opened and validated, searched in its encoded form.
#[derive(Debug, Clone)]
pub struct IndexRun {
    packs: Vec<u8>,
    blobs: Vec<u8>,
    chunks: Vec<u8>,
    bases: Vec<u8>,
    superseded: Vec<IndexId>,
}

impl IndexRun {
    /// Opens the index object named `id`.
    pub fn open(keys: &KeyRing, id: &IndexId, object: &[u8]) -> Result<Self> {
        within("index run", object.len() as u64, MAX_INDEX as u64)?;
        if blake3::hash(object) != *id.as_bytes() {
            return Err(DecodeError::Checksum { what: "index run" });
        }
        let sealed = envelope::strip_prefix(ObjectKind::Index, object)?;
        IndexRun::decode(&keys.open(Domain::Index, &[], sealed)?)
    }

    /// Decodes and validates the plaintext of a run.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("index run", bytes);
        let counts: [u32; 5] =
            [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
        let [packs, blobs, chunks, bases, superseded] = counts.map(|count| count as usize);
        let section = |reader: &mut Reader<'_>, count: usize, size: usize| -> Result<Vec<u8>> {
            let length =
                count.checked_mul(size).ok_or(DecodeError::Truncated { what: "index run" })?;
            Ok(reader.take(length)?.to_vec())
        };
        let run = IndexRun {
            packs: section(&mut reader, packs, PACK)?,
            blobs: section(&mut reader, blobs, BLOB)?,
            chunks: section(&mut reader, chunks, CHUNK)?,
            bases: section(&mut reader, bases, SHORT_ID)?,
            superseded: section(&mut reader, superseded, IndexId::LEN)?
                .as_chunks::<{ IndexId::LEN }>()
                .0
                .iter()
                .map(|id| IndexId::from_bytes(*id))
                .collect(),
        };
        reader.end()?;
        run.validate()?;
        Ok(run)
    }

    /// The plaintext of the run again.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![];
        for rows in [
            self.pack_rows().len(),
            self.blob_rows().len(),
            self.chunk_rows().len(),
            self.base_rows().len(),
            self.superseded.len(),
        ] {
            let count = u32::try_from(rows).expect("the counts of a run are 32 bit");
            out.extend_from_slice(&count.to_le_bytes());
        }
        for section in [&self.packs, &self.blobs, &self.chunks, &self.bases] {
            out.extend_from_slice(section);
        }
        self.superseded.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
        out
    }

    /// How many chunks the run has.
    pub fn len(&self) -> usize {
        self.chunk_rows().len()
    }

    /// Whether the run has no chunks.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The runs that this one replaces.
    pub fn superseded(&self) -> &[IndexId] {
        &self.superseded
    }

    /// The packs of the run and their lengths in bytes, in the order of their ids.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, u64)> + '_ {
        self.pack_rows().iter().map(|row| {
            let (id, length) = row.split_first_chunk().expect("a row has 40 bytes");
            (PackId::from_bytes(*id), u64_at(length, 0))
        })
    }

    /// The number of blobs in the run.
    pub fn blob_count(&self) -> u32 {
        self.blob_rows().len() as u32
    }

    /// A blob of the run, by its number.
    pub fn blob(&self, number: u32) -> Option<BlobLocation> {
        let row = self.blob_rows().get(number as usize)?;
        let pack = self.pack_rows().get(u32_at(row, 0) as usize)?;
        Some(BlobLocation {
            pack: PackId::from_bytes(*pack.first_chunk()?),
            offset: u64_at(row, 4),
            header_length: u32_at(row, 12),
            body_length: u32_at(row, 16),
            content_length: u32_at(row, 20),
            kind: ChunkKind::from_number(*row.get(24)?).ok()?,
            encoding: Encoding::from_number(*row.get(25)?).ok()?,
        })
    }

    /// The short ids of the chunks that a delta blob needs.
    pub fn bases(&self, number: u32) -> &[ShortId] {
        let Some(row) = self.blob_rows().get(number as usize) else { return &[] };
        let (first, count) = (u32_at(row, 28) as usize, u32_at(row, 32) as usize);
        first
            .checked_add(count)
            .and_then(|end| self.base_rows().get(first..end))
            .unwrap_or_default()
    }

    /// Every place where the run has a chunk with the short id of `id`. The blob's header tells
    /// whether it really is that chunk.
    pub fn find<'a>(&'a self, id: &ChunkId) -> impl Iterator<Item = ChunkLocation> + 'a {
        self.find_short(id.short())
    }

    /// Every place where the run has a chunk with this short id.
    pub fn find_short<'a>(&'a self, short: ShortId) -> impl Iterator<Item = ChunkLocation> + 'a {
        let rows = self.chunk_rows();
        let first = rows.partition_point(|row| row[..SHORT_ID] < short[..]);
        rows.iter()
            .skip(first)
            .take_while(move |row| row.starts_with(&short))
            .filter_map(|row| self.location(row))
    }

    /// All chunks of the run, in the order of their ids.
    pub fn chunks(&self) -> impl Iterator<Item = (ShortId, ChunkLocation)> + '_ {
        self.chunk_rows().iter().filter_map(|row| Some((*row.first_chunk()?, self.location(row)?)))
    }

    fn location(&self, row: &[u8; CHUNK]) -> Option<ChunkLocation> {
        let blob_number = u32_at(row, 20);
        let blob = self.blob(blob_number)?;
        Some(ChunkLocation { blob_number, blob, offset: u32_at(row, 24), length: u32_at(row, 28) })
    }

    fn pack_rows(&self) -> &[[u8; PACK]] {
        self.packs.as_chunks().0
    }

    fn blob_rows(&self) -> &[[u8; BLOB]] {
        self.blobs.as_chunks().0
    }

    fn chunk_rows(&self) -> &[[u8; CHUNK]] {
        self.chunks.as_chunks().0
    }

    fn base_rows(&self) -> &[ShortId] {
        self.bases.as_chunks().0
    }

    fn validate(&self) -> Result<()> {
        let what = "index run";
        strictly_ascending(what, self.pack_rows().iter().map(|row| &row[..PackId::LEN]))?;
        strictly_ascending(what, self.superseded.iter())?;
        let rows = self.blob_rows();
        strictly_ascending(what, rows.iter().map(|row| (u32_at(row, 0), u64_at(row, 4))))?;
        let lengths: Vec<u64> = self.packs().map(|(_, length)| length).collect();
        for length in &lengths {
            within("pack", *length, MAX_PACK)?;
        }
        let mut bases = 0u64;
        let mut last = (0, PREFIX as u64);
        for (number, row) in rows.iter().enumerate() {
            let blob = self.blob(number as u32).ok_or_else(|| {
                DecodeError::malformed(what, "a blob has no pack, kind or encoding")
            })?;
            let (first, count) = (u64::from(u32_at(row, 28)), u64::from(u32_at(row, 32)));
            if row[26..28] != [0, 0] || first != bases {
                return Err(DecodeError::malformed(what, "a blob is not in its canonical form"));
            }
            if (blob.encoding == Encoding::Delta) != (count > 0) {
                return Err(DecodeError::malformed(what, "deltas, and only they, have bases"));
            }
            within("blob content", u64::from(blob.content_length), MAX_BLOB as u64)?;
            let (pack, end) = (u32_at(row, 0), blob.offset.saturating_add(blob.frame_length()));
            let free = if pack == last.0 { last.1 } else { PREFIX as u64 };
            let length = lengths.get(pack as usize).copied().unwrap_or_default();
            if blob.offset < free || end > length {
                return Err(DecodeError::malformed(
                    what,
                    "a blob lies outside its pack, or in another",
                ));
            }
            last = (pack, end);
            validate_encoding(blob.kind, blob.encoding)?;
            bases += count;
            let bases = self.bases(number as u32);
            if bases.len() as u64 != count {
                return Err(DecodeError::malformed(what, "a base is missing"));
            }
            if !bases.is_sorted() {
                return Err(DecodeError::malformed(what, "the bases of a blob are not sorted"));
            }
        }
        if bases != self.base_rows().len() as u64 {
            return Err(DecodeError::malformed(what, "there are bases that no blob has"));
        }
        strictly_ascending(
            what,
            self.chunk_rows()
                .iter()
                .map(|row| (&row[..SHORT_ID], u32_at(row, 20), u32_at(row, 24))),
        )?;
        for row in self.chunk_rows() {
            let chunk = self
                .location(row)
                .ok_or_else(|| DecodeError::malformed(what, "a chunk has no blob"))?;
            let end = u64::from(chunk.offset) + u64::from(chunk.length);
            if chunk.length == 0 || end > u64::from(chunk.blob.content_length) {
                return Err(DecodeError::malformed(what, "a chunk is empty or outside its blob"));
            }
        }
        Ok(())
    }
}

/// Four bytes of a row; rows have constant sizes, and callers constant offsets within them.
fn u32_at(row: &[u8], at: usize) -> u32 {
    row.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Eight bytes of a row.
fn u64_at(row: &[u8], at: usize) -> u64 {
    row.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
