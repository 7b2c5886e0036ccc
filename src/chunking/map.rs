//! Describes a file while it is written: runs, gathered into leaves of a map when there are many.

use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, MapLeaf, Run, encode_leaf};

use crate::repository::error::{Error, Result};
use crate::repository::writer::Writer;

/// A content with more runs than this has a map.
const DIRECT_RUNS: usize = 64;

/// Collects the runs of a file.
///
/// A map's leaf ends at every multiple of the page restart, so that a leaf depends only on what it
/// covers.
#[derive(Debug)]
pub struct MapBuilder {
    stretch: u64,
    /// Complete stretches that are not yet leaves, because the file may stay small.
    waiting: Vec<Vec<Run>>,
    current: Vec<Run>,
    leaves: Vec<MapLeaf>,
    runs: usize,
    length: u64,
}

impl MapBuilder {
    /// A description of nothing yet; leaves cover `stretch` bytes.
    pub fn new(stretch: u32) -> Self {
        MapBuilder {
            stretch: u64::from(stretch),
            waiting: vec![],
            current: vec![],
            leaves: vec![],
            runs: 0,
            length: 0,
        }
    }

    /// The length of what is described, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds the next run of the file.
    pub fn push(&mut self, writer: &mut Writer, run: Run) -> Result<()> {
        let mut rest = Some(run);
        while let Some(run) = rest {
            let room = self.stretch - self.length % self.stretch;
            let (head, tail) = split(run, room);
            self.append(head);
            if self.length.is_multiple_of(self.stretch) {
                self.waiting.push(std::mem::take(&mut self.current));
                self.make_leaves(writer)?;
            }
            rest = tail;
        }
        Ok(())
    }

    /// The content that was described.
    pub fn finish(mut self, writer: &mut Writer) -> Result<Content> {
        if self.runs <= DIRECT_RUNS {
            self.waiting.push(self.current);
            return Ok(Content::Runs(self.waiting.concat()));
        }
        if !self.current.is_empty() {
            self.waiting.push(std::mem::take(&mut self.current));
        }
        self.make_leaves(writer)?;
        Ok(Content::Map(self.leaves))
    }

    fn append(&mut self, run: Run) {
        self.length += run.length();
        if let (Some(Run::Zero { length }), Run::Zero { length: more }) =
            (self.current.last_mut(), &run)
        {
            *length += more;
            return;
        }
        self.current.push(run);
        self.runs += 1;
    }

    fn make_leaves(&mut self, writer: &mut Writer) -> Result<()> {
        if self.runs <= DIRECT_RUNS {
            return Ok(());
        }
        for runs in self.waiting.drain(..) {
            let leaf = encode_leaf(&runs).map_err(|e| Error::damaged("a new map", e))?;
            let chunk = writer.repository().keys().naming().chunk_id_of(ChunkKind::Map, &leaf);
            writer.add(ChunkKind::Map, chunk, leaf)?;
            self.leaves.push(MapLeaf { chunk, covers: runs.iter().map(Run::length).sum() });
        }
        Ok(())
    }
}

/// The first `room` bytes of a run, and what is left of it.
fn split(run: Run, room: u64) -> (Run, Option<Run>) {
    if run.length() <= room {
        return (run, None);
    }
    match run {
        Run::Zero { length } => {
            (Run::Zero { length: room }, Some(Run::Zero { length: length - room }))
        }
        Run::Chunk { id, offset, length } => {
            let room = u32::try_from(room).expect("room is less than the length of a chunk");
            let head = Run::Chunk { id, offset, length: room };
            (head, Some(Run::Chunk { id, offset: offset + room, length: length - room }))
        }
    }
}
