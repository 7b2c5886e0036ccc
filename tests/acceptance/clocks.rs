//! Time: clocks that are set back or are apart, nights in which an hour is missing or comes twice.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Barman, Cluster, Output, Shutdown, clock, process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const BERLIN: &str = "Europe/Berlin";

type Clock = Vec<(String, String)>;

fn run_at(barman: &Barman, clock: &Clock, arguments: &[&str]) -> Output {
    let mut command = barman.command(arguments);
    command.envs(clock.iter().cloned());
    process::run(command)
}

#[track_caller]
fn json_at(barman: &Barman, clock: &Clock, arguments: &[&str]) -> Value {
    let output = run_at(barman, clock, &[&["-f", "json"], arguments].concat());
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn archiving_cluster() -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

/// The ids of all backups, newest first.
fn ids(barman: &Barman) -> Vec<String> {
    let listed = barman.ok(&["list-backups", "main", "--minimal"]).stdout;
    listed.lines().map(str::to_owned).collect()
}

/// Restores, starts, and asks for the rows of table `t`.
#[track_caller]
fn rows_after(barman: &Barman, clock: &Clock, arguments: &[&str]) -> String {
    let destination = barman.path("restored");
    let to = destination.to_str().unwrap();
    run_at(barman, clock, &[&["restore", "main", "latest", to], arguments].concat())
        .expect_success();
    let mut server = Cluster::on(17, &destination).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    let rows = server.psql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t");
    server.stop(Shutdown::Immediate);
    fs::remove_dir_all(destination).unwrap();
    rows
}

#[test]
fn a_clock_that_was_set_back_changes_no_order() {
    let (cluster, barman) = archiving_cluster();
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS n");
    let ahead = clock::apart(7200.0, "UTC");
    run_at(&barman, &ahead, &["backup", "main", "--wait", "--name", "one"]).expect_success();
    cluster.psql("INSERT INTO t VALUES (2)");
    barman.ok(&["backup", "main", "--wait", "--name", "two"]);
    let failed = barman.spawn(&["backup", "main", "--bwlimit", "2000"]);
    wait_until(LIMIT, || barman.run(&["list-backups", "main"]).stdout.contains("STARTED"));
    let running = barman.ok(&["list-backups", "main"]).stdout;
    assert!(running.lines().next().unwrap().ends_with("STARTED"), "{running}");
    failed.signal(Signal::TERM);
    failed.wait(LIMIT);

    let [failed, two, one] = ids(&barman).try_into().unwrap();
    assert!(two < failed && failed < one, "the clock was two hours ahead: {one} {two} {failed}");
    let shown = |id: &str| barman.json(&["show-backup", "main", id])["main"].clone();
    for (asked, id) in [("latest", &two), ("oldest", &one), ("one", &one), ("last-failed", &failed)]
    {
        assert_eq!(shown(asked)["backup_id"], **id, "{asked}");
    }
    assert_eq!(shown("two")["catalog_information"]["previous_backup"], *one);
    assert_eq!(shown("one")["catalog_information"]["next_backup"], *two);
    assert_eq!(shown("two")["catalog_information"]["next_backup"], "-");
    let status = barman.json(&["status", "main"])["main"].clone();
    assert_eq!(status["last_backup"]["message"], *two, "{status}");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    assert_eq!(rows_after(&barman, &vec![], &[]), "1 2");

    // Two backups that begin in one second: the later one gets the next second.
    let stands = clock::standing("2037-12-24 12:00:00");
    for _ in 0..2 {
        run_at(&barman, &stands, &["backup", "main"]).expect_success();
    }
    let newest: Vec<String> = ids(&barman).into_iter().take(2).collect();
    assert_eq!(newest, ["20371224T120001", "20371224T120000"]);
}

#[test]
fn hosts_whose_clocks_are_ten_minutes_apart_are_told_and_served() {
    let (cluster, barman) = archiving_cluster();
    let line = |clock: &Clock, name: &str| {
        json_at(&barman, clock, &["check", "main"])["main"][name].clone()
    };
    let ahead = clock::apart(600.0, "UTC");
    let behind = clock::apart(-600.0, "UTC");
    cluster.psql("CREATE TABLE t AS SELECT 1 AS n");
    let before = cluster.psql("SELECT clock_timestamp()");
    cluster.psql("INSERT INTO t VALUES (2)");
    // A second, which is what a checkpoint's time is exact to.
    std::thread::sleep(Duration::from_millis(1100));
    run_at(&barman, &ahead, &["backup", "main", "--wait"]).expect_success();

    assert_eq!(line(&vec![], "clock_skew")["status"], "OK");
    for (clock, words) in [(&ahead, "ahead of"), (&behind, "behind")] {
        let skew = line(clock, "clock_skew");
        assert_eq!(skew["status"], "FAILED");
        assert!(skew["hint"].as_str().unwrap().contains(words), "{skew}");
    }
    // Ages are by the store's clock, whatever this host's says.
    let limits = "last_backup_maximum_age = 1 HOUR\nlast_wal_maximum_age = 1 HOUR\n";
    barman.server("main", &cluster, limits);
    for hours in [-5.0, 5.0] {
        let clock = clock::apart(hours * 3600.0, "UTC");
        for name in ["backup_maximum_age", "wal_maximum_age"] {
            let age = line(&clock, name);
            assert_eq!(age["status"], "OK", "{name} {hours}: {age}");
        }
    }

    // A moment of the server, which the host that made the backup takes for one before its end; not within the
    // second of the backup's checkpoint, where that host's clock decides.
    std::thread::sleep(Duration::from_millis(1100));
    cluster.psql("INSERT INTO t VALUES (3)");
    let wanted = cluster.psql("SELECT clock_timestamp()");
    std::thread::sleep(Duration::from_millis(50));
    cluster.psql("INSERT INTO t VALUES (4)");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    let target = ["--target-time", wanted.as_str(), "--target-action", "promote"];
    for clock in [vec![], ahead.clone(), behind] {
        assert_eq!(rows_after(&barman, &clock, &target), "1 2 3");
    }
    // Before the backup, by the server's clock, and after all.
    let refused = |clock: &Clock, time: &str, words: &[&str]| {
        let to = barman.path("refused");
        let arguments = ["restore", "main", "latest", to.to_str().unwrap(), "--target-time", time];
        let output = run_at(&barman, clock, &arguments);
        assert_eq!(output.status, 1, "{output}");
        for words in words {
            assert!(output.stderr.contains(words), "{words}: {output}");
        }
        assert!(!to.exists());
    };
    refused(
        &ahead,
        &before,
        &["is before the end of backup", "which is consistent from", "goes on to"],
    );
    let tomorrow = cluster.psql("SELECT now() + interval '1 day'");
    let window = [
        "which is in the future by this host's clock",
        "which is consistent from",
        "its last commit is of",
        "HINT: there is no WAL of the future: choose an earlier target",
    ];
    refused(&vec![], &tomorrow, &window);
}

#[test]
fn both_nights_in_which_clocks_change_are_gone_through() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.psql("CREATE TABLE t (n int)");
    cluster.psql(&format!("ALTER SYSTEM SET timezone = '{BERLIN}'"));
    let moments = [
        // 01:59:30 +01:00, half a minute before 03:00 +02:00.
        "2026-03-29T00:59:30Z",
        "2026-03-29T01:00:30Z",
        // 02:30 +02:00, and an hour later 02:30 +01:00.
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
    ];
    let mut times = vec![];
    for (at, moment) in moments.into_iter().enumerate() {
        // The server and barman on one host, whose clock shows this moment.
        cluster.stop(Shutdown::Fast);
        cluster = cluster.environment(clock::showing(moment, BERLIN));
        cluster.start();
        let clock = clock::showing(moment, BERLIN);
        if at % 2 == 0 {
            run_at(&barman, &clock, &["backup", "main", "--wait"]).expect_success();
        }
        cluster.psql(&format!("INSERT INTO t VALUES ({at})"));
        times.push(cluster.psql("SELECT clock_timestamp()"));
        std::thread::sleep(Duration::from_millis(50));
        cluster.psql(&format!("INSERT INTO t VALUES ({})", at + 10));
        if at % 2 == 1 {
            run_at(&barman, &clock, &["backup", "main", "--wait"]).expect_success();
            run_at(&barman, &clock, &["switch-wal", "main", "--force", "--archive"])
                .expect_success();
        }
    }
    cluster.stop(Shutdown::Fast);

    let night = clock::showing("2026-10-25T01:31:00Z", BERLIN);
    let listed = json_at(&barman, &night, &["list-backups", "main"])["main"].clone();
    let seconds =
        |backup: &Value| backup["end_time_timestamp"].as_str().unwrap().parse::<i64>().unwrap();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 4);
    for pair in listed.windows(2) {
        assert!(seconds(&pair[0]) > seconds(&pair[1]), "newest first: {pair:?}");
    }
    // Two of them ended at half past two, by the clock on the wall.
    for backup in &listed[..2] {
        assert!(backup["end_time"].as_str().unwrap().starts_with("Sun Oct 25 02:3"), "{backup}");
    }
    for (at, time) in times.iter().enumerate() {
        assert_eq!(time.rsplit_once('+').unwrap().1, ["01", "02", "02", "01"][at], "{time}");
    }

    // The server's own words for a moment are a target, and lead to this moment of the two.
    let expected = ["0", "0 1 10", "0 1 2 10 11", "0 1 2 3 10 11 12"];
    for (at, time) in times.iter().enumerate() {
        let destination = barman.path("restored");
        let to = destination.to_str().unwrap();
        let arguments = ["restore", "main", "auto", to, "--target-time", time];
        let said =
            run_at(&barman, &night, &[&arguments[..], &["--target-action", "promote"]].concat());
        let said = said.expect_success();
        let utc = moments[at].split_at(14).0.replace('T', " ");
        assert!(said.stdout.contains("Recovery target: ") && said.stdout.contains(&utc), "{said}");
        let settings = fs::read_to_string(destination.join("postgresql.auto.conf")).unwrap();
        let set = settings.lines().find(|line| line.starts_with("recovery_target_time = '20"));
        assert!(set.unwrap().ends_with("+00'"), "{settings}");
        let mut server = Cluster::on(17, &destination).option("archive_mode", "off");
        server.start();
        server.wait_for_recovery_end();
        let rows = server.psql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t");
        assert_eq!(rows, expected[at], "{time}");
        server.stop(Shutdown::Immediate);
        fs::remove_dir_all(destination).unwrap();
    }

    // Without an offset it is one moment, or none is taken.
    let to = barman.path("refused");
    for (time, words) in [
        ("2026-10-25 02:30:00", "Europe/Berlin has it twice"),
        ("2026-03-29 02:30:00", "Europe/Berlin does not have it"),
    ] {
        let arguments = ["restore", "main", "latest", to.to_str().unwrap(), "--target-time", time];
        let refused = run_at(&barman, &night, &arguments);
        assert_ne!(refused.status, 0, "{refused}");
        for words in [words, &format!("'{time}+02'"), &format!("'{time}+01'")] {
            assert!(refused.stderr.contains(words), "{words}: {refused}");
        }
        assert!(!to.exists());
    }
}
