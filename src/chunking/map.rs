//! Describes a file while it is written: runs, gathered into leaves of a map when there are many.

use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, MapLeaf, Run, encode_leaf, push_run};

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
            // What was divided between two stretches is one run again.
            let mut runs = vec![];
            self.waiting.into_iter().flatten().for_each(|run| push_run(&mut runs, run));
            return Ok(Content::Runs(runs));
        }
        if !self.current.is_empty() {
            self.waiting.push(std::mem::take(&mut self.current));
        }
        self.make_leaves(writer)?;
        Ok(Content::Map(self.leaves))
    }

    fn append(&mut self, run: Run) {
        self.length += run.length();
        let before = self.current.len();
        push_run(&mut self.current, run);
        self.runs += self.current.len() - before;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use repo_format::config::{Chunking, Packing};
    use repo_format::ids::ChunkId;
    use repo_format::keys::Secret;
    use repo_format::slot::Credential;

    use super::*;
    use crate::repository::Repository;
    use crate::repository::index::Index;
    use crate::repository::slots::{NewSlot, PasswordCost};
    use crate::repository::writer::WriterOptions;
    use crate::storage::local::LocalStorage;

    const STRETCH: u64 = 64 << 20;

    fn describe(runs: &[Run]) -> Content {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let slot = NewSlot {
            credential: Credential::KeyFile(Secret::random().unwrap()),
            label: String::new(),
            cost: PasswordCost::default(),
        };
        let storage = Arc::new(LocalStorage::new(directory.path().to_owned()));
        let created = Repository::create(storage, &slot, Chunking::default(), Packing::default());
        let repository = Arc::new(runtime.block_on(created).unwrap());
        let options = WriterOptions { threads: 1, level: 1, deltas: true };
        let mut writer =
            Writer::new(repository, Arc::new(Index::empty().unwrap()), options).unwrap();
        let mut map = MapBuilder::new(STRETCH as u32);
        runs.iter().for_each(|run| map.push(&mut writer, *run).unwrap());
        let content = map.finish(&mut writer).unwrap();
        writer.finish().unwrap();
        let length: u64 = runs.iter().map(Run::length).sum();
        assert_eq!(content.validate(), Ok(length), "it can be written down");
        content
    }

    #[test]
    fn runs_across_restarts_are_whole_in_a_short_list_and_divided_in_a_map() {
        let chunk = |first: u8, length| {
            let id = ChunkId::from_bytes([first; 32]);
            Run::Chunk { id, offset: 0, length }
        };
        let short =
            [chunk(1, 8192), Run::Zero { length: STRETCH - 8292 }, chunk(2, 200), chunk(3, 5)];
        assert_eq!(describe(&short), Content::Runs(short.to_vec()));
        let zeros: Vec<Run> = (0..4).map(|_| Run::Zero { length: STRETCH }).collect();
        let joined = Content::Runs(vec![Run::Zero { length: 4 * STRETCH }]);
        assert_eq!(describe(&zeros), joined);

        let mut long: Vec<Run> = (0..100).map(|i| chunk(i, 8192)).collect();
        long.push(Run::Zero { length: STRETCH });
        let Content::Map(leaves) = describe(&long) else { panic!("a map") };
        let covers: Vec<u64> = leaves.iter().map(|leaf| leaf.covers).collect();
        assert_eq!(covers, [STRETCH, 100 * 8192]);
    }
}
