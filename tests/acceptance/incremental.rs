//! Backups cost what changed since the one before: less than the pages that changed. Each is complete, whatever became
//! of what this host knows of the pages before.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::cluster::{pg_checksums, pg_verifybackup};
use crate::support::{Barman, Cluster, Shutdown, account};

const VERSION: u32 = 17;

/// A server with a table of some 40 MB, of which no backup is there yet.
fn source(version: u32, settings: &[(&str, &str)]) -> (Cluster, Barman) {
    let mut builder = Cluster::builder(version)
        .initdb("--wal-segsize=1")
        .setting("autovacuum", "off")
        .setting("max_wal_size", "1GB");
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    let mut cluster = builder.start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.psql(
        "CREATE TABLE t AS SELECT n, 0 AS counter, sha512(n::text::bytea) AS hash, repeat('filler ', 20) AS rest \
         FROM generate_series(1, 120000) n; CREATE INDEX ON t (n); VACUUM FREEZE t",
    );
    (cluster, barman)
}

/// Changes rows in about every seventh page of the table.
fn change(cluster: &Cluster) {
    cluster.psql("UPDATE t SET counter = counter + 1 WHERE n % 200 = 0");
}

/// What a new backup is said to be.
fn back_up(barman: &Barman, more: &[&str]) -> Value {
    barman.ok(&[&["backup", "main", "--wait"], more].concat());
    let shown = barman.json(&["show-backup", "main", "latest"]);
    shown["main"].clone()
}

fn stored(backup: &Value) -> u64 {
    backup["repository_information"]["stored_bytes"].as_u64().unwrap()
}

fn id(backup: &Value) -> &str {
    backup["backup_id"].as_str().unwrap()
}

/// The only page map of the server.
fn page_map(barman: &Barman) -> PathBuf {
    let mut found = barman.path("state/page-maps");
    for _ in 0..3 {
        let mut names = fs::read_dir(&found).unwrap().map(|entry| entry.unwrap().path());
        found = names.next().unwrap();
        assert!(names.next().is_none(), "one repository, one server, one map");
    }
    found
}

fn sandbox() -> (Cluster, Barman) {
    sandbox_of(VERSION, &[])
}

fn sandbox_of(version: u32, settings: &[(&str, &str)]) -> (Cluster, Barman) {
    let (cluster, barman) = source(version, settings);
    let state = format!("state_directory = {}\n", barman.path("state").display());
    barman.write_config(&state);
    (cluster, barman)
}

#[test]
fn a_backup_stores_what_changed_in_pages_and_needs_no_other() {
    let (mut cluster, barman) = sandbox();
    let full = back_up(&barman, &[]);
    change(&cluster);
    let second = back_up(&barman, &[]);
    assert_eq!(second["repository_information"]["parent"], full["backup_id"]);
    assert!(stored(&second) * 25 < stored(&full), "{} {}", stored(&second), stored(&full));
    // Those that had changed before change again, and others.
    change(&cluster);
    cluster.psql(
        "DELETE FROM t WHERE n % 1000 = 1; VACUUM t; INSERT INTO t SELECT * FROM t LIMIT 3000",
    );
    let third = back_up(&barman, &[]);
    assert!(stored(&third) * 10 < stored(&full), "{} {}", stored(&third), stored(&full));
    change(&cluster);
    let plain = back_up(&barman, &["--incremental", "none"]);
    assert_eq!(plain["repository_information"]["parent"], Value::Null);
    assert!(stored(&plain) > stored(&second) * 8, "{} {}", stored(&plain), stored(&second));
    change(&cluster);
    let on_first = back_up(&barman, &["--incremental", id(&full)]);
    assert_eq!(on_first["repository_information"]["parent"], full["backup_id"]);

    let checksum = cluster.table_checksum("t");
    let last = back_up(&barman, &[]);
    cluster.stop(Shutdown::Fast);
    for backup in [&full, &second, &third, &plain, &on_first] {
        barman.ok(&["delete", "main", id(backup)]);
    }
    barman.ok(&["repo", "prune"]);
    barman.ok(&["repo", "check", "--read-data"]);
    barman.ok(&["verify-backup", "main", id(&last)]);
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    pg_verifybackup(VERSION, &destination, &[]);
    let mut server = Cluster::on(VERSION, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), checksum);
    server.pg_amcheck();
    server.stop(Shutdown::Fast);
    pg_checksums(VERSION, &destination).expect_success();
}

#[test]
fn without_deltas_pages_that_changed_are_stored_whole() {
    let (cluster, barman) = sandbox();
    let full = back_up(&barman, &[]);
    change(&cluster);
    let delta = back_up(&barman, &[]);
    barman.write_config(&format!(
        "state_directory = {}\ndelta = never\n",
        barman.path("state").display()
    ));
    change(&cluster);
    let whole = back_up(&barman, &[]);
    assert_eq!(whole["repository_information"]["parent"], delta["backup_id"]);
    let (delta, whole, full) = (stored(&delta), stored(&whole), stored(&full));
    assert!(whole > 3 * delta && whole < full, "{delta} {whole} {full}");
    barman.ok(&["repo", "check", "--read-data"]);
    barman.ok(&["verify-backup", "main", "latest"]);
}

#[test]
fn whatever_became_of_the_page_map_backups_are_as_small_and_as_whole() {
    let (cluster, barman) = sandbox();
    let full = back_up(&barman, &[]);
    let former = barman.path("former-map");
    fs::copy(page_map(&barman), &former).unwrap();
    type Spoil = fn(&Barman, &std::path::Path);
    let spoils: [(&str, Spoil); 6] = [
        ("it is intact", |_, _| {}),
        ("it is lost", |barman, _| fs::remove_dir_all(barman.path("state")).unwrap()),
        ("it was half written", |barman, _| {
            let path = page_map(barman);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("it has other bytes", |barman, _| {
            let path = page_map(barman);
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().skip(8).step_by(1000).for_each(|byte| *byte ^= 1);
            fs::write(&path, &bytes).unwrap();
        }),
        ("it is of another backup", |barman, former| {
            fs::copy(former, page_map(barman)).unwrap();
        }),
        ("the machine was rolled back", |barman, former| {
            let current = page_map(barman);
            fs::remove_file(&current).unwrap();
            fs::copy(former, current.with_file_name("20200101T000000")).unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        change(&cluster);
        spoil(&barman, &former);
        if barman.path("state").exists() {
            account::hand_over(&page_map(&barman));
        }
        let backup = back_up(&barman, &[]);
        assert!(stored(&backup) * 20 < stored(&full), "{what}: {backup}");
        barman.ok(&["verify-backup", "main", "latest"]);
    }
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn another_node_of_a_cluster_is_compared_with_the_backups_of_the_first() {
    let (cluster, barman) = sandbox();
    let full = back_up(&barman, &[]);
    change(&cluster);
    barman.server("again", &cluster, "immediate_checkpoint = true\n");
    barman.ok(&["backup", "again", "--wal", "stream"]);
    let shown = barman.json(&["show-backup", "again", "latest"]);
    assert!(stored(&shown["again"]) * 25 < stored(&full), "{shown}");
}

/// Whether a new backup was made of no more than what changed, and what it says if not.
#[track_caller]
fn read(barman: &Barman, more: &[&str]) -> Result<(), String> {
    let output = barman.ok(&[&["backup", "main", "--wait"], more].concat());
    let line = |start: &str| {
        output.stdout.lines().find_map(|line| line.strip_prefix(start).map(str::to_owned))
    };
    match (line("What changed since backup "), line("The server was read in full: ")) {
        (Some(_), None) => Ok(()),
        (None, why) => Err(why.unwrap_or_default()),
        both => panic!("{both:?}"),
    }
}

fn shown(barman: &Barman) -> Value {
    barman.json(&["show-backup", "main", "latest"])["main"].clone()
}

#[test]
fn of_a_server_that_knows_what_changed_only_that_is_read() {
    for version in [17, 18] {
        let (mut cluster, barman) = sandbox_of(version, &[("summarize_wal", "on")]);
        cluster.create_tablespace("fast");
        cluster.psql(
            "CREATE TABLE s TABLESPACE fast AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n; \
             CREATE TABLE gone AS SELECT * FROM s; CREATE TABLE short AS SELECT * FROM s; \
             CREATE UNLOGGED TABLE u AS SELECT * FROM s",
        );
        assert_eq!(read(&barman, &[]), Err(String::new()), "there is no other");
        let full = shown(&barman);
        // A little everywhere, less than before, more than before, visibility maps, a new relation and none.
        cluster.psql(
            "UPDATE t SET counter = 1 WHERE n % 3000 = 0; UPDATE s SET n = -n WHERE n % 500 = 0; \
             INSERT INTO s SELECT n, '' FROM generate_series(1, 20000) n; DROP TABLE gone; \
             DELETE FROM short WHERE n > 5000; CREATE TABLE fresh AS SELECT * FROM s LIMIT 5000",
        );
        cluster.psql("VACUUM short");
        cluster.psql("VACUUM s");
        assert_eq!(read(&barman, &[]), Ok(()), "{version}");
        let changed = shown(&barman);
        assert_eq!(changed["repository_information"]["trusted"], true);
        assert!(stored(&changed) * 8 < stored(&full), "{changed} {full}");
        // Reading everything finds nothing that was missed.
        assert_eq!(read(&barman, &["--read", "full"]), Err(String::new()));
        let again = shown(&barman);
        let new = again["repository_information"]["new_bytes"].as_u64().unwrap();
        assert!(new < 200_000, "{version}: {new} bytes of content were missed");
        // And once more, on what was put together.
        change(&cluster);
        assert_eq!(read(&barman, &[]), Ok(()), "{version}");
        let tables = ["t", "s", "short", "fresh"];
        let sums = tables.map(|table| cluster.table_checksum(table));
        barman.ok(&["verify-backup", "main", "latest"]);

        let destination = barman.path("restored");
        let space = format!("fast:{}", barman.path("fast").display());
        let to = destination.to_str().unwrap();
        barman.ok(&["restore", "main", "latest", to, "--tablespace", &space]);
        pg_verifybackup(version, &destination, &[]);
        let mut server = Cluster::on(version, &destination);
        server.start();
        server.wait_for_recovery_end();
        for (table, sum) in tables.iter().zip(&sums) {
            assert_eq!(&server.table_checksum(table), sum, "{version}: {table}");
        }
        assert_eq!(server.psql("SELECT count(*) FROM u"), "0");
        server.pg_amcheck();
        server.stop(Shutdown::Fast);
        pg_checksums(version, &destination).expect_success();
        cluster.stop(Shutdown::Fast);
    }
}

#[test]
fn a_server_that_cannot_tell_what_changed_is_read_in_full() {
    let (cluster, barman) = sandbox_of(VERSION, &[("summarize_wal", "on")]);
    assert_eq!(read(&barman, &[]), Err(String::new()));
    change(&cluster);
    fs::remove_file(page_map(&barman)).unwrap();
    let why = read(&barman, &[]).unwrap_err();
    assert!(why.starts_with("this host has no page map of backup 20"), "{why}");
    change(&cluster);
    assert_eq!(read(&barman, &[]), Ok(()));

    cluster.psql("ALTER SYSTEM SET summarize_wal = off");
    cluster.psql("SELECT pg_reload_conf()");
    change(&cluster);
    assert_eq!(read(&barman, &[]), Err("summarize_wal is off on the server".to_owned()));
    // What was not summarized is missing for the next one.
    change(&cluster);
    for entry in fs::read_dir(cluster.data().join("pg_wal/summaries")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    cluster.psql("CHECKPOINT");
    cluster.switch_wal();
    cluster.psql("CHECKPOINT");
    cluster.psql("ALTER SYSTEM SET summarize_wal = on");
    cluster.psql("SELECT pg_reload_conf()");
    let why = read(&barman, &[]).unwrap_err();
    assert!(why.starts_with("the server refused: "), "{why}");
    assert!(why.contains("WAL summaries are required"), "{why}");
    barman.ok(&["verify-backup", "main", "latest"]);
}

#[test]
fn what_is_damaged_in_the_backup_before_is_read_again() {
    let (cluster, barman) = sandbox_of(VERSION, &[("summarize_wal", "on")]);
    assert_eq!(read(&barman, &[]), Err(String::new()));
    change(&cluster);
    // The largest packs have the table.
    let packs = fs::read_dir(barman.repository().join("packs")).unwrap();
    let packs = packs.flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap());
    for pack in packs.map(|pack| pack.unwrap()) {
        if pack.metadata().unwrap().len() > 1 << 20 {
            fs::remove_file(pack.path()).unwrap();
        }
    }
    assert_eq!(read(&barman, &[]), Err(String::new()));
    barman.ok(&["verify-backup", "main", "latest"]);
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    pg_verifybackup(VERSION, &destination, &[]);
}
