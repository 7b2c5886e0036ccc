//! A server that is a standby, and its primary.

use std::fs;

use crate::support::{Barman, Cluster, Shutdown};

/// A primary that archives, and a standby of it that streams.
fn pair() -> (Cluster, Cluster, Barman) {
    let mut primary = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &primary, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut primary);
    primary.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    barman.ok(&["backup", "main", "--wait"]);
    let data = barman.path("standby");
    let to = data.to_str().unwrap();
    barman.ok(&["restore", "main", "latest", to, "--standby-mode", "--get-wal"]);
    let mut standby = Cluster::on(17, &data).option("primary_conninfo", &primary.conninfo());
    standby.start();
    let streams = || primary.psql("SELECT count(*) FROM pg_stat_replication") == "1";
    crate::support::wait_until(std::time::Duration::from_secs(60), streams);
    (primary, standby, barman)
}

#[test]
fn a_primary_that_is_named_sends_the_last_wal_of_a_standbys_backup() {
    let (mut primary, mut standby, barman) = pair();
    let with_primary = |conninfo: &str| {
        let more = format!("primary_conninfo = {conninfo}\nimmediate_checkpoint = true\n");
        barman.server("main", &standby, &more);
    };
    with_primary(&primary.conninfo());
    let checked = barman.ok(&["check", "main"]);
    for line in [
        "PostgreSQL server is standby: OK",
        "Primary server is not a standby: OK",
        "Primary and standby have same system ID: OK",
        "archive_mode: OK (a standby: its primary archives)",
    ] {
        assert!(checked.stdout.contains(line), "{line}: {checked}");
    }
    let backup = barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
    assert!(backup.stdout.contains(": DONE\n"), "{backup}");

    // Nobody closes the segment of a quiet primary that is not named.
    barman.server("main", &standby, "immediate_checkpoint = true\n");
    primary.psql("INSERT INTO t SELECT n FROM generate_series(1001, 2000) n");
    primary.psql("CHECKPOINT");
    let position = primary.current_lsn();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
    crate::support::wait_until(std::time::Duration::from_secs(60), || {
        standby.psql(&replayed) == "t"
    });
    let backup = barman.ok(&["backup", "main"]);
    assert!(backup.stdout.contains(": WAITING_FOR_WALS\n"), "{backup}");
    assert!(backup.stdout.contains("primary_conninfo"), "{backup}");
    primary.switch_wal();
    crate::support::wait_until(std::time::Duration::from_secs(60), || {
        barman.json(&["list-backups", "main"])["main"][0]["status"] == "DONE"
    });

    with_primary(&standby.conninfo());
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("Primary server is not a standby"), "{refused}");
    let other = Cluster::builder(17).start();
    with_primary(&other.conninfo());
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("primary_conninfo leads to system"), "{refused}");

    let restored = barman.path("restored");
    fs::create_dir(&restored).unwrap();
    crate::support::account::hand_over(&restored);
    barman.ok(&["restore", "main", "latest", restored.to_str().unwrap()]);
    let mut server = Cluster::on(17, &restored);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql("SELECT count(*) FROM t"), "2000");
    for server in [&mut server, &mut standby, &mut primary] {
        server.stop(Shutdown::Fast);
    }
}
