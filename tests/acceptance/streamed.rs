//! WAL that a backup brings itself, and WAL that it waits for: slots, streams, and what ends them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barman::backup::wait::wait_for_wal;
use barman::backup::{Request, back_up};
use barman::chunking::page_map::PageMaps;
use barman::interrupt::Interrupt;
use barman::postgres::conninfo::ConnInfo;
use barman::progress::{Observer, Progress};
use barman::repository::Repository;
use barman::repository::slots::NewSlot;
use barman::storage::local::durable_rename;
use barman::storage::location::storage_at;
use barman::wal::archive::archive;
use barman::wal::arrival::Arrival;
use repo_format::keys::Secret;
use repo_format::slot::Credential;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cluster::{pg_verifybackup, restored_standby};
use crate::support::{Barman, Cluster, Shutdown, wait_until};

const VERSION: u32 = 17;
const LIMIT: Duration = Duration::from_secs(90);
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots \
     WHERE temporary AND restart_lsn IS NOT NULL AND slot_name LIKE 'barman\\_backup\\_%'";

/// A server that archives nothing, with the tables of pgbench.
fn silent(version: u32) -> (Cluster, Barman) {
    let cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    (cluster, barman)
}

/// The latest backup, restored and started.
fn restored(barman: &Barman, version: u32, verify: &[&str]) -> Cluster {
    let destination: PathBuf = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap(), "--no-get-wal"]);
    pg_verifybackup(version, &destination, verify);
    started(version, &destination)
}

fn started(version: u32, destination: &Path) -> Cluster {
    let mut server = Cluster::on(version, destination).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    server
}

fn copies(cluster: &Cluster) -> bool {
    let copies = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 0";
    cluster.psql(copies) == "1"
}

fn a_backup_brings_its_wal(version: u32) {
    let (cluster, barman) = silent(version);
    assert_eq!(cluster.psql("SHOW archive_mode"), "off");
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("the check 'archive_mode' failed"), "{refused}");

    cluster.psql("CREATE TABLE known AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n");
    let load = cluster.pgbench_background(&["-n", "-c", "2", "-T", "120"]);
    wait_until(LIMIT, || cluster.psql("SELECT count(*) > 200 FROM pgbench_history") == "t");
    let backup = barman.ok(&["backup", "main", "--wal", "stream", "--bwlimit", "8000"]);
    assert!(backup.stdout.contains(": DONE\n"), "{backup}");
    assert_eq!(backup.stderr, "", "{backup}");
    drop(load);
    let shown = barman.json(&["show-backup", "main", "latest"])["main"].clone();
    assert!(shown["base_backup_information"]["wal_num"].as_u64() > Some(1), "{shown}");
    assert_eq!(cluster.psql(SLOTS), "0");

    // What was streamed is what would have been archived, byte by byte.
    let mut archived = 0;
    for entry in fs::read_dir(cluster.data().join("pg_wal")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let base = &shown["base_backup_information"];
        let (begin, end) = (base["begin_wal"].as_str().unwrap(), base["end_wal"].as_str().unwrap());
        if name.len() == 24 && (begin..=end).contains(&name) {
            let again = barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
            assert_eq!(again.stderr, "", "{again}");
            archived += 1;
        }
    }
    assert!(archived > 0);
    let mut server = restored(&barman, version, &[]);
    assert_eq!(server.table_checksum("known"), cluster.table_checksum("known"));
    assert_eq!(server.psql("SELECT count(*) FROM pgbench_accounts"), "100000");
    server.pg_amcheck();
    server.stop(Shutdown::Fast);
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn a_backup_brings_its_wal_from_postgresql_15() {
    a_backup_brings_its_wal(15);
}

#[test]
fn a_backup_brings_its_wal_from_postgresql_17() {
    a_backup_brings_its_wal(17);
}

#[test]
fn a_backup_brings_its_wal_from_postgresql_18() {
    a_backup_brings_its_wal(18);
}

/// A primary that archived until a standby was made of it, and that standby, which streams.
fn silent_standby() -> (Cluster, Cluster, Barman) {
    let (mut primary, barman) = silent(VERSION);
    barman.ok(&["backup", "main", "--wal", "stream"]);
    let standby = restored_standby(&barman, VERSION).follow(&primary);
    primary.psql("CREATE TABLE known AS SELECT n FROM generate_series(1, 1000) n");
    primary.psql("CHECKPOINT");
    standby.wait_for_replay_of(&primary);
    assert!(primary.is_running());
    (primary, standby, barman)
}

#[test]
fn a_standby_brings_the_wal_of_its_idle_primary() {
    let (primary, standby, barman) = silent_standby();
    let to_primary = format!("primary_conninfo = {}\n", primary.conninfo());
    barman.server("main", &standby, &(to_primary + "immediate_checkpoint = true\n"));
    let backup = barman.ok(&["backup", "main", "--wal", "stream", "--wait-timeout", "60"]);
    assert!(backup.stdout.contains(": DONE\n"), "{backup}");
    let server = restored(&barman, VERSION, &[]);
    assert_eq!(server.table_checksum("known"), primary.table_checksum("known"));
}

#[test]
fn a_standby_that_is_promoted_while_its_wal_is_awaited_brings_it_on_the_new_timeline() {
    let (mut primary, standby, barman) = silent_standby();
    barman.server("main", &standby, "immediate_checkpoint = true\n");
    // Without its primary nobody closes the segment.
    let late = barman.run(&["backup", "main", "--wal", "stream", "--wait-timeout", "1"]);
    assert_eq!(late.status, 3, "{late}");
    let backup = barman.spawn(&["backup", "main", "--wal", "stream"]);
    wait_until(LIMIT, || backup.stdout().contains("Waiting for the WAL file"));
    primary.stop(Shutdown::Immediate);
    standby.promote();
    standby.switch_wal();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 0, "{ended}");
    assert!(ended.stdout.contains(": DONE\n"), "{ended}");
    let end = ended.stdout.rsplit("Waiting for the WAL file ").next().unwrap()[..24].to_owned();
    assert!(end.starts_with("00000001"), "{end}");
    let to = barman.path("fetched");
    let fetch =
        |name: &str| barman.run(&["wal-restore", "main", name, to.to_str().unwrap()]).status;
    assert_eq!(fetch(&end), 1, "it is never complete on the old timeline");
    assert_eq!(fetch(&end.replacen("00000001", "00000002", 1)), 0);
    assert_eq!(fetch("00000002.history"), 0);
    // pg_verifybackup looks for the end of the WAL on timeline 1 only, where it was never completed.
    let server = restored(&barman, VERSION, &["--no-parse-wal"]);
    assert_eq!(server.table_checksum("known"), standby.table_checksum("known"));

    // A repository that knows nothing of it gets the history with the first backup.
    let other = Barman::initialised();
    other.server("main", &standby, "immediate_checkpoint = true\n");
    other.ok(&["backup", "main", "--wal", "stream"]);
    let to = other.path("fetched");
    let history = ["wal-restore", "main", "00000002.history", to.to_str().unwrap()];
    assert_eq!(other.run(&history).status, 0);
    let server = restored(&other, VERSION, &[]);
    assert_eq!(server.table_checksum("known"), standby.table_checksum("known"));
}

#[test]
fn what_is_awaited_is_named_and_has_an_outcome_of_its_own() {
    let (mut cluster, barman) = silent(VERSION);
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    // Archived and streamed at once: it is the same content.
    let both = barman.ok(&["backup", "main", "--wal", "stream"]);
    assert!(both.stdout.contains(": DONE\n") && both.stderr.is_empty(), "{both}");
    barman.ok(&["check", "main"]);
    // A command that succeeds, and leads elsewhere.
    cluster.psql("ALTER SYSTEM SET archive_command = 'true'");
    cluster.psql("SELECT pg_reload_conf()");
    let args = ["-f", "json", "backup", "main", "--wait", "--wait-timeout", "2"];
    let late = barman.run(&args);
    assert_eq!(late.status, 3, "{late}");
    let said: Value = serde_json::from_str(&late.stdout).unwrap();
    assert_eq!(said["status"], json!("WAITING_FOR_WALS"), "{said}");
    assert_eq!((&said["awaited_wal"], &said["awaited_timeline"]), (&said["begin_wal"], &json!(1)));
    let segment = said["awaited_wal"].as_str().unwrap();
    let error = said["_ERROR"][0].as_str().unwrap();
    for words in ["is stored, and waits for the WAL file", segment, "timeline 1", "2 s", "hint:"] {
        assert!(error.contains(words), "{words}: {said}");
    }
    // It is complete as soon as the segment comes, whoever sends it.
    for number in said["begin_wal"].as_str().into_iter().chain(said["end_wal"].as_str()) {
        let path = cluster.data().join("pg_wal").join(number);
        barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
    }
    let listed = barman.json(&["list-backups", "main"]);
    let id = &said["backup_id"];
    let of_it = listed["main"].as_array().unwrap().iter().find(|it| it["backup_id"] == *id);
    assert_eq!(of_it.unwrap()["status"], json!("DONE"), "{listed}");

    // Of several servers one that fails decides.
    let gone = "[gone]\nconninfo = host=/nowhere user=postgres dbname=postgres\n";
    crate::support::account::write_file(&barman.path("servers.d/gone.conf"), gone);
    let both = barman.run(&["backup", "main", "gone", "--wait", "--wait-timeout", "0"]);
    assert_eq!(both.status, 1, "{both}");
    assert!(both.stderr.contains("1 of 2 backups failed: gone"), "{both}");
}

#[test]
fn a_temporary_slot_keeps_the_wal_until_it_has_come() {
    let (mut cluster, barman) = silent(VERSION);
    barman.archive_from("main", &mut cluster);
    cluster.psql("SELECT pg_create_physical_replication_slot('barman')");
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "8000", "--wait"]);
    wait_until(LIMIT, || copies(&cluster));
    assert_eq!(cluster.psql(SLOTS), "1");
    cluster.psql("ALTER SYSTEM SET archive_command = 'true'");
    cluster.psql("SELECT pg_reload_conf()");
    wait_until(LIMIT, || backup.stdout().contains("Waiting for the WAL file"));
    assert_eq!(cluster.psql(SLOTS), "1", "the files are stored, the WAL is not");
    // More than the server would keep for itself.
    for _ in 0..90 {
        cluster.switch_wal();
    }
    cluster.psql("CHECKPOINT");
    let end = backup.stdout().rsplit("Waiting for the WAL file ").next().unwrap()[..24].to_owned();
    let wal = cluster.data().join("pg_wal");
    let mut waiting = backup;
    assert!(waiting.is_running());
    let first = cluster
        .psql("SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots WHERE temporary");
    assert!(first <= end);
    for entry in fs::read_dir(&wal).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.len() == 24 && (first.as_str()..=end.as_str()).contains(&name.as_str()) {
            barman.ok(&["wal-archive", "main", path.to_str().unwrap()]);
        }
    }
    let ended = waiting.wait(LIMIT);
    assert_eq!(ended.status, 0, "{ended}");
    assert!(ended.stdout.contains(": DONE\n"), "{ended}");
    wait_until(LIMIT, || cluster.psql(SLOTS) == "0");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_replication_slots"), "1", "Barman's own");

    // Where there can be none, a backup is made all the same.
    cluster.psql("SELECT pg_drop_replication_slot('barman')");
    cluster.psql("ALTER SYSTEM SET max_replication_slots = 0");
    cluster.psql("ALTER SYSTEM RESET archive_command");
    cluster.restart();
    let backup = barman.ok(&["backup", "main", "--wal", "stream"]);
    assert!(backup.stdout.contains(": DONE\n"), "{backup}");
    assert!(backup.stderr.contains("no temporary replication slot"), "{backup}");
    barman.archive_from("main", &mut cluster);
    cluster.psql("ALTER SYSTEM SET max_wal_senders = 1");
    cluster.restart();
    let backup = barman.ok(&["backup", "main"]);
    assert!(backup.stderr.contains("no temporary replication slot"), "{backup}");
    let refused = barman.run(&["backup", "main", "--wal", "stream"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("max_wal_senders"), "{refused}");
}

#[test]
fn a_stream_waits_for_its_repository_and_ends_with_its_backup() {
    let (mut cluster, barman) = silent(VERSION);
    let options = "immediate_checkpoint = true\nrepository_timeout = 60\nbandwidth_limit = 6000\n";
    barman.server("main", &cluster, options);
    let args = ["backup", "main", "--wal", "stream"];
    let (repository, away) = (barman.repository(), barman.path("away"));

    // Away in the middle, while WAL is written; a server that hears nothing from its reader hangs up soon.
    cluster.psql("ALTER SYSTEM SET wal_sender_timeout = '3s'");
    cluster.psql("SELECT pg_reload_conf()");
    let backup = barman.spawn(&args);
    wait_until(LIMIT, || copies(&cluster));
    durable_rename(&repository, &away).unwrap();
    let segments: Vec<String> = (0..5).map(|_| cluster.switch_wal()).collect();
    wait_until(LIMIT, || backup.stderr().contains("waiting up to"));
    std::thread::sleep(Duration::from_secs(5));
    durable_rename(&away, &repository).unwrap();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 0, "{ended}");
    assert!(ended.stdout.contains(": DONE\n"), "{ended}");
    let to = barman.path("fetched");
    barman.ok(&["wal-restore", "main", &segments[2], to.to_str().unwrap()]);
    assert_eq!(
        fs::read(&to).unwrap(),
        fs::read(cluster.data().join("pg_wal").join(&segments[2])).unwrap()
    );

    // A signal.
    let backup = barman.spawn(&args);
    wait_until(LIMIT, || copies(&cluster) && cluster.psql(SLOTS) == "1");
    backup.signal(Signal::TERM);
    let ended = backup.wait(Duration::from_secs(20));
    assert_eq!(ended.status, 143, "{ended}");
    wait_until(LIMIT, || cluster.psql(SLOTS) == "0");

    // The stream alone is ended by the server: files without their WAL are of no use.
    let backup = barman.spawn(&args);
    wait_until(LIMIT, || copies(&cluster));
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication WHERE state = 'streaming'";
    wait_until(LIMIT, || cluster.psql(end) == "1");
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("the WAL of the backup"), "{ended}");
    let shown = barman.ok(&["show-backup", "main", "last-failed"]).stdout;
    assert!(shown.contains("the WAL of the backup"), "{shown}");
    wait_until(LIMIT, || {
        cluster.psql("SELECT count(*) FROM pg_stat_progress_basebackup") == "0"
            && cluster.psql(SLOTS) == "0"
    });

    // The server goes away.
    let backup = barman.spawn(&args);
    wait_until(LIMIT, || copies(&cluster));
    cluster.stop(Shutdown::Immediate);
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    cluster.start();
    barman.ok(&args);
    let server = restored(&barman, VERSION, &[]);
    assert_eq!(server.psql("SELECT count(*) FROM pgbench_accounts"), "100000");
    barman.ok(&["repo", "check", "--read-data"]);
}

/// Remembers the phases that it is told.
#[derive(Default)]
struct Phases(Mutex<Vec<String>>);

impl Observer for Phases {
    fn phase(&self, name: &str, _: Option<u64>) {
        self.0.lock().unwrap().push(name.to_owned());
    }

    fn advance(&self, _: u64) {}
}

#[test]
fn the_progress_of_a_wait_names_the_segment() {
    let (cluster, _) = silent(VERSION);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let storage = storage_at(directory.path().join("repository").to_str().unwrap()).unwrap();
        let credential = Credential::KeyFile(Secret::from_bytes([3; 32]));
        let slot = NewSlot { credential, label: "test".into(), cost: Default::default() };
        storage.prepare(None).await.unwrap();
        let created = Repository::create(storage, &slot, Default::default(), Default::default());
        let repository = Arc::new(created.await.unwrap());
        let connection = ConnInfo::parse(&cluster.conninfo()).unwrap();
        let page_maps = PageMaps::new(directory.path().join("page-maps"));
        let request = Request::new("main", connection.clone(), connection, page_maps);
        let request = Request { level: 1, reserve: Some(0), ..request };
        let phases = Arc::new(Phases::default());
        let progress: Progress = phases.clone();
        let made = back_up(&repository, &request, &Interrupt::never(), &progress).await.unwrap();
        phases.0.lock().unwrap().clear();
        let limit = Duration::from_millis(700);
        let wait = || wait_for_wal(&repository, &made.snapshot, limit, &progress);
        let gap = wait().await.unwrap().expect("nothing is archived");
        let told = format!("waiting for WAL file {}", gap.first);
        assert_eq!(phases.0.lock().unwrap().as_slice(), [told]);
        let path = cluster.data().join("pg_wal").join(gap.first.to_string());
        archive(&repository, "main", Arrival::read(&path).unwrap()).await.unwrap();
        assert_eq!(wait().await.unwrap(), None);
    });
}
