//! Follows everything that a snapshot refers to, and proves that it is there.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, Run};
use repo_format::ids::{ChunkId, PackId, SHORT_ID};
use repo_format::index::{ChunkLocation, ShortId};
use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, Node};

use super::error::{Error, Result};
use super::index::{Index, RowSet};
use super::reader::Reader;

/// A walk through the references of snapshots, each stretch once.
#[derive(Debug)]
pub struct References<'a> {
    reader: &'a Reader,
    index: &'a Index,
    seen: HashSet<ShortId>,
    /// Packs that only count for what is in no other.
    pub doubtful: Arc<HashSet<PackId>>,
    /// Takes the chunks that are reached, if anybody wants to know.
    pub reached: Option<RowSet<SHORT_ID>>,
    /// The packs that hold what was found.
    pub packs: BTreeSet<PackId>,
}

impl<'a> References<'a> {
    /// A walk by `index`.
    pub fn new(reader: &'a Reader, index: &'a Index) -> Self {
        let (seen, doubtful, packs) = Default::default();
        References { reader, index, seen, doubtful, reached: None, packs }
    }

    /// Resolves everything that `snapshot` refers to.
    ///
    /// # Errors
    /// [`Error::MissingChunk`] for the first chunk that is nowhere, or whose base is not.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Result<()> {
        snapshot.trees().try_for_each(|tree| self.directory(tree))
    }

    fn directory(&mut self, directory: &DirectoryRef) -> Result<()> {
        self.content(&directory.content, ChunkKind::Tree)?;
        for entry in self.reader.entries(directory)? {
            match entry?.node {
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

    /// A chunk must be in the index, of its kind, and reach as far as it is used; so must its bases,
    /// where it is a delta and nowhere plain.
    fn chunk(&mut self, id: &ChunkId, kind: ChunkKind, end: u32) -> Result<()> {
        let mut places = self.index.find(id)?;
        places.retain(|place| place.blob.kind == kind && place.length >= end);
        places.sort_by_key(|place| self.doubtful.contains(&place.blob.pack));
        for place in places {
            if let Some(packs) = self.bases(&place)? {
                if let Some(reached) = &mut self.reached {
                    reached.insert(id.short()).map_err(Error::Scratch)?;
                    for base in self.index.bases(&place)? {
                        reached.insert(base).map_err(Error::Scratch)?;
                    }
                }
                self.packs.insert(place.blob.pack);
                self.packs.extend(packs);
                return Ok(());
            }
        }
        Err(Error::MissingChunk(*id))
    }

    /// The packs of the bases of the blob at `place`; nothing if one of them is missing.
    fn bases(&self, place: &ChunkLocation) -> Result<Option<Vec<PackId>>> {
        let mut packs = vec![];
        for base in self.index.bases(place)? {
            let mut plain = self.index.find_base(&base, place.blob.kind)?;
            plain.sort_by_key(|place| self.doubtful.contains(&place.blob.pack));
            match plain.first() {
                Some(plain) => packs.push(plain.blob.pack),
                None => return Ok(None),
            }
        }
        Ok(Some(packs))
    }
}
