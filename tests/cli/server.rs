//! The commands that work with a server, on a real one.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::account::{self, make_dir};
use crate::support::{Barman, Cluster, Output, Shutdown, wait_until};

const VERSION: u32 = 17;

/// A server that archives into a new repository, and is not backed up yet.
fn archiving(more: &str) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(VERSION).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, &format!("immediate_checkpoint = true\n{more}"));
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

#[track_caller]
fn refused(barman: &Barman, args: &[&str], words: &str) -> Output {
    let output = barman.run(args);
    assert_eq!(output.status, 1, "{output}");
    assert!(output.stderr.contains(words), "{words:?}: {output}");
    output
}

fn id(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_server_is_checked_backed_up_and_looked_after() {
    let (cluster, barman) = archiving("minimum_redundancy = 1\n");
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    cluster.create_tablespace("fast");
    cluster.psql("CREATE TABLE u TABLESPACE fast AS SELECT 1 AS one");

    // No WAL has come yet, so that the check makes the server send some.
    let check = barman.run(&["check", "main"]);
    assert_eq!(check.status, 1, "too few backups: {check}");
    for line in [
        "Server main:\n",
        "\tPostgreSQL: OK\n",
        "\tsuperuser or standard user with backup privileges: OK\n",
        "\tPostgreSQL streaming: OK\n",
        "\twal_level: OK\n",
        "\trepository: OK (",
        "\trepository key: OK\n",
        "\tfailed backups: OK (there are 0 failed backups)\n",
        "\tminimum redundancy requirements: FAILED (have 0 backups, expected at least 1)\n",
        "\tarchive_mode: OK\n",
        "\tcontinuous archiving: OK\n",
    ] {
        assert!(check.stdout.contains(line), "{line:?}: {check}");
    }
    assert!(!check.stdout.contains("WAL archive"), "{check}");

    let backup =
        barman.ok(&["backup", "main", "--name", "nightly", "--wait", "--wait-timeout", "60"]);
    for words in ["Starting backup of server main", "Backup start at LSN: 0/", ": DONE\n"] {
        assert!(backup.stdout.contains(words), "{words}: {backup}");
    }
    assert_eq!(backup.stderr, "");
    let points = cluster.log().matches("restore point \"barman_").count();
    assert_eq!(points, 1, "{}", cluster.log());
    barman.ok(&["check", "main"]);
    let json_check = barman.json(&["check", "main"]);
    assert_eq!(json_check["main"]["postgresql"], json!({"status": "OK", "hint": ""}));
    assert_eq!(json_check["main"]["minimum_redundancy_requirements"]["status"], json!("OK"));
    let nagios = barman.ok(&["check", "--nagios", "all"]).stdout;
    assert!(
        nagios.starts_with("BARMAN OK - Ready to serve the Espresso backup for main|main="),
        "{nagios}"
    );

    let listed = barman.json(&["list-backups", "main"]);
    let first = &listed["main"][0];
    let first_id = id(&first["backup_id"]);
    assert_eq!(first["backup_name"], json!("nightly"));
    assert_eq!(first["backup_type"], json!("full"));
    assert_eq!(first["status"], json!("DONE"));
    assert_eq!(first["retention_status"], json!("-"));
    assert!(first["end_time_timestamp"].is_string() && first["size_bytes"].is_u64(), "{first}");
    let line = barman.ok(&["list-backups", "main"]).stdout;
    assert!(line.starts_with(&format!("main {first_id} 'nightly' - F - ")), "{line}");
    assert!(line.contains(" - Size: ") && line.contains(" - WAL Size: "), "{line}");
    assert_eq!(barman.json(&["list-backups", "--minimal", "main"])["main"], json!([first_id]));

    show(&barman, &first_id);
    files(&barman);
    second_backup(&barman, &cluster, &first_id);
    keep_and_delete(&barman, &first_id);
    let diagnosis = barman.ok(&["diagnose"]).stdout;
    let diagnosis: Value = serde_json::from_str(&diagnosis).unwrap();
    let main = &diagnosis["servers"]["main"];
    assert_eq!(main["status"]["is_in_recovery"], json!(false));
    assert_eq!(main["backups"].as_object().unwrap().len(), 1);
    assert!(main["wals"]["last_archived_wal_per_timeline"]["00000001"]["name"].is_string());
    let shown = barman.json(&["show-servers", "main"]);
    assert_eq!(shown["main"]["wal_level"], json!("replica"));
    barman.ok(&["-q", "cron"]);
    barman.ok(&["repo", "check", "--read-data"]);
}

fn show(barman: &Barman, id: &str) {
    let shown = barman.json(&["show-backup", "main", "nightly"])["main"].clone();
    assert_eq!(shown["backup_id"], json!(id));
    assert_eq!(shown["server_information"]["data_checksums"], json!("on"));
    assert_eq!(shown["postgresql_version"].as_u64().unwrap() / 10_000, u64::from(VERSION));
    assert_eq!(shown["tablespaces"][0]["name"], json!("fast"));
    let base = &shown["base_backup_information"];
    assert_eq!((&base["timeline"], &base["backup_method"]), (&json!(1), &json!("postgres")));
    assert!(base["begin_lsn"].as_str().unwrap().starts_with("0/"), "{base}");
    assert_eq!(base["begin_wal"].as_str().unwrap().len(), 24);
    assert!(base["backup_size_bytes"].as_u64() > Some(1 << 20), "{base}");
    assert_eq!(shown["catalog_information"]["previous_backup"], json!("-"));
    let repository = &shown["repository_information"];
    assert_eq!((&repository["sequence"], &repository["bad_pages"]), (&json!(1), &json!(0)));
    let text = barman.ok(&["show-backup", "main", "latest"]).stdout;
    for words in [
        &format!("Backup {id}:\n  Server Name            : main\n"),
        "  Base backup information:\n    Backup Method        : postgres\n",
        "    Checksums            : on\n",
    ] {
        assert!(text.contains(words), "{words:?}: {text}");
    }
}

fn files(barman: &Barman) {
    let data = barman.ok(&["list-files", "main", "latest", "--target", "data"]).stdout;
    for path in ["PG_VERSION", "global/pg_control", "backup_label"] {
        assert!(data.lines().any(|line| line == path), "{path}: {data}");
    }
    assert!(!data.contains("pg_wal/"), "{data}");
    let all = barman.json(&["list-files", "main", "latest"]);
    let all = all["_INFO"].as_array().unwrap();
    assert!(all.len() > data.lines().count(), "{all:?}");
    assert!(all.iter().any(|path| path.as_str().unwrap().starts_with("pg_wal/0000")));
    let with_empty = ["list-files", "main", "latest", "--list-empty-directories"];
    assert!(barman.ok(&with_empty).stdout.lines().any(|line| line == "pg_notify/"));
}

fn second_backup(barman: &Barman, cluster: &Cluster, first: &str) {
    cluster.psql("UPDATE t SET md5 = 'changed' WHERE n = 7");
    let said = barman.json(&["backup", "main", "--wait", "-j", "2", "--retry-times", "1"]);
    assert_eq!(said["status"], json!("DONE"));
    assert_eq!((&said["server_name"], &said["mode"]), (&json!("main"), &json!("postgres")));
    assert_ne!(said["backup_id"], json!(first));
    assert!(said["deduplicated_size"].as_u64() < said["size"].as_u64().map(|size| size / 10));
    refused(barman, &["backup", "main", "--name", "nightly"], "there is a backup of that name");

    let status = barman.ok(&["status", "main"]).stdout;
    for line in [
        "\tDescription: main\n",
        "\tActive: True\n",
        "\tCluster state: in production\n",
        "\tNo. of available backups: 2\n",
        "\tMinimum redundancy requirements: satisfied (2/1)\n",
    ] {
        assert!(status.contains(line), "{line:?}: {status}");
    }
    let status = barman.json(&["status", "main"]);
    let expected = json!({"description": "First available backup", "message": first});
    assert_eq!(status["main"]["first_backup"], expected);

    let verified = barman.ok(&["verify-backup", "main", "latest"]).stdout;
    assert!(verified.contains("is sound"), "{verified}");
}

fn keep_and_delete(barman: &Barman, first: &str) {
    let kept = |word: &str| {
        let expected = json!({"keep_status": {"description": "Keep", "message": word}});
        assert_eq!(barman.json(&["keep", "main", first, "--status"])["main"], expected);
    };
    kept("nokeep");
    barman.ok(&["keep", "main", first, "--target", "standalone"]);
    kept("standalone");
    let line = barman.ok(&["list-backups", "main"]).stdout;
    assert!(line.ends_with(" - KEEP:STANDALONE\n"), "the newest comes first: {line}");
    refused(barman, &["delete", "main", first], "Cannot delete backup");
    barman.ok(&["keep", "main", first, "--release"]);
    kept("nokeep");
    barman.ok(&["delete", "main", "oldest"]);
    refused(barman, &["show-backup", "main", first], "has no backup");
    let last = refused(barman, &["delete", "main", "latest"], "Cannot delete backup");
    assert!(last.stderr.contains("minimum redundancy = 1, current redundancy = 1"), "{last}");
}

#[test]
fn wal_goes_into_the_repository_and_comes_back() {
    let (cluster, barman) = archiving("");
    cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let said = barman.ok(&["switch-wal", "main", "--force", "--archive"]).stdout;
    let name =
        said.split_whitespace().find(|word| word.starts_with("00000001")).unwrap().to_owned();
    assert!(said.contains(&format!("The WAL file {name} of server 'main' has been archived")));
    let none = barman.ok(&["switch-wal", "main"]).stdout;
    assert!(none.contains("No switch required for server 'main'"), "{none}");

    let there = barman.path("there");
    make_dir(&there);
    barman.ok(&["get-wal", "main", &name, "-o", there.to_str().unwrap()]);
    let restored = barman.path("restored");
    barman.ok(&["wal-restore", "main", &name, restored.to_str().unwrap()]);
    let content = fs::read(&restored).unwrap();
    assert_eq!(content.len(), 1 << 20);
    assert!(fs::read(there.join(&name)).unwrap() == content);
    let printed = barman.command(&["get-wal", "main", &name]).output();
    assert!(printed.unwrap().stdout == content);
    assert!(barman.ok(&["get-wal", "--test", "main"]).stdout.contains("Ready to retrieve"));
    let peeked = barman.ok(&["get-wal", "main", &name, "--peek", "3"]).stdout;
    assert!(peeked.starts_with(&name) && peeked.lines().count() <= 3, "{peeked}");

    let absent = "000000010000000900000001";
    refused(&barman, &["get-wal", "main", absent], "not found in server 'main'");
    let asked = barman.run(&["wal-restore", "main", absent, restored.to_str().unwrap()]);
    assert_eq!((asked.status, asked.stderr.as_str()), (1, ""));
    let wrong = barman.run(&["wal-restore", "main", "nonsense", "/nonexistent"]);
    assert_eq!(wrong.status, 126, "{wrong}");

    // Once more is success; other content under the name is not.
    barman.ok(&["wal-archive", "main", there.join(&name).to_str().unwrap()]);
    let mut other = content;
    other[4000] ^= 1;
    fs::write(there.join(&name), other).unwrap();
    let conflict = refused(
        &barman,
        &["wal-archive", "main", there.join(&name).to_str().unwrap()],
        "other content",
    );
    assert_eq!(conflict.stderr.lines().count(), 1, "{conflict}");
    let check = barman.run(&["-f", "json", "check", "main"]);
    let check: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!(check["main"]["archiver_errors"]["status"], json!("FAILED"));
}

#[test]
fn wal_commands_need_no_configuration_file() {
    let (cluster, barman) = archiving("");
    let name = cluster.switch_wal();
    let has_it = || {
        let mut command = Command::new(barman.command(&[]).get_program());
        account::prepare(&mut command, &barman.path(""));
        command.env("BARMAN_REPOSITORY", barman.repository());
        command.env("BARMAN_REPOSITORY_KEY_FILE", barman.key_file());
        command.args(["wal-restore", "main", &name]).arg(barman.path("segment"));
        command.output().unwrap().status.success()
    };
    wait_until(Duration::from_secs(30), has_it);
}

#[test]
fn what_fails_is_told() {
    let (mut cluster, barman) = archiving("");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let path = cluster.data().join(cluster.psql("SELECT pg_relation_filepath('t')"));
    cluster.stop(Shutdown::Fast);
    let mut page = fs::read(&path).unwrap();
    page[9000] ^= 1;
    fs::write(&path, page).unwrap();
    cluster.start();
    let backup = barman.ok(&["backup", "main"]);
    assert!(backup.stderr.contains("1 pages have wrong checksums"), "{backup}");
    assert!(backup.stderr.contains(" block 1"), "{backup}");
    let shown = barman.json(&["show-backup", "main", "latest"]);
    assert_eq!(shown["main"]["repository_information"]["bad_pages"], json!(1));

    // A pack that is lost is found by whoever reads it.
    for directory in fs::read_dir(barman.repository().join("packs")).unwrap() {
        for pack in fs::read_dir(directory.unwrap().path()).unwrap() {
            let pack = pack.unwrap().path();
            let mut bytes = fs::read(&pack).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::remove_file(&pack).unwrap();
            fs::write(&pack, bytes).unwrap();
            account::hand_over(&pack);
        }
    }
    refused(&barman, &["verify-backup", "main", "latest"], "is damaged in ");
    let check = refused(&barman, &["repo", "check", "--read-data"], "packs/");
    assert!(check.stderr.contains("it touches main/"), "{check}");

    cluster.stop(Shutdown::Fast);
    let check = barman.run(&["check", "main"]);
    assert_eq!(check.status, 1);
    assert!(check.stdout.contains("\tPostgreSQL: FAILED ("), "{check}");
    let nagios = barman.run(&["check", "--nagios", "main"]);
    assert_eq!(nagios.status, 2);
    let line = "BARMAN CRITICAL - server main has issues * main FAILED: PostgreSQL, ";
    assert!(nagios.stdout.starts_with(line), "{nagios}");
    refused(&barman, &["backup", "all"], "the check 'PostgreSQL' failed (");
    refused(&barman, &["backup", "all"], "backup of server main: not started");
    refused(&barman, &["switch-wal", "main"], "server main");
    let status = barman.ok(&["status", "main"]).stdout;
    assert!(status.contains("FAILED trying to get PostgreSQL version"), "{status}");
    barman.server("main", &cluster, "active = false\n");
    refused(&barman, &["wal-archive", "main", "x"], "takes no WAL (active = false)");
    assert!(barman.ok(&["check", "main"]).stdout.contains("Skipping inactive server 'main'"));
}

#[test]
fn an_archiver_that_failed_before_there_was_a_repository_is_heard_again() {
    let mut cluster = Cluster::builder(VERSION).initdb("--wal-segsize=1").start();
    let barman = Barman::new();
    barman.server("main", &cluster, "");
    barman.archive_from("main", &mut cluster);
    cluster.switch_wal();
    let failures = "SELECT failed_count > 0 FROM pg_stat_archiver";
    wait_until(Duration::from_secs(30), || cluster.psql(failures) == "t");
    let check = barman.run(&["check", "main"]);
    assert!(check.stdout.contains("\trepository key: FAILED (key file "), "{check}");
    assert!(check.stdout.contains("barman repo init"), "{check}");
    barman.ok(&["repo", "init"]);
    barman.ok(&["check", "main"]);
}
