//! Restores into directories that are not empty: the data directory of a stopped server, and what an
//! interrupted restore has left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::rename;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, Output, Shutdown, account};

const LIMIT: Duration = Duration::from_secs(120);

/// The file that marks an unfinished restore.
const MARKER: &str = "barman_restore_in_progress";

/// A server with some tables, a tablespace, and a backup.
fn backed_up(version: u32) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.create_tablespace("fast");
    for table in ["same", "changed", "dropped", "truncated", "extended"] {
        cluster.psql(&format!(
            "CREATE TABLE {table} AS SELECT n, md5(n::text) AS text FROM generate_series(1, 60000) n; \
             CREATE INDEX ON {table} (n)"
        ));
    }
    cluster.psql("CREATE TABLE far TABLESPACE fast AS SELECT * FROM same");
    cluster.psql("VACUUM");
    barman.ok(&["backup", "main", "--wait"]);
    (cluster, barman)
}

/// What has happened since.
fn live_on(cluster: &Cluster) {
    cluster.psql("UPDATE changed SET text = 'x' WHERE n % 1000 = 0");
    cluster.psql("UPDATE far SET text = 'x' WHERE n = 1");
    cluster.psql("DROP TABLE dropped");
    cluster.psql("TRUNCATE truncated");
    cluster.psql("INSERT INTO extended SELECT n, 'more' FROM generate_series(1, 30000) n");
    cluster.psql("CREATE TABLE new TABLESPACE fast AS SELECT * FROM same");
    cluster.psql("CREATE DATABASE another");
    cluster.psql("CHECKPOINT");
}

fn arguments<'a>(to: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "main", "latest", to.to_str().unwrap()], more].concat()
}

/// A restore into an empty directory.
fn fresh(barman: &Barman, name: &str) -> PathBuf {
    let to = barman.path(name);
    let rule = format!("fast:{}", barman.path(&format!("{name}-fast")).display());
    barman.ok(&arguments(&to, &["--tablespace", &rule]));
    to
}

/// What is in a directory: type, permissions and content, by the paths; also of its tablespaces.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(top.join(&directory)).unwrap() {
            let name = directory.join(entry.unwrap().file_name());
            let path = top.join(&name);
            let metadata = fs::metadata(&path).unwrap();
            if metadata.is_dir() {
                found.insert(name.clone(), (metadata.mode(), vec![]));
                waiting.push(name);
                continue;
            }
            // A manifest has times, and this file the paths of tablespaces.
            let content = match name.to_str().unwrap() {
                "backup_manifest" | "tablespace_map" => vec![],
                _ => fs::read(&path).unwrap(),
            };
            found.insert(name, (metadata.mode(), content));
        }
    }
    found
}

#[track_caller]
fn same_trees(one: &Path, other: &Path) {
    let (one, other) = (tree(one), tree(other));
    let names = |tree: &BTreeMap<PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (name, (mode, content)) in &one {
        let (other_mode, other_content) = &other[name];
        assert_eq!(mode, other_mode, "{}", name.display());
        assert!(content == other_content, "{}", name.display());
    }
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_eq!(output.status, 1, "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

fn a_data_directory_becomes_what_a_fresh_restore_is(version: u32) {
    let (mut cluster, barman) = backed_up(version);
    let (before, unchanged) = (cluster.table_checksum("far"), cluster.table_checksum("same"));
    let same = cluster.psql("SELECT pg_relation_filepath('same')");
    let index = cluster.psql("SELECT pg_relation_filepath('same_n_idx')");
    live_on(&cluster);
    let data = cluster.data().to_owned();
    refused(&barman.run(&arguments(&data, &["--delta"])), &["a PostgreSQL server runs on", "stop"]);
    cluster.stop(Shutdown::Fast);
    let whole = fresh(&barman, "fresh");

    // Damage that nobody has noticed.
    let open = |name: &str| fs::File::options().write(true).open(data.join(name)).unwrap();
    open(&same).write_all_at(&[0; 8192], 8192 * 3).unwrap();
    open(&index).write_all_at(b"!", 12_345).unwrap();
    // Things of all kinds, and one that leads out.
    let outside = barman.path("outside");
    account::make_dir(&outside);
    account::write_file(&outside.join("precious"), "precious");
    account::make_dir(&data.join("base/extra"));
    account::write_file(&data.join("base/extra/file"), "x");
    std::os::unix::fs::symlink(&outside, data.join("link")).unwrap();
    fs::remove_file(data.join("pg_ident.conf")).unwrap();
    std::os::unix::fs::symlink(outside.join("precious"), data.join("pg_ident.conf")).unwrap();
    rename(data.join("pg_hba.conf"), outside.join("pg_hba.conf")).unwrap();
    fs::hard_link(outside.join("pg_hba.conf"), data.join("pg_hba.conf")).unwrap();
    fs::write(outside.join("pg_hba.conf"), "another name").unwrap();
    fs::set_permissions(data.join("base"), fs::Permissions::from_mode(0o755)).unwrap();

    let had = tree(&data);
    let dry = barman.ok(&arguments(&data, &["--delta", "--dry-run"]));
    for words in ["are there already", "would be removed", "-f json names them all"] {
        assert!(dry.stdout.contains(words), "{words}: {dry}");
    }
    assert_eq!(tree(&data), had, "nothing was written");
    let done = barman.json(&arguments(&data, &["--delta"]));
    let in_place = &done["in_place"];
    let number = |key: &str| in_place[key].as_u64().unwrap();
    // Of five tables and their indexes one was dropped, one truncated.
    assert!(number("written_bytes") < number("compared_bytes") / 2, "{in_place}");
    assert!(number("written_bytes") > 8 << 20, "{in_place}");
    let removed: Vec<&str> =
        in_place["removed"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(removed.contains(&data.join("base/extra").to_str().unwrap()), "{removed:?}");
    same_trees(&data, &whole);
    pg_verifybackup(version, &data, &[]);
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(outside.join("pg_hba.conf")).unwrap(), "another name");

    // Once more: nothing differs but what every restore writes.
    let again = barman.json(&arguments(&data, &["--delta"]));
    assert_eq!(again["in_place"]["written_bytes"], 0, "{again}");
    assert_eq!(again["in_place"]["removed"], Value::Array(vec![]), "{again}");
    same_trees(&data, &whole);
    let mut server = Cluster::on(version, &data).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("same"), unchanged);
    assert_ne!(server.table_checksum("far"), before, "it is recovered to the end of the WAL");
    server.stop(Shutdown::Fast);
}

#[test]
fn a_data_directory_becomes_what_a_fresh_restore_is_on_postgresql_15() {
    a_data_directory_becomes_what_a_fresh_restore_is(15);
}

#[test]
fn a_data_directory_becomes_what_a_fresh_restore_is_on_postgresql_18() {
    a_data_directory_becomes_what_a_fresh_restore_is(18);
}

#[test]
fn links_of_wal_and_tablespaces_are_followed_where_they_are_meant() {
    let (mut cluster, barman) = backed_up(17);
    live_on(&cluster);
    cluster.stop(Shutdown::Fast);
    let (data, wal) = (barman.path("data"), barman.path("wal"));
    let (space, moved) = (barman.path("fast"), barman.path("moved"));
    let rules = [&space, &moved].map(|path| format!("fast:{}", path.display()));
    let at_first = ["--tablespace", &rules[0], "--waldir", wal.to_str().unwrap()];
    barman.ok(&arguments(&data, &at_first));
    account::write_file(&wal.join("000000010000000000000001"), "old");
    account::write_file(&wal.join("archive_status/000000010000000000000001.ready"), "");
    account::write_file(&space.join("of somebody else"), "x");
    let mut inside = fs::read_dir(&space).unwrap().map(|entry| entry.unwrap().path());
    let version = inside.find(|path| path.is_dir()).unwrap();
    account::write_file(&version.join("extra"), "x");
    let warned = barman.ok(&arguments(&data, &[&at_first[..], &["--delta"]].concat()));
    assert!(warned.stderr.contains("1 WAL files of the old pg_wal had not been"), "{warned}");
    assert!(!wal.join("000000010000000000000001").exists() && !version.join("extra").exists());
    assert!(space.join("of somebody else").exists(), "only the server's own is cleared");
    assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), wal);
    fs::remove_file(space.join("of somebody else")).unwrap();
    pg_verifybackup(17, &data, &[]);

    // Elsewhere, as if it had never been there: where the links led to, everything stays.
    let had = [tree(&wal), tree(&space)];
    let mine = ["--tablespace", &rules[1], "--delta"];
    let taken = barman.run(&arguments(&data, &[&mine[..], &["--waldir", "/etc"]].concat()));
    refused(&taken, &["/etc is not empty"]);
    let told = barman.ok(&arguments(&data, &mine));
    assert!(told.stderr.contains("the link is removed, and what is in"), "{told}");
    assert_eq!([tree(&wal), tree(&space)], had);
    same_trees(&data, &fresh(&barman, "fresh"));
    let mut server = Cluster::on(17, &data).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql("SELECT count(*) FROM new"), "60000");
    server.stop(Shutdown::Fast);
}

#[test]
fn nothing_but_the_right_data_directory_is_overwritten() {
    let (mut cluster, barman) = backed_up(15);
    let mut other = Cluster::builder(15).start();
    let data = other.data().to_owned();
    let space = format!("fast:{}", barman.path("fast").display());
    let run = |to: &Path, more: &[&str]| {
        barman.run(&arguments(to, &[&["--tablespace", &space], more].concat()))
    };
    refused(&run(&data, &["--delta", "--force"]), &["a PostgreSQL server runs on"]);
    other.stop(Shutdown::Fast);
    let had = tree(&data);
    let ids = [&other, &cluster].map(|of| {
        let control = fs::read(of.data().join("global/pg_control")).unwrap();
        u64::from_le_bytes(*control.first_chunk().unwrap()).to_string()
    });
    refused(&run(&data, &["--delta"]), &["is of another cluster", &ids[0], &ids[1], "--force"]);
    refused(&run(&data, &["--resume"]), &["there is no unfinished restore", "--delta"]);
    refused(&run(&data, &[]), &["it is the data directory of a PostgreSQL server"]);
    let files = barman.path("files");
    account::make_dir(&files);
    account::write_file(&files.join("file"), "x");
    refused(&run(&files, &["--delta", "--force"]), &["no data directory"]);
    refused(&run(&files, &["--resume"]), &["there is no unfinished restore"]);
    refused(&run(&barman.path("none"), &["--resume"]), &["leave out --resume"]);
    assert_eq!(tree(&data), had);
    assert_eq!(run(&data, &["--force"]).status, 2);
    assert_eq!(run(&data, &["--delta", "--resume"]).status, 2);

    // The tablespace of a server that runs elsewhere is not taken.
    let elsewhere = barman.run(&arguments(&data, &["--delta", "--force"]));
    refused(&elsewhere, &["is a tablespace of a PostgreSQL server"]);
    assert_eq!(tree(&data), had);
    run(&data, &["--delta", "--force"]).expect_success();
    same_trees(&data, &fresh(&barman, "fresh"));

    // A crash is no hindrance, and without a control file nothing is known.
    live_on(&cluster);
    cluster.stop(Shutdown::Immediate);
    let data = cluster.data().to_owned();
    let crashed = barman.ok(&arguments(&data, &["--delta", "--dry-run"]));
    assert!(crashed.stderr.contains("was not shut down, but crashed"), "{crashed}");
    rename(data.join("global/pg_control"), data.join("aside")).unwrap();
    let unknown = barman.run(&arguments(&data, &["--delta"]));
    refused(&unknown, &["nothing proves which cluster", "--force"]);
    rename(data.join("aside"), data.join("global/pg_control")).unwrap();
    // What belongs to others could not be changed half-way.
    if account::is_root() {
        std::os::unix::fs::chown(data.join("base"), Some(0), None).unwrap();
        fs::set_permissions(data.join("base"), fs::Permissions::from_mode(0o755)).unwrap();
        refused(&barman.run(&arguments(&data, &["--delta"])), &["belong to other users"]);
        account::hand_over(&data.join("base"));
    }
    barman.ok(&arguments(&data, &["--delta"]));
    same_trees(&data, &fresh(&barman, "fresh-again"));
    cluster.start();
    cluster.wait_for_recovery_end();
    cluster.psql("SELECT count(*) FROM far");
}

/// Interrupts a restore that is under way when so many files are in a directory of it.
fn interrupted(barman: &Barman, to: &Path, more: &[&str], files: usize, signal: Signal) -> Output {
    let mut running = barman.spawn(&arguments(to, more));
    while running.is_running() {
        let is_under_way = to.join(MARKER).exists() && !to.join("global/pg_control").exists();
        let there = fs::read_dir(to.join("base/1")).into_iter().flatten().count();
        if is_under_way && there >= files {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    running.signal(signal);
    running.wait(LIMIT)
}

#[test]
fn what_was_interrupted_is_gone_on_with() {
    let (mut cluster, barman) = backed_up(15);
    let whole = fresh(&barman, "whole");
    let id = fs::read_to_string(whole.join("backup_label")).unwrap();
    let mut first_marker = String::new();
    for (number, signal) in [(0, Signal::KILL), (1, Signal::KILL), (2, Signal::TERM)] {
        let to = barman.path(&format!("interrupted-{number}"));
        let rule = format!("fast:{}-fast", to.display());
        let more = ["--tablespace", &rule];
        let ended = interrupted(&barman, &to, &more, [0, 1, 100][number], signal);
        assert!(ended.status > 128, "{ended}");
        assert!(!to.join("global/pg_control").exists());
        if number == 0 {
            first_marker = fs::read_to_string(to.join(MARKER)).unwrap();
        }
        assert!(signal == Signal::KILL || ended.stderr.contains("--resume"), "{ended}");
        refused(&barman.run(&arguments(&to, &more)), &["was not finished", "--resume"]);
        let elsewhere = format!("fast:{}-elsewhere", to.display());
        let elsewhere = ["--resume", "--tablespace", &elsewhere];
        refused(&barman.run(&arguments(&to, &elsewhere)), &["went to other directories"]);
        assert!(Cluster::on(15, &to).try_start().is_err(), "it is no server");
        let resumed = barman.ok(&arguments(&to, &[&more[..], &["--resume"]].concat()));
        assert!(resumed.stdout.contains("was there already"), "{resumed}");
        same_trees(&to, &whole);
        pg_verifybackup(15, &to, &[]);
        assert_eq!(fs::read_to_string(to.join("backup_label")).unwrap(), id);
        let again = barman.run(&arguments(&to, &[&more[..], &["--resume"]].concat()));
        refused(&again, &["there is no unfinished restore"]);
    }

    live_on(&cluster);
    cluster.stop(Shutdown::Fast);
    let whole = fresh(&barman, "later");
    let data = cluster.data().to_owned();
    let ended = interrupted(&barman, &data, &["--delta"], 0, Signal::KILL);
    assert_eq!(ended.status, 137, "{ended}");
    assert!(!data.join("global/pg_control").exists());
    assert!(Cluster::on(15, &data).try_start().is_err(), "it is no server");
    barman.ok(&arguments(&data, &["--resume"]));
    same_trees(&data, &whole);
    cluster.start();
    cluster.wait_for_recovery_end();
    cluster.psql("SELECT count(*) FROM far");
    cluster.stop(Shutdown::Fast);

    // A marker that a crash at the very end has left is cleared away, unless a server ran since.
    let to = barman.path("interrupted-0");
    let rule = format!("fast:{}-fast", to.display());
    let resume = ["--tablespace", &rule, "--resume"];
    account::write_file(&to.join(MARKER), &first_marker);
    barman.ok(&arguments(&to, &resume));
    assert!(!to.join(MARKER).exists());
    let mut server = Cluster::on(15, &to).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    server.stop(Shutdown::Fast);
    account::write_file(&to.join(MARKER), &first_marker);
    let late = barman.run(&arguments(&to, &resume));
    refused(&late, &["has a control file that is not the backup's", "--delta"]);

    // Another backup's restore is not gone on with, but may be restored over.
    let to = barman.path("older");
    let rule = format!("fast:{}-fast", to.display());
    let more = ["--tablespace", &rule];
    assert_eq!(interrupted(&barman, &to, &more, 0, Signal::KILL).status, 137);
    let marker = fs::read_to_string(to.join(MARKER)).unwrap();
    let backup = marker.lines().find(|line| line.contains("backup_id")).unwrap();
    account::write_file(
        &to.join(MARKER),
        &marker.replace(backup, "\"backup_id\": \"20200101T000000\","),
    );
    let other = barman.run(&arguments(&to, &[&more[..], &["--resume"]].concat()));
    refused(&other, &["backup 20200101T000000", "--delta"]);
    barman.ok(&arguments(&to, &[&more[..], &["--delta"]].concat()));
    same_trees(&to, &whole);
}
