//! Backups whose repository goes away or fills up, and several at once.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use barman::storage::local::durable_rename;
use rustix::process::Signal;

use super::golden_copy::files;
use super::small_disk::SmallDisk;
use crate::support::cluster::restored_standby;
use crate::support::{Background, Barman, Cluster, Output, Shutdown, account, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// A server with some data that archives into a new repository, of which nothing is in a backup yet.
fn archiving(options: &str) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, &format!("immediate_checkpoint = true\n{options}"));
    barman.archive_from("main", &mut cluster);
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    (cluster, barman)
}

fn has_started(barman: &Barman) -> bool {
    barman.run(&["list-backups", "main"]).stdout.contains("STARTED")
}

fn waits(backup: &Background) -> bool {
    backup.stderr().contains("waiting up to")
}

#[test]
fn a_backup_goes_on_when_its_repository_comes_back() {
    let (mut cluster, barman) = archiving("repository_timeout = 60\n");
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "8000"]);
    wait_until(LIMIT, || has_started(&barman));
    let (repository, away) = (barman.repository(), barman.path("away"));
    durable_rename(&repository, &away).unwrap();
    wait_until(LIMIT, || waits(&backup));
    // What an administrator sees who forgot to mount it.
    account::make_dir(&repository);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::read_dir(&repository).unwrap().count(), 0);
    fs::remove_dir(&repository).unwrap();
    durable_rename(&away, &repository).unwrap();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 0, "{ended}");
    assert!(ended.stderr.contains("is back"), "{ended}");
    barman.ok(&["repo", "check", "--read-data"]);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn a_backup_gives_up_when_it_has_waited_enough_or_is_told_to() {
    let (mut cluster, barman) = archiving("repository_timeout = 2\n");
    let (repository, away) = (barman.repository(), barman.path("away"));
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "8000"]);
    wait_until(LIMIT, || has_started(&barman));
    durable_rename(&repository, &away).unwrap();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("does not exist"), "{ended}");
    durable_rename(&away, &repository).unwrap();
    let archives = || {
        // The archiver has given up for a minute; the next segment wakes it.
        cluster.switch_wal();
        std::thread::sleep(Duration::from_millis(300));
        cluster.psql("SELECT last_archived_time > coalesce(last_failed_time, '-infinity') FROM pg_stat_archiver") == "t"
    };
    wait_until(LIMIT, archives);

    barman.server("main", &cluster, "immediate_checkpoint = true\nrepository_timeout = 600\n");
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "8000"]);
    wait_until(LIMIT, || has_started(&barman));
    durable_rename(&repository, &away).unwrap();
    wait_until(LIMIT, || waits(&backup));
    backup.signal(Signal::TERM);
    let ended = backup.wait(Duration::from_secs(20));
    assert_eq!(ended.status, 143, "{ended}");
    durable_rename(&away, &repository).unwrap();
    wait_until(LIMIT, archives);
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["repo", "check", "--read-data"]);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn a_silent_backup_is_taken_over_and_a_live_one_never() {
    let (mut cluster, barman) = archiving("");
    let first = barman.spawn(&["backup", "main", "--bwlimit", "4000"]);
    wait_until(LIMIT, || has_started(&barman));
    first.signal(Signal::STOP);
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    let host = rustix::system::uname();
    let words = format!("process {} on {}", first.pid(), host.nodename().to_string_lossy());
    assert!(refused.stderr.contains(&words) && refused.stderr.contains("since"), "{refused}");

    // Its last heartbeat was ten minutes ago. Backups are named by the second.
    std::thread::sleep(Duration::from_secs(1));
    let long_ago = SystemTime::now() - Duration::from_secs(600);
    for beat in files(&barman.repository().join("sessions")) {
        fs::File::open(beat).unwrap().set_modified(long_ago).unwrap();
    }
    barman.ok(&["backup", "main", "--wait"]);
    // It wakes up, and finds all that it has stored; or it says that it was taken for dead.
    first.signal(Signal::CONT);
    let ended = first.wait(LIMIT);
    assert!(ended.status == 0 || ended.stderr.contains("taken for dead"), "{ended}");
    assert!(!has_started(&barman));
    barman.ok(&["repo", "check", "--read-data"]);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn the_parent_of_a_running_backup_is_not_deleted() {
    let (mut cluster, barman) = archiving("");
    barman.ok(&["backup", "main", "--wait", "--name", "parent"]);
    let running = barman.spawn(&["backup", "main", "--read", "full", "--bwlimit", "4000"]);
    let refused = |barman: &Barman| {
        let deleted = barman.run(&["delete", "main", "parent", "--dry-run"]);
        deleted.status == 1 && deleted.stderr.contains("is in use by a backup of main")
    };
    wait_until(LIMIT, || refused(&barman));
    assert!(has_started(&barman));
    assert_eq!(barman.run(&["delete", "main", "parent"]).status, 1);
    running.signal(Signal::TERM);
    running.wait(LIMIT);
    barman.ok(&["delete", "main", "parent"]);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn several_servers_are_backed_up_at_a_time_and_failures_listed() {
    let (mut one, barman) = archiving("");
    let mut two = Cluster::builder(17).initdb("--wal-segsize=1").start();
    barman.server("other", &two, "immediate_checkpoint = true\n");
    barman.archive_from("other", &mut two);
    two.pgbench(&["-i", "-q", "-s", "1"]);
    let gone = "[gone]\nconninfo = host=/nowhere user=postgres dbname=postgres\n";
    account::write_file(&barman.path("servers.d/gone.conf"), gone);

    let backup = barman.spawn(&["-f", "json", "backup", "all", "-j", "3", "--bwlimit", "4000"]);
    wait_until(LIMIT, || {
        let listed = barman.run(&["list-backups", "all"]).stdout;
        listed.matches("STARTED").count() == 2
    });
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    let said: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    for server in ["main", "other"] {
        assert!(said[server]["backup_id"].is_string(), "{said}");
        assert_ne!(said[server]["status"], "FAILED", "{said}");
    }
    assert_eq!(said["gone"]["status"], "FAILED", "{said}");
    let errors = said["_ERROR"].as_array().unwrap();
    assert_eq!(errors.last().unwrap(), "1 of 3 backups failed: gone", "{said}");
    // One alone has the shape that it has always had.
    let alone = barman.json(&["backup", "main", "--wait"]);
    assert!(alone["backup_id"].is_string(), "{alone}");
    barman.ok(&["repo", "check", "--read-data"]);
    for cluster in [&mut one, &mut two] {
        cluster.stop(Shutdown::Fast);
    }
}

#[test]
fn a_server_that_is_promoted_meanwhile_fails_its_backup_with_that_reason() {
    let (mut primary, barman) = archiving("");
    barman.ok(&["backup", "main", "--wait"]);
    let mut standby = restored_standby(&barman, 17).option("archive_mode", "off").follow(&primary);
    let options = "immediate_checkpoint = true\nprimary_conninfo = ";
    barman.server("main", &standby, &format!("{options}{}\n", primary.conninfo()));
    let backup = barman.spawn(&["backup", "main", "--bwlimit", "4000"]);
    wait_until(LIMIT, || has_started(&barman));
    let copies = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 0";
    wait_until(LIMIT, || standby.psql(copies) == "1");
    standby.promote();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("promoted"), "{ended}");
    let shown = barman.ok(&["show-backup", "main", "last-failed"]).stdout;
    assert!(shown.contains("promoted"), "{shown}");
    wait_until(LIMIT, || standby.psql("SELECT count(*) FROM pg_stat_progress_basebackup") == "0");
    standby.stop(Shutdown::Immediate);
    primary.stop(Shutdown::Fast);
}

#[track_caller]
fn fails(output: &Output, words: &str) {
    assert_eq!(output.status, 1, "{output}");
    assert!(output.stderr.contains(words), "{words}: {output}");
}

#[test]
fn a_full_disk_is_emptied() {
    if !account::is_root() {
        eprintln!("only root can mount a small file system");
        return;
    }
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::new();
    let disk = SmallDisk::mount(&barman.repository());
    let options =
        "immediate_checkpoint = true\nrepository_reserve = 2Mi\nrepository_timeout = 60\n";
    barman.server("main", &cluster, options);
    barman.ok(&["repo", "init", "--server", "main"]);
    let reserve = barman.repository().join(".reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 2 << 20);
    // Files that the server does not archive itself.
    let [first, second] = [(), ()].map(|()| {
        let segment = cluster.switch_wal();
        let path = barman.path(&segment);
        fs::copy(cluster.data().join("pg_wal").join(&segment), &path).unwrap();
        account::hand_over(&path);
        path
    });
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    cluster.psql("CREATE TABLE t AS SELECT gen_random_uuid() AS u FROM generate_series(1, 100000)");
    barman.ok(&["backup", "main", "--wait"]);
    cluster.psql("ALTER SYSTEM SET archive_command = 'true'");
    cluster.psql("SELECT pg_reload_conf()");

    // Below the reserve there are no backups, but WAL is taken.
    let filler = disk.fill();
    let length = fs::metadata(&filler).unwrap().len();
    fs::File::options().write(true).open(&filler).unwrap().set_len(length - (1 << 20)).unwrap();
    fails(&barman.run(&["backup", "main"]), "left to WAL");
    barman.ok(&["wal-archive", "main", first.to_str().unwrap()]);
    // Not even WAL, any more.
    disk.fill();
    let archive = ["wal-archive", "main", second.to_str().unwrap()];
    fails(&barman.run(&archive), "no space is left");
    fails(&barman.run(&["keep", "main", "oldest", "--target", "full"]), "no space is left");
    assert!(reserve.exists());
    let filled: Vec<PathBuf> = files(&barman.repository());
    barman.ok(&["delete", "main", "oldest"]);
    assert!(!reserve.exists());
    barman.ok(&["repo", "prune", "--server", "main"]);
    assert!(files(&barman.repository()).len() < filled.len());
    barman.ok(&archive);

    // A backup that runs out of space waits for some.
    cluster
        .psql("CREATE TABLE more AS SELECT gen_random_uuid() AS u FROM generate_series(1, 200000)");
    barman.server("main", &cluster, &format!("{options}bandwidth_limit = 4000\n"));
    let backup = barman.spawn(&["backup", "main", "--no-space-check"]);
    let streaming =
        "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
    wait_until(LIMIT, || cluster.psql(streaming) == "1");
    disk.fill();
    wait_until(LIMIT, || waits(&backup) || backup.stderr().contains("ERROR"));
    assert!(backup.stderr().contains("no space is left"), "{}", backup.stderr());
    fs::remove_file(&filler).unwrap();
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 0, "{ended}");
    barman.ok(&["repo", "prune", "--server", "main"]);
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 2 << 20);
    barman.ok(&["repo", "check", "--read-data"]);

    // While one waits nothing is pruned; it is said how it can be.
    cluster.psql("INSERT INTO more SELECT gen_random_uuid() FROM generate_series(1, 200000)");
    let backup = barman.spawn(&["backup", "main", "--no-space-check"]);
    wait_until(LIMIT, || cluster.psql(streaming) == "1");
    disk.fill();
    wait_until(LIMIT, || waits(&backup) || backup.stderr().contains("ERROR"));
    let (refused, process) = (barman.run(&["repo", "prune", "--server", "main"]), backup.pid());
    for words in [
        format!("nothing can be pruned while a backup of main is running: process {process} on "),
        format!(" by: kill {process}. It can be run again"),
    ] {
        assert!(refused.status == 1 && refused.stderr.contains(&words), "{words}: {refused}");
    }
    assert!(reserve.exists(), "it would have filled up with the backup");
    backup.signal(Signal::TERM);
    let ended = backup.wait(LIMIT);
    assert_eq!(ended.status, 128 + 15, "{ended}");
    barman.ok(&["repo", "prune", "--server", "main"]);
    fs::remove_file(&filler).unwrap();
    barman.ok(&["backup", "main"]);
    barman.ok(&["repo", "check", "--read-data"]);
    cluster.stop(Shutdown::Fast);
}
