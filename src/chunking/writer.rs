//! Stores the content of a file: cuts it, gives its chunks to the repository, and describes it.

use std::sync::Arc;

use repo_format::DecodeError;
use repo_format::blob::BaseRange;
use repo_format::chunk::{ChunkKind, DigestBuilder, FileHasher};
use repo_format::content::{Content, Run};
use repo_format::ids::{ChunkId, Digest, LeafHash};
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;

use super::Grid;
use super::changes::{ChangeCutter, Sink};
use super::former::Former;
use super::map::MapBuilder;
use super::pages::{PageCutter, Piece};
use super::stream::StreamCutter;
use crate::repository::error::{Error, Result};
use crate::repository::reader::Reader;
use crate::repository::writer::Writer;

/// What a file became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// Its length in bytes.
    pub length: u64,
    /// The keyed hash of its bytes.
    pub digest: Digest,
    /// What gives its bytes.
    pub content: Content,
    /// How many of its bytes are runs of zeros.
    pub zero_bytes: u64,
    /// The hashes of its leaves, if it was cut on the page grid.
    pub leaves: Vec<LeafHash>,
}

/// Takes the bytes of one file, in order.
#[derive(Debug)]
pub struct ContentWriter<'w> {
    cutter: Cutter<'w>,
    parts: Parts<'w>,
}

/// Where the parts of a file go.
#[derive(Debug)]
struct Parts<'w> {
    writer: &'w mut Writer,
    keys: &'w NamingKeys,
    kind: ChunkKind,
    map: MapBuilder,
    zero_bytes: u64,
}

#[derive(Debug)]
enum Cutter<'w> {
    /// The chunks lie on the grid of the file, so that they share its leaves.
    Pages(PageGrid, PageCutter),
    /// What did not change stays in the chunks that the former version has.
    Changes(PageGrid, Box<ChangeCutter>, Arc<Reader>),
    /// The file is hashed on a grid of its own.
    Stream(StreamCutter, Box<FileHasher<'w>>),
}

impl<'w> ContentWriter<'w> {
    /// A writer at the beginning of a file whose chunks have `kind`.
    pub fn new(writer: &'w mut Writer, keys: &'w NamingKeys, grid: Grid, kind: ChunkKind) -> Self {
        let chunking = writer.repository().config().chunking;
        let cutter = match grid {
            Grid::Pages => Cutter::Pages(
                PageGrid::default(),
                PageCutter::new(keys, &chunking, writer.buffers()),
            ),
            Grid::Stream => {
                Cutter::Stream(StreamCutter::new(keys, &chunking), Box::new(FileHasher::new(keys)))
            }
        };
        ContentWriter::of(cutter, writer, keys, kind)
    }

    /// A writer at the beginning of a file of pages that is compared with its former version.
    pub fn of_changes(writer: &'w mut Writer, keys: &'w NamingKeys, former: Former) -> Self {
        let chunking = writer.repository().config().chunking;
        let cutter = Box::new(ChangeCutter::new(former, &chunking, writer.buffers()));
        let cutter = Cutter::Changes(PageGrid::default(), cutter, writer.reader().clone());
        ContentWriter::of(cutter, writer, keys, ChunkKind::Data)
    }

    fn of(
        cutter: Cutter<'w>,
        writer: &'w mut Writer,
        keys: &'w NamingKeys,
        kind: ChunkKind,
    ) -> Self {
        let map = MapBuilder::new(writer.repository().config().chunking.page_restart);
        ContentWriter { cutter, parts: Parts { writer, keys, kind, map, zero_bytes: 0 } }
    }

    /// Adds the next bytes of the file.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let ContentWriter { cutter, parts } = self;
        let keys = parts.keys;
        match cutter {
            Cutter::Stream(cutter, digest) => {
                digest.update(bytes);
                let mut chunks = vec![];
                cutter.bytes(bytes, |content| chunks.push(content));
                parts.stream_chunks(chunks)
            }
            Cutter::Pages(grid, cutter) => grid.leaves(bytes, &mut |leaves, leaf| {
                let mut pieces = vec![];
                leaves.push(cutter.leaf(keys, leaf, |piece| pieces.push(piece)));
                parts.pieces(pieces)
            }),
            Cutter::Changes(grid, cutter, reader) => grid.leaves(bytes, &mut |leaves, leaf| {
                let hash = keys.leaf(leaf);
                leaves.push(hash);
                cutter.leaf(reader, hash, leaf, parts)
            }),
        }
    }

    /// Adds the next page, which is as it was in the former version; zeros behind that.
    ///
    /// # Errors
    /// If there is no former version, or the page is needed and cannot be read.
    pub fn same_page(&mut self) -> Result<()> {
        let ContentWriter { cutter: Cutter::Changes(grid, cutter, reader), parts } = self else {
            return Err(Error::damaged(
                "a file",
                DecodeError::malformed("content", "it has no former version"),
            ));
        };
        let keys = parts.keys;
        grid.leaves.push(cutter.same_leaf(reader, keys, parts)?);
        Ok(())
    }

    /// Ends the file.
    pub fn finish(self) -> Result<StoredContent> {
        let ContentWriter { mut cutter, mut parts } = self;
        let keys = parts.keys;
        match &mut cutter {
            Cutter::Stream(cutter, _) => {
                let mut chunks = vec![];
                cutter.end(|content| chunks.push(content));
                parts.stream_chunks(chunks)?;
            }
            Cutter::Pages(grid, cutter) => {
                let mut pieces = vec![];
                grid.end(&mut |leaves, leaf| {
                    leaves.push(cutter.leaf(keys, leaf, |piece| pieces.push(piece)));
                    Ok(())
                })?;
                cutter.end(|piece| pieces.push(piece));
                parts.pieces(pieces)?;
            }
            Cutter::Changes(grid, cutter, reader) => {
                grid.end(&mut |leaves, leaf| {
                    let hash = keys.leaf(leaf);
                    leaves.push(hash);
                    cutter.leaf(reader, hash, leaf, &mut parts)
                })?;
                cutter.end(reader, &mut parts)?;
            }
        }
        let length = parts.map.length();
        let (digest, leaves) = match cutter {
            Cutter::Stream(_, digest) => (digest.finish(), vec![]),
            Cutter::Pages(grid, _) | Cutter::Changes(grid, ..) => {
                let mut digest = DigestBuilder::new(keys);
                digest.leaves(&grid.leaves);
                (digest.finish(length), grid.leaves)
            }
        };
        let Parts { writer, map, zero_bytes, .. } = parts;
        let content = map.finish(writer)?;
        Ok(StoredContent { length, digest, content, zero_bytes, leaves })
    }
}

/// Divides bytes into leaves.
#[derive(Debug, Default)]
struct PageGrid {
    partial: Vec<u8>,
    /// The hashes of those that were taken.
    leaves: Vec<LeafHash>,
}

type TakeLeaf<'t> = dyn FnMut(&mut Vec<LeafHash>, &[u8]) -> Result<()> + 't;

impl PageGrid {
    fn leaves(&mut self, bytes: &[u8], take: &mut TakeLeaf) -> Result<()> {
        let mut rest = bytes;
        if !self.partial.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(LEAF - self.partial.len()));
            self.partial.extend_from_slice(head);
            rest = tail;
            if self.partial.len() == LEAF {
                take(&mut self.leaves, &self.partial)?;
                self.partial.clear();
            }
        }
        let mut leaves = rest.chunks_exact(LEAF);
        for leaf in &mut leaves {
            take(&mut self.leaves, leaf)?;
        }
        self.partial.extend_from_slice(leaves.remainder());
        Ok(())
    }

    fn end(&mut self, take: &mut TakeLeaf) -> Result<()> {
        match self.partial.is_empty() {
            true => Ok(()),
            false => take(&mut self.leaves, &self.partial),
        }
    }
}

impl Parts<'_> {
    fn pieces(&mut self, pieces: Vec<Piece>) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Zeros(length) => self.run(Run::Zero { length })?,
                Piece::Chunk { content, leaves } => self.whole_chunk(content, &leaves)?,
            }
        }
        Ok(())
    }

    fn stream_chunks(&mut self, chunks: Vec<Vec<u8>>) -> Result<()> {
        for content in chunks {
            let leaves = self.keys.leaves(&content);
            self.whole_chunk(content, &leaves)?;
        }
        Ok(())
    }

    fn whole_chunk(&mut self, content: Vec<u8>, leaves: &[LeafHash]) -> Result<()> {
        let length = u32::try_from(content.len()).expect("a chunk is not over 1 MiB");
        let id = self.chunk(content, leaves, vec![])?;
        self.run(Run::Chunk { id, offset: 0, length })
    }
}

impl Sink for Parts<'_> {
    fn chunk(
        &mut self,
        content: Vec<u8>,
        leaves: &[LeafHash],
        former: Vec<BaseRange>,
    ) -> Result<ChunkId> {
        let id = self.keys.chunk_id(self.kind, content.len() as u64, leaves);
        self.writer.add_changed(self.kind, id, content, former)?;
        Ok(id)
    }

    fn run(&mut self, run: Run) -> Result<()> {
        if let Run::Zero { length } = run {
            self.zero_bytes += length;
        }
        self.map.push(self.writer, run)
    }
}

/// Stores bytes that are in memory, as the content of one file.
pub fn store_bytes(
    writer: &mut Writer,
    keys: &NamingKeys,
    grid: Grid,
    kind: ChunkKind,
    bytes: &[u8],
) -> Result<StoredContent> {
    let mut content = ContentWriter::new(writer, keys, grid, kind);
    content.write(bytes)?;
    content.finish()
}
