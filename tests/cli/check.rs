//! `barman check` on servers and repositories of which one thing is wrong.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use barman::storage::local::durable_rename;
use serde_json::Value;

use crate::support::{Background, Barman, Cluster, Output, account, wait_until};

/// A server that archives, with two backups.
fn backed_up() -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17)
        .initdb("--wal-segsize=1")
        .setting("max_connections", "300")
        .setting("max_wal_senders", "100")
        .start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    for _ in 0..2 {
        barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
    }
    (cluster, barman)
}

/// The lines of a check that failed, without their indentation.
fn failures(check: &Output) -> Vec<&str> {
    let failed = check.stdout.lines().filter(|line| line.contains(": FAILED"));
    failed.map(str::trim).collect()
}

#[track_caller]
fn only_failure(barman: &Barman, words: &str) -> String {
    let check = barman.run(&["check", "main"]);
    let failed = failures(&check);
    assert!(failed.len() == 1 && failed[0].contains(words), "{words:?}: {check}");
    assert_eq!(check.status, 1, "{check}");
    failed[0].to_owned()
}

#[test]
fn wal_that_is_missing_or_went_elsewhere_is_named() {
    let (cluster, barman) = backed_up();
    let check = barman.ok(&["check", "main"]);
    for line in ["\tWAL lag: OK (0000", "\tWAL continuity: OK (since backup 2"] {
        assert!(check.stdout.contains(line), "{line}: {check}");
    }

    // Two segments in the middle are lost.
    let lost: Vec<String> = (0..2).map(|_| archived(&cluster, &barman)).collect();
    archived(&cluster, &barman);
    let kept = barman.path("kept");
    account::make_dir(&kept);
    let objects: Vec<_> = lost.iter().map(|name| object_of(&barman, name)).collect();
    for (object, name) in objects.iter().zip(&lost) {
        durable_rename(object, &kept.join(name)).unwrap();
    }
    let range = format!("{} to {} (2 segments)", lost[0], lost[1]);
    let failed = only_failure(&barman, &range);
    assert!(failed.starts_with("WAL continuity: FAILED (missing since backup "), "{failed}");
    let destination = barman.path("restored");
    let restore = ["restore", "main", "latest", destination.to_str().unwrap(), "--dry-run"];
    let warning = format!("the archive has WAL after a gap: {range}; what came after it is not");
    let planned = barman.ok(&restore);
    assert!(planned.stderr.contains(&warning), "{planned}");
    for (object, name) in objects.iter().zip(&lost) {
        durable_rename(&kept.join(name), object).unwrap();
    }
    barman.ok(&["check", "main"]);
    let planned = barman.ok(&restore);
    assert!(!planned.stderr.contains("gap"), "{planned}");

    // A command that succeeds and archives elsewhere.
    let count = "SELECT archived_count FROM pg_stat_archiver";
    cluster.psql("ALTER SYSTEM SET archive_command = '/bin/true'");
    cluster.psql("SELECT pg_reload_conf()");
    let before = cluster.psql(count);
    let name = cluster.switch_wal();
    wait_until(Duration::from_secs(30), || cluster.psql(count) != before);
    let failed = only_failure(&barman, &format!("archived {name}, which is not in the repository"));
    assert!(failed.starts_with("WAL lag: FAILED ("), "{failed}");
    let nagios = barman.run(&["check", "--nagios", "all"]);
    assert_eq!(nagios.status, 2);
    assert!(nagios.stdout.contains("* main FAILED: WAL lag|"), "{nagios}");
    assert!(nagios.stdout.contains("\nmain.WAL lag: FAILED (the server says"), "{nagios}");
    // It keeps nobody from making a backup.
    barman.ok(&["backup", "main"]);
}

#[test]
fn a_backup_that_waits_for_wal_does_not_count_yet() {
    let (cluster, barman) = backed_up();
    let redundancy = |minimum: u32, word: &str, shown: &str| {
        let more = format!("immediate_checkpoint = true\nminimum_redundancy = {minimum}\n");
        barman.server("main", &cluster, &more);
        let check = barman.run(&["check", "main"]).stdout;
        let line = format!("\tminimum redundancy requirements: {word} ({shown})\n");
        assert!(check.contains(&line), "{line}: {check}");
        barman.json(&["status", "main"])["main"]["minimum_redundancy"]["message"].clone()
    };
    assert_eq!(redundancy(0, "OK", "have 2 backups, expected at least 0"), "satisfied (2/0)");
    let last = barman.json(&["show-backup", "main", "last"]);
    let needed = last["main"]["base_backup_information"]["end_wal"].as_str().unwrap();
    durable_rename(&object_of(&barman, needed), &barman.path("away")).unwrap();
    let shown = "have 1 backups, expected at least 0; 1 more waits for WAL";
    assert_eq!(redundancy(0, "OK", shown), "satisfied (1/0)");
    let shown = "have 1 backups, expected at least 2; 1 more waits for WAL";
    assert_eq!(redundancy(2, "FAILED", shown), "FAILED (1/2)");
}

#[test]
fn a_server_without_work_is_not_failing_when_all_its_wal_has_arrived() {
    let (cluster, barman) = backed_up();
    cluster.psql("ALTER SYSTEM SET archive_command = 'false'");
    cluster.psql("SELECT pg_reload_conf()");
    let command = || cluster.psql("SHOW archive_command");
    wait_until(Duration::from_secs(30), || command() == "false");
    let failed = only_failure(&barman, "set it to: barman wal-archive main %p");
    assert!(failed.starts_with("archive_command: FAILED"), "{failed}");
    cluster.psql("ALTER SYSTEM SET archive_command = 'test -e /nowhere'");
    cluster.psql("SELECT pg_reload_conf()");
    let name = cluster.switch_wal();
    // After three attempts it pauses.
    let fails = "SELECT failed_count > 2 FROM pg_stat_archiver";
    wait_until(Duration::from_secs(30), || cluster.psql(fails) == "t");
    let failed = only_failure(&barman, &format!("archiving {name} fails"));
    assert!(failed.starts_with("continuous archiving: FAILED"), "{failed}");

    // PostgreSQL still tells of the failure, and has nothing else to send.
    let path = cluster.data().join("pg_wal").join(&name);
    barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
    let check = barman.ok(&["check", "main"]);
    let line = format!("\tcontinuous archiving: OK (archiving {name} failed at first");
    assert!(check.stdout.contains(&line), "{check}");

    // It tries again, and fails: that the segment came another way says nothing of the command.
    cluster.psql("SELECT pg_reload_conf()");
    let fails = "SELECT failed_count > 3 FROM pg_stat_archiver";
    wait_until(Duration::from_secs(30), || cluster.psql(fails) == "t");
    only_failure(&barman, &format!("archiving {name} fails"));
    // It has something, and cannot.
    cluster.switch_wal();
    only_failure(&barman, "continuous archiving: FAILED");
}

/// Has a segment archived; its name.
fn archived(cluster: &Cluster, barman: &Barman) -> String {
    let name = cluster.switch_wal();
    wait_until(Duration::from_secs(30), || {
        barman.run(&["get-wal", "main", &name, "-o", "/tmp"]).success()
            && fs::remove_file(format!("/tmp/{name}")).is_ok()
    });
    name
}

/// The object in the repository that holds a WAL file.
fn object_of(barman: &Barman, name: &str) -> std::path::PathBuf {
    // Not that of a backup in the segment, `<segment>.<offset>.backup`.
    let start = format!("{name}-");
    let mut directories = vec![barman.repository().join("wal")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_name().unwrap().to_str().unwrap().starts_with(&start) {
                return path;
            }
        }
    }
    panic!("{name} is not in the repository");
}

#[test]
fn a_repository_that_takes_nothing_and_a_session_that_is_left_are_told() {
    let (_cluster, barman) = backed_up();
    let json = barman.json(&["check", "main"])["main"].clone();
    for line in ["repository_writable", "unfinished_sessions", "repository_free_space"] {
        assert_eq!(json[line]["status"], "OK", "{json}");
    }
    let hint = json["repository_key_slots"]["hint"].as_str().unwrap();
    assert!(hint.starts_with("1 key slot: if its key is lost"), "{hint}");
    assert!(json["repository_free_space"]["hint"].as_str().unwrap().ends_with(" free"), "{json}");
    let sessions = barman.repository().join("sessions");
    // A beat that is still being written has a name with a dot, and is none.
    let beats = |session: fs::DirEntry| {
        let names = fs::read_dir(session.path()).into_iter().flatten().flatten();
        names.filter(|name| !name.file_name().as_encoded_bytes().starts_with(b".")).count()
    };
    let left = || fs::read_dir(&sessions).into_iter().flatten().flatten().map(beats).sum::<usize>();
    let before = left();

    // What a killed backup leaves: a beat of a process that is gone.
    let mut killed = barman.spawn(&["backup", "main", "--bwlimit", "32"]);
    // The check before it writes a session too.
    let has_begun = |killed: &Background| killed.stdout().contains("Starting backup of server");
    wait_until(Duration::from_secs(60), || {
        has_begun(&killed) && left() > before || !killed.is_running()
    });
    killed.kill();
    let failed = only_failure(&barman, "unfinished sessions: FAILED (1 of processes that are gone");
    assert!(failed.contains("barman cron"), "{failed}");
    barman.ok(&["cron"]);
    let check = barman.run(&["check", "main"]);
    assert!(check.stdout.contains("\tunfinished sessions: OK\n"), "{check}");

    fs::set_permissions(&sessions, fs::Permissions::from_mode(0o500)).unwrap();
    let check = barman.run(&["check", "main"]);
    let failed = failures(&check);
    let line = failed.iter().find(|line| line.starts_with("repository writable: FAILED (cannot "));
    assert!(line.is_some_and(|line| line.contains("permission denied")), "{check}");
    let refused = barman.run(&["backup", "main"]);
    assert!(refused.stderr.contains("the check 'repository writable' failed"), "{refused}");
    fs::set_permissions(&sessions, fs::Permissions::from_mode(0o750)).unwrap();
    let check = barman.run(&["check", "main"]);
    assert!(check.stdout.contains("\trepository writable: OK\n"), "{check}");
}

#[test]
fn servers_that_give_no_answer_leave_all_others_their_lines() {
    let (cluster, barman) = backed_up();
    // It accepts connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut text = String::new();
    for at in 0..50 {
        let conninfo = match at % 5 {
            0 => format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
            _ => cluster.conninfo(),
        };
        text += &format!("[pg{at:02}]\nconninfo = {conninfo}\n");
    }
    account::write_file(&barman.path("servers.d").join("many.conf"), &text);
    let check = barman.run(&["-f", "json", "check", "all", "--check-timeout", "9"]);
    let json: Value = serde_json::from_str(&check.stdout).unwrap();
    for at in 0..50 {
        let lines = &json[format!("pg{at:02}")];
        let (status, hint) = match at % 5 {
            0 => ("FAILED", "no answer in 3 seconds"),
            _ => ("OK", ""),
        };
        for line in ["postgresql", "postgresql_streaming"] {
            assert_eq!(lines[line]["status"], status, "{at}: {lines}");
            assert_eq!(lines[line]["hint"], hint, "{at}: {lines}");
        }
        for line in ["repository", "repository_writable", "backup_minimum_size"] {
            assert_eq!(lines[line]["status"], "OK", "{at}: {lines}");
        }
        assert!(lines.get("check_timeout").is_none(), "{at}: {lines}");
    }
    // All of them in their order, on the console too.
    let check = barman.run(&["check", "all", "--check-timeout", "9"]);
    let shown: Vec<&str> =
        check.stdout.lines().filter(|line| line.starts_with("Server ")).collect();
    let mut sorted = shown.clone();
    sorted.sort_unstable();
    assert!(shown == sorted && shown.len() == 51, "{shown:?}");
}
