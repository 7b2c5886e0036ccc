//! Commands that are asked to end, and commands that are ended.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use super::golden_copy::{files, sandbox};
use crate::support::{Barman, Cluster, Shutdown, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn an_interrupted_backup_says_so_and_is_over() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    for (signal, name, status) in
        [(Signal::TERM, "SIGTERM", 143), (Signal::INT, "SIGINT", 130), (Signal::HUP, "SIGHUP", 129)]
    {
        let backup = barman.spawn(&["backup", "main", "--bwlimit", "2000"]);
        let is_running = || barman.run(&["list-backups", "main"]).stdout.contains("STARTED");
        wait_until(LIMIT, is_running);
        backup.signal(signal);
        let ended = backup.wait(LIMIT);
        assert_eq!(ended.status, status, "{ended}");
        assert!(ended.stderr.contains(&format!("interrupted by {name}")), "{ended}");
        let listed = barman.ok(&["list-backups", "main"]).stdout;
        assert!(listed.lines().next().unwrap().ends_with("FAILED"), "{listed}");
        let shown = barman.ok(&["show-backup", "main", "last-failed"]).stdout;
        assert!(shown.contains(&format!("interrupted by {name}")), "{shown}");
        // The server ends its side too, and the next backup has nothing to wait for.
        wait_until(LIMIT, || {
            cluster.psql("SELECT count(*) FROM pg_stat_progress_basebackup") == "0"
        });
    }
    assert_eq!(files(&barman.repository().join("sessions")), Vec::<PathBuf>::new());
    let check = barman.run(&["check", "main"]);
    let newest = barman.json(&["show-backup", "main", "last-failed"]);
    let newest = newest["main"]["backup_id"].as_str().unwrap();
    let line = format!("failed backups: FAILED (there are 3 failed backups: {newest}, ");
    assert!(check.stdout.contains(&line), "{check}");
    assert!(check.stdout.contains("barman delete main ID"), "{check}");
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["repo", "check", "--read-data"]);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn an_interrupted_restore_is_not_taken_for_a_server() {
    let barman = sandbox();
    let mut interrupted = 0;
    for round in 0..12u64 {
        let destination = barman.path(&format!("restored-{round}"));
        let restore = barman.spawn(&["restore", "main", "latest", destination.to_str().unwrap()]);
        std::thread::sleep(Duration::from_millis(10 + round * 15));
        restore.signal(Signal::TERM);
        let ended = restore.wait(LIMIT);
        if ended.status == 0 {
            assert!(destination.join("global/pg_control").exists());
            continue;
        }
        assert_eq!(ended.status, 143, "{ended}");
        interrupted += 1;
        // It may have come in the last moment, when all is written; nothing half is left as whole.
        if destination.join("global/pg_control").exists() {
            assert!(destination.join("backup_manifest").exists(), "{ended}");
        }
    }
    assert!(interrupted > 0);
    barman.ok(&["repo", "check"]);
}

#[test]
fn a_creation_that_was_killed_is_begun_again() {
    let mut begun_again = 0;
    for round in 0..24u64 {
        let barman = Barman::new();
        let creation = barman.spawn(&["repo", "init"]);
        std::thread::sleep(Duration::from_micros(500 + round * 700));
        drop(creation); // SIGKILL
        let again = barman.run(&["repo", "init"]);
        if again.status == 0 {
            begun_again += 1;
        } else {
            assert!(again.stderr.contains("there is a repository in"), "{again}");
        }
        barman.ok(&["repo", "info"]);
        assert_eq!(barman.ok(&["repo", "check"]).stderr, "");
    }
    assert!(begun_again > 0);
}

#[test]
fn an_archiver_that_was_killed_is_asked_again() {
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "");
    for round in 0..16u64 {
        let segment = cluster.switch_wal();
        let path = cluster.data().join("pg_wal").join(&segment);
        let archiver = barman.spawn(&["wal-archive", "main", path.to_str().unwrap()]);
        std::thread::sleep(Duration::from_micros(500 + round * 1200));
        drop(archiver); // SIGKILL
        barman.ok(&["repo", "check"]);
        barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
        let destination = barman.path("segment");
        barman.ok(&["wal-restore", "main", &segment, destination.to_str().unwrap()]);
        assert_eq!(fs::read(&destination).unwrap(), fs::read(&path).unwrap());
        fs::remove_file(destination).unwrap();
    }
    barman.ok(&["repo", "check", "--read-data"]);
}
