//! Deleting backups, retention policies, and the WAL that nothing needs any more.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Barman, Cluster, account};

/// An archiving server of which there is no backup yet.
fn archiving(more: &str) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, &format!("immediate_checkpoint = true\n{more}"));
    barman.archive_from("main", &mut cluster);
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) AS x FROM generate_series(1, 2000) n");
    (cluster, barman)
}

/// Takes a backup of which much is in no other one.
#[track_caller]
fn back_up(cluster: &Cluster, barman: &Barman) -> String {
    cluster.psql(
        "DROP TABLE IF EXISTS big; CREATE TABLE big AS SELECT n, md5(random()::text) AS x \
         FROM generate_series(1, 100000) n",
    );
    barman.ok(&["backup", "main", "--wait"]);
    newest(barman)
}

/// The ids of all backups, newest first.
fn ids(barman: &Barman) -> Vec<String> {
    let list = barman.json(&["list-backups", "main", "--minimal"]);
    let ids = list["main"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn newest(barman: &Barman) -> String {
    ids(barman).first().unwrap().clone()
}

fn field<'v>(barman: &Barman, id: &str, key: &str, store: &'v mut Value) -> &'v str {
    *store = barman.json(&["show-backup", "main", id]);
    store["main"]["base_backup_information"][key].as_str().unwrap()
}

/// The first segment that a backup needs.
fn begin_wal(barman: &Barman, id: &str) -> String {
    field(barman, id, "begin_wal", &mut Value::Null).to_owned()
}

/// The segments and histories in the archive, by the names that PostgreSQL gave them. (The records of backups come a
/// moment later.)
fn archived(barman: &Barman) -> Vec<String> {
    fn collect(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                collect(&entry.path(), found);
            } else {
                let name = entry.file_name().into_string().unwrap();
                found.push(name.rsplit_once('-').unwrap().0.to_owned());
            }
        }
    }
    let mut found = vec![];
    collect(&barman.repository().join("wal"), &mut found);
    found.retain(|name| !name.ends_with(".backup"));
    found.sort();
    found
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |path: &Path| if path.is_dir() { size(path) } else { path.metadata().unwrap().len() };
    entries.map(|entry| of(&entry.path())).sum()
}

#[track_caller]
fn refused(barman: &Barman, args: &[&str], words: &str) {
    let output = barman.run(args);
    assert_eq!(output.status, 1, "{output}");
    assert!(output.stderr.contains(words), "{words:?}: {output}");
}

/// Restores a backup and looks whether the server has the table.
#[track_caller]
fn restores(barman: &Barman, id: &str) {
    let destination = account::temp_dir();
    let data = destination.path().join("data");
    barman.ok(&["restore", "main", id, data.to_str().unwrap(), "--target-immediate"]);
    let mut restored = Cluster::on(17, &data);
    restored.start();
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "2000");
    assert_eq!(restored.psql("SELECT count(*) FROM big"), "100000");
}

#[test]
fn a_deleted_backup_gives_back_its_space_and_its_wal() {
    let (cluster, barman) = archiving("minimum_redundancy = 2\n");
    let first = back_up(&cluster, &barman);
    let second = back_up(&cluster, &barman);
    refused(&barman, &["delete", "main", &first], "minimum redundancy");
    let third = back_up(&cluster, &barman);

    let before = archived(&barman);
    let dry = barman.json(&["delete", "main", &first, "--dry-run"])["main"].clone();
    assert!(dry["freed_bytes"].as_u64().unwrap() > 100_000, "{dry}");
    assert!(!dry["wal_files"].as_array().unwrap().is_empty(), "{dry}");
    assert_ne!(dry["recovery_window_begin"], dry["recovery_window_begin_before"], "{dry}");
    assert_eq!((ids(&barman).len(), archived(&barman)), (3, before.clone()), "nothing was done");

    let deleted = barman.ok(&["delete", "main", &first]);
    assert!(deleted.stderr.contains("the recovery window begins at"), "{deleted}");
    assert_eq!(ids(&barman), [third.clone(), second.clone()]);
    let needed = begin_wal(&barman, &second);
    let expected: Vec<&String> = before.iter().filter(|name| **name >= needed).collect();
    assert!(expected.len() < before.len());
    assert_eq!(archived(&barman).iter().collect::<Vec<_>>(), expected);

    let (packs, dry) =
        (barman.repository().join("packs"), barman.ok(&["repo", "prune", "--dry-run"]));
    assert!(dry.stdout.contains("Would free"), "{dry}");
    let full = size(&packs);
    let freed = barman.json(&["repo", "prune"])["repository"].clone();
    assert!(size(&packs) + 100_000 < full, "{} of {full} bytes are left: {freed}", size(&packs));
    barman.ok(&["repo", "check", "--read-data"]);
    restores(&barman, &second);
    restores(&barman, &third);
    let again = barman.ok(&["repo", "prune"]);
    assert!(again.stdout.contains("Nothing to free"), "{again}");

    // The server goes on, and deduplicates against what was written anew.
    let fourth = back_up(&cluster, &barman);
    barman.ok(&["repo", "check", "--read-data"]);
    restores(&barman, &fourth);
}

#[test]
fn what_is_kept_stays_with_the_wal_that_it_needs() {
    let (cluster, barman) = archiving("");
    let first = back_up(&cluster, &barman);
    cluster.switch_wal();
    let second = back_up(&cluster, &barman);
    let third = back_up(&cluster, &barman);
    barman.ok(&["keep", "main", &first, "--target", "standalone"]);
    refused(&barman, &["delete", "main", &first], "is kept");
    barman.ok(&["delete", "main", &second]);
    let mut store = Value::Null;
    let end = field(&barman, &first, "end_wal", &mut store).to_owned();
    let (begin, next) = (begin_wal(&barman, &first), begin_wal(&barman, &third));
    let names = archived(&barman);
    let segments: Vec<&String> = names.iter().filter(|name| name.len() == 24).collect();
    assert!(segments.iter().all(|s| (**s >= begin && **s <= end) || **s >= next), "{segments:?}");
    assert!(segments.iter().any(|segment| **segment == begin), "{segments:?}");
    barman.ok(&["repo", "prune"]);
    restores(&barman, &first);
    restores(&barman, &third);

    // Kept in full, it holds all WAL from its beginning on.
    barman.ok(&["keep", "main", &third, "--target", "full"]);
    let fourth = back_up(&cluster, &barman);
    barman.ok(&["delete", "main", &fourth]);
    let names = archived(&barman);
    assert!(names.iter().any(|name| *name > next), "{names:?}");
    barman.ok(&["cron"]);
    assert_eq!(archived(&barman), names);
    assert_eq!(ids(&barman), [third, first]);
}

#[test]
fn cron_applies_the_retention_policy_and_frees_the_space() {
    let (cluster, barman) = archiving("retention_policy = REDUNDANCY 2\nminimum_redundancy = 1\n");
    let backups: Vec<String> = (0..4).map(|_| back_up(&cluster, &barman)).collect();
    let listed = barman.ok(&["list-backups", "main"]);
    assert_eq!(listed.stdout.matches(" - VALID").count(), 2, "{listed}");
    assert_eq!(listed.stdout.matches(" - OBSOLETE").count(), 2, "{listed}");
    let full = size(&barman.repository().join("packs"));
    let cron = barman.ok(&["-q", "cron"]);
    assert_eq!((cron.stdout.as_str(), cron.stderr.as_str()), ("", ""));
    assert_eq!(ids(&barman), [backups[3].clone(), backups[2].clone()]);
    assert!(size(&barman.repository().join("packs")) < full);
    let needed = begin_wal(&barman, &backups[2]);
    assert!(archived(&barman).iter().all(|name| *name >= needed));
    barman.ok(&["repo", "check", "--read-data"]);
    restores(&barman, &backups[2]);
}

#[test]
fn a_second_timeline_keeps_what_leads_to_it() {
    let (cluster, barman) = archiving("");
    let first = back_up(&cluster, &barman);
    cluster.psql("CREATE TABLE later AS SELECT 1 AS one");
    cluster.switch_wal();
    let second = back_up(&cluster, &barman);
    drop(cluster);
    let destination = account::temp_dir();
    let data = destination.path().join("data");
    barman.ok(&[
        "restore",
        "main",
        &first,
        data.to_str().unwrap(),
        "--target-immediate",
        "--target-action",
        "promote",
    ]);
    let mut cluster = Cluster::on(17, &data);
    cluster.start();
    cluster.wait_for_recovery_end();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    let command = barman.archive_command("main");
    cluster.psql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
    cluster.psql("SELECT pg_reload_conf()");
    let third = back_up(&cluster, &barman);
    // The first leads to both timelines, and holds their WAL.
    barman.ok(&["delete", "main", &second]);
    assert!(archived(&barman).iter().any(|name| name.starts_with("00000001")));
    // Nothing that is left leads along timeline 1.
    barman.ok(&["delete", "main", &first]);
    let names = archived(&barman);
    assert!(names.contains(&"00000002.history".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("00000002")), "{names:?}");
    barman.ok(&["repo", "prune"]);
    barman.ok(&["repo", "check", "--read-data"]);
    restores(&barman, &third);
}

#[test]
fn nothing_is_pruned_while_a_backup_runs_and_a_killed_one_is_a_failed_one() {
    let (cluster, barman) = archiving("");
    let first = back_up(&cluster, &barman);
    let second = back_up(&cluster, &barman);
    cluster.psql("INSERT INTO big SELECT n, md5(random()::text) FROM generate_series(1, 500000) n");
    barman.server("main", &cluster, "immediate_checkpoint = true\nbandwidth_limit = 1000\n");
    let running = barman.spawn(&["backup", "main"]);
    crate::support::wait_until(std::time::Duration::from_secs(30), || {
        let list = barman.ok(&["list-backups", "main"]);
        list.stdout.contains("STARTED") && size(&barman.repository().join("packs")) > 0
    });
    refused(
        &barman,
        &["repo", "prune"],
        "nothing can be pruned while a backup of main is running: process",
    );
    barman.ok(&["delete", "main", &first]);
    running.kill();
    barman.ok(&["cron"]);
    let list = barman.ok(&["list-backups", "main"]);
    assert!(list.stdout.contains("FAILED"), "{list}");
    let failed = barman.json(&["show-backup", "main", "last-failed"]);
    assert!(failed["main"]["error"].as_str().unwrap().contains("ended without a word"), "{failed}");
    barman.ok(&["repo", "prune"]);
    barman.ok(&["repo", "check", "--read-data"]);
    restores(&barman, &second);
}
