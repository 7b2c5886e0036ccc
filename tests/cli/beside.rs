//! Beside an existing Barman: its files stay as they are, and what is its own is refused, not ignored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Setup, barman as run_barman};
use crate::support::{Barman, Cluster, account};

/// Every file below `directory`, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        found.insert(directory.clone(), vec![]);
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn nothing_in_the_home_of_a_barman_is_touched() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    let home = barman.path("home");
    for directory in [
        "main/base/20260101T000000",
        "main/wals/0000000100000000",
        "main/streaming",
        "main/incoming",
        "main/errors",
    ] {
        fs::create_dir_all(home.join(directory)).unwrap();
    }
    for file in [
        ".main-backup.lock",
        ".main-archive-wal.lock",
        ".cron.lock",
        "main/identity.json",
        "main/base/20260101T000000/backup.info",
        "main/wals/xlog.db",
        "main/wals/0000000100000000/000000010000000000000001",
        "main/incoming/000000010000000000000002",
    ] {
        fs::write(home.join(file), file).unwrap();
    }
    account::hand_over(&home);
    let before = files(&home);
    // Barman's slot and its receiver's.
    cluster.psql("SELECT pg_create_physical_replication_slot('barman', true)");
    let slots = "SELECT slot_name, restart_lsn, active FROM pg_replication_slots";
    let slot = cluster.psql(slots);
    barman.server("main", &cluster, "immediate_checkpoint = true\nslot_name = barman\n");
    barman.archive_from("main", &mut cluster);
    for arguments in [
        &["check", "main"][..],
        &["backup", "main", "--wait", "--wait-timeout", "60"],
        &["switch-wal", "main", "--force", "--archive"],
        &["cron"],
        &["status", "main"],
        &["diagnose"],
        &["delete", "main", "latest"],
    ] {
        barman.ok(arguments);
    }
    assert!(files(&home) == before, "{:?}", files(&home).keys());
    assert_eq!(cluster.psql(slots), slot);
    let state = barman.path(".local/state/barman-repository/cron.lock");
    assert!(state.exists(), "{}", state.display());
}

#[test]
fn a_place_for_state_that_cannot_be_made_stops_nothing() {
    let barman = Barman::initialised();
    barman.write_config("state_directory = /proc/nonexistent\n");
    assert_eq!(barman.ok(&["cron"]).stderr, "");
}

#[test]
fn an_option_that_would_protect_other_things_fails_the_check_of_its_server() {
    let mut text = "repository = /r\n".to_owned();
    let refused = [
        ("streaming_archiver", "on"),
        ("backup_method", "snapshot"),
        ("backup_method", "rsync"),
        ("encryption", "gpg"),
        ("pre_backup_script", "/x"),
        ("post_archive_retry_script", "/x"),
        ("primary_ssh_command", "ssh b"),
        ("worm_mode", "on"),
    ];
    for (at, (option, value)) in refused.iter().enumerate() {
        text += &format!("[pg{at}]\nconninfo = host=/nonexistent\n{option} = {value}\n");
    }
    text += "[warned]\nconninfo = host=/nonexistent\nwal_retention_policy = other\n";
    let setup = Setup::new(&text);
    let said = setup.barman("-f json check all --check-timeout 3");
    assert_eq!(said.code, 1, "{}", said.err);
    let json = said.json();
    for (at, (option, value)) in refused.iter().enumerate() {
        let lines = &json[format!("pg{at}")];
        assert_eq!(lines["configuration"]["status"], "FAILED", "{lines}");
        let hint = lines["configuration"]["hint"].as_str().unwrap();
        assert!(hint.contains(&format!("{option} = {value} is not supported yet")), "{hint}");
        let refused = setup.barman(&format!("backup pg{at}"));
        assert!(refused.code == 1 && refused.err.contains(option), "{}", refused.err);
    }
    assert!(json["warned"].get("configuration").is_none(), "{json}");
    let warnings = json["_WARNING"].to_string();
    assert!(warnings.contains("'wal_retention_policy' is not supported yet"), "{warnings}");
}

#[test]
fn the_program_works_under_another_name() {
    let directory = tempfile::tempdir().unwrap();
    let renamed = directory.path().join("pg-repository");
    fs::copy(env!("CARGO_BIN_EXE_barman"), &renamed).unwrap();
    let output = Command::new(&renamed).arg("--version").output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"barman "), "{output:?}");
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a user=b\n");
    let file = setup.file().display().to_string();
    let listed = Command::new(&renamed).args(["-c", &file, "list-servers"]).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "main\n");
    let arguments = ["-c", &file, "setup-sql", "main", "--pg-version", "17"];
    let script = Command::new(&renamed).args(arguments).output().unwrap();
    let script = String::from_utf8(script.stdout).unwrap();
    let command = format!("archive_command = '{} wal-archive main %p'", renamed.display());
    assert!(script.contains(&command), "{script}");
    // Its own name still means what it did.
    assert_eq!(run_barman(directory.path(), "--version", &[]).code, 0);
}
