//! A rehearsal proves that a backup can be restored, or finds out that it cannot; and leaves nothing.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::configuration::configured_outside;
use crate::faults::golden_copy::files;
use crate::faults::small_disk::SmallDisk;
use crate::support::account::{is_root, make_dir, write_file};
use crate::support::{Barman, Cluster, Output, Postgres, Shutdown, process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A server with some data and a backup.
fn backed_up(version: u32) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) AS n");
    cluster.psql("CREATE INDEX ON t (n)");
    barman.ok(&["backup", "main", "--wait"]);
    (cluster, barman)
}

/// A directory for scratch directories that nobody else uses, and the option that names it.
fn scratch(barman: &Barman) -> (PathBuf, String) {
    let scratch = barman.path("scratch");
    make_dir(&scratch);
    let option = format!("--scratch-directory={}", scratch.display());
    (scratch, option)
}

fn rehearse(barman: &Barman, options: &[&str]) -> (Value, Output) {
    let all = [&["-f", "json", "rehearse", "main", "latest"], options].concat();
    let output = barman.run(&all);
    let document: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    (document["main"].clone(), output)
}

/// The processes that are at work in a directory.
fn processes(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_there = |process: &PathBuf| {
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    };
    entries.filter(is_there).collect()
}

/// Whether the server of a rehearsal takes connections.
fn is_ready(scratch: &Path) -> bool {
    let made = fs::read_dir(scratch).unwrap().flatten().map(|entry| entry.path());
    let status = |path: PathBuf| fs::read_to_string(path.join("data/postmaster.pid"));
    made.filter_map(|path| status(path).ok()).any(|status| status.contains("ready"))
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_good_backup_is_proved() {
    for version in Postgres::VERSIONS {
        let (cluster, barman) = backed_up(version);
        let tablespace = cluster.create_tablespace("fast");
        cluster.psql(
            "CREATE TABLE elsewhere (n int) TABLESPACE fast; INSERT INTO elsewhere VALUES (7)",
        );
        cluster.psql("CREATE DATABASE shop");
        barman.ok(&["backup", "main", "--wait"]);
        cluster.psql("INSERT INTO t VALUES (4711)");
        barman.ok(&["switch-wal", "main", "--force", "--archive"]);
        let (scratch, option) = scratch(&barman);
        let check = barman.ok(&["check", "main"]);
        assert!(!check.stdout.contains("last rehearsal"), "{check}");
        let more = "immediate_checkpoint = true\nlast_rehearsal_maximum_age = 1 DAY\n";
        barman.server("main", &cluster, more);
        let check = barman.run(&["check", "main"]);
        let line = "last rehearsal: FAILED (interval provided: 1 day, no backup was proved; ";
        assert!(check.stdout.contains(line), "{check}");

        let queries =
            ["--query", "SELECT count(*) AS rows, max(n) FROM t", "--query", "TABLE elsewhere"];
        let (found, output) =
            rehearse(&barman, &[&queries[..], &["--amcheck", option.as_str()]].concat());
        assert_eq!(output.status, 0, "{output}");
        assert_eq!(found["good"], true, "{output}");
        assert_eq!(found["problems"], serde_json::json!([]));
        assert_eq!(found["warnings"], serde_json::json!([]));
        assert_eq!(found["amcheck"], true);
        let answer = &found["queries"][0];
        assert_eq!(answer["columns"], serde_json::json!(["rows", "max"]));
        assert_eq!(answer["rows"], serde_json::json!([["1001", "4711"]]));
        assert_eq!(found["queries"][1]["rows"], serde_json::json!([["7"]]));
        assert_eq!(found["reached_timeline"], 1);
        let databases = found["databases"].as_array().unwrap();
        let names: Vec<&str> = databases.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["postgres", "shop", "template1"]);
        assert!(databases.iter().all(|it| it["relations"].as_u64().unwrap() > 100), "{output}");
        assert!(found["last_transaction_time"].is_string(), "{output}");

        // Nothing is left, and the server that was backed up has not noticed.
        assert!(is_empty(&scratch));
        assert_eq!(processes(&scratch), Vec::<PathBuf>::new());
        assert!(!is_empty(&tablespace));
        assert_eq!(cluster.psql("SELECT count(*) FROM t"), "1001");

        // Everybody tells of it.
        let shown = barman.json(&["show-backup", "main", "latest"])["main"].clone();
        assert_eq!(shown["rehearsal_information"]["good"], true, "{shown}");
        let text = barman.ok(&["show-backup", "main", "latest"]).stdout;
        assert!(text.contains("Found                : recovered to LSN "), "{text}");
        let listed = barman.json(&["list-backups", "main"])["main"].clone();
        assert_eq!(listed[0]["rehearsal"]["good"], true, "{listed}");
        assert!(listed[1]["rehearsal"].is_null());
        let check = barman.ok(&["check", "main"]).stdout;
        let line = "last rehearsal: OK (interval provided: 1 day, backup ";
        assert!(check.contains(line), "{check}");
    }
}

#[test]
fn a_moment_is_rehearsed() {
    let (cluster, barman) = backed_up(15);
    let time = cluster.psql("SELECT clock_timestamp()");
    cluster.psql("DROP TABLE t");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    let (scratch, option) = scratch(&barman);
    let query = ["--query", "SELECT count(*) FROM t"];
    let (found, output) =
        rehearse(&barman, &[&query[..], &["--target-time", &time, option.as_str()]].concat());
    assert_eq!(output.status, 0, "{output}");
    assert_eq!(found["queries"][0]["rows"][0][0], "1000", "{output}");

    // At the end of the WAL there is no table; the query says so.
    let (found, output) = rehearse(&barman, &[&query[..], &[option.as_str()]].concat());
    assert_eq!((output.status, &found["good"]), (1, &Value::Bool(false)), "{output}");
    assert!(
        found["queries"][0]["error"].as_str().unwrap().contains("\"t\" does not exist"),
        "{output}"
    );
    let shown = barman.json(&["show-backup", "main", "latest"])["main"].clone();
    assert_eq!(shown["rehearsal_information"]["good"], false, "{shown}");
    let check = barman.run(&["check", "main"]);
    assert_eq!(check.status, 1, "{check}");
    assert!(check.stdout.contains("last rehearsal: FAILED (backup "), "{check}");
    // It keeps nobody from making a backup.
    barman.ok(&["backup", "main", "--wait"]);

    // A moment that cannot be reached says nothing of the backup.
    let noted = || barman.json(&["list-backups", "main"])["main"][0]["rehearsal"].clone();
    for target in [["--target-lsn", "F/0"], ["--target-name", "nowhere"]] {
        let refused = barman.run(&[&["rehearse", "main", "latest", &option], &target[..]].concat());
        assert_eq!(refused.status, 1, "{refused}");
        assert!(noted().is_null(), "{refused}");
    }

    // Where nothing can be written nothing is noted, and the backup is as good.
    let permit = |how: &str| {
        let mut chmod = std::process::Command::new("chmod");
        chmod.args(["-R", how]).arg(barman.repository());
        process::run(chmod).expect_success();
    };
    permit("a-w");
    let unnoted = barman.ok(&["rehearse", "main", "latest", &option]);
    permit("u+w");
    assert!(unnoted.stderr.contains("the outcome is not noted with the backup: "), "{unnoted}");
    assert!(unnoted.stdout.contains(" can be restored: recovered to LSN "), "{unnoted}");
    assert!(noted().is_null());
    assert!(is_empty(&scratch));
}

#[test]
fn what_is_broken_is_found() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    for table in ["sound", "torn", "lost"] {
        cluster
            .psql(&format!("CREATE TABLE {table} AS SELECT n FROM generate_series(1, 1000) AS n"));
    }
    let path = |table: &str| {
        cluster.data().join(cluster.psql(&format!("SELECT pg_relation_filepath('{table}')")))
    };
    let (torn, lost) = (path("torn"), path("lost"));
    cluster.stop(Shutdown::Fast);
    File::options().write(true).open(torn).unwrap().write_all_at(&[0xff; 16], 24).unwrap();
    fs::remove_file(lost).unwrap();
    cluster.start();
    barman.ok(&["backup", "main", "--wait"]);
    let (scratch, option) = scratch(&barman);

    let (found, output) = rehearse(&barman, &["--amcheck", &option]);
    assert_eq!((output.status, &found["amcheck"]), (1, &Value::Bool(false)), "{output}");
    let problems = found["problems"].to_string();
    assert!(problems.contains("database postgres: 1 relations have no file: lost"), "{output}");
    assert!(problems.contains("pg_amcheck: heap table"), "{output}");
    assert!(problems.contains("invalid page in block 0 of relation"), "{output}");
    assert!(problems.contains("torn") && !problems.contains("sound"), "{output}");
    let shown = barman.json(&["show-backup", "main", "latest"])["main"].clone();
    let report = shown["rehearsal_information"]["report"].to_string();
    assert!(report.contains("pg_amcheck: heap table"), "{shown}");

    let (found, output) = rehearse(&barman, &["--query", "SELECT sum(n) FROM torn", &option]);
    assert_eq!(output.status, 1, "{output}");
    let error = found["queries"][0]["error"].as_str().unwrap();
    assert!(error.contains("invalid page in block 0 of relation"), "{output}");
    let assertion = "DO $$ BEGIN ASSERT (SELECT count(*) FROM sound) > 1000, 'too few'; END $$";
    let (found, output) = rehearse(&barman, &["--query", assertion, &option]);
    assert!(found["problems"].to_string().contains("too few"), "{output}");
    assert!(is_empty(&scratch));
}

#[test]
fn a_rehearsed_server_keeps_to_itself() {
    let (cluster, barman) = backed_up(17);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let primary = format!("host=127.0.0.1 port={}", listener.local_addr().unwrap().port());
    // None of it counts here before a restart, and all of it would there.
    let archive = barman.archive_command("main").replace('\'', "''");
    for (name, value) in [
        ("archive_mode", "always"),
        ("archive_command", archive.as_str()),
        ("primary_conninfo", primary.as_str()),
        ("primary_slot_name", "slot"),
        ("shared_preload_libraries", "no_such_library"),
        ("session_preload_libraries", "no_such_library"),
        ("unix_socket_group", "no_such_group"),
        ("unix_socket_directories", "/nowhere"),
        ("listen_addresses", "*"),
        ("ssl", "on"),
        ("ssl_cert_file", "/nowhere"),
        ("hba_file", "/nowhere"),
        ("external_pid_file", "/nowhere/pid"),
        ("shared_buffers", "1TB"),
        ("logging_collector", "on"),
        ("log_directory", "/nowhere"),
        ("lc_messages", "C"),
        ("synchronous_standby_names", "*"),
        ("max_wal_senders", "20"),
    ] {
        cluster.psql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
    // Nor is the superuser called as usual.
    cluster.psql("CREATE ROLE boss SUPERUSER LOGIN");
    let conninfo = cluster.conninfo().replace("user=postgres", "user=boss");
    let text = format!("[main]\nconninfo = {conninfo}\nimmediate_checkpoint = true\n");
    write_file(&barman.path("servers.d/main.conf"), &text);
    let mut psql = cluster.client("psql");
    psql.env("PGUSER", "boss").args([
        "-d",
        "postgres",
        "-c",
        "ALTER ROLE postgres RENAME TO admin",
    ]);
    process::run(psql).expect_success();
    barman.ok(&["backup", "main", "--wait"]);
    let (scratch, option) = scratch(&barman);
    let archived = || files(&barman.repository().join("wal"));
    let before = archived();

    let settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
        WHERE name IN ('archive_mode', 'archive_command', 'primary_conninfo', 'listen_addresses', \
        'shared_preload_libraries', 'max_worker_processes')";
    let queries = [
        "--query",
        settings,
        "--query",
        "SELECT session_user",
        "--query",
        "SELECT pg_switch_wal()",
        "--query",
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN \
        ('client backend', 'checkpointer', 'background writer', 'walwriter')",
    ];
    let (found, output) = rehearse(&barman, &[&queries[..], &[&option]].concat());
    assert_eq!(output.status, 0, "{output}");
    assert_eq!(
        found["queries"][0]["rows"][0][0],
        "archive_command=(disabled) archive_mode=off listen_addresses= max_worker_processes=0 \
         primary_conninfo= shared_preload_libraries=",
    );
    assert_eq!(found["queries"][1]["rows"][0][0], "admin");
    assert_eq!(found["queries"][3]["rows"][0][0], "0");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(archived(), before);
    assert!(found["warnings"].to_string().contains("no_such_library"), "{output}");
    assert!(is_empty(&scratch));
}

#[test]
fn configuration_from_outside_is_rehearsed_too() {
    let (cluster, barman, conf) = configured_outside(15);
    barman.ok(&["backup", "main", "--wait"]);
    let (scratch, option) = scratch(&barman);
    let queries = ["--query", "SHOW search_path", "--query", "SHOW config_file"];
    let (found, output) = rehearse(&barman, &[&queries[..], &[&option]].concat());
    assert_eq!(output.status, 0, "{output}");
    let answer = |query: usize| found["queries"][query]["rows"][0][0].as_str().unwrap();
    assert_eq!(answer(0), cluster.psql("SHOW search_path"));
    assert!(Path::new(answer(1)).starts_with(&scratch), "{output}");
    assert!(is_empty(&scratch) && conf.join("postgresql.conf").exists());
}

#[test]
fn whatever_ends_a_rehearsal_nothing_is_left() {
    let (_cluster, barman) = backed_up(17);
    let (scratch, option) = scratch(&barman);
    let is_gone = || is_empty(&scratch) && processes(&scratch).is_empty();
    let sleeps = ["rehearse", "main", "latest", &option, "--query", "SELECT pg_sleep(600)"];
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::KILL, 137)] {
        let rehearsal = barman.spawn(&sleeps);
        wait_until(LIMIT, || is_ready(&scratch));
        rehearsal.signal(signal);
        let ended = rehearsal.wait(LIMIT);
        assert_eq!(ended.status, status, "{ended}");
        match signal {
            // The keeper sees to it a moment later.
            Signal::KILL => wait_until(LIMIT, is_gone),
            _ => assert!(is_gone(), "{ended}"),
        }
    }
    // While it restores, too.
    for round in 0..6u64 {
        let rehearsal = barman.spawn(&sleeps);
        std::thread::sleep(Duration::from_millis(20 + round * 40));
        rehearsal.signal(Signal::TERM);
        let ended = rehearsal.wait(LIMIT);
        assert_eq!(ended.status, 143, "{ended}");
        wait_until(LIMIT, is_gone);
    }
    assert!(barman.json(&["list-backups", "main"])["main"][0]["rehearsal"].is_null());

    let limited = barman.run(&[&sleeps[..], &["--time-limit", "3"]].concat());
    assert_eq!(limited.status, 1, "{limited}");
    assert!(limited.stderr.contains("were not over within 3 seconds"), "{limited}");
    assert!(is_gone());

    let kept = barman.ok(&["rehearse", "main", "latest", &option, "--keep-scratch"]);
    let directory = kept.stdout.trim_end().rsplit(' ').next().unwrap();
    let log = fs::read_to_string(Path::new(directory).join("log")).unwrap();
    assert!(log.contains("archive recovery complete"), "{log}");
    assert!(processes(&scratch).is_empty());
}

#[test]
fn a_small_disk_is_refused() {
    if !is_root() {
        eprintln!("only root can mount a small file system");
        return;
    }
    let (_cluster, barman) = backed_up(17);
    let disk = barman.path("disk");
    let mounted = SmallDisk::mount(&disk);
    let option = format!("--scratch-directory={}", disk.display());
    let refused = barman.run(&["rehearse", "main", "latest", &option]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(
        refused.stderr.contains(" has 64 MiB free, and the data directory needs "),
        "{refused}"
    );
    assert!(is_empty(&disk));
    assert!(barman.json(&["list-backups", "main"])["main"][0]["rehearsal"].is_null());
    drop(mounted);
}
