//! A recovery target is the last thing that is there or, exclusively, the first that is not; and the
//! server does there what it was told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, process, wait_until};

const VERSION: u32 = 17;
const LIMIT: Duration = Duration::from_secs(60);

/// A server with a backup, and three transactions after it that each insert a row of table `t`.
struct Source {
    cluster: Cluster,
    barman: Barman,
}

/// Where and when a transaction committed.
struct Commit {
    xid: String,
    lsn: String,
    time: String,
}

impl Source {
    fn new() -> Source {
        let mut cluster = Cluster::builder(VERSION)
            .initdb("--wal-segsize=1")
            .setting("track_commit_timestamp", "on")
            .setting("autovacuum", "off")
            .start();
        let barman = Barman::initialised();
        barman.server("main", &cluster, "immediate_checkpoint = true\n");
        barman.archive_from("main", &mut cluster);
        cluster.psql("CREATE TABLE t (n int)");
        barman.ok(&["backup", "main", "--wait"]);
        Source { cluster, barman }
    }

    /// Inserts `row` in a transaction of its own.
    fn insert(&self, row: u32) -> Commit {
        let before = self.cluster.psql("SELECT pg_current_wal_insert_lsn()");
        let answer = self.cluster.psql(&format!(
            "INSERT INTO t VALUES ({row}); \
             SELECT xmin, pg_xact_commit_timestamp(xmin) FROM t WHERE n = {row}"
        ));
        let (xid, time) = answer.split_once('|').unwrap();
        let lsn = self.commit_record(&before, xid);
        Commit { xid: xid.to_owned(), lsn, time: time.to_owned() }
    }

    /// Where the commit record of a transaction begins, in the words of pg_waldump.
    fn commit_record(&self, after: &str, xid: &str) -> String {
        let mut command = self.cluster.postgres().command("pg_waldump", self.cluster.directory());
        command.arg("--path").arg(self.cluster.data().join("pg_wal"));
        command.args(["--rmgr=Transaction", "--limit=1", "--xid", xid, "--start", after]);
        let said = process::run(command).expect_success();
        assert!(said.stdout.contains("COMMIT"), "{said}");
        let lsn = said.stdout.split("lsn: ").nth(1).and_then(|rest| rest.split(',').next());
        lsn.unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    fn archive_all(&self) {
        self.barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    }

    /// Restores the backup; the directory that became a data directory.
    fn restore(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let destination = self.barman.path(name);
        let to = destination.to_str().unwrap();
        self.barman.ok(&[&["restore", "main", "latest", to], arguments].concat());
        pg_verifybackup(VERSION, &destination, &[]);
        destination
    }
}

fn rows(server: &Cluster) -> String {
    server.psql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t")
}

/// The rows that a server has when it has become a primary.
fn rows_of_primary(destination: &Path) -> String {
    let mut server = Cluster::on(VERSION, destination);
    server.start();
    server.wait_for_recovery_end();
    let rows = rows(&server);
    server.psql("INSERT INTO t VALUES (4711)");
    rows
}

#[test]
fn the_row_of_an_exclusive_target_is_not_there() {
    let source = Source::new();
    source.insert(1);
    let Commit { xid, lsn, time } = source.insert(2);
    source.insert(3);
    source.archive_all();

    for (option, value) in [("time", &time), ("xid", &xid), ("lsn", &lsn)] {
        let target = format!("--target-{option}");
        let before = [target.as_str(), value, "--exclusive", "--target-action", "promote"];
        let destination = source.restore(option, &before);
        assert_eq!(rows_of_primary(&destination), "1", "{target} {value}");
    }
}

#[test]
fn every_target_action_is_played_at_a_target_that_is_the_last_thing_there() {
    let source = Source::new();
    source.insert(1);
    let Commit { xid, lsn, time } = source.insert(2);
    source.insert(3);
    source.archive_all();

    // Paused, it answers; resumed, it becomes a primary at this very place.
    let at = ["--target-xid", xid.as_str(), "--target-action", "pause"];
    let mut server = Cluster::on(VERSION, &source.restore("pause", &at));
    server.start();
    wait_until(LIMIT, || server.psql("SELECT pg_get_wal_replay_pause_state()") == "paused");
    assert_eq!(server.psql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(rows(&server), "1 2");
    server.psql("SELECT pg_wal_replay_resume()");
    server.wait_for_recovery_end();
    assert_eq!(rows(&server), "1 2");
    drop(server);

    // Shut down, it is there again with the next start, and goes on when it is told to.
    let at = ["--target-lsn", lsn.as_str(), "--target-action", "shutdown"];
    let destination = source.restore("shutdown", &at);
    let mut server = Cluster::on(VERSION, &destination);
    let _ = server.try_start();
    wait_until(LIMIT, || !server.is_running());
    let log = server.log();
    for words in ["shutdown at recovery target", "database system is shut down"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    drop(server);
    assert!(destination.join("recovery.signal").exists());
    let mut server = Cluster::on(VERSION, &destination).option("recovery_target_action", "promote");
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(rows(&server), "1 2");
    drop(server);

    // The settings in a file of their own, which the user includes; nothing in postgresql.auto.conf.
    let at = ["--target-time", time.as_str(), "--target-action", "promote"];
    let own_file = ["--recovery-conf-filename", "barman.conf"];
    let destination = source.restore("own-file", &[at.as_slice(), &own_file].concat());
    let own = fs::read_to_string(destination.join("barman.conf")).unwrap();
    assert!(own.contains("\nrecovery_target_time = '"), "{own}");
    let auto = fs::read_to_string(destination.join("postgresql.auto.conf")).unwrap();
    let is_active = |line: &&str| line.starts_with("recovery_") || line.starts_with("restore_");
    assert_eq!(auto.lines().find(is_active), None, "{auto}");
    let conf = destination.join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + "include = 'barman.conf'\n").unwrap();
    assert_eq!(rows_of_primary(&destination), "1 2");
}

#[test]
fn a_position_at_the_end_of_a_segment_is_reached() {
    let source = Source::new();
    source.insert(1);
    // What a user notes before a risky change: where the WAL ends now. The next record, at which
    // recovery finds out that it has arrived, lies in the segment after the switch.
    let lsn = source.cluster.psql("SELECT pg_switch_wal()");
    source.insert(2);
    source.archive_all();
    let at = ["--target-lsn", lsn.as_str(), "--target-action", "promote"];
    for (name, more) in [("inclusive", &["--no-get-wal"]), ("exclusive", &["--exclusive"])] {
        let destination = source.restore(name, &[at.as_slice(), more].concat());
        assert_eq!(rows_of_primary(&destination), "1", "{name}");
    }
}

#[test]
fn a_position_that_no_record_follows_is_refused() {
    let source = Source::new();
    source.insert(1);
    source.archive_all();
    // The last segment of the archive ends here, and the next record is not archived yet.
    let lsn = source.cluster.psql("SELECT pg_switch_wal()");
    let archived = format!(
        "SELECT last_archived_wal >= pg_walfile_name('{lsn}'::pg_lsn - 1) FROM pg_stat_archiver"
    );
    wait_until(LIMIT, || source.cluster.psql(&archived) == "t");
    let destination = source.barman.path("refused");
    let to = destination.to_str().unwrap();
    let refused = source.barman.run(&["restore", "main", "latest", to, "--target-lsn", &lsn]);
    assert_ne!(refused.status, 0, "{refused}");
    assert!(refused.stderr.contains("does not reach"), "{refused}");
    assert!(!destination.exists());
}
