//! Parts of a repository that are lost or damaged: what still works, and what brings them back.

use std::fs;

use serde_json::json;

use super::golden_copy::{files, sandbox, write};
use crate::support::{Barman, Cluster, Shutdown};

#[track_caller]
fn all_is_readable(barman: &Barman) {
    for backup in ["first", "last"] {
        barman.ok(&["verify-backup", "main", backup]);
    }
}

#[test]
fn without_the_index_everything_is_read_from_the_packs() {
    let barman = sandbox();
    let runs = files(&barman.repository().join("index"));
    let original = fs::read(&runs[0]).unwrap();
    let mut damaged = original.clone();
    damaged[original.len() / 2] ^= 1;
    write(&runs[0], &damaged);
    all_is_readable(&barman);
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(checked.stderr.contains("barman repo repair index"), "{checked}");
    let repaired = barman.json(&["repo", "repair", "index"]);
    assert_eq!(repaired["repair"]["runs_replaced"], json!(1), "{repaired}");
    assert_eq!(barman.ok(&["repo", "check", "--read-data"]).stderr, "");

    for run in files(&barman.repository().join("index")) {
        fs::remove_file(run).unwrap();
    }
    all_is_readable(&barman);
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(checked.stderr.contains("barman repo repair index"), "{checked}");
    let packs = files(&barman.repository().join("packs")).len();
    let repaired = barman.json(&["repo", "repair", "index"]);
    assert_eq!(repaired["repair"]["packs_added"], json!(packs), "{repaired}");
    assert_eq!(barman.ok(&["repo", "check", "--read-data"]).stderr, "");
    let nothing = barman.ok(&["repo", "repair", "index"]);
    assert!(nothing.stdout.contains("nothing was changed"), "{nothing}");
}

#[test]
fn a_damaged_snapshot_is_the_only_one_that_suffers() {
    let barman = sandbox();
    let known = barman.json(&["list-backups", "main"])["main"].clone();
    let objects = files(&barman.repository().join("snapshots"));
    assert_eq!(objects.len(), 2);
    for (at, object) in objects.iter().enumerate() {
        let original = fs::read(object).unwrap();
        let mut damaged = original.clone();
        damaged[original.len() / 2] ^= 1;
        write(object, &damaged);
        let listed = barman.json(&["list-backups", "main"])["main"].clone();
        let status = |number: usize| listed[number]["status"].as_str().unwrap().to_owned();
        let id = object.file_name().unwrap().to_str().unwrap();
        let other = listed.as_array().unwrap().iter().position(|b| b["backup_id"] != id).unwrap();
        assert_eq!((status(other), status(1 - other)), ("DONE".into(), "FAILED".into()));
        let shown = barman.ok(&["show-backup", "main", id]);
        assert!(shown.stdout.contains("barman repo repair snapshots"), "{shown}");
        let other = listed[other]["backup_id"].as_str().unwrap();
        barman.ok(&["verify-backup", "main", other]);
        let destination = barman.path(&format!("restored-{at}"));
        barman.ok(&["restore", "main", other, destination.to_str().unwrap()]);
        let refused = barman.run(&["restore", "main", id, "/nowhere"]);
        assert_eq!(refused.status, 1, "{refused}");

        let planned = barman.ok(&["repo", "repair", "snapshots", "--dry-run"]);
        assert!(planned.stdout.contains(id) && !planned.stdout.contains(other), "{planned}");
        assert_eq!(fs::read(object).unwrap(), damaged);
        barman.ok(&["repo", "repair", "snapshots"]);
        assert_eq!(barman.json(&["list-backups", "main"])["main"], known);
        assert_eq!(barman.ok(&["repo", "check"]).stderr, "");
        all_is_readable(&barman);
    }
}

#[test]
fn a_lost_snapshot_is_noticed_and_put_back() {
    let barman = sandbox();
    let known = barman.json(&["list-backups", "main"]);
    // In the order of their ids; the second names the first as the one before it.
    let objects = files(&barman.repository().join("snapshots"));
    fs::remove_file(&objects[0]).unwrap();
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(
        checked.stderr.contains("it is missing") && checked.stderr.contains("repair snapshots")
    );
    barman.ok(&["repo", "repair", "snapshots"]);
    assert_eq!(barman.json(&["list-backups", "main"]), known);

    // Nothing names the newest one: it may as well never have been finished.
    fs::remove_file(&objects[1]).unwrap();
    let checked = barman.ok(&["repo", "check"]);
    assert!(checked.stderr.contains("or its snapshot was lost"), "{checked}");
    barman.ok(&["repo", "repair", "snapshots"]);
    assert_eq!(barman.json(&["list-backups", "main"]), known);

    // What was deleted stays deleted.
    barman.ok(&["delete", "main", "first"]);
    let nothing = barman.ok(&["repo", "repair", "snapshots"]);
    assert!(nothing.stdout.contains("nothing was changed"), "{nothing}");
    assert_eq!(barman.json(&["list-backups", "main"])["main"].as_array().unwrap().len(), 1);
    barman.ok(&["repo", "check"]);
}

#[test]
fn a_damaged_note_may_have_kept_its_backup() {
    let barman = sandbox();
    barman.ok(&["keep", "main", "first", "--target", "full"]);
    let note = files(&barman.repository().join("notes")).remove(0);
    let mut damaged = fs::read(&note).unwrap();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    write(&note, &damaged);
    all_is_readable(&barman);
    let name = note.strip_prefix(barman.repository()).unwrap().to_str().unwrap();
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(checked.stderr.contains(name), "{checked}");
    let refused = barman.run(&["delete", "main", "first"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains(name), "{refused}");
    // Saying it again settles it.
    barman.ok(&["keep", "main", "first", "--release"]);
    barman.ok(&["delete", "main", "first"]);
}

#[test]
fn the_check_reads_every_kind_of_object() {
    let barman = sandbox();
    barman.ok(&["keep", "main", "first", "--target", "full"]);
    let repository = barman.repository();
    fs::write(repository.join("lost+found.txt"), "someone's").unwrap();
    let sound = barman.ok(&["repo", "check"]);
    assert!(sound.stderr.contains("lost+found.txt is nothing of a repository"), "{sound}");
    let session = repository.join(format!("sessions/{}/1", "ab".repeat(16)));
    fs::create_dir_all(session.parent().unwrap()).unwrap();
    let maintenance = repository.join("maintenance/1");
    fs::create_dir_all(maintenance.parent().unwrap()).unwrap();
    let wal = files(&repository.join("wal")).remove(0);
    let conflict =
        repository.join("conflicts").join(wal.strip_prefix(repository.join("wal")).unwrap());
    fs::create_dir_all(conflict.parent().unwrap()).unwrap();
    let extra = repository.join(format!("keys/{}", "cd".repeat(16)));
    let role = repository.join("role");
    for object in [repository.join("config/1"), session, maintenance, conflict, extra, role] {
        let original = fs::read(&object).ok();
        write(&object, b"nonsense");
        let name = object.strip_prefix(&repository).unwrap().to_str().unwrap();
        let checked = barman.run(&["repo", "check", "--read-data"]);
        assert_eq!(checked.status, 1, "{name}: {checked}");
        assert!(checked.stderr.contains(name), "{name}: {checked}");
        match original {
            Some(bytes) => write(&object, &bytes),
            None => fs::remove_file(&object).unwrap(),
        }
    }
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn the_next_backup_stores_again_what_was_lost() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    barman.ok(&["backup", "main", "--wait"]);
    for pack in files(&barman.repository().join("packs")) {
        fs::remove_file(pack).unwrap();
    }
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(checked.stderr.contains("packs/") && checked.stderr.contains("main/"), "{checked}");
    let refused = barman.run(&["restore", "main", "latest", barman.path("r1").to_str().unwrap()]);
    assert_eq!(refused.status, 1, "{refused}");

    cluster.psql("CREATE TABLE later AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n");
    let checksum = cluster.table_checksum("later");
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["verify-backup", "main", "latest"]);
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    let mut server = Cluster::on(17, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("later"), checksum);
    assert_eq!(server.psql("SELECT count(*) FROM pgbench_accounts"), "200000");
    server.stop(Shutdown::Fast);

    // The first backup lacks what has changed since; without it, nobody misses the packs.
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
    barman.ok(&["delete", "main", "first"]);
    let checked = barman.ok(&["repo", "check", "--read-data"]);
    assert!(checked.stderr.contains("is missing, and no backup needs it"), "{checked}");
}
