//! Writes the files of a snapshot, in parallel, and verifies each against its digest from the bytes
//! that were written.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use repo_format::chunk::DigestBuilder;
use repo_format::content::{Content, MapLeaf, Run};
use repo_format::ids::LeafHash;
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;
use repo_format::tree;

use super::correct::correct;
use super::destination::{Destination, Output};
use super::hashing::{PartHash, PartHasher};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::reader::{Reader, run_bytes};

/// So much of a large file is written at a time. Workers are near to each other, so that they need the same chunks: what changed
/// pages are deltas on is spread over much of a file.
const UNIT: u64 = 4 << 20;

/// So many files are synced at once.
const SYNCERS: usize = 4;

/// So many finished files wait for that, open.
const SYNCING_FILES: usize = 64;

/// What is to be written, in the order in which it is.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Directories and their permission bits, outer ones first.
    pub directories: Vec<(PathBuf, u32)>,
    /// Files.
    pub files: Vec<PlannedFile>,
    /// Symbolic links and where they point.
    pub symlinks: Vec<(PathBuf, PathBuf)>,
}

impl Plan {
    /// Takes out the files with these names: others will be written in their place.
    pub fn leave_out(&mut self, names: &BTreeSet<&[u8]>) {
        self.files.retain(|planned| !names.contains(planned.name.as_slice()));
    }
}

/// A file that is to be written.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// Its path within the data directory, as the manifest has it.
    pub name: Vec<u8>,
    /// Where it is written.
    pub path: PathBuf,
    /// Whether a file is there already, of which is kept what is right.
    pub is_there: bool,
    /// What it is.
    pub file: tree::File,
}

impl PlannedFile {
    /// Whether it is all zeros.
    pub fn is_hole(&self) -> bool {
        match &self.file.content {
            Content::Runs(runs) => runs.iter().all(|run| matches!(run, Run::Zero { .. })),
            Content::Map(_) => false,
        }
    }
}

/// A file that was written and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its path within the data directory.
    pub name: Vec<u8>,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last modified, in seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// The CRC-32C of its content.
    pub crc: u32,
    /// The bytes that were written; others were there already.
    pub written: u64,
}

/// A path component from the bytes that a snapshot has.
pub fn component(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// Writes everything that is planned; on return all of it is durable but for the directories' own
/// entries, which [`Destination::sync_directories`] makes so.
pub fn write(
    reader: &Reader,
    plan: &Plan,
    destination: &dyn Destination,
    threads: usize,
    progress: &Progress,
) -> Result<Vec<WrittenFile>> {
    for (path, mode) in &plan.directories {
        destination.make_directory(path, *mode)?;
    }
    for (path, target) in &plan.symlinks {
        destination.make_link(path, target)?;
    }
    let written = Mutex::new(Vec::with_capacity(plan.files.len()));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (parts, waiting) = bounded::<Part>(threads * 2);
        // Disks sync while processors decode.
        let (finished, unsynced) = bounded::<Arc<OpenFile>>(SYNCING_FILES);
        let syncers: Vec<_> = (0..SYNCERS)
            .map(|_| {
                let (unsynced, failed) = (unsynced.clone(), &failed);
                scope.spawn(move || {
                    sync(&unsynced).inspect_err(|_| failed.store(true, Ordering::Relaxed))
                })
            })
            .collect();
        drop(unsynced);
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| {
                let (waiting, written, failed) = (waiting.clone(), &written, &failed);
                let finished = finished.clone();
                scope.spawn(move || {
                    work(reader, &waiting, &finished, written, progress)
                        .inspect_err(|_| failed.store(true, Ordering::Relaxed))
                })
            })
            .collect();
        drop((waiting, finished));
        let mut result = Ok(());
        'files: for planned in &plan.files {
            match Part::of_file(planned, destination) {
                Ok(all) => {
                    for part in all {
                        if failed.load(Ordering::Relaxed) || parts.send(part).is_err() {
                            break 'files;
                        }
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        drop(parts);
        for worker in workers.into_iter().chain(syncers) {
            let ended = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })?;
    let mut written = written.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    written.sort_by(|a: &WrittenFile, b: &WrittenFile| a.name.cmp(&b.name));
    Ok(written)
}

/// A file that is being written.
struct OpenFile {
    planned: PlannedFile,
    output: Box<dyn Output>,
    hashes: Mutex<Vec<Option<PartHash>>>,
    left: AtomicUsize,
}

impl OpenFile {
    fn new(planned: &PlannedFile, output: Box<dyn Output>, parts: usize) -> OpenFile {
        OpenFile {
            planned: planned.clone(),
            output,
            hashes: Mutex::new((0..parts).map(|_| None).collect()),
            left: AtomicUsize::new(parts),
        }
    }
}

/// A part of a file: all of it, or a unit of what one leaf of its map covers.
struct Part {
    file: Arc<OpenFile>,
    number: usize,
    offset: u64,
    source: Source,
}

impl Part {
    /// Whether it ends what a leaf covers, so that it is time to sync.
    fn ends_stretch(&self) -> bool {
        match &self.source {
            Source::Content(_) | Source::There => true,
            Source::Leaf(leaf, range) => range.end == leaf.covers,
        }
    }
}

enum Source {
    /// All of a file that is there already.
    There,
    Content(Content),
    /// The bytes of a stretch, counted from its beginning.
    Leaf(MapLeaf, Range<u64>),
}

impl Part {
    /// Creates a file, and splits the work on it.
    fn of_file(planned: &PlannedFile, destination: &dyn Destination) -> Result<Vec<Part>> {
        let tree::File { mode, size, .. } = planned.file;
        if planned.is_there {
            let output = destination.reopen(&planned.path, mode, size)?;
            let file = Arc::new(OpenFile::new(planned, output, 1));
            return Ok(vec![Part { file, number: 0, offset: 0, source: Source::There }]);
        }
        let output = destination.create(&planned.path, mode, size)?;
        // Parts can be hashed apart only if each begins on the grid.
        let leaves = match &planned.file.content {
            Content::Map(leaves)
                if leaves.iter().rev().skip(1).all(|l| l.covers.is_multiple_of(LEAF as u64)) =>
            {
                leaves.as_slice()
            }
            _ => &[],
        };
        let units: Vec<(MapLeaf, Range<u64>)> = leaves.iter().flat_map(units).collect();
        let count = units.len().max(1);
        let file = Arc::new(OpenFile::new(planned, output, count));
        if leaves.is_empty() {
            let source = Source::Content(planned.file.content.clone());
            return Ok(vec![Part { file, number: 0, offset: 0, source }]);
        }
        let mut offset = 0;
        let part = |(number, (leaf, range)): (usize, (MapLeaf, Range<u64>))| {
            let length = range.end - range.start;
            let source = Source::Leaf(leaf, range);
            let part = Part { file: file.clone(), number, offset, source };
            offset += length;
            part
        };
        Ok(units.into_iter().enumerate().map(part).collect())
    }
}

/// The units of a stretch.
fn units(leaf: &MapLeaf) -> impl Iterator<Item = (MapLeaf, Range<u64>)> {
    let (leaf, count) = (*leaf, leaf.covers.div_ceil(UNIT));
    (0..count).map(move |n| (leaf, n * UNIT..leaf.covers.min((n + 1) * UNIT)))
}

/// What runs give of a range of bytes.
fn part_of(runs: Vec<Run>, range: &Range<u64>) -> Vec<Run> {
    let mut start = 0;
    let cut = |run: Run| {
        let (first, end) = (start, start + run.length());
        start = end;
        let (from, to) = (range.start.max(first), range.end.min(end));
        let length = to.checked_sub(from).filter(|length| *length > 0)?;
        Some(match run {
            Run::Zero { .. } => Run::Zero { length },
            Run::Chunk { id, offset, .. } => Run::Chunk {
                id,
                offset: offset + u32::try_from(from - first).ok()?,
                length: u32::try_from(length).ok()?,
            },
        })
    };
    runs.into_iter().filter_map(cut).collect()
}

fn work(
    reader: &Reader,
    parts: &Receiver<Part>,
    finished: &Sender<Arc<OpenFile>>,
    written: &Mutex<Vec<WrittenFile>>,
    progress: &Progress,
) -> Result<()> {
    let keys = reader.repository().keys().naming();
    let zero_leaf = keys.leaf(&[0; LEAF]);
    for part in parts {
        let hash = write_part(reader, &part, &zero_leaf, progress)?;
        let mut hashes = part.file.hashes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(slot) = hashes.get_mut(part.number) {
            *slot = Some(hash);
        }
        drop(hashes);
        let is_last = part.file.left.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            let file = finish_file(keys, &part.file)?;
            written.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(file);
        }
        if (is_last || part.ends_stretch()) && finished.send(part.file).is_err() {
            // Syncing failed, and says so itself.
            break;
        }
    }
    Ok(())
}

/// Makes finished files durable.
fn sync(files: &Receiver<Arc<OpenFile>>) -> Result<()> {
    files.iter().try_for_each(|open| open.output.sync())
}

fn write_part(
    reader: &Reader,
    part: &Part,
    zero_leaf: &LeafHash,
    progress: &Progress,
) -> Result<PartHash> {
    let runs = match &part.source {
        Source::There => {
            let OpenFile { planned, output, .. } = part.file.as_ref();
            return correct(reader, &planned.file, output.as_ref(), zero_leaf, progress);
        }
        Source::Content(content) => reader.runs(content)?,
        Source::Leaf(leaf, range) => part_of(reader.leaf(&leaf.chunk, leaf.covers)?, range),
    };
    let keys = reader.repository().keys().naming();
    let mut hasher = PartHasher::new(keys, zero_leaf);
    let mut offset = part.offset;
    for run in runs {
        match run {
            Run::Zero { length } => hasher.zeros(length)?,
            Run::Chunk { id, offset: from, length } => {
                let chunk = reader.chunk(&id)?;
                let bytes = run_bytes(&chunk, &id, from, length)?;
                part.file.output.write(part.number, offset, bytes)?;
                hasher.bytes(bytes)?;
                hasher.written += bytes.len() as u64;
            }
        }
        offset += run.length();
        progress.advance(run.length());
    }
    hasher.finish(offset - part.offset)
}

/// Verifies a file whose parts are all written, and gives it its time.
fn finish_file(keys: &NamingKeys, open: &OpenFile) -> Result<WrittenFile> {
    let PlannedFile { name, path, file, .. } = &open.planned;
    let mut digest = DigestBuilder::new(keys);
    let (mut crc, mut length, mut written) = (0, 0, 0);
    let hashes = open.hashes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for part in hashes.iter().flatten() {
        digest.leaves(&part.leaves);
        crc = crc32c::crc32c_combine(crc, part.crc, part.length as usize);
        length += part.length;
        written += part.written;
    }
    if digest.finish(length) != file.digest || length != file.size {
        return Err(Error::new(
            Kind::Damaged,
            format!("what was restored as {} is not what was backed up", path.display()),
        )
        .hint("run: barman repo check --read-data; and suspect this host's memory"));
    }
    open.output.finish(file.mtime)?;
    Ok(WrittenFile { name: name.clone(), size: length, mtime: file.mtime, crc, written })
}

#[cfg(test)]
mod tests {
    use repo_format::ids::ChunkId;

    use super::*;

    #[test]
    fn units_are_the_stretch_and_their_runs_are_those_of_it() {
        let chunk = |first: u8, offset, length| {
            let id = ChunkId::from_bytes([first; 32]);
            Run::Chunk { id, offset, length }
        };
        let runs = [chunk(1, 10, 100), Run::Zero { length: 50 }, chunk(2, 0, 7)];
        let part = |range| part_of(runs.to_vec(), &range);
        assert_eq!(part(0..157), runs);
        assert_eq!(part(0..1), [chunk(1, 10, 1)]);
        assert_eq!(part(99..151), [chunk(1, 109, 1), Run::Zero { length: 50 }, chunk(2, 0, 1)]);
        assert_eq!(part(110..120), [Run::Zero { length: 10 }]);
        assert_eq!(part(152..157), [chunk(2, 2, 5)]);
        let leaf = MapLeaf { chunk: ChunkId::from_bytes([3; 32]), covers: 2 * UNIT + 1 };
        let ranges: Vec<_> = units(&leaf).map(|(_, range)| range).collect();
        assert_eq!(ranges, [0..UNIT, UNIT..2 * UNIT, 2 * UNIT..2 * UNIT + 1]);
    }
}
