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

#[test]
fn a_copy_that_breaks_off_is_tried_again() {
    let (cluster, barman) = backed_up();
    let more =
        "immediate_checkpoint = true\nbasebackup_retry_times = 2\nbasebackup_retry_sleep = 1\n";
    barman.server("main", &cluster, more);
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "4000"]);
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BASE_BACKUP%'";
    for _ in 0..2 {
        wait_until(Duration::from_secs(30), || cluster.psql(end) == "t");
    }
    let ended = backup.wait(Duration::from_secs(60));
    assert_eq!(ended.status, 0, "{ended}");
    assert_eq!(ended.stderr.matches("trying again in 1 second").count(), 2, "{ended}");
    // Only the last attempt tells how it went.
    let listed = barman.ok(&["list-backups", "main"]).stdout;
    assert!(!listed.contains("FAILED") && listed.lines().count() == 2, "{listed}");

    let backup = barman.spawn(&["backup", "main", "--bwlimit", "4000", "--no-retry"]);
    wait_until(Duration::from_secs(30), || cluster.psql(end) == "t");
    let ended = backup.wait(Duration::from_secs(60));
    assert_eq!(ended.status, 1, "{ended}");
    assert!(
        ended.stderr.contains("terminating connection due to administrator command"),
        "{ended}"
    );
    assert!(barman.ok(&["list-backups", "main"]).stdout.contains("FAILED"));
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn no_space_and_no_permission() {
    let (mut cluster, barman) = backed_up();
    // Not the archiving is to fail here, but the backup.
    cluster.psql("ALTER SYSTEM SET archive_command = 'true'");
    cluster.psql("SELECT pg_reload_conf()");
    let repository = barman.repository();
    let aside = barman.path("aside");
    barman::storage::local::durable_rename(&repository, &aside).unwrap();
    std::fs::create_dir(&repository).unwrap();
    if crate::support::account::is_root() {
        // A file system of its own, with little more room than the repository takes.
        let mounted = Mounted::tmpfs(&repository, "9m");
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("-a").arg(aside.join(".")).arg(&repository).status().unwrap().success());
        crate::support::account::hand_over(&repository);
        cluster.psql(
            "CREATE TABLE noise AS SELECT gen_random_uuid() AS u FROM generate_series(1, 400000); \
             CHECKPOINT",
        );
        barman.server("main", &cluster, "immediate_checkpoint = true\nrepository_timeout = 1\n");
        let full = barman.run(&["backup", "main", "--no-space-check"]);
        assert_eq!(full.status, 1, "{full}");
        assert!(full.stderr.contains("no space is left"), "{full}");
        barman.ok(&["repo", "check", "--read-data"]);
        barman.ok(&["verify-backup", "main", "latest"]);
        drop(mounted);
    }
    std::fs::remove_dir(&repository).unwrap();
    barman::storage::local::durable_rename(&aside, &repository).unwrap();
    let packs = repository.join("packs");
    std::fs::set_permissions(&packs, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    cluster.psql("CREATE TABLE more AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n");
    let denied = barman.run(&["backup", "main"]);
    assert_eq!(denied.status, 1, "{denied}");
    assert!(denied.stderr.contains("permission denied"), "{denied}");
    std::fs::set_permissions(&packs, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["repo", "check", "--read-data"]);
}

/// A file system that is there until this is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &std::path::Path, size: &str) -> Mounted {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tmpfs"]).arg(at);
        assert!(mount.status().unwrap().success());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
