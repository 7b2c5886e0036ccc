//! Backups of which barman reads the files itself, on the server's host: the same as a server streams.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barman::storage::local::durable_rename;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::cluster::{pg_verifybackup, primary_and_standby};
use crate::support::{Barman, Cluster, Shutdown, account, wait_until};

const LOCAL: &str = "immediate_checkpoint = true\nbackup_method = local\n";
const STREAMED: &str = "immediate_checkpoint = true\nbackup_method = postgres\n";

fn source(version: u32) -> (Cluster, Barman) {
    let mut cluster =
        Cluster::builder(version).initdb("--wal-segsize=1").setting("max_wal_size", "1GB").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, LOCAL);
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

/// Everything that a data directory can have.
fn fill(cluster: &Cluster) -> PathBuf {
    let space = cluster.create_tablespace("other");
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    cluster.psql(
        "CREATE UNLOGGED TABLE gone AS SELECT generate_series(1, 1000) n; \
         CREATE TABLE there TABLESPACE other AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n; \
         CREATE INDEX ON there (md5) TABLESPACE other; CHECKPOINT",
    );
    space
}

fn show(barman: &Barman) -> Value {
    barman.json(&["show-backup", "main", "latest"])["main"].clone()
}

/// Paths, kinds, permissions and contents below a directory, without what every restore or backup has of its own.
fn tree(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    const OWN: [&str; 6] = [
        "backup_label",
        "backup_manifest",
        "global/pg_control",
        "postgresql.auto.conf",
        "recovery.signal",
        "tablespace_map",
    ];
    let mut found = vec![];
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root).unwrap().to_owned();
            let metadata = path.symlink_metadata().unwrap();
            let is_wal = relative.starts_with("pg_wal") && metadata.is_file();
            let skipped = is_wal
                || OWN.iter().any(|own| relative == Path::new(own))
                || relative.to_str().unwrap().contains("barman");
            if skipped {
                continue;
            }
            let content = match metadata.is_file() {
                true => fs::read(&path).unwrap(),
                false => vec![],
            };
            if metadata.is_dir() {
                waiting.push(path);
            }
            found.push((relative, metadata.permissions().mode(), content));
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_read_is_what_the_server_streams() {
    for version in [15, 18] {
        let (mut cluster, barman) = source(version);
        let space = fill(&cluster);
        // What a running server has, and no backup.
        let data = cluster.data().to_owned();
        for name in ["base/5/t3_16384", "base/pgsql_tmp/x", "backup_manifest", "pg_stat_tmp/x"] {
            let path = data.join(name);
            account::write_file(&path, "left over");
        }
        barman.ok(&["backup", "main", "--wait", "-j", "3"]);
        let local = show(&barman);
        assert_eq!(local["base_backup_information"]["backup_method"], "local");
        barman.server("main", &cluster, STREAMED);
        let streamed = barman.ok(&["backup", "main", "--wait", "--incremental", "none"]);
        assert!(!streamed.stderr.contains("WARN"), "{streamed}");
        let streamed = show(&barman);
        assert_eq!(streamed["base_backup_information"]["backup_method"], "postgres");
        let stored = &streamed["repository_information"]["stored_bytes"];
        assert!(stored.as_u64().unwrap() < 300_000, "all contents are known: {stored}");

        let restore = |backup: &Value, name: &str| {
            let destination = barman.path(name);
            let there = barman.path(&format!("{name}-space"));
            let tablespace = format!("other:{}", there.display());
            let id = backup["backup_id"].as_str().unwrap();
            let to = destination.to_str().unwrap();
            barman.ok(&["restore", "main", id, to, "--tablespace", &tablespace]);
            pg_verifybackup(version, &destination, &[]);
            (destination, there)
        };
        let (one, space_of_one) = restore(&local, "local");
        let (two, space_of_two) = restore(&streamed, "streamed");
        let (read, sent) = (tree(&one), tree(&two));
        let only = |one: &[(PathBuf, u32, Vec<u8>)], two: &[(PathBuf, u32, Vec<u8>)]| {
            let is_other = |(path, mode, content): &(PathBuf, u32, Vec<u8>)| {
                let differs = |other: &Vec<u8>| path.starts_with("base") && content != other;
                let same = two.iter().find(|(other, ..)| other == path);
                same.is_none_or(|(_, other, bytes)| other != mode || differs(bytes))
            };
            let others = one.iter().filter(|entry| is_other(entry));
            others.map(|(path, mode, _)| (path.clone(), *mode)).collect::<Vec<_>>()
        };
        assert_eq!((only(&read, &sent), only(&sent, &read)), (vec![], vec![]));
        assert_eq!(tree(&space_of_one), tree(&space_of_two));
        assert!(!tree(&space).is_empty());

        let checksum = cluster.table_checksum("there");
        cluster.stop(Shutdown::Fast);
        let mut server = Cluster::on(version, &one);
        server.start();
        server.wait_for_recovery_end();
        assert_eq!(server.table_checksum("there"), checksum);
        assert_eq!(server.psql("SELECT count(*) FROM gone"), "0");
        server.pg_amcheck();
        server.stop(Shutdown::Fast);
    }
}

#[test]
fn a_server_that_works_hard_is_read_without_a_fault() {
    let (mut cluster, barman) = source(17);
    fill(&cluster);
    for _ in 0..3 {
        let work = cluster.pgbench_background(&["-n", "-c", "2", "-T", "6"]);
        let churn = "DROP TABLE IF EXISTS churn; CREATE TABLE churn AS SELECT generate_series(1, 30000) n; \
                     VACUUM FULL pgbench_tellers; TRUNCATE there; \
                     INSERT INTO there SELECT n, md5(n::text) FROM generate_series(1, 20000) n";
        let mut backup =
            barman.spawn(&["backup", "main", "--wait", "-j", "2", "--bwlimit", "20000"]);
        while backup.is_running() {
            cluster.psql(churn);
        }
        let ended = backup.wait(Duration::from_secs(90));
        assert_eq!(ended.status, 0, "{ended}");
        assert!(!ended.stderr.contains("wrong checksums"), "{ended}");
        work.wait(Duration::from_secs(60));
    }
    cluster.switch_wal();
    let checksum = cluster.table_checksum("pgbench_accounts");
    wait_until(Duration::from_secs(30), || {
        let waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        cluster.psql(waiting) == "0"
    });
    cluster.stop(Shutdown::Fast);
    let second = show(&barman);
    assert!(second["repository_information"]["parent"].is_string());
    let destination = barman.path("restored");
    let there = format!("other:{}", barman.path("restored-space").display());
    let to = destination.to_str().unwrap();
    barman.ok(&["restore", "main", "latest", to, "--tablespace", &there]);
    let mut server = Cluster::on(17, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("pgbench_accounts"), checksum);
    server.pg_amcheck();
    server.stop(Shutdown::Fast);
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn files_that_are_not_the_servers_are_refused_and_faults_end_in_order() {
    let (mut cluster, barman) = source(17);
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    // Stopped while it reads: the server is told, and the next one goes through.
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "4000"]);
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%redo_lsn%' AND pid <> pg_backend_pid()";
    wait_until(Duration::from_secs(30), || cluster.psql(running) == "1");
    backup.signal(Signal::TERM);
    let ended = backup.wait(Duration::from_secs(30));
    assert_eq!(ended.status, 128 + 15, "{ended}");
    wait_until(Duration::from_secs(10), || cluster.psql(running) == "0");

    // Its session ends while it is read, which would take minutes.
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "100"]);
    let session =
        "pid FROM pg_stat_activity WHERE query LIKE '%redo_lsn%' AND pid <> pg_backend_pid()";
    wait_until(Duration::from_secs(30), || cluster.psql(running) == "1");
    cluster.psql(&format!("SELECT pg_terminate_backend(pid) FROM (SELECT {session}) s"));
    let ended = backup.wait(Duration::from_secs(30));
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("the session of the backup"), "{ended}");
    assert!(barman.ok(&["list-backups", "main"]).stdout.contains("FAILED"));

    barman.ok(&["backup", "main", "--wait"]);
    // Another server of the same cluster at the place that this one has: nothing of it is taken.
    let lock = cluster.data().join("postmaster.pid");
    let text = fs::read_to_string(&lock).unwrap();
    let other: String = text
        .lines()
        .enumerate()
        .map(|(at, line)| if at == 2 { "1500000000\n".to_owned() } else { format!("{line}\n") })
        .collect();
    fs::write(&lock, other).unwrap();
    let refused = barman.run(&["backup", "main"]);
    fs::write(&lock, text).unwrap();
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("is not the server's data directory"), "{refused}");

    // A tablespace that barman does not see where the server does.
    let space = cluster.create_tablespace("hidden");
    let inner = fs::read_dir(&space).unwrap().next().unwrap().unwrap().path();
    durable_rename(&inner, &space.join("elsewhere")).unwrap();
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("cannot be seen here"), "{refused}");
    // One that was moved behind a link is read, as the server reads it.
    std::os::unix::fs::symlink(space.join("elsewhere"), &inner).unwrap();
    barman.ok(&["backup", "main", "--wait"]);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn a_page_that_is_bad_is_told_and_backed_up_as_it_is() {
    use std::os::unix::fs::FileExt;
    let (mut cluster, barman) = source(17);
    cluster.psql(
        "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 5000) n; CHECKPOINT",
    );
    let path = cluster.data().join(cluster.psql("SELECT pg_relation_filepath('t')"));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_at(b"rotten", 3 * 8192 + 5000).unwrap();
    let backup = barman.ok(&["backup", "main", "--wait"]);
    assert!(backup.stderr.contains("1 pages have wrong checksums"), "{backup}");
    assert!(backup.stderr.contains("block 3"), "{backup}");
    cluster.stop(Shutdown::Immediate);
}

#[test]
fn the_files_of_a_standby_are_read() {
    let (mut primary, mut standby, barman) = primary_and_standby("");
    standby = standby.follow(&primary);
    primary.psql("INSERT INTO t SELECT generate_series(1, 50000); CHECKPOINT");
    standby.wait_for_replay_of(&primary);
    let more = format!("{LOCAL}primary_conninfo = {}\n", primary.conninfo());
    barman.server("main", &standby, &more);
    barman.ok(&["backup", "main", "--wait"]);
    let shown = show(&barman);
    assert_eq!(shown["base_backup_information"]["backup_method"], "local");
    let checksum = primary.table_checksum("t");
    standby.stop(Shutdown::Fast);
    primary.stop(Shutdown::Fast);
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    let mut server = Cluster::on(primary.version(), &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), checksum);
    server.stop(Shutdown::Fast);
}
