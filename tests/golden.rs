//! A whole small repository, written by an earlier version, that every later one must read.
//!
//! `tests/golden/v1` holds a repository with two backups of a PostgreSQL 15 cluster, its WAL, a key
//! file, and what must come out of it. While the format is a draft it is made anew when the format
//! changes (`BARMAN_MAKE_GOLDEN=1 cargo test --test main golden`); once the format is frozen, never.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Barman, Cluster, Shutdown};

const VERSION: u32 = 15;

#[test]
fn a_repository_of_version_1_is_read_and_restored() {
    let golden = directory();
    if std::env::var_os("BARMAN_MAKE_GOLDEN").is_some() {
        make(&golden);
    }
    let expected: Value =
        serde_json::from_slice(&fs::read(golden.join("expected.json")).unwrap()).unwrap();
    let barman = Barman::new();
    copy(&golden.join("repository"), &barman.repository());
    copy(&golden.join("repository.key"), &barman.key_file());
    own(&barman);
    barman.write_config("[main]\nconninfo = host=/nowhere\n");

    barman.ok(&["repo", "check", "--read-data"]);
    let backups = barman.json(&["list-backups", "main", "--minimal"]);
    assert_eq!(backups.get("main"), expected.get("backups"));
    for backup in expected["backups"].as_array().unwrap() {
        let id = backup.as_str().unwrap();
        barman.ok(&["verify-backup", "main", id]);
        let restored = barman.path(&format!("restored-{id}"));
        barman.ok(&["restore", "main", id, restored.to_str().unwrap()]);
        let mut server = Cluster::on(VERSION, &restored);
        server.start();
        server.wait_for_recovery_end();
        assert_eq!(server.table_checksum("remembered"), expected["checksum"].as_str().unwrap());
        server.stop(Shutdown::Fast);
    }
}

fn make(golden: &Path) {
    let mut cluster = Cluster::builder(VERSION).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "");
    barman.archive_from("main", &mut cluster);
    cluster
        .psql("CREATE TABLE remembered AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n");
    barman.ok(&["backup", "main", "--wait", "--name", "golden"]);
    cluster.psql("UPDATE remembered SET md5 = md5(md5) WHERE n % 7 = 0");
    barman.ok(&["backup", "main", "--wait"]);
    let checksum = cluster.table_checksum("remembered");
    cluster.switch_wal();
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    cluster.stop(Shutdown::Fast);
    let backups = barman.json(&["list-backups", "main", "--minimal"]);
    let _ = fs::remove_dir_all(golden);
    fs::create_dir_all(golden).unwrap();
    copy(&barman.repository(), &golden.join("repository"));
    copy(&barman.key_file(), &golden.join("repository.key"));
    let expected = json!({ "backups": backups["main"], "checksum": checksum });
    let text = serde_json::to_string_pretty(&expected).unwrap();
    fs::write(golden.join("expected.json"), text + "\n").unwrap();
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-R").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// What was copied as root belongs to whoever runs barman; a key file is nobody else's.
fn own(barman: &Barman) {
    use std::os::unix::fs::MetadataExt;
    fs::set_permissions(barman.key_file(), fs::Permissions::from_mode(0o600)).unwrap();
    let owner = fs::metadata(barman.config()).unwrap();
    let owner = format!("{}:{}", owner.uid(), owner.gid());
    let given = Command::new("chown")
        .args(["-R", &owner])
        .args([barman.repository(), barman.key_file()])
        .status()
        .unwrap();
    assert!(given.success());
}
