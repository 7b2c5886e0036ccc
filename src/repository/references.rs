//! Follows everything that a snapshot refers to, and proves that it is there.

use std::collections::{BTreeSet, HashSet};

use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, Run};
use repo_format::ids::{ChunkId, PackId};
use repo_format::index::{ChunkLocation, ShortId};
use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, Node};

use super::error::{Error, Result};
use super::index::Index;
use super::reader::Reader;

/// A walk through the references of snapshots, each stretch once.
#[derive(Debug)]
pub struct References<'a> {
    reader: &'a Reader,
    index: &'a Index,
    available: Option<&'a BTreeSet<PackId>>,
    seen: HashSet<ShortId>,
    /// The packs that hold what was found.
    pub packs: BTreeSet<PackId>,
}

impl<'a> References<'a> {
    /// A walk by `index`; what is in other packs than the `available` ones counts as missing.
    pub fn new(
        reader: &'a Reader,
        index: &'a Index,
        available: Option<&'a BTreeSet<PackId>>,
    ) -> Self {
        References { reader, index, available, seen: HashSet::new(), packs: BTreeSet::new() }
    }

    /// Resolves everything that `snapshot` refers to.
    ///
    /// # Errors
    /// [`Error::MissingChunk`] for the first chunk that is nowhere, or whose base is not.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.directory(&snapshot.root)
    }

    fn directory(&mut self, directory: &DirectoryRef) -> Result<()> {
        self.content(&directory.content, ChunkKind::Tree)?;
        for entry in self.reader.directory(directory)?.entries {
            match entry.node {
                Node::Directory { entries, .. } => self.directory(&entries)?,
                Node::File(file) => self.content(&file.content, ChunkKind::Data)?,
                Node::Symlink { .. } => {}
            }
        }
        Ok(())
    }

    fn content(&mut self, content: &Content, kind: ChunkKind) -> Result<()> {
        match content {
            Content::Runs(runs) => self.runs(runs, kind),
            Content::Map(leaves) => leaves.iter().try_for_each(|leaf| {
                if !self.seen.insert(leaf.chunk.short()) {
                    return Ok(());
                }
                self.chunk(&leaf.chunk, ChunkKind::Map, 0)?;
                self.runs(&self.reader.leaf(&leaf.chunk, leaf.covers)?, kind)
            }),
        }
    }

    fn runs(&mut self, runs: &[Run], kind: ChunkKind) -> Result<()> {
        runs.iter().try_for_each(|run| match run {
            Run::Zero { .. } => Ok(()),
            Run::Chunk { id, offset, length } => self.chunk(id, kind, offset + length),
        })
    }

    /// A chunk must be in the index, of its kind, and reach as far as it is used; so must its bases.
    fn chunk(&mut self, id: &ChunkId, kind: ChunkKind, end: u32) -> Result<()> {
        let usable = |place: &&ChunkLocation| {
            place.blob.kind == kind && place.length >= end && self.is_available(&place.blob.pack)
        };
        let found = self.index.find(id);
        let place = *found.iter().find(usable).ok_or(Error::MissingChunk(*id))?;
        self.packs.insert(place.blob.pack);
        for base in self.index.bases(id) {
            let plain = self
                .index
                .find_base(&base)
                .filter(|plain| self.is_available(&plain.blob.pack))
                .ok_or(Error::MissingChunk(*id))?;
            self.packs.insert(plain.blob.pack);
        }
        Ok(())
    }

    fn is_available(&self, pack: &PackId) -> bool {
        self.available.is_none_or(|available| available.contains(pack))
    }
}
