//! A standby is backed up in its primary's stead, and becomes a primary in the middle of a backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{pg_checksums, pg_verifybackup};
use crate::support::{Barman, Cluster, Shutdown, account, process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A primary that archives as server `main`, with the tables of pgbench.
fn archiving_primary(version: u32) -> (Cluster, Barman) {
    let mut primary = Cluster::builder(version)
        .initdb("--wal-segsize=1")
        .setting("wal_keep_size", "100MB")
        .start();
    let barman = Barman::initialised();
    barman.server("main", &primary, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut primary);
    primary.pgbench(&["-i", "-q", "-s", "1"]);
    (primary, barman)
}

/// A standby that streams from `primary`; its data directory goes when the primary's does.
fn streaming_standby(primary: &Cluster) -> Cluster {
    let data = primary.directory().join("standby");
    let mut command = primary.client("pg_basebackup");
    command.arg("-D").arg(&data).args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
    process::run(command).expect_success();
    Cluster::on(primary.version(), &data)
}

/// Closes the current segment of `server` and waits until it is archived.
fn archive_all(server: &Cluster) {
    let segment = server.switch_wal();
    let question = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    wait_until(LIMIT, || server.psql(&question) == "t");
}

fn shown(barman: &Barman, id: &str) -> Value {
    barman.json(&["show-backup", "main", id])["main"].clone()
}

/// Restores and verifies a backup; the directory goes with the sandbox.
fn restored(barman: &Barman, version: u32, id: &str, name: &str, more: &[&str]) -> PathBuf {
    let destination = barman.path(name);
    let to = destination.to_str().unwrap();
    barman.ok(&[&["restore", "main", id, to], more].concat());
    pg_verifybackup(version, &destination, &[]);
    destination
}

fn started(version: u32, destination: &Path) -> Cluster {
    // Its archive_command is 'false', which a shutdown would try again and again.
    let mut server = Cluster::on(version, destination).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    server
}

/// Leaves a repository whose latest backup is of a standby that had work to replay.
fn a_standby_is_backed_up(version: u32) -> Barman {
    let (primary, barman) = archiving_primary(version);
    let mut standby = streaming_standby(&primary);
    standby.start();
    // Of a row, command ids and hint bits are not replayed: this makes both the same on both sides.
    primary.psql(
        "CREATE TABLE known (n int, one text, two text); \
         INSERT INTO known SELECT n, md5(n::text), md5((-n)::text) FROM generate_series(1, 150000) n; \
         VACUUM FREEZE",
    );
    barman.ok(&["backup", "main", "--name", "primary"]);
    standby.wait_for_replay_of(&primary);

    // The same cluster, so that next to nothing is stored again.
    barman.server("main", &standby, "immediate_checkpoint = true\n");
    let backup = barman.ok(&["backup", "main", "--name", "standby"]);
    assert!(backup.stdout.contains(": WAITING_FOR_WALS\n"), "{backup}");
    archive_all(&primary);
    let (first, second) = (shown(&barman, "primary"), shown(&barman, "standby"));
    assert_eq!((&first["status"], &second["status"]), (&json!("DONE"), &json!("DONE")));
    let stored = |shown: &Value| shown["repository_information"]["stored_bytes"].as_u64().unwrap();
    let (first, second) = (stored(&first), stored(&second));
    assert!(first > 5 << 20, "{first} bytes were stored");
    assert!(second * 20 < first, "the standby added {second} bytes to its primary's {first}");

    // While the primary works, and the standby replays that.
    let load = primary.pgbench_background(&["-n", "-c", "2", "-T", "120"]);
    let replayed = "SELECT count(*) > 200 FROM pgbench_history";
    wait_until(LIMIT, || standby.psql(replayed) == "t");
    barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60", "--name", "loaded"]);
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
    drop(load);
    primary.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'",
    );
    let loaded = shown(&barman, "loaded");
    assert_eq!(loaded["repository_information"]["bad_pages"], json!(0), "{loaded}");
    archive_all(&primary);
    let expected = primary.table_checksum("pgbench_accounts");

    let destination = restored(&barman, version, "loaded", "latest", &[]);
    let mut server = started(version, &destination);
    assert_eq!(server.table_checksum("pgbench_accounts"), expected);
    assert_eq!(server.table_checksum("known"), primary.table_checksum("known"));
    server.pg_amcheck();
    server.stop(Shutdown::Fast);
    pg_checksums(version, &destination);

    // A primary that has nothing to do is made to archive what the backup needs.
    primary.psql("INSERT INTO known VALUES (0, 'one', 'two'); CHECKPOINT");
    standby.wait_for_replay_of(&primary);
    let to_primary = format!("primary_conninfo = {}\n", primary.conninfo());
    barman.server("main", &standby, &(to_primary + "immediate_checkpoint = true\n"));
    let idle = barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
    assert!(idle.stdout.contains(": DONE\n"), "{idle}");
    barman
}

#[test]
fn a_standby_of_postgresql_15() {
    a_standby_is_backed_up(15);
}

#[test]
fn a_standby_of_postgresql_17() {
    let barman = a_standby_is_backed_up(17);
    // Where the backup itself ends, it is a sound database too.
    let more = ["--target-immediate", "--target-action", "promote"];
    let destination = restored(&barman, 17, "loaded", "immediate", &more);
    let server = started(17, &destination);
    assert_eq!(server.psql("SELECT count(*) FROM pgbench_accounts"), "100000");
    server.pg_amcheck();
}

#[test]
fn a_standby_of_postgresql_18() {
    a_standby_is_backed_up(18);
}

#[test]
fn a_promotion_during_a_backup_fails_it_and_leaves_a_partial_segment() {
    const VERSION: u32 = 17;
    let (mut primary, barman) = archiving_primary(VERSION);
    barman.ok(&["backup", "main", "--wait", "--name", "early"]);
    // Keeps a copy of what it archives, to compare with.
    let kept = barman.path("kept");
    account::make_dir(&kept);
    let archive = format!("cp %p {}/%f && {}", kept.display(), barman.archive_command("main"));
    let mut standby = streaming_standby(&primary).option("archive_command", &archive);
    standby.start();
    barman.server("main", &standby, "immediate_checkpoint = true\nbandwidth_limit = 2000\n");

    // A segment that is not full, and whose end only the standby will archive.
    primary.psql("CREATE TABLE before AS SELECT n FROM generate_series(1, 1000) AS n");
    standby.wait_for_replay_of(&primary);
    let last = primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let backup = barman.spawn(&["backup", "main", "--wait", "--name", "torn"]);
    let copying = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase ~ '^streaming'";
    wait_until(LIMIT, || standby.psql(copying) == "1");
    primary.stop(Shutdown::Immediate);
    standby.promote();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("promoted during"), "{ended}");
    assert!(!ended.stdout.contains("DONE"), "{ended}");
    let failed = shown(&barman, "last-failed");
    assert_eq!((&failed["backup_name"], &failed["status"]), (&json!("torn"), &json!("FAILED")));
    assert!(failed["error"].as_str().unwrap().contains("promoted during"), "{failed}");
    let check = barman.ok(&["repo", "check", "--read-data"]);
    assert_eq!(check.stderr, "", "{check}");
    let none = barman.path("none");
    let refused = barman.run(&["restore", "main", "torn", none.to_str().unwrap()]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("has status FAILED"), "{refused}");

    // The end of the old timeline is archived as what it is, and comes back as that.
    standby.psql("CREATE TABLE after AS SELECT 42 AS answer");
    archive_all(&standby);
    let partial = format!("{last}.partial");
    let fetched = barman.path("fetched");
    let fetch = |name: &str| barman.run(&["wal-restore", "main", name, fetched.to_str().unwrap()]);
    assert_eq!(fetch(&partial).status, 0);
    assert!(fs::read(&fetched).unwrap() == fs::read(kept.join(&partial)).unwrap());
    fs::remove_file(&fetched).unwrap();
    assert_eq!(fetch(&last).status, 1, "it is not taken for the whole segment");
    assert!(!fetched.exists());
    assert_eq!(fetch("00000002.history").status, 0);

    // The next backup is of the new timeline.
    barman.server("main", &standby, "immediate_checkpoint = true\n");
    barman.ok(&["backup", "main", "--wait", "--name", "whole"]);
    let whole = shown(&barman, "whole");
    assert_eq!(whole["base_backup_information"]["timeline"], json!(2));
    standby.psql("INSERT INTO after VALUES (43)");
    archive_all(&standby);
    // And from the one before, recovery goes over the torn end of timeline 1 on to timeline 2.
    for (id, wal) in [("whole", "--no-get-wal"), ("early", "--no-get-wal"), ("early", "--get-wal")]
    {
        let destination = restored(&barman, VERSION, id, &format!("{id}{wal}"), &[wal]);
        let server = started(VERSION, &destination);
        for table in ["pgbench_accounts", "before", "after"] {
            assert_eq!(server.table_checksum(table), standby.table_checksum(table), "{id} {table}");
        }
        let writes = server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        assert!(writes.starts_with("00000003"), "{writes}");
    }
}
