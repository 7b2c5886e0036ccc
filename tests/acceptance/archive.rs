//! What archive_command and restore_command promise to PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Barman, Cluster, Shutdown};

/// An archiving server, and a copy of one of its finished segments.
fn with_segment() -> (Cluster, Barman, PathBuf) {
    let cluster = Cluster::builder(17)
        .initdb("--wal-segsize=1")
        .setting("archive_mode", "on")
        .setting("archive_command", "true")
        .setting("wal_keep_size", "100MB")
        .start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "wal_restore_timeout = 1\n");
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    let name = cluster.switch_wal();
    let copy = barman.path(&name);
    fs::copy(cluster.data().join("pg_wal").join(&name), &copy).unwrap();
    crate::support::account::hand_over(&copy);
    (cluster, barman, copy)
}

fn objects(barman: &Barman, directory: &str) -> Vec<PathBuf> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                collect(&entry.path(), found);
            } else {
                found.push(entry.path());
            }
        }
    }
    let mut found = vec![];
    collect(&barman.repository().join(directory), &mut found);
    found
}

#[test]
fn a_segment_is_stored_once_and_other_content_is_kept_apart() {
    let (_cluster, barman, segment) = with_segment();
    let path = segment.to_str().unwrap();
    barman.ok(&["wal-archive", "main", path]);
    let stored = objects(&barman, "wal");
    assert_eq!(stored.len(), 1);
    // Most of the segment is the zeros behind the switch: they cost nothing.
    assert!(stored[0].metadata().unwrap().len() < 200_000, "{:?}", stored[0].metadata());
    barman.ok(&["wal-archive", "main", path]);
    assert_eq!(objects(&barman, "wal"), stored);

    let original = fs::read(&segment).unwrap();
    let mut other = original.clone();
    // Within a record of the first page, so that the file still looks like this segment.
    other[4000] ^= 1;
    fs::write(&segment, &other).unwrap();
    let refused = barman.run(&["wal-archive", "main", path]);
    assert!((1..=125).contains(&refused.status), "{refused}");
    assert!(refused.stderr.contains("other content"), "{refused}");
    assert_eq!(objects(&barman, "wal"), stored, "what was stored is untouched");
    assert_eq!(objects(&barman, "conflicts").len(), 1, "the other one is kept");

    let name = segment.file_name().unwrap().to_str().unwrap();
    let fetched = barman.path("fetched");
    barman.ok(&["wal-restore", "main", name, fetched.to_str().unwrap()]);
    assert!(fs::read(fetched).unwrap() == original);
}

#[test]
fn what_is_no_sound_wal_file_is_refused() {
    let (_cluster, barman, segment) = with_segment();
    let original = fs::read(&segment).unwrap();
    let path = segment.to_str().unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damaged: [(&str, Damage); 4] = [
        ("wrong magic number", |bytes| bytes[0] ^= 0xff),
        ("wrong page address", |bytes| bytes[12] ^= 1),
        ("cut short", |bytes| bytes.truncate(500_000)),
        ("empty", Vec::clear),
    ];
    for (what, damage) in damaged {
        let mut bytes = original.clone();
        damage(&mut bytes);
        fs::write(&segment, &bytes).unwrap();
        let refused = barman.run(&["wal-archive", "main", path]);
        assert!((1..=125).contains(&refused.status), "{what}: {refused}");
        assert_eq!(refused.stderr.trim().lines().count(), 1, "one line: {refused}");
    }
    let renamed = barman.path("000000010000000000000099");
    fs::write(&renamed, &original).unwrap();
    assert_eq!(barman.run(&["wal-archive", "main", renamed.to_str().unwrap()]).status, 1);
    assert!(objects(&barman, "wal").is_empty());
}

#[test]
fn restore_commands_say_absent_only_when_it_is_proved() {
    let (_cluster, barman, segment) = with_segment();
    barman.ok(&["wal-archive", "main", segment.to_str().unwrap()]);
    let to = barman.path("to");
    let to = to.to_str().unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert_eq!(barman.run(&["wal-restore", "main", "0000000100000000000000FF", to]).status, 1);
    assert_eq!(barman.run(&["wal-restore", "main", "00000002.history", to]).status, 1);
    let path = barman.path("nowhere.conf");
    let mut bare = std::process::Command::new(barman.binary());
    crate::support::account::prepare(&mut bare, barman.path("").as_path());
    bare.env("BARMAN_REPOSITORY", barman.repository())
        .env("BARMAN_REPOSITORY_KEY_FILE", barman.key_file())
        .args(["wal-restore", "mian", "0000000100000000000000FF", to, "--on-error", "abort"]);
    drop(path);
    let output = bare.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nothing of server 'mian'"), "{said}");
    let fails = |what: &str| {
        let output = barman.run(&["wal-restore", "main", "0000000100000000000000FF", to]);
        assert!(output.status > 125, "{what}: {output}");
        assert!(!Path::new(to).exists());
    };
    let (repository, away) = (barman.repository(), barman.path("away"));
    Command::rename(&repository, &away);
    fails("the repository is not mounted");
    fs::create_dir(&repository).unwrap();
    fails("an empty directory is there instead");
    fs::remove_dir(&repository).unwrap();
    Command::rename(&away, &repository);
    let key = fs::read(barman.key_file()).unwrap();
    fs::write(barman.key_file(), "barman-key-1:".to_owned() + &"0".repeat(64)).unwrap();
    fails("another key");
    fs::write(barman.key_file(), key).unwrap();
    let object = objects(&barman, "wal").remove(0);
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&object).unwrap();
    fs::write(&object, bytes).unwrap();
    crate::support::account::hand_over(&object);
    let output = barman.run(&["wal-restore", "main", name, to]);
    assert!(output.status > 125, "a damaged object: {output}");
    assert!(!Path::new(to).exists());
}

struct Command;

impl Command {
    fn rename(from: &Path, to: &Path) {
        assert!(std::process::Command::new("mv").args([from, to]).status().unwrap().success());
    }
}

#[test]
fn history_partial_and_backup_files_are_archived_at_a_promotion() {
    let mut cluster = Cluster::builder(15).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    let destination = barman.path("standby");
    barman.ok(&[
        "restore",
        "main",
        "latest",
        destination.to_str().unwrap(),
        "--standby-mode",
        "--get-wal",
    ]);
    let mut standby =
        Cluster::on(15, &destination).option("archive_command", &barman.archive_command("main"));
    standby.start();
    // It follows the archive.
    cluster.psql("CREATE TABLE later AS SELECT 42 AS answer");
    cluster.switch_wal();
    crate::support::wait_until(std::time::Duration::from_secs(60), || {
        let found = standby.try_psql("postgres", "SELECT answer FROM later");
        found.status == 0 && found.stdout.trim() == "42"
    });
    cluster.psql("CREATE TABLE lost AS SELECT 1");
    cluster.stop(Shutdown::Immediate);
    standby.promote();
    standby.psql("CREATE TABLE kept AS SELECT 1 AS one");
    standby.switch_wal();
    crate::support::wait_until(std::time::Duration::from_secs(60), || {
        standby.psql("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
            == "0"
    });
    standby.stop(Shutdown::Fast);
    let names: Vec<String> = objects(&barman, "wal")
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    for part in [".history-", ".backup-"] {
        assert!(names.iter().any(|name| name.contains(part)), "{part}: {names:?}");
    }
    let restored = barman.path("restored");
    barman.ok(&["restore", "main", "latest", restored.to_str().unwrap()]);
    let mut server = Cluster::on(15, &restored);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql("SELECT one FROM kept"), "1");
    server.stop(Shutdown::Fast);
}
