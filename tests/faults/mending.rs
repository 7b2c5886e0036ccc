//! Damage that must neither spread nor be taken for something else, and what mends it.

use std::fs;
use std::sync::Arc;

use barman::repository::index::Index;
use barman::repository::reader::Reader;
use barman::repository::slots::NewSlot;
use barman::repository::{Error, Repository};
use barman::storage::Storage;
use barman::storage::faulty::{Fault, FaultyStorage};
use barman::storage::location::storage_at;
use bytes::Bytes;
use repo_format::blob::{self, BaseRange, BlobBody, BlobHeader, ChunkSpan, Encoder};
use repo_format::chunk::ChunkKind;
use repo_format::index::IndexBuilder;
use repo_format::keys::Secret;
use repo_format::names::ObjectName;
use repo_format::pack::{Pack, PackBuilder};
use repo_format::slot::Credential;
use tokio::runtime::Runtime;

use super::golden_copy::{files, sandbox, write};
use crate::support::{Barman, Cluster};

/// A server that archives by itself, or by hand.
fn server(archives: bool) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\nwal_restore_timeout = 1\n");
    if archives {
        barman.archive_from("main", &mut cluster);
    }
    (cluster, barman)
}

#[track_caller]
fn flip(path: &std::path::Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 2;
    write(path, &bytes);
}

#[test]
fn archiving_again_mends_a_damaged_wal_object() {
    let (cluster, barman) = server(false);
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
    let object = files(&barman.repository().join("wal")).remove(0);
    let to = barman.path("fetched");
    for damage in ["flipped", "cut"] {
        match damage {
            "flipped" => flip(&object, |length| length / 2),
            _ => write(&object, b""),
        }
        let damaged = barman.run(&["wal-restore", "main", &segment, to.to_str().unwrap()]);
        assert!(damaged.status > 125, "{damaged}");
        // PostgreSQL repeats what it was not told to be safe.
        barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
        barman.ok(&["wal-restore", "main", &segment, to.to_str().unwrap()]);
        assert!(fs::read(&to).unwrap() == fs::read(&path).unwrap());
        fs::remove_file(&to).unwrap();
    }
}

#[test]
fn wal_is_found_behind_a_damaged_header() {
    let (cluster, barman) = server(false);
    cluster.psql("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 1000) n");
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
    flip(&files(&barman.repository().join("wal"))[0], |_| 60);
    let to = barman.path("fetched");
    barman.ok(&["wal-restore", "main", &segment, to.to_str().unwrap()]);
    assert!(fs::read(&to).unwrap() == fs::read(&path).unwrap());
    assert_eq!(barman.run(&["repo", "check", "--read-data"]).status, 1);
}

#[test]
fn what_a_damaged_pack_had_is_saved_or_stored_again() {
    let (cluster, barman) = server(true);
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    barman.ok(&["backup", "main", "--wait"]);
    let mut packs = files(&barman.repository().join("packs"));
    packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
    let data = packs.pop().unwrap();
    flip(&data, |length| length / 2);
    let checked = barman.run(&["repo", "check", "--read-data"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(checked.stderr.contains("barman repo repair packs"), "{checked}");

    let repaired = barman.json(&["repo", "repair", "packs"])["repair"].clone();
    assert_eq!(repaired["damaged_packs"].as_array().unwrap().len(), 1, "{repaired}");
    assert!(repaired["blobs_saved"].as_u64().unwrap() > 10, "{repaired}");
    assert_eq!(barman.run(&["repo", "check"]).status, 1, "one chunk is lost");
    // The server still has it.
    barman.ok(&["backup", "main", "--wait"]);
    for backup in ["first", "last"] {
        barman.ok(&["verify-backup", "main", backup]);
    }
    let checked = barman.ok(&["repo", "check", "--read-data"]);
    assert!(checked.stderr.contains("nothing uses it"), "{checked}");
    barman.ok(&["repo", "prune"]);
    assert!(!data.exists());
    assert_eq!(barman.ok(&["repo", "check", "--read-data"]).stderr, "");
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "first", destination.to_str().unwrap()]);
}

#[test]
fn a_flipped_bit_is_not_taken_for_a_newer_version() {
    let barman = sandbox();
    let snapshots = files(&barman.repository().join("snapshots"));
    for object in [snapshots[0].clone(), barman.repository().join("config/1")] {
        let original = fs::read(&object).unwrap();
        flip(&object, |_| 8);
        let listed = barman.ok(&["list-backups", "main", "--minimal"]);
        assert_eq!(listed.stdout.lines().count(), 2, "{listed}");
        barman.ok(&["verify-backup", "main", "latest"]);
        assert_eq!(barman.run(&["repo", "check"]).status, 1);
        write(&object, &original);
    }
    // What is genuine, and newer, stays untouched.
    let run = files(&barman.repository().join("index")).remove(0);
    let mut newer = fs::read(&run).unwrap();
    newer[8] = 2;
    let name = blake3::hash(&newer).to_hex().to_string();
    write(&run.with_file_name(name), &newer);
    for args in [&["list-files", "main", "latest"][..], &["repo", "repair", "index"]] {
        let refused = barman.run(args);
        assert_eq!(refused.status, 1, "{refused}");
        assert!(refused.stderr.contains("a newer barman"), "{refused}");
    }
}

#[test]
fn one_object_that_cannot_be_read_harms_only_what_needs_it() {
    let barman = sandbox();
    // A link to itself cannot be read, even by root.
    let unreadable = |path: &std::path::Path| {
        std::os::unix::fs::symlink(path, path).unwrap();
    };
    let slot = barman.repository().join("keys").join("ab".repeat(16));
    unreadable(&slot);
    barman.ok(&["list-backups", "main"]);
    fs::remove_file(&slot).unwrap();
    let config = barman.repository().join("config/1");
    let original = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    unreadable(&config);
    barman.ok(&["list-backups", "main"]);
    fs::remove_file(&config).unwrap();
    write(&config, &original);
}

#[test]
fn an_object_without_end_is_not_read() {
    let barman = sandbox();
    let listed = barman.json(&["list-backups", "main", "--minimal"])["main"].clone();
    let id = listed[0].as_str().unwrap();
    let note = barman.repository().join("notes/main").join(id).join("1");
    fs::create_dir_all(note.parent().unwrap()).unwrap();
    fs::File::create(&note).unwrap().set_len(3 << 40).unwrap();
    crate::support::account::hand_over(&barman.repository());
    assert_eq!(barman.json(&["list-backups", "main", "--minimal"])["main"], listed);
    let checked = barman.run(&["repo", "check"]);
    assert!(checked.stderr.contains("such objects have at most"), "{checked}");
    // It may say that the backup is kept.
    let refused = barman.run(&["delete", "main", id]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("is damaged"), "{refused}");
}

#[test]
fn a_predecessor_that_vanished_is_missed() {
    let barman = sandbox();
    barman.ok(&["repo", "check"]);
    let snapshots = files(&barman.repository().join("snapshots"));
    let older = fs::read(&snapshots[0]).unwrap();
    fs::remove_file(&snapshots[0]).unwrap();
    // With its copy: whoever deletes in secret deletes all.
    barman.ok(&["repo", "prune"]);
    let checked = barman.run(&["repo", "check"]);
    drop(older);
    assert_eq!(checked.status, 1, "{checked}");
}

#[test]
fn no_creation_touches_a_repository_that_is_there() {
    let runtime = Runtime::new().unwrap();
    let barman = sandbox();
    let config = barman.repository().join("config/1");
    let before = files(&barman.repository());
    for n in 1..9 {
        let healthy = storage_at(barman.repository().to_str().unwrap()).unwrap();
        let faulty = Arc::new(FaultyStorage::new(healthy, n, false, Fault::Refused));
        runtime.block_on(create(faulty)).unwrap_err();
        assert!(config.exists(), "call {n}");
    }
    fs::remove_dir_all(barman.repository().join("keys")).unwrap();
    let refused = barman.run(&["repo", "init"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert_eq!(files(&barman.repository()).len(), before.len() - 1, "only the slot is gone");
}

async fn create(storage: Arc<dyn Storage>) -> Result<Repository, Error> {
    let credential = Credential::KeyFile(Secret::from_bytes([3; 32]));
    let slot = NewSlot { credential, label: "test".into(), cost: Default::default() };
    Repository::create(storage, &slot, Default::default(), Default::default()).await
}

/// A new repository in memory of a disk, and a runtime for it.
struct Fresh {
    runtime: Runtime,
    storage: Arc<dyn Storage>,
    repository: Arc<Repository>,
    _directory: tempfile::TempDir,
}

impl Fresh {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let storage = storage_at(directory.path().join("r").to_str().unwrap()).unwrap();
        let repository = Arc::new(runtime.block_on(create(storage.clone())).unwrap());
        Fresh { runtime, storage, repository, _directory: directory }
    }

    fn put(&self, name: &ObjectName, bytes: Vec<u8>) {
        let name = name.to_string();
        self.runtime.block_on(self.storage.put(&name, Bytes::from(bytes))).unwrap();
    }

    fn put_pack(&self, blobs: &[(ChunkKind, ChunkSpan, &BlobBody)]) -> Pack {
        let keys = self.repository.keys();
        let mut pack = PackBuilder::default();
        for (kind, span, body) in blobs {
            let header = BlobHeader { kind: *kind, chunks: vec![*span] };
            pack.push(&blob::seal(keys, header, body).unwrap()).unwrap();
        }
        let pack = pack.finish(keys).unwrap();
        self.put(&ObjectName::Pack(pack.id), pack.bytes.clone());
        pack
    }

    fn put_run(&self, fill: impl FnOnce(&mut IndexBuilder)) {
        let mut run = IndexBuilder::default();
        fill(&mut run);
        let (id, object) = run.finish(self.repository.keys()).unwrap();
        self.put(&ObjectName::Index(id), object);
    }

    fn span(&self, kind: ChunkKind, content: &[u8]) -> ChunkSpan {
        let id = self.repository.keys().naming().chunk_id_of(kind, content);
        ChunkSpan { id, length: content.len() as u32 }
    }

    fn read(&self, span: ChunkSpan) -> Result<Vec<u8>, Error> {
        let _inside = self.runtime.enter();
        let index = Arc::new(self.runtime.block_on(Index::load(&self.repository)).unwrap());
        let reader = Reader::new(self.repository.clone(), index);
        let read = move || reader.chunk(&span.id).map(|chunk| chunk.to_vec());
        std::thread::spawn(read).join().unwrap()
    }
}

#[test]
fn deltas_of_every_kind_are_read_and_a_delta_is_no_base() {
    let fresh = Fresh::new();
    let mut encoder = Encoder::new(3).unwrap();
    let texts: Vec<Vec<u8>> = (0..3u8)
        .map(|n| {
            let noise = (0..400u32).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes());
            noise.chain([n; 5]).collect()
        })
        .collect();
    for kind in [ChunkKind::Data, ChunkKind::Tree, ChunkKind::Map] {
        let spans: Vec<ChunkSpan> = texts.iter().map(|text| fresh.span(kind, text)).collect();
        let on =
            |span: ChunkSpan| vec![BaseRange { chunk: span.id, offset: 0, length: span.length }];
        let plain = encoder.encode(&texts[0]).unwrap();
        let delta = encoder.encode_delta(&texts[1], on(spans[0]), &texts[0]).unwrap();
        let second = encoder.encode_delta(&texts[2], on(spans[1]), &texts[1]).unwrap();
        let pack = fresh.put_pack(&[
            (kind, spans[0], &plain),
            (kind, spans[1], &delta),
            (kind, spans[2], &second),
        ]);
        let length = pack.bytes.len() as u64;
        fresh.put_run(|run| run.pack(pack.id, length, pack.entries.clone()).unwrap());
        for at in [0, 1] {
            assert!(fresh.read(spans[at]).unwrap() == texts[at], "{kind:?} {at}");
        }
        let error = fresh.read(spans[2]).unwrap_err();
        assert!(error.is_damage(), "{kind:?}: {error}");
    }
}

#[test]
fn runs_may_name_parts_of_one_pack_each() {
    let fresh = Fresh::new();
    let mut encoder = Encoder::new(3).unwrap();
    let texts = [b"one".repeat(100), b"two".repeat(100)];
    let spans = [0, 1].map(|at| fresh.span(ChunkKind::Data, &texts[at]));
    let bodies = [0, 1].map(|at| encoder.encode(&texts[at]).unwrap());
    let pack = fresh.put_pack(&[
        (ChunkKind::Data, spans[0], &bodies[0]),
        (ChunkKind::Data, spans[1], &bodies[1]),
    ]);
    for entry in pack.entries.clone() {
        let length = pack.bytes.len() as u64;
        fresh.put_run(|run| run.pack(pack.id, length, vec![entry]).unwrap());
    }
    for at in [0, 1] {
        assert!(fresh.read(spans[at]).unwrap() == texts[at]);
    }
}
