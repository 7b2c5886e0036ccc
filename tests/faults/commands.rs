//! Processes that are killed, and circumstances that are against them.

use std::time::Duration;

use crate::support::{Barman, Cluster, Shutdown, wait_until};

/// A server with some data that archives into a new repository with one backup.
fn backed_up() -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    barman.ok(&["backup", "main", "--wait"]);
    (cluster, barman)
}

#[test]
fn killed_at_any_moment() {
    let (cluster, barman) = backed_up();
    let first = barman.json(&["list-backups", "main", "--minimal"])["main"][0].clone();
    let first = first.as_str().unwrap();
    for round in 0..16u64 {
        cluster.pgbench(&["-n", "-t", "20"]);
        let backup = barman.spawn(&["backup", "main"]);
        std::thread::sleep(Duration::from_millis(40 + round * 45));
        drop(backup); // SIGKILL
        barman.ok(&["repo", "check"]);
    }
    barman.ok(&["repo", "check", "--read-data"]);
    barman.ok(&["verify-backup", "main", first]);
    barman.ok(&["backup", "main", "--wait"]);
    for round in 0..8u64 {
        let destination = barman.path(&format!("killed-{round}"));
        let restore = barman.spawn(&["restore", "main", "latest", destination.to_str().unwrap()]);
        std::thread::sleep(Duration::from_millis(30 + round * 60));
        drop(restore);
        if !destination.join("global/pg_control").exists() {
            assert!(Cluster::on(17, &destination).try_start().is_err());
        }
    }
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    let mut server = Cluster::on(17, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql("SELECT count(*) FROM pgbench_accounts"), "200000");
    server.stop(Shutdown::Fast);
}

#[test]
fn two_backups_at_once() {
    let (_cluster, barman) = backed_up();
    let slow = barman.spawn(&["backup", "main", "--bwlimit", "2000"]);
    wait_until(Duration::from_secs(30), || {
        barman.run(&["list-backups", "main"]).stdout.contains("STARTED")
    });
    let second = barman.run(&["backup", "main"]);
    assert_eq!(second.status, 1, "{second}");
    for word in ["is running already: process", "since"] {
        assert!(second.stderr.contains(word), "{word}: {second}");
    }
    drop(slow); // SIGKILL: its session is known to be dead at once.
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn the_server_goes_away() {
    let (mut cluster, barman) = backed_up();
    let slow = barman.spawn(&["backup", "main", "--bwlimit", "4000"]);
    wait_until(Duration::from_secs(30), || {
        barman.run(&["list-backups", "main"]).stdout.contains("STARTED")
    });
    cluster.stop(Shutdown::Immediate);
    let ended = slow.wait(Duration::from_secs(60));
    assert_eq!(ended.status, 1, "{ended}");
    let down = barman.run(&["backup", "main"]);
    assert_eq!(down.status, 1, "{down}");
    cluster.start();
    let listed = barman.ok(&["list-backups", "main"]);
    assert!(listed.stdout.contains("FAILED"), "{listed}");
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["repo", "check", "--read-data"]);
}
