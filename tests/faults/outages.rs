//! What PostgreSQL runs for each WAL file while the repository is away, hangs, or refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use barman::storage::local::durable_rename;

use super::golden_copy::files;
use crate::support::cluster::primary_and_standby;
use crate::support::process::{self, Output};
use crate::support::{Barman, Cluster, Shutdown, account, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Makes `path` something that hangs whoever opens it, like a file of a server that gives no answer.
fn hang(path: &Path) {
    let _ = fs::remove_file(path);
    let mut fifo = Command::new("mkfifo");
    process::run({
        fifo.args(["-m", "600"]).arg(path);
        fifo
    })
    .expect_success();
    account::hand_over(path);
}

/// A failure as PostgreSQL's archiver can take it: one line, and no code that would end the archiver.
#[track_caller]
fn refused(output: &Output, words: &str) {
    assert!((1..=125).contains(&output.status), "{output}");
    assert_eq!(output.stderr.trim_end().lines().count(), 1, "{output}");
    assert!(output.stderr.contains(words), "{words}: {output}");
}

fn key_slot(barman: &Barman) -> PathBuf {
    files(&barman.repository().join("keys")).remove(0)
}

#[test]
fn archiving_never_hangs() {
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "wal_archive_timeout = 1\n");
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    let late = "not archived within wal_archive_timeout (1 s)";
    let quickly = |arguments: &[&str]| {
        let begun = Instant::now();
        let output = barman.run(arguments);
        assert!(begun.elapsed() < Duration::from_secs(15), "{output}");
        output
    };
    // The file itself hangs; then the repository does.
    let stuck = barman.path(&segment);
    hang(&stuck);
    refused(&quickly(&["wal-archive", "main", stuck.to_str().unwrap()]), late);
    let (slot, kept) = (key_slot(&barman), barman.path("slot"));
    durable_rename(&slot, &kept).unwrap();
    hang(&slot);
    refused(&quickly(&["wal-archive", "main", path.to_str().unwrap()]), late);
    refused(&quickly(&["put-wal", "main"]), late);
    fs::remove_file(&slot).unwrap();
    durable_rename(&kept, &slot).unwrap();
    // The key itself may be on what hangs.
    let key = fs::read(barman.key_file()).unwrap();
    hang(&barman.key_file());
    refused(&quickly(&["wal-archive", "main", path.to_str().unwrap()]), late);
    fs::remove_file(barman.key_file()).unwrap();
    account::write_file(&barman.key_file(), std::str::from_utf8(&key).unwrap());
    barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
}

#[test]
fn archiving_fails_in_one_line_whatever_is_wrong() {
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "");
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    let path = path.to_str().unwrap();
    let archive = || barman.run(&["wal-archive", "main", path]);
    for (arguments, words) in [
        (&["wal-archive", "main"][..], "the path of the WAL file is missing"),
        (&["wal-archive", "main", path, "more"], "unexpected argument"),
        (&["wal-archive", "nobody", path], "nobody"),
        (&["wal-archive", "main", "/etc/passwd"], "not a WAL file"),
        (&["wal-archive", "main", "/nowhere/000000010000000000000001"], "cannot read"),
    ] {
        refused(&barman.run(arguments), words);
    }
    let mut unconfigured = Command::new(barman.binary());
    account::prepare(&mut unconfigured, &barman.path("."));
    unconfigured.args(["-c", "/nowhere.conf", "wal-archive", "main", path]);
    refused(&process::run(unconfigured), "/nowhere.conf");
    let (repository, away) = (barman.repository(), barman.path("away"));
    durable_rename(&repository, &away).unwrap();
    refused(&archive(), "does not exist");
    // The mount point of a disk that is not mounted: nothing may be written there.
    account::make_dir(&repository);
    refused(&archive(), "there is no repository in");
    assert_eq!(fs::read_dir(&repository).unwrap().count(), 0);
    fs::remove_dir(&repository).unwrap();
    durable_rename(&away, &repository).unwrap();
    let wal = repository.join("wal");
    account::write_file(&wal, "no directory");
    refused(&archive(), "Not a directory");
    fs::remove_file(&wal).unwrap();
    let (key, kept) = (barman.key_file(), barman.path("kept"));
    durable_rename(&key, &kept).unwrap();
    refused(&archive(), "repository.key");
    durable_rename(&kept, &key).unwrap();
    let done = archive();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{done}");
}

#[test]
fn a_recovery_stops_where_a_standby_asks_again() {
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    barman.server("main", &cluster, "wal_restore_timeout = 2\n");
    barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
    let here = barman.path("here");
    account::make_dir(&here);
    let restore = |more: &[&str]| {
        let mut command =
            barman.command(&[&["wal-restore", "main", &segment, "to"], more].concat());
        process::run({
            command.current_dir(&here);
            command
        })
    };
    assert_eq!(restore(&[]).status, 0);
    let (repository, away) = (barman.repository(), barman.path("away"));
    durable_rename(&repository, &away).unwrap();
    let begun = Instant::now();
    let lost = restore(&[]);
    assert_eq!(lost.status, 126, "{lost}");
    assert!(begun.elapsed() > Duration::from_secs(1), "it was asked again: {lost}");
    assert_eq!(lost.stderr.matches("asking again").count(), 1, "{lost}");
    assert_eq!(restore(&["--on-error", "missing"]).status, 1);
    account::write_file(&here.join("standby.signal"), "");
    let standby = restore(&[]);
    assert_eq!(standby.status, 1, "{standby}");
    assert!(standby.stderr.contains("does not exist"), "{standby}");
    assert_eq!(restore(&["--on-error", "abort"]).status, 126);
    // The command line is wrong, and stays so: nothing that a standby should go on with.
    let mut wrong = barman.command(&["wal-restore", "main", "nonsense", "to"]);
    wrong.current_dir(&here);
    assert_eq!(process::run(wrong).status, 126);

    let mut waiting =
        barman.command(&["wal-restore", "main", &segment, "to", "--on-error", "retry"]);
    waiting.current_dir(&here);
    let mut waiting = process::Background::spawn(waiting);
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.is_running(), "{}", waiting.stderr());
    durable_rename(&away, &repository).unwrap();
    assert_eq!(waiting.wait(LIMIT).status, 0);
    assert_eq!(fs::read(here.join("to")).unwrap(), fs::read(&path).unwrap());

    // What is damaged does not pass: a recovery stops there at once, and a standby may get it by streaming.
    let stored = files(&repository.join("wal")).remove(0);
    let mut bytes = fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    super::golden_copy::write(&stored, &bytes);
    assert_eq!(restore(&[]).status, 1);
    fs::remove_file(here.join("standby.signal")).unwrap();
    let damaged = restore(&[]);
    assert_eq!(damaged.status, 126, "{damaged}");
    assert!(!damaged.stderr.contains("asking again"), "{damaged}");
}

#[test]
fn a_hot_standby_outlives_an_outage_and_catches_up() {
    let (mut primary, mut standby, barman) = primary_and_standby("wal_restore_timeout = 1\n");
    standby.start();

    let (repository, away) = (barman.repository(), barman.path("away"));
    durable_rename(&repository, &away).unwrap();
    let failures = || standby.log().matches("does not exist").count();
    wait_until(LIMIT, || failures() > 6);
    primary.psql("INSERT INTO t SELECT n FROM generate_series(1001, 3000) n");
    primary.switch_wal();
    assert_eq!(standby.psql("SELECT count(*), pg_is_in_recovery() FROM t"), "1000|t");
    durable_rename(&away, &repository).unwrap();
    // The archiver has given up for a minute; the next segment wakes it.
    wait_until(LIMIT, || {
        primary.switch_wal();
        standby.psql("SELECT count(*) FROM t") == "3000"
    });
    standby.promote();
    assert_eq!(standby.table_checksum("t"), primary.table_checksum("t"));
    standby.stop(Shutdown::Fast);
    primary.stop(Shutdown::Fast);
    barman.ok(&["repo", "check"]);
}
