//! Targets and timelines where the path to a moment is not straight.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Barman, Cluster, Output, account, wait_until};

/// An archiving server.
fn archiving() -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

#[track_caller]
fn back_up(barman: &Barman) -> String {
    barman.ok(&["backup", "main", "--wait"]);
    let list = barman.json(&["list-backups", "main", "--minimal"]);
    list["main"][0].as_str().unwrap().to_owned()
}

/// Restores and starts a server that goes on, on a timeline of its own, and archives as the first one did.
fn branch_off(barman: &Barman, arguments: &[&str]) -> (Cluster, TempDir) {
    let destination = account::temp_dir();
    let data = destination.path().join("data");
    let (first, rest) = arguments.split_first().unwrap();
    // Without a target it promotes by itself.
    let action: &[&str] = if rest.is_empty() { &[] } else { &["--target-action", "promote"] };
    let all = [&["restore", "main", first, data.to_str().unwrap()], rest, action].concat();
    barman.ok(&all);
    let mut cluster = Cluster::on(17, &data);
    cluster.start();
    cluster.wait_for_recovery_end();
    let command = barman.archive_command("main");
    cluster.psql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
    cluster.psql("SELECT pg_reload_conf()");
    (cluster, destination)
}

/// Waits until the archive has a file of this name.
#[track_caller]
fn is_archived(barman: &Barman, name: &str) {
    wait_until(Duration::from_secs(30), || {
        object(&barman.repository().join("wal"), name).is_some()
    });
}

fn object(directory: &Path, name: &str) -> Option<std::path::PathBuf> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        let is_it = entry.file_name().to_string_lossy().starts_with(&format!("{name}-"));
        if path.is_dir() { object(&path, name) } else { is_it.then_some(path) }
    })
}

#[track_caller]
fn planned(barman: &Barman, arguments: &[&str]) -> Output {
    let destination = barman.path("planned");
    let (backup, rest) = arguments.split_first().unwrap();
    let to = destination.to_str().unwrap();
    barman.run(&[&["restore", "main", backup, to, "--dry-run"], rest].concat())
}

#[test]
fn recovery_does_not_follow_a_branch_that_was_left() {
    let (cluster, barman) = archiving();
    let backup = back_up(&barman);
    let (branch, _directory) = branch_off(&barman, &[&backup, "--target-immediate"]);
    let fork = branch.switch_wal();
    is_archived(&barman, &fork);
    // The server that was left goes on.
    cluster.psql("CREATE TABLE left_behind AS SELECT 1 AS one");
    is_archived(&barman, &cluster.switch_wal());
    is_archived(&barman, &cluster.switch_wal());
    planned(&barman, &[&backup]).expect_success();

    fs::remove_file(object(&barman.repository().join("wal"), &fork).unwrap()).unwrap();
    let refused = planned(&barman, &[&backup]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains(&fork), "it names the segment: {refused}");
    planned(&barman, &[&backup, "--target-tli", "current"]).expect_success();
}

#[test]
fn auto_passes_over_backups_that_do_not_lead_to_the_timeline() {
    let (cluster, barman) = archiving();
    let first = back_up(&barman);
    cluster.switch_wal();
    let second = back_up(&barman);
    let (branch, _directory) = branch_off(&barman, &[&first, "--target-immediate"]);
    is_archived(&barman, "00000002.history");
    is_archived(&barman, &branch.switch_wal());
    let chosen = planned(&barman, &["auto"]).expect_success();
    assert!(chosen.stdout.contains(&first), "{chosen}");
    let told = format!(
        "WARNING: backup {first} is chosen, and {second}, which is newer, is passed over: it is on \
         timeline 1, and timeline 2 does not lead on from it"
    );
    assert!(chosen.stderr.contains(&told), "{chosen}");
    assert!(chosen.stderr.contains(&format!("{second} … --target-tli current")), "{chosen}");
    let asked = planned(&barman, &["auto", "--target-tli", "2"]).expect_success();
    assert!(asked.stdout.contains("is passed over") && asked.stderr.is_empty(), "{asked}");
    let chosen = planned(&barman, &["auto", "--target-tli", "current"]).expect_success();
    assert!(chosen.stdout.contains(&second) && !chosen.stderr.contains("passed over"), "{chosen}");
}

#[test]
fn a_second_recovery_to_before_the_first_archives_and_restores() {
    let (cluster, barman) = archiving();
    let backup = back_up(&barman);
    let later = |cluster: &Cluster, point: &str| {
        cluster.psql(&format!("SELECT pg_create_restore_point('{point}')"));
        is_archived(&barman, &cluster.switch_wal());
    };
    cluster.psql("CREATE TABLE t AS SELECT 1 AS n");
    later(&cluster, "early");
    cluster.psql("INSERT INTO t VALUES (2)");
    later(&cluster, "late");
    drop(cluster);
    let (branch, _one) = branch_off(&barman, &[&backup, "--target-name", "late"]);
    is_archived(&barman, &branch.switch_wal());
    drop(branch);
    // It follows timeline 2, and leaves it before that began.
    let (branch, _two) = branch_off(&barman, &[&backup, "--target-name", "early"]);
    assert_eq!(branch.psql("SELECT count(*) FROM t"), "1");
    is_archived(&barman, "00000003.history");
    branch.psql("INSERT INTO t VALUES (3)");
    is_archived(&barman, &branch.switch_wal());
    drop(branch);
    let (last, _three) = branch_off(&barman, &[&backup]);
    assert_eq!(last.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1,3");
}

#[test]
fn moments_within_the_backup_are_refused_and_rollbacks_end_a_recovery() {
    let (cluster, barman) = archiving();
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) AS x FROM generate_series(1, 60000) n");
    barman.server("main", &cluster, "immediate_checkpoint = true\nbandwidth_limit = 4000\n");
    let running = barman.spawn(&["backup", "main", "--wait"]);
    wait_until(Duration::from_secs(30), || {
        cluster
            .psql("SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'")
            == "1"
    });
    cluster.psql("SELECT pg_create_restore_point('within')");
    running.wait(Duration::from_secs(120)).expect_success();
    let refused = planned(&barman, &["latest", "--target-name", "within"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("consistent from"), "{refused}");

    std::thread::sleep(Duration::from_millis(1100));
    let moment = cluster.psql("SELECT clock_timestamp()");
    let refused = planned(&barman, &["latest", "--target-time", &moment]);
    assert_eq!(refused.status, 1, "{refused}");
    let hint = "HINT: it is after the newest WAL that was archived: if the server still runs";
    assert!(refused.stderr.contains(hint), "{refused}");
    cluster.psql("BEGIN; INSERT INTO t VALUES (0, ''); ROLLBACK");
    is_archived(&barman, &cluster.switch_wal());
    planned(&barman, &["latest", "--target-time", &moment]).expect_success();
}
