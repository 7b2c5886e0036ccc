//! Base backups, and the files in them.

use std::collections::BTreeMap;
use std::path::Path;

use barman::postgres::backup_label::{BackupLabel, parse_tablespace_map};
use barman::postgres::backup_manifest::{
    BackupManifest, ChecksumAlgorithm, FileHasher, ManifestWriter, WalRange,
};
use barman::postgres::base_backup::{BaseBackup, BaseBackupOptions, Frame, WalPosition};
use barman::postgres::control_file::{ClusterState, ControlFile};
use barman::postgres::page::{PAGE_SIZE, PageVerdict, verify_page};
use barman::postgres::relation_file::{DEFAULT_SEGMENT_BLOCKS, FileKind, classify};
use barman::postgres::replication::ReplicationConnection;
use barman::postgres::{Error, Lsn};
use tar::Archive;

use super::local;
use crate::support::account::{hand_over, make_dir};
use crate::support::cluster::pg_verifybackup;
use crate::support::{Cluster, Postgres};

struct Received {
    start: WalPosition,
    end: WalPosition,
    archives: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
}

async fn receive(cluster: &Cluster, options: &BaseBackupOptions) -> Received {
    let connection = ReplicationConnection::connect(&local(cluster)).await.unwrap();
    let mut backup = BaseBackup::start(connection, options).await.unwrap();
    let start = backup.start_position();
    let (mut archives, mut manifest) = (BTreeMap::new(), None);
    let (mut current, mut locations, mut done) = (String::new(), Vec::new(), 0);
    while let Some(frame) = backup.next().await.unwrap() {
        match frame {
            Frame::Archive { name, location } => {
                archives.insert(name.clone(), Vec::new());
                (current, locations) = (name, [locations, vec![location]].concat());
            }
            Frame::Manifest => manifest = Some(Vec::new()),
            Frame::Data(bytes) => match &mut manifest {
                Some(manifest) => manifest.extend_from_slice(&bytes),
                None => archives.get_mut(&current).unwrap().extend_from_slice(&bytes),
            },
            Frame::Progress(bytes) => done = bytes,
        }
    }
    assert!(done > 0);
    let expected: Vec<_> =
        backup.tablespaces().iter().map(|t| t.location.clone().unwrap_or_default()).collect();
    assert_eq!(locations, expected);
    let (end, mut connection) = backup.finish().await.unwrap();
    // The connection is good for more.
    connection.identify_system().await.unwrap();
    Received { start, end, archives, manifest: manifest.unwrap() }
}

/// Unpacks everything to where a restore would put it.
fn unpack(received: &Received, data: &Path) {
    make_dir(data);
    Archive::new(received.archives["base.tar"].as_slice()).unpack(data).unwrap();
    for (name, bytes) in &received.archives {
        let Some(oid) = name.strip_suffix(".tar").filter(|stem| *stem != "base") else { continue };
        let link = data.join("pg_tblspc").join(oid);
        std::fs::create_dir(&link).unwrap();
        Archive::new(bytes.as_slice()).unpack(&link).unwrap();
    }
    std::fs::write(data.join("backup_manifest"), &received.manifest).unwrap();
    hand_over(data);
}

#[tokio::test]
async fn backups_with_tablespaces_verify_on_all_versions() {
    for version in Postgres::VERSIONS {
        let cluster = Cluster::builder(version).start();
        cluster.create_tablespace("one");
        cluster.create_tablespace("two");
        cluster.psql(
            "CREATE TABLE a TABLESPACE one AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n; \
             CREATE TABLE b TABLESPACE two AS TABLE a; CREATE TABLE c AS TABLE a; \
             CREATE INDEX ON c (md5); VACUUM ANALYZE",
        );
        let options = BaseBackupOptions {
            label: "it's a test".into(),
            fast_checkpoint: true,
            manifest_checksums: Some(ChecksumAlgorithm::Sha256),
            ..Default::default()
        };
        let received = receive(&cluster, &options).await;
        assert_eq!(received.archives.len(), 3);
        assert!(received.end.lsn > received.start.lsn);

        let directory = crate::support::account::temp_dir();
        let data = directory.path().join("restored");
        unpack(&received, &data);
        pg_verifybackup(version, &data, &["-n"]);
        check_label(&data, &received);
        check_control_file(&data, version);
        check_pages(&data);
        check_manifests(&data, version, &received);
    }
}

fn check_label(data: &Path, received: &Received) {
    let label = BackupLabel::parse(&std::fs::read(data.join("backup_label")).unwrap()).unwrap();
    assert_eq!(label.start, received.start.lsn);
    assert_eq!(label.start_timeline, received.start.timeline);
    assert_eq!(label.label, "it's a test");
    let map = std::fs::read(data.join("tablespace_map")).unwrap();
    assert_eq!(parse_tablespace_map(&map).unwrap().len(), 2);
}

fn check_control_file(data: &Path, version: u32) {
    let control =
        ControlFile::parse(&std::fs::read(data.join("global/pg_control")).unwrap()).unwrap();
    assert_eq!(control.major_version(), Some(version));
    assert_eq!(control.state, ClusterState::InProduction);
    assert_eq!((control.block_size, control.wal_block_size), (8192, 8192));
    assert_eq!(control.relation_segment_blocks, DEFAULT_SEGMENT_BLOCKS);
    assert_eq!(control.checksum_version, 1);
    assert_eq!(control.wal_level, 1);

    let mut command = Postgres::require(version).command("pg_controldata", Path::new("/tmp"));
    command.arg(data);
    let printed = crate::support::process::run(command).expect_success().stdout;
    for (name, value) in [
        ("Database system identifier:", control.system_id.to_string()),
        ("Latest checkpoint location:", control.checkpoint.to_string()),
        ("Latest checkpoint's REDO location:", control.redo.to_string()),
        ("Minimum recovery ending location:", control.min_recovery_point.to_string()),
        ("Catalog version number:", control.catalog_version.to_string()),
    ] {
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].trim(), value, "{name}");
    }
}

fn check_pages(data: &Path) {
    let mut counts = (0, 0);
    for path in files(data) {
        let FileKind::Relation(file) = classify(&path) else { continue };
        let mut bytes = std::fs::read(data.join(&path)).unwrap();
        let first = file.first_block(DEFAULT_SEGMENT_BLOCKS).unwrap();
        assert_eq!(bytes.len() % PAGE_SIZE, 0, "{path}");
        let (pages, _) = bytes.as_chunks_mut::<PAGE_SIZE>();
        for (block, page) in (first..).zip(pages) {
            match verify_page(page, block) {
                PageVerdict::Ok => counts.0 += 1,
                PageVerdict::New => counts.1 += 1,
                bad => panic!("{path} block {block}: {bad:?}"),
            }
            page[5000] ^= 0x10;
            assert!(matches!(verify_page(page, block), PageVerdict::Bad { .. }), "{path} {block}");
        }
    }
    assert!(counts.0 > 1000, "{counts:?}");
}

fn check_manifests(data: &Path, version: u32, received: &Received) {
    let manifest = BackupManifest::parse(&received.manifest).unwrap();
    assert_eq!(manifest.version, if version >= 17 { 2 } else { 1 });
    assert_eq!(manifest.wal_ranges[0].start, received.start.lsn);
    assert_eq!(manifest.wal_ranges[0].end, received.end.lsn);
    for file in &manifest.files {
        let path = std::str::from_utf8(&file.path).unwrap();
        let bytes = std::fs::read(data.join(path)).unwrap();
        assert_eq!(bytes.len() as u64, file.size, "{path}");
        let mut hasher = FileHasher::new(&ChecksumAlgorithm::Sha256).unwrap();
        hasher.update(&bytes);
        assert_eq!(Some(hasher.finish()), file.checksum, "{path}");
    }

    // One of our own, from the files alone.
    let system_id = ControlFile::parse(&std::fs::read(data.join("global/pg_control")).unwrap())
        .unwrap()
        .system_id;
    let mut writer = ManifestWriter::new(Vec::new(), version, system_id).unwrap();
    for path in files(data).iter().filter(|path| *path != "backup_manifest") {
        let bytes = std::fs::read(data.join(path)).unwrap();
        let mut hasher = FileHasher::new(&ChecksumAlgorithm::Crc32c).unwrap();
        hasher.update(&bytes);
        let (size, now) = (bytes.len() as u64, jiff::Timestamp::now());
        writer.file(path.as_bytes(), size, now, Some(&hasher.finish())).unwrap();
    }
    let range = WalRange {
        timeline: received.start.timeline,
        start: received.start.lsn,
        end: received.end.lsn,
    };
    let ours = writer.finish(&[range]).unwrap();
    std::fs::write(data.join("backup_manifest"), ours).unwrap();
    pg_verifybackup(version, data, &["-n"]);
    std::fs::write(data.join("PG_VERSION"), "99\n").unwrap();
    let mut command = Postgres::require(version).command("pg_verifybackup", Path::new("/tmp"));
    command.arg("-n").arg(data);
    assert!(!crate::support::process::run(command).success());
}

/// The plain files below `root`, relative.
fn files(root: &Path) -> Vec<String> {
    let (mut found, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn incremental_backups_build_on_an_uploaded_manifest() {
    for version in [17, 18] {
        let cluster = Cluster::builder(version).setting("summarize_wal", "on").start();
        cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
        let fast = BaseBackupOptions { fast_checkpoint: true, ..Default::default() };
        let full = receive(&cluster, &fast).await;
        cluster.psql("UPDATE t SET md5 = '' WHERE n = 7");
        let info = local(&cluster);
        let mut connection = ReplicationConnection::connect(&info).await.unwrap();
        connection.upload_manifest(full.manifest.as_slice()).await.unwrap();
        let options = BaseBackupOptions { incremental: true, ..fast };
        let mut backup = BaseBackup::start(connection, &options).await.unwrap();
        let mut bytes = 0;
        while let Some(frame) = backup.next().await.unwrap() {
            if let Frame::Data(data) = frame {
                bytes += data.len();
            }
        }
        backup.finish().await.unwrap();
        assert!(bytes < full.archives["base.tar"].len() / 2);
        let mut connection = ReplicationConnection::connect(&info).await.unwrap();
        assert!(connection.upload_manifest(&b"nonsense"[..]).await.unwrap_err().server().is_some());
        connection.identify_system().await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_backup_ends_on_the_server() {
    let cluster = Cluster::builder(17).start();
    cluster.psql("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 50000)");
    let connection = ReplicationConnection::connect(&local(&cluster)).await.unwrap();
    let options =
        BaseBackupOptions { fast_checkpoint: true, max_rate: Some(1024), ..Default::default() };
    let mut backup = BaseBackup::start(connection, &options).await.unwrap();
    for _ in 0..5 {
        assert!(backup.next().await.unwrap().is_some());
    }
    let running = || cluster.psql("SELECT count(*) FROM pg_stat_progress_basebackup");
    assert_eq!(running(), "1");
    drop(backup);
    crate::support::wait_until(std::time::Duration::from_secs(20), || running() == "0");
}

#[tokio::test]
async fn a_backup_not_read_to_its_end_cannot_be_finished() {
    let cluster = Cluster::builder(15).start();
    let connection = ReplicationConnection::connect(&local(&cluster)).await.unwrap();
    let options = BaseBackupOptions { fast_checkpoint: true, ..Default::default() };
    let backup = BaseBackup::start(connection, &options).await.unwrap();
    assert!(backup.start_position().lsn > Lsn::INVALID);
    assert!(matches!(backup.finish().await, Err(Error::Request(_))));
}
