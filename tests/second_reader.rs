//! The second reader, `repo-format/reader.py`, which was written from SPEC.md alone, reads what this
//! program writes: that proves the specification.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::process::{Output, run};
use crate::support::{Barman, Cluster, Shutdown, python};

fn reader(repository: &Path, credential: [&str; 2], arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("repo-format/reader.py");
    let mut command = Command::new(python());
    command.arg(script).arg("--repository").arg(repository).args(credential).args(arguments);
    run(command)
}

#[test]
fn it_reads_a_backup_and_its_wal() {
    let mut cluster = Cluster::builder(15).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    // Over 64 MiB, so that the file has a map; with a hole of zeros, and with pages like each other.
    cluster.psql(
        "CREATE TABLE large AS SELECT n, repeat(md5((n % 5000)::text), 30) AS filler \
         FROM generate_series(1, 90000) n; CREATE TABLE empty (n int); CHECKPOINT",
    );
    let path = cluster.psql("SELECT pg_relation_filepath('large')");
    assert!(fs::metadata(cluster.data().join(&path)).unwrap().len() > 64 << 20);
    let segment = cluster.switch_wal();
    let wal = fs::read(cluster.data().join("pg_wal").join(&segment)).unwrap();
    barman.ok(&["backup", "main", "--wait"]);
    // What this changes is stored as deltas on the pages before.
    cluster.psql("UPDATE large SET n = -n WHERE n % 3000 = 0; CHECKPOINT");
    barman.ok(&["backup", "main", "--wait"]);
    cluster.stop(Shutdown::Fast);

    let key_file = barman.key_file();
    let key = ["--key-file", key_file.to_str().unwrap()];
    let read = |arguments: &[&str]| reader(&barman.repository(), key, arguments);
    let listed = read(&["list"]).expect_success();
    let id = listed.stdout.lines().last().unwrap().split('\t').nth(1).unwrap().to_owned();
    assert!(barman.ok(&["list-backups", "main"]).stdout.contains(&id), "{listed}");
    let out = barman.path("out");
    let to = out.to_str().unwrap();
    for path in [path.as_str(), "PG_VERSION", "base/1/1259", "pg_hba.conf"] {
        read(&["extract", "main", &id, path, "-o", to]).expect_success();
        assert!(fs::read(&out).unwrap() == fs::read(cluster.data().join(path)).unwrap(), "{path}");
    }
    let empty = read(&["ls", "main", &id, "pg_wal"]).expect_success();
    assert_eq!(empty.stdout, "directory\t0700\t0\tarchive_status\n");
    read(&["extract-wal", "main", &segment, "-o", to]).expect_success();
    assert!(fs::read(&out).unwrap() == wal, "{segment}");

    // The recovery ladder: by index runs, by the footers of packs, by the frames of blobs.
    for way in [&["check"][..], &["--no-index", "check"], &["--scan", "check"]] {
        let checked = read(way).expect_success();
        assert!(checked.stdout.contains("are sound"), "{checked}");
    }
    fs::remove_dir_all(barman.repository().join("index")).unwrap();
    read(&["--no-index", "extract", "main", &id, &path, "-o", to]).expect_success();
    assert!(fs::read(&out).unwrap() == fs::read(cluster.data().join(&path)).unwrap());
}

#[test]
fn it_finds_what_was_changed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("repository");
    let mut copy = Command::new("cp");
    copy.arg("-R").args([&golden.join("repository"), &repository]);
    assert!(copy.status().unwrap().success());
    let key_file = golden.join("repository.key");
    let key = ["--key-file", key_file.to_str().unwrap()];
    reader(&repository, key, &["check"]).expect_success();
    let packs = fs::read_dir(repository.join("packs")).unwrap().next().unwrap().unwrap().path();
    let pack = fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    assert_eq!(reader(&repository, key, &["check"]).status, 1);
}

#[test]
fn it_reads_the_vectors() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("repo-format/vectors");
    let keys: serde_json::Value =
        serde_json::from_slice(&fs::read(vectors.join("keys.json")).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (key_file, password) = (directory.path().join("key"), directory.path().join("password"));
    fs::write(&key_file, keys["key_file"].as_str().unwrap()).unwrap();
    fs::write(&password, keys["password"].as_str().unwrap()).unwrap();
    for credential in [
        ["--key-file", key_file.to_str().unwrap()],
        ["--password-file", password.to_str().unwrap()],
    ] {
        let repository = vectors.join("repository");
        let checked = reader(&repository, credential, &["check"]).expect_success();
        assert!(checked.stdout.contains("are sound"), "{checked}");
    }
}
