//! Histories of a file of pages: whatever happens to it, every version comes back bit for bit.

use std::sync::Arc;

use proptest::prelude::*;
use repo_format::blob::Encoding;
use repo_format::chunk::ChunkKind;
use repo_format::config::{Chunking, Packing};
use repo_format::content::{Content, Run};
use repo_format::ids::LeafHash;
use repo_format::keys::Secret;
use repo_format::limits::LEAF;
use repo_format::names::ObjectName;
use repo_format::slot::Credential;
use repo_format::tree::File;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Grid;
use super::former::Former;
use super::page_map::PageMaps;
use super::writer::{ContentWriter, StoredContent};
use crate::repository::Repository;
use crate::repository::index::Index;
use crate::repository::maintenance::usable_index;
use crate::repository::reader::{Reader, run_bytes};
use crate::repository::slots::{NewSlot, PasswordCost};
use crate::repository::writer::{Writer, WriterOptions, Written};
use crate::storage::local::LocalStorage;

/// A repository for versions of one file.
struct History {
    runtime: Runtime,
    repository: Arc<Repository>,
    directory: TempDir,
}

/// A stored version.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    bytes: Vec<u8>,
    file: File,
    leaves: Vec<LeafHash>,
    written: Written,
}

/// What is known of the former version's pages.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    All,
    Nothing,
}

impl History {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let slot = NewSlot {
            credential: Credential::KeyFile(Secret::random().unwrap()),
            label: String::new(),
            cost: PasswordCost::default(),
        };
        let storage = Arc::new(LocalStorage::new(directory.path().join("repository")));
        // Small windows, so that files have several.
        let chunking = Chunking { page_restart: 1 << 20, ..Chunking::default() };
        let created = Repository::create(storage, &slot, chunking, Packing::default());
        let repository = Arc::new(runtime.block_on(created).unwrap());
        History { runtime, repository, directory }
    }

    fn reader(&self) -> Reader {
        let _inside = self.runtime.enter();
        let index = self.runtime.block_on(Index::load(&self.repository)).unwrap();
        Reader::new(self.repository.clone(), Arc::new(index))
    }

    fn writer(&self) -> Writer {
        let _inside = self.runtime.enter();
        let nothing = std::collections::BTreeSet::new();
        let index = self.runtime.block_on(usable_index(&self.repository, &nothing)).unwrap();
        let options = WriterOptions { threads: 2, level: 3, deltas: true };
        Writer::new(self.repository.clone(), Arc::new(index), options).unwrap()
    }

    /// Cuts a version, in pieces of `step` bytes.
    fn cut(
        &self,
        writer: &mut Writer,
        bytes: &[u8],
        former: Option<(&Version, Known)>,
        step: usize,
    ) -> StoredContent {
        let keys = self.repository.keys().naming();
        let former = former.and_then(|(version, known)| {
            let leaves = (known == Known::All).then(|| version.leaves.clone());
            Former::load(writer.reader(), &version.file, leaves).unwrap()
        });
        let mut content = match former {
            Some(former) => ContentWriter::of_changes(writer, keys, former),
            None => ContentWriter::new(writer, keys, Grid::Pages, ChunkKind::Data),
        };
        bytes.chunks(step).for_each(|piece| content.write(piece).unwrap());
        content.finish().unwrap()
    }

    fn store(&self, bytes: &[u8], former: Option<(&Version, Known)>) -> Version {
        let mut writer = self.writer();
        let StoredContent { length, digest, content, leaves, .. } =
            self.cut(&mut writer, bytes, former, 100_000);
        let written = writer.finish().unwrap();
        assert_eq!(content.validate(), Ok(length), "it can be written down");
        let file = File { mode: 0o600, mtime: 0, size: length, digest, content };
        Version { bytes: bytes.to_vec(), file, leaves, written }
    }

    fn read(&self, reader: &Reader, version: &Version) -> Vec<u8> {
        let mut bytes = vec![];
        for run in reader.runs(&version.file.content).unwrap() {
            match run {
                Run::Zero { length } => bytes.resize(bytes.len() + length as usize, 0),
                Run::Chunk { id, offset, length } => {
                    let chunk = reader.chunk(&id).unwrap();
                    bytes.extend_from_slice(run_bytes(&chunk, &id, offset, length).unwrap());
                }
            }
        }
        bytes
    }

    /// The blobs that a version needs, as the bytes that must be decoded for it, and of those how many in deltas.
    fn decoded(&self, reader: &Reader, version: &Version) -> (u64, u64) {
        let mut blobs = std::collections::BTreeMap::new();
        let mut need = |place: &repo_format::index::ChunkLocation| {
            let length = u64::from(place.blob.content_length);
            let is_delta = place.blob.encoding == Encoding::Delta;
            blobs.insert((place.blob.pack, place.blob.offset), (length, is_delta));
        };
        for run in reader.runs(&version.file.content).unwrap() {
            let Run::Chunk { id, .. } = run else { continue };
            let place = reader.index().find(&id).unwrap()[0];
            need(&place);
            for base in reader.index().bases(&place).unwrap() {
                need(&reader.index().find_base(&base, ChunkKind::Data).unwrap()[0]);
            }
        }
        let deltas = blobs.values().filter(|(_, is_delta)| *is_delta).map(|(length, _)| length);
        (blobs.values().map(|(length, _)| length).sum(), deltas.sum())
    }
}

/// A page as a table has it: half of it compresses well, all of it is its own.
fn page(seed: u64) -> Vec<u8> {
    let mut page = vec![0; LEAF];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page[..LEAF / 2]);
    let text = format!("a row of table {seed} with some text, ");
    for (at, byte) in page[LEAF / 2..].iter_mut().enumerate() {
        *byte = text.as_bytes()[at % text.len()];
    }
    page
}

fn pages(seeds: std::ops::Range<u64>) -> Vec<u8> {
    seeds.flat_map(page).collect()
}

/// What happens to a file between two backups.
#[derive(Debug, Clone)]
enum Change {
    /// The first bytes of a page, as by a new LSN.
    Header(usize),
    /// Some bytes in the middle of a page.
    Tuple(usize, u8),
    /// Rows move within a page.
    Vacuum(usize),
    /// A page is written anew.
    Rewrite(usize, u64),
    /// A page becomes zeros.
    Zero(usize, usize),
    /// A page is half new.
    Torn(usize, u64),
    /// The end goes.
    Truncate(usize),
    /// So many pages more, and some bytes of one that is being written.
    Extend(u64, u64, usize),
    /// Another relation gets the file's name.
    Reuse(u64, u64),
    /// Every page changes a little.
    Freeze,
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        4 => at.clone().prop_map(Change::Header),
        4 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Tuple(at, byte)),
        2 => at.clone().prop_map(Change::Vacuum),
        2 => (at.clone(), any::<u64>()).prop_map(|(at, seed)| Change::Rewrite(at, seed)),
        2 => (at.clone(), 1usize..40).prop_map(|(at, count)| Change::Zero(at, count)),
        1 => (at.clone(), any::<u64>()).prop_map(|(at, seed)| Change::Torn(at, seed)),
        1 => at.prop_map(Change::Truncate),
        2 => (any::<u32>(), 0u64..60, 0usize..LEAF)
            .prop_map(|(seed, count, more)| Change::Extend(u64::from(seed), count, more)),
        1 => (any::<u32>(), 0u64..200).prop_map(|(s, count)| Change::Reuse(u64::from(s), count)),
        1 => Just(Change::Freeze),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let count = bytes.len() / LEAF;
    let place = |at: &usize| (count > 0).then(|| at % count * LEAF);
    match change {
        Change::Header(at) => {
            if let Some(at) = place(at) {
                bytes[at..at + 8].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            }
        }
        Change::Tuple(at, value) => {
            if let Some(at) = place(at) {
                bytes[at + 4000..at + 4100].fill(*value);
            }
        }
        Change::Vacuum(at) => {
            if let Some(at) = place(at) {
                bytes[at + 100..at + 8000].rotate_left(300);
            }
        }
        Change::Rewrite(at, seed) => {
            if let Some(at) = place(at) {
                bytes[at..at + LEAF].copy_from_slice(&page(*seed));
            }
        }
        Change::Zero(at, pages) => {
            if let Some(at) = place(at) {
                let end = (at + pages * LEAF).min(bytes.len());
                bytes[at..end].fill(0);
            }
        }
        Change::Torn(at, seed) => {
            if let Some(at) = place(at) {
                bytes[at..at + LEAF / 2].copy_from_slice(&page(*seed)[..LEAF / 2]);
            }
        }
        Change::Truncate(at) => bytes.truncate(place(at).unwrap_or_default()),
        Change::Extend(seed, pages, more) => {
            bytes.truncate(count * LEAF);
            (0..*pages).for_each(|n| bytes.extend(page(seed + n)));
            bytes.extend(&page(seed + pages)[..*more]);
        }
        Change::Reuse(seed, count) => *bytes = pages(*seed..seed + count),
        Change::Freeze => {
            bytes.chunks_mut(LEAF).for_each(|page| page[0] = page[0].wrapping_add(1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_version_comes_back_whatever_is_known_of_the_one_before(
        first in 0u64..300,
        steps in prop::collection::vec((prop::collection::vec(change(), 0..12), any::<bool>()), 1..8),
        step in 1usize..300_000,
    ) {
        let history = History::new();
        let mut versions = vec![history.store(&pages(0..first), None)];
        for (changes, is_known) in steps {
            let former = versions.last().unwrap();
            let mut bytes = former.bytes.clone();
            changes.iter().for_each(|change| apply(&mut bytes, change));
            let known = if is_known { Known::All } else { Known::Nothing };
            // Nothing of this is stored.
            let other = if is_known { Known::Nothing } else { Known::All };
            let trial = history.cut(&mut history.writer(), &bytes, Some((former, other)), step);
            let version = history.store(&bytes, Some((former, known)));
            prop_assert_eq!(&trial.content, &version.file.content);
            prop_assert_eq!(trial.digest, version.file.digest);
            versions.push(version);
        }
        let reader = history.reader();
        let keys = history.repository.keys().naming();
        for version in &versions {
            prop_assert!(history.read(&reader, version) == version.bytes);
            // However the file was cut.
            let mut hasher = repo_format::chunk::FileHasher::new(keys);
            hasher.update(&version.bytes);
            prop_assert_eq!(hasher.finish(), version.file.digest);
        }
    }
}

#[test]
fn changed_pages_are_stored_as_what_changed_in_them() {
    let history = History::new();
    let first = history.store(&pages(0..1000), None);
    let mut bytes = first.bytes.clone();
    (0..1000).step_by(7).for_each(|at| apply(&mut bytes, &Change::Tuple(at, 7)));
    let second = history.store(&bytes, Some((&first, Known::All)));
    let changed = second.written.new_bytes / LEAF as u64;
    assert!(
        (143..150).contains(&changed),
        "{changed}: pages that changed, and the runs of the file"
    );
    let plain = first.written.stored_bytes * 143 / 1000;
    assert!(second.written.stored_bytes < plain / 8, "{} of {plain}", second.written.stored_bytes);
    // Again, and those that had changed are deltas on the very first pages.
    (0..1000).step_by(5).for_each(|at| apply(&mut bytes, &Change::Header(at)));
    let third = history.store(&bytes, Some((&second, Known::Nothing)));
    assert!(third.written.new_bytes / (LEAF as u64) < 210);
    assert!(third.written.stored_bytes < plain / 8, "{} of {plain}", third.written.stored_bytes);
    let reader = history.reader();
    for version in [first, second, third] {
        assert!(history.read(&reader, &version) == version.bytes);
    }
}

#[test]
fn the_same_again_stores_nothing() {
    let history = History::new();
    let first = history.store(&pages(0..500), None);
    for known in [Known::All, Known::Nothing] {
        let again = history.store(&first.bytes, Some((&first, known)));
        assert_eq!(again.written.new_chunks, 0);
        assert_eq!(again.file.content, first.file.content);
    }
}

#[test]
fn a_version_becomes_no_heap_of_fragments() {
    let history = History::new();
    let mut version = history.store(&pages(0..2000), None);
    let whole = version.bytes.len() as u64;
    let mut random: u64 = 1;
    for _ in 0..60 {
        let mut bytes = version.bytes.clone();
        for _ in 0..2000 * 17 / 100 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (random >> 33) as usize;
            apply(&mut bytes, &Change::Tuple(at, (random >> 20) as u8));
        }
        version = history.store(&bytes, Some((&version, Known::All)));
    }
    let reader = history.reader();
    assert!(history.read(&reader, &version) == version.bytes);
    let (decoded, deltas) = history.decoded(&reader, &version);
    assert!(decoded * 2 <= whole * 5, "{decoded} bytes, {deltas} of them deltas, for {whole}");
}

#[test]
fn what_is_rewritten_again_and_again_leaves_no_fragments_either() {
    let history = History::new();
    let mut version = history.store(&pages(0..1000), None);
    let whole = version.bytes.len() as u64;
    let mut seed = 1_000_000;
    for day in 0..100 {
        let mut bytes = version.bytes.clone();
        // A window moves, in which each page is something else every day.
        for at in day..day + 60 {
            seed += 1;
            apply(&mut bytes, &Change::Rewrite(at, seed));
        }
        version = history.store(&bytes, Some((&version, Known::All)));
    }
    let reader = history.reader();
    assert!(history.read(&reader, &version) == version.bytes);
    let (decoded, _) = history.decoded(&reader, &version);
    assert!(decoded * 2 <= whole * 5, "{decoded} bytes for {whole}");
}

#[test]
fn a_delta_whose_base_is_gone_is_not_taken_for_stored() {
    let history = History::new();
    let first = history.store(&pages(0..12), None);
    let mut bytes = first.bytes.clone();
    (0..12).for_each(|at| apply(&mut bytes, &Change::Tuple(at, 7)));
    let second = history.store(&bytes, Some((&first, Known::All)));
    let reader = history.reader();
    let place = |content: &Content| {
        let Content::Runs(runs) = content else { panic!("a short file") };
        let [Run::Chunk { id, .. }] = runs.as_slice() else { panic!("{runs:?}") };
        reader.index().find(id).unwrap()[0]
    };
    let (base, delta) = (place(&first.file.content), place(&second.file.content));
    assert_eq!(delta.blob.encoding, Encoding::Delta);
    let pack = ObjectName::Pack(base.blob.pack).to_string();
    history.runtime.block_on(history.repository.storage().delete(&pack)).unwrap();
    let stored = history.store(&bytes, Some((&second, Known::All)));
    assert_eq!(stored.file.digest, second.file.digest);
    assert!(stored.written.new_bytes > 0, "it is stored again");
    assert!(history.read(&history.reader(), &stored) == bytes);
}

#[test]
fn a_page_map_counts_only_for_what_it_was_made_of() {
    let history = History::new();
    let keys = history.repository.keys().naming();
    let one = history.store(&pages(0..16), None);
    let other = history.store(&pages(100..116), None);
    let maps = PageMaps::new(history.directory.path().join("maps"));
    assert!(maps.open("20260101T000000").is_none());
    let mut writer = maps.create().unwrap();
    writer.add(b"base/1/2", &one.leaves).unwrap();
    writer.add(b"base/1/1", &other.leaves).unwrap();
    writer.add(b"base/1/3", &one.leaves[1..]).unwrap();
    maps.keep(writer.finish().unwrap(), "20260101T000000").unwrap();
    let map = maps.open("20260101T000000").unwrap();
    assert_eq!(map.leaves(keys, b"base/1/2", &one.file), Some(one.leaves.clone()));
    assert_eq!(map.leaves(keys, b"base/1/1", &other.file), Some(other.leaves.clone()));
    assert_eq!(map.leaves(keys, b"base/1/1", &one.file), None, "of another version");
    assert_eq!(map.leaves(keys, b"base/1/3", &one.file), None, "too few");
    assert_eq!(map.leaves(keys, b"base/1/4", &one.file), None);

    let path = history.directory.path().join("maps/20260101T000000");
    let sound = std::fs::read(&path).unwrap();
    for length in [0, 7, sound.len() / 2, sound.len() - 1] {
        std::fs::write(&path, &sound[..length]).unwrap();
        assert!(maps.open("20260101T000000").is_none(), "cut to {length} bytes");
    }
    for at in (0..sound.len()).step_by(5) {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        if let Some(map) = maps.open("20260101T000000")
            && let Some(leaves) = map.leaves(keys, b"base/1/2", &one.file)
        {
            assert_eq!(leaves, one.leaves, "flipped at {at}");
        }
    }
    // The next one replaces it, and what a killed backup left.
    std::fs::write(history.directory.path().join("maps/.unfinished-x"), "").unwrap();
    let writer = maps.create().unwrap();
    maps.keep(writer.finish().unwrap(), "20260102T000000").unwrap();
    let names = std::fs::read_dir(history.directory.path().join("maps")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["20260102T000000"]);
}
