//! Stores the content of a file: cuts it, gives its chunks to the repository, and describes it.

use repo_format::chunk::{ChunkKind, DigestBuilder, FileHasher};
use repo_format::content::{Content, Run};
use repo_format::ids::Digest;
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;

use super::Grid;
use super::map::MapBuilder;
use super::pages::{PageCutter, Piece};
use super::stream::StreamCutter;
use crate::repository::error::Result;
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
}

/// Takes the bytes of one file, in order.
#[derive(Debug)]
pub struct ContentWriter<'w> {
    writer: &'w mut Writer,
    keys: &'w NamingKeys,
    kind: ChunkKind,
    cutter: Cutter<'w>,
    map: MapBuilder,
    zero_bytes: u64,
}

#[derive(Debug)]
enum Cutter<'w> {
    /// The chunks lie on the grid of the file, so that they share its leaves.
    Pages { cutter: PageCutter, partial: Vec<u8>, digest: DigestBuilder },
    /// The file is hashed on a grid of its own.
    Stream { cutter: StreamCutter, digest: FileHasher<'w> },
}

impl<'w> ContentWriter<'w> {
    /// A writer at the beginning of a file whose chunks have `kind`.
    pub fn new(writer: &'w mut Writer, keys: &'w NamingKeys, grid: Grid, kind: ChunkKind) -> Self {
        let chunking = writer.repository().config().chunking;
        let cutter = match grid {
            Grid::Pages => Cutter::Pages {
                cutter: PageCutter::new(keys, &chunking, writer.buffers()),
                partial: Vec::new(),
                digest: DigestBuilder::new(keys),
            },
            Grid::Stream => Cutter::Stream {
                cutter: StreamCutter::new(keys, &chunking),
                digest: FileHasher::new(keys),
            },
        };
        let map = MapBuilder::new(chunking.page_restart);
        ContentWriter { writer, keys, kind, cutter, map, zero_bytes: 0 }
    }

    /// Adds the next bytes of the file.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut pieces = vec![];
        match &mut self.cutter {
            Cutter::Stream { cutter, digest } => {
                digest.update(bytes);
                cutter
                    .bytes(bytes, |content| pieces.push(Piece::Chunk { content, leaves: vec![] }));
            }
            Cutter::Pages { cutter, partial, digest } => {
                let mut rest = bytes;
                if !partial.is_empty() {
                    let (head, tail) = rest.split_at(rest.len().min(LEAF - partial.len()));
                    partial.extend_from_slice(head);
                    rest = tail;
                    if partial.len() == LEAF {
                        let hash = cutter.leaf(self.keys, partial, |piece| pieces.push(piece));
                        digest.leaves(&[hash]);
                        partial.clear();
                    }
                }
                let mut leaves = rest.chunks_exact(LEAF);
                for leaf in &mut leaves {
                    let hash = cutter.leaf(self.keys, leaf, |piece| pieces.push(piece));
                    digest.leaves(&[hash]);
                }
                partial.extend_from_slice(leaves.remainder());
            }
        }
        self.store(pieces)
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<StoredContent> {
        let mut pieces = vec![];
        match &mut self.cutter {
            Cutter::Stream { cutter, .. } => {
                cutter.end(|content| pieces.push(Piece::Chunk { content, leaves: vec![] }));
            }
            Cutter::Pages { cutter, partial, digest } => {
                if !partial.is_empty() {
                    let hash = cutter.leaf(self.keys, partial, |piece| pieces.push(piece));
                    digest.leaves(&[hash]);
                }
                cutter.end(|piece| pieces.push(piece));
            }
        }
        self.store(pieces)?;
        let length = self.map.length();
        let digest = match self.cutter {
            Cutter::Stream { digest, .. } => digest.finish(),
            Cutter::Pages { digest, .. } => digest.finish(length),
        };
        let content = self.map.finish(self.writer)?;
        Ok(StoredContent { length, digest, content, zero_bytes: self.zero_bytes })
    }

    fn store(&mut self, pieces: Vec<Piece>) -> Result<()> {
        for piece in pieces {
            let run = match piece {
                Piece::Zeros(length) => {
                    self.zero_bytes += length;
                    Run::Zero { length }
                }
                Piece::Chunk { content, leaves } => {
                    let leaves =
                        if leaves.is_empty() { self.keys.leaves(&content) } else { leaves };
                    let id = self.keys.chunk_id(self.kind, content.len() as u64, &leaves);
                    let length = u32::try_from(content.len()).expect("a chunk is not over 1 MiB");
                    self.writer.add(self.kind, id, content)?;
                    Run::Chunk { id, offset: 0, length }
                }
            };
            self.map.push(self.writer, run)?;
        }
        Ok(())
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
