//! The rows of many index runs and packs, searched together.

use std::io;
use std::path::Path;

use repo_format::blob::Encoding;
use repo_format::chunk::ChunkKind;
use repo_format::ids::{PackId, SHORT_ID};
use repo_format::index::{BlobLocation, ChunkLocation, IndexRun, ShortId};
use repo_format::pack::PackEntry;

use super::rows::{FinishedRows, NumberedRows, RowSorter, SortedRows};

/// Short id, blob, offset within it, length.
const CHUNK: usize = SHORT_ID + 12;

/// Pack, offset, three lengths, kind, encoding, number of the first base, how many.
const BLOB: usize = 36;

/// Collects the rows of a [`Table`].
#[derive(Debug)]
pub struct TableBuilder {
    packs: Vec<Pack>,
    blobs: NumberedRows<BLOB>,
    bases: NumberedRows<SHORT_ID>,
    chunks: RowSorter<CHUNK>,
}

/// A pack, as far as one run names its blobs: another run may name others of the same pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// Its length in bytes.
    pub length: u64,
    /// Whether what it holds is found.
    pub counts: bool,
}

impl TableBuilder {
    /// An empty table; files that become necessary are in `directory`.
    pub fn new(directory: &Path) -> Self {
        TableBuilder {
            packs: vec![],
            blobs: NumberedRows::new(directory),
            bases: NumberedRows::new(directory),
            chunks: RowSorter::new(directory),
        }
    }

    /// Adds the packs of a run. Returns their numbers.
    pub fn run(&mut self, run: &IndexRun) -> io::Result<Vec<u32>> {
        let packs: Vec<u32> =
            run.packs().map(|(id, length)| self.pack(id, length)).collect::<io::Result<_>>()?;
        let ids: Vec<PackId> = run.packs().map(|(id, _)| id).collect();
        // The number here of each blob of the run.
        let mut blobs: Vec<Option<u32>> = Vec::with_capacity(run.blob_count() as usize);
        for number in 0..run.blob_count() {
            let Some(blob) = run.blob(number) else { continue };
            let pack = ids.binary_search(&blob.pack).ok().and_then(|at| packs.get(at));
            blobs.push(match pack {
                Some(pack) => Some(self.blob(*pack, &blob, run.bases(number))?),
                None => None,
            });
        }
        for (short, at) in run.chunks() {
            if let Some(Some(blob)) = blobs.get(at.blob_number as usize) {
                self.chunk(&short, *blob, at.offset, at.length)?;
            }
        }
        Ok(packs)
    }

    /// Adds a pack by the entries of its footer.
    pub fn entries(&mut self, id: PackId, length: u64, entries: &[PackEntry]) -> io::Result<()> {
        let pack = self.pack(id, length)?;
        for entry in entries {
            let blob = BlobLocation {
                pack: id,
                offset: entry.offset,
                header_length: entry.header_length,
                body_length: entry.body_length,
                content_length: u32::try_from(entry.content_length()).map_err(io::Error::other)?,
                kind: entry.kind,
                encoding: entry.encoding,
            };
            let bases: Vec<ShortId> = entry.bases.iter().map(|base| base.short()).collect();
            let blob = self.blob(pack, &blob, &bases)?;
            let mut offset = 0;
            for chunk in &entry.chunks {
                self.chunk(&chunk.id.short(), blob, offset, chunk.length)?;
                offset += chunk.length;
            }
        }
        Ok(())
    }

    /// The table.
    pub fn finish(self) -> io::Result<Table> {
        Ok(Table {
            packs: self.packs,
            blobs: self.blobs.finish()?,
            bases: self.bases.finish()?,
            chunks: self.chunks.finish()?,
        })
    }

    /// Adds a pack; its number.
    fn pack(&mut self, id: PackId, length: u64) -> io::Result<u32> {
        let number = u32::try_from(self.packs.len()).map_err(io::Error::other)?;
        self.packs.push(Pack { id, length, counts: true });
        Ok(number)
    }

    fn blob(&mut self, pack: u32, blob: &BlobLocation, bases: &[ShortId]) -> io::Result<u32> {
        let mut row = [0; BLOB];
        let mut cursor = io::Cursor::new(&mut row[..]);
        let mut put = |bytes: &[u8]| io::Write::write_all(&mut cursor, bytes);
        put(&pack.to_le_bytes())?;
        put(&blob.offset.to_le_bytes())?;
        put(&blob.header_length.to_le_bytes())?;
        put(&blob.body_length.to_le_bytes())?;
        put(&blob.content_length.to_le_bytes())?;
        put(&[blob.kind as u8, blob.encoding as u8, 0, 0])?;
        put(&self.bases.len().to_le_bytes())?;
        put(&u32::try_from(bases.len()).map_err(io::Error::other)?.to_le_bytes())?;
        for base in bases {
            self.bases.push(base)?;
        }
        self.blobs.push(&row)?;
        Ok(self.blobs.len() - 1)
    }

    fn chunk(&mut self, short: &ShortId, blob: u32, offset: u32, length: u32) -> io::Result<()> {
        let mut row = [0; CHUNK];
        let (id, rest) = row.split_at_mut(SHORT_ID);
        id.copy_from_slice(short);
        for (slot, value) in rest.as_chunks_mut::<4>().0.iter_mut().zip([blob, offset, length]) {
            *slot = value.to_le_bytes();
        }
        self.chunks.push(row)
    }
}

/// Where chunks are.
#[derive(Debug)]
pub struct Table {
    packs: Vec<Pack>,
    blobs: FinishedRows<BLOB>,
    bases: FinishedRows<SHORT_ID>,
    chunks: SortedRows<CHUNK>,
}

impl Table {
    /// How many chunks there are, with those in several places counted for each.
    pub fn len(&self) -> u64 {
        self.chunks.len()
    }

    /// The packs.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// The packs, to say which of them count.
    pub fn packs_mut(&mut self) -> &mut [Pack] {
        &mut self.packs
    }

    /// Every place in a pack that counts where there is a chunk with this short id.
    pub fn find(&self, short: &ShortId) -> io::Result<Vec<ChunkLocation>> {
        let mut found = vec![];
        for row in self.chunks.starting_with(short)? {
            found.extend(self.location(&row)?);
        }
        Ok(found)
    }

    /// How many blobs there are; they are numbered from 0.
    pub fn blob_count(&self) -> u32 {
        self.blobs.len()
    }

    /// A blob in a pack that counts, by its number.
    pub fn blob_numbered(&self, number: u32) -> io::Result<Option<BlobLocation>> {
        Ok(self.blobs.get(number, 1)?.first().and_then(|row| self.blob(row)))
    }

    /// Every short id of a chunk, in order, once.
    pub fn for_each_id(&self, mut visit: impl FnMut(&ShortId) -> io::Result<()>) -> io::Result<()> {
        let mut last: Option<ShortId> = None;
        self.chunks.for_each(|row| {
            let id = row.first_chunk().copied().unwrap_or_default();
            if last.replace(id) == Some(id) {
                return Ok(());
            }
            visit(&id)
        })
    }

    /// The short ids of the chunks that the delta at `location` needs.
    pub fn bases(&self, location: &ChunkLocation) -> io::Result<Vec<ShortId>> {
        let rows = self.blobs.get(location.blob_number, 1)?;
        let [row] = rows.as_slice() else { return Ok(vec![]) };
        self.bases.get(u32_at(row, 28), u32_at(row, 32))
    }

    /// All blobs of one kind that are in packs which count.
    pub fn blobs_of(&self, kind: ChunkKind) -> io::Result<Vec<BlobLocation>> {
        let mut found = vec![];
        let (mut first, step) = (0, 4096);
        while first < self.blobs.len() {
            let count = step.min(self.blobs.len() - first);
            let rows = self.blobs.get(first, count)?;
            found.extend(rows.iter().filter_map(|row| self.blob(row)).filter(|b| b.kind == kind));
            first += count;
        }
        Ok(found)
    }

    fn location(&self, row: &[u8; CHUNK]) -> io::Result<Option<ChunkLocation>> {
        let blob_number = u32_at(row, SHORT_ID);
        let rows = self.blobs.get(blob_number, 1)?;
        let blob = rows.first().and_then(|row| self.blob(row));
        Ok(blob.map(|blob| ChunkLocation {
            blob_number,
            blob,
            offset: u32_at(row, SHORT_ID + 4),
            length: u32_at(row, SHORT_ID + 8),
        }))
    }

    fn blob(&self, row: &[u8; BLOB]) -> Option<BlobLocation> {
        let pack = self.packs.get(u32_at(row, 0) as usize).filter(|pack| pack.counts)?;
        Some(BlobLocation {
            pack: pack.id,
            offset: u64::from(u32_at(row, 4)) | u64::from(u32_at(row, 8)) << 32,
            header_length: u32_at(row, 12),
            body_length: u32_at(row, 16),
            content_length: u32_at(row, 20),
            kind: ChunkKind::from_number(row[24]).ok()?,
            encoding: Encoding::from_number(row[25]).ok()?,
        })
    }
}

/// Four bytes of a row; rows have constant sizes, and callers constant offsets within them.
fn u32_at(row: &[u8], at: usize) -> u32 {
    row.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
