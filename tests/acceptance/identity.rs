//! Which cluster a server's name stands for: upgrades, new clusters, renamed servers, impostors and clones.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Barman, Cluster, Output, Shutdown, account, process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn system_id(cluster: &Cluster) -> String {
    cluster.psql("SELECT system_identifier FROM pg_control_system()")
}

/// A cluster that hands its WAL to nobody, but keeps it.
fn keeping_cluster(version: u32) -> Cluster {
    let cluster =
        Cluster::builder(version).initdb("--wal-segsize=1").setting("wal_keep_size", "100MB");
    cluster.setting("archive_mode", "on").setting("archive_command", "true").start()
}

/// Closes a segment, and archives it by hand for server `name`.
fn archive_one(barman: &Barman, name: &str, cluster: &Cluster) -> Output {
    let segment = cluster.data().join("pg_wal").join(cluster.switch_wal());
    barman.run(&["wal-archive", name, segment.to_str().unwrap()])
}

/// The same, in the form in which a database host sends it.
fn send_one(barman: &Barman, name: &str, cluster: &Cluster) -> Output {
    let segment = cluster.switch_wal();
    let from = cluster.data().join("pg_wal").join(&segment);
    let program = barman.path("barman.sh");
    barman.wrapper(&program);
    let mut sent = std::process::Command::new("sh");
    account::prepare(&mut sent, &barman.path(""));
    sent.arg("-c").arg(format!(
        "cp {} . && sha256sum -b {segment} > SHA256SUMS && tar -cf sent.tar {segment} SHA256SUMS && \
         {} put-wal {name} < sent.tar",
        from.display(),
        program.display()
    ));
    process::run(sent)
}

/// Waits until all that a server wants to archive is archived.
fn wait_for_archiver(cluster: &Cluster) {
    let waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    wait_until(LIMIT, || cluster.psql(waiting) == "0");
}

#[track_caller]
fn names_both_and_the_remedy(refused: &Output, accepted: &str, found: &str, name: &str) {
    assert!((1..=125).contains(&refused.status), "{refused}");
    for words in [accepted, found, &format!("barman repo server-accept {name}")] {
        assert!(refused.stderr.contains(words), "{words}: {refused}");
    }
}

/// Restores a backup, starts it, and asks it.
#[track_caller]
fn restored(barman: &Barman, version: u32, arguments: &[&str], question: &str) -> String {
    let destination = barman.path("restored");
    let (server, more) = arguments.split_first().unwrap();
    let (backup, more) = more.split_first().unwrap();
    let to = destination.to_str().unwrap();
    barman.ok(&[&["restore", server, backup, to], more].concat());
    // Its archive_command is 'false', which a shutdown would try again and again.
    let mut cluster = Cluster::on(version, &destination).option("archive_mode", "off");
    cluster.start();
    cluster.wait_for_recovery_end();
    let answer = cluster.psql(question);
    cluster.stop(Shutdown::Immediate);
    fs::remove_dir_all(destination).unwrap();
    answer
}

fn ids(barman: &Barman, server: &str) -> Vec<String> {
    let listed = barman.json(&["list-backups", server, "--minimal"]);
    let ids = listed[server].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// The status of one line of `check`.
fn check_line(barman: &Barman, server: &str, line: &str) -> Value {
    let output = barman.run(&["-f", "json", "check", server]);
    let all: Value = serde_json::from_str(&output.stdout).unwrap();
    all[server][line].clone()
}

fn pg_upgrade(old: &Cluster, new: &Cluster) {
    let bin =
        |cluster: &Cluster| cluster.postgres().program("postgres").parent().unwrap().to_owned();
    let mut command = new.postgres().command("pg_upgrade", new.directory());
    command.current_dir(new.directory());
    command.arg("-b").arg(bin(old)).arg("-B").arg(bin(new));
    command.arg("-d").arg(old.data()).arg("-D").arg(new.data());
    command.arg("--socketdir").arg(new.directory()).args(["-U", "postgres"]);
    process::run(command).expect_success();
}

#[test]
fn an_upgraded_server_is_accepted_and_both_histories_are_restored() {
    let mut old = Cluster::builder(15).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &old, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut old);
    old.psql("CREATE TABLE t AS SELECT 15 AS version");
    barman.ok(&["backup", "main", "--wait", "--name", "before"]);
    let first = system_id(&old);
    old.stop(Shutdown::Fast);
    let mut new = Cluster::builder(17).initdb("--wal-segsize=1").create();
    pg_upgrade(&old, &new);

    // The new cluster has the old one's name and settings; nobody has told barman.
    new.start();
    barman.server("main", &new, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut new);
    let second = system_id(&new);
    assert_ne!(first, second);
    new.psql("UPDATE t SET version = 17");
    new.switch_wal();
    wait_until(LIMIT, || new.psql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t");
    for words in [&first, &second, "barman repo server-accept main"] {
        assert!(new.log().contains(words), "{words}: {}", new.log());
    }
    let line = check_line(&barman, "main", "systemid_coherence");
    assert_eq!(line["status"], "FAILED");
    assert!(line["hint"].as_str().unwrap().contains("barman repo server-accept main"), "{line}");
    let refused = barman.run(&["backup", "main"]);
    names_both_and_the_remedy(&refused, &first, &second, "main");
    assert_eq!(ids(&barman, "main").len(), 1, "not even a failed one is left");

    let said = barman.ok(&["repo", "server-accept", "main"]);
    assert!(said.stdout.contains(&first) && said.stdout.contains(&second), "{said}");
    // A new segment wakes the archiver, which waits for a minute after three failures.
    new.switch_wal();
    wait_for_archiver(&new);
    assert_eq!(check_line(&barman, "main", "systemid_coherence")["status"], "OK");
    barman.ok(&["backup", "main", "--wait", "--name", "after"]);
    new.psql("UPDATE t SET version = 170");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    new.stop(Shutdown::Immediate);

    let question = "SELECT version FROM t";
    assert_eq!(restored(&barman, 15, &["main", "before"], question), "15");
    assert_eq!(restored(&barman, 17, &["main", "after"], question), "170");
    let second = restored(&barman, 17, &["main", "after", "--get-wal"], question);
    assert_eq!(second, "170", "restore_command takes the WAL of its own cluster");
    assert_eq!(barman.ok(&["repo", "check", "--read-data"]).stderr, "");
}

#[test]
fn a_server_is_bound_by_its_first_backup_and_a_second_one_of_its_name_is_refused() {
    let (one, two) = (keeping_cluster(17), keeping_cluster(17));
    let (first, second) = (system_id(&one), system_id(&two));
    let barman = Barman::initialised();
    barman.server("main", &one, "immediate_checkpoint = true\n");
    // Before the first backup WAL is taken of whoever sends it, each in its own place.
    for cluster in [&one, &two] {
        archive_one(&barman, "main", cluster).expect_success();
    }
    let stored = |system: &str| {
        let directory = barman.repository().join("wal/main").join(system).join("00000001");
        fs::read_dir(directory).map_or(0, Iterator::count)
    };
    assert_eq!((stored(&first), stored(&second)), (1, 1));
    // A backup that fails binds nothing.
    let unreachable = "conninfo = host=/nowhere user=postgres dbname=postgres\n";
    account::write_file(&barman.path("servers.d/main.conf"), &format!("[main]\n{unreachable}"));
    assert_ne!(barman.run(&["backup", "main"]).status, 0);
    archive_one(&barman, "main", &two).expect_success();

    barman.server("main", &one, "immediate_checkpoint = true\n");
    barman.ok(&["backup", "main", "--name", "one"]);
    archive_one(&barman, "main", &one).expect_success();
    send_one(&barman, "main", &one).expect_success();
    names_both_and_the_remedy(&archive_one(&barman, "main", &two), &first, &second, "main");
    names_both_and_the_remedy(&send_one(&barman, "main", &two), &first, &second, "main");
    assert_eq!(stored(&second), 2, "nothing of it was stored");
    barman.server("main", &two, "immediate_checkpoint = true\n");
    names_both_and_the_remedy(&barman.run(&["backup", "main"]), &first, &second, "main");

    // Without any backup it is the same server.
    barman.ok(&["delete", "main", "one"]);
    for object in fs::read_dir(barman.repository().join("snapshots/main").join(&first)).unwrap() {
        fs::remove_file(object.unwrap().path()).unwrap();
    }
    names_both_and_the_remedy(&archive_one(&barman, "main", &two), &first, &second, "main");

    // A new initdb: the second cluster is meant from now on, and the first one is not.
    barman.ok(&["repo", "server-accept", "main"]);
    barman.ok(&["repo", "server-accept", "main", "--system-id", &second]);
    archive_one(&barman, "main", &two).expect_success();
    names_both_and_the_remedy(&archive_one(&barman, "main", &one), &second, &first, "main");
}

#[test]
fn a_renamed_server_keeps_its_history() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("old", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("old", &mut cluster);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS n");
    barman.ok(&["backup", "old", "--wait", "--name", "before"]);
    barman.ok(&["keep", "old", "before", "--target", "full"]);
    let size = || {
        let mut command = std::process::Command::new("du");
        command.arg("-sb").arg(barman.repository());
        let said = process::run(command).expect_success();
        said.stdout.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = size();
    let refused = barman.run(&["repo", "server-rename", "unknown", "production"]);
    assert_eq!(refused.status, 1, "{refused}");
    let said = barman.ok(&["repo", "server-rename", "old", "production"]);
    assert!(said.stdout.contains("[production]"), "{said}");
    assert!(size() < before + 20_000, "nothing was copied");

    // WAL that comes under the old name is the new one's.
    let segment = cluster.switch_wal();
    wait_for_archiver(&cluster);
    fs::remove_file(barman.path("servers.d/old.conf")).unwrap();
    barman.server("production", &cluster, "immediate_checkpoint = true\n");
    let found =
        barman.ok(&["get-wal", "production", "-o", barman.path("").to_str().unwrap(), &segment]);
    assert!(barman.path(&segment).exists(), "{found}");
    let shown = barman.json(&["show-backup", "production", "before"]);
    let catalog = &shown["production"]["catalog_information"];
    assert_eq!(catalog["retention_policy"], "KEEP:FULL", "{shown}");
    barman.archive_from("production", &mut cluster);
    cluster.psql("UPDATE t SET n = 2");
    barman.ok(&["backup", "production", "--wait", "--name", "after"]);
    cluster.psql("UPDATE t SET n = 3");
    barman.ok(&["switch-wal", "production", "--force", "--archive"]);
    assert_eq!(ids(&barman, "production").len(), 2);
    let after = barman.json(&["show-backup", "production", "after"]);
    assert_eq!(after["production"]["backup_name"], "after");
    for backup in ["before", "after"] {
        let answer = restored(&barman, 17, &["production", backup, "--get-wal"], "SELECT n FROM t");
        assert_eq!(answer, "3", "{backup}");
    }
    barman.ok(&["verify-backup", "production", "before"]);
    barman.ok(&["delete", "production", "after"]);
    assert_eq!(ids(&barman, "production").len(), 1);

    // Without any configuration the repository tells of both names.
    let mut bare = std::process::Command::new(barman.binary());
    account::prepare(&mut bare, &barman.path(""));
    bare.env("BARMAN_REPOSITORY", barman.repository());
    bare.env("BARMAN_REPOSITORY_KEY_FILE", barman.key_file());
    bare.args(["list-servers"]);
    let known = process::run(bare).expect_success().stdout;
    assert!(known.contains("old") && known.contains("production"), "{known}");

    // A name with a history of its own is not given to another server.
    let mut other = Cluster::builder(17).initdb("--wal-segsize=1").start();
    barman.server("other", &other, "immediate_checkpoint = true\n");
    barman.archive_from("other", &mut other);
    other.switch_wal();
    wait_for_archiver(&other);
    for (old, new) in [("production", "other"), ("other", "production"), ("other", "old")] {
        let refused = barman.run(&["repo", "server-rename", old, new]);
        assert_eq!(refused.status, 1, "{refused}");
        assert!(refused.stderr.contains("has a history of its own"), "{refused}");
    }
    assert_eq!(barman.ok(&["repo", "check", "--read-data"]).stderr, "");
}

/// A restored copy that was told to archive into its origin's history: both have one system identifier.
#[test]
fn a_clone_cannot_spoil_its_origins_history() {
    let mut origin = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &origin, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut origin);
    origin.psql("CREATE TABLE t AS SELECT 'both' AS who");
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);

    // By itself a restored server archives nothing.
    let directory = barman.path("clone");
    barman.ok(&["restore", "main", "latest", directory.to_str().unwrap()]);
    let command = barman.archive_command("main");
    let mut clone = Cluster::on(17, &directory);
    clone.start();
    clone.wait_for_recovery_end();
    assert_eq!(clone.psql("SHOW archive_command"), "false");
    clone.stop(Shutdown::Immediate);

    // Told to, it is taken: it is on timeline 2, as a new primary would be after a failover.
    let mut clone = Cluster::on(17, &directory).option("archive_command", &command);
    clone.start();
    clone.psql("UPDATE t SET who = 'clone'");
    clone.switch_wal();
    wait_for_archiver(&clone);
    clone.stop(Shutdown::Immediate);

    // The origin's timeline is untouched, and can be chosen.
    origin.psql("UPDATE t SET who = 'origin'");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    let who = |timeline: &str| {
        let arguments = ["main", "latest", "--target-tli", timeline];
        restored(&barman, 17, &arguments, "SELECT who FROM t")
    };
    assert_eq!((who("1"), who("2")), ("origin".to_owned(), "clone".to_owned()));
    let timeline = check_line(&barman, "main", "timeline");
    assert_eq!(timeline["status"], "FAILED", "{timeline}");
    let hint = timeline["hint"].as_str().unwrap();
    assert!(
        hint.starts_with("the server is on 1, and the archive has WAL of timeline 2"),
        "{hint}"
    );

    // When the origin itself is failed over, its timeline 2 is another one: that is refused, and kept apart.
    let standby = barman.path("standby");
    let to = standby.to_str().unwrap();
    barman.ok(&["restore", "main", "latest", to, "--target-tli", "1", "--target-immediate"]);
    let history = barman.path("00000002.history");
    account::write_file(&history, "1\t0/1A00028\tno recovery target specified\n");
    let refused = barman.run(&["wal-archive", "main", history.to_str().unwrap()]);
    assert!((1..=125).contains(&refused.status), "{refused}");
    assert!(refused.stderr.contains("other content"), "{refused}");
    assert_eq!(who("2"), "clone", "what was stored is untouched");
    let conflicts = barman.repository().join("conflicts/main").join(system_id(&origin));
    let conflict = fs::read_dir(conflicts.join("00000002")).unwrap().next().unwrap().unwrap();
    assert!(conflict.file_name().to_str().unwrap().starts_with("00000002.history-"));

    // A copy that never left timeline 1 writes other content under the same names.
    origin.stop(Shutdown::Fast);
    let copy: PathBuf = barman.path("copy");
    let mut cp = std::process::Command::new("cp");
    cp.arg("-a").arg(origin.data()).arg(&copy);
    process::run(cp).expect_success();
    origin.start();
    let mut twin = Cluster::on(17, &copy);
    twin.start();
    twin.psql("UPDATE t SET who = 'twin'");
    origin.psql("UPDATE t SET who = 'origin again'");
    origin.switch_wal();
    wait_for_archiver(&origin);
    twin.switch_wal();
    wait_until(LIMIT, || twin.psql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t");
    assert!(twin.log().contains("with other content"), "{}", twin.log());
    twin.stop(Shutdown::Immediate);
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    assert_eq!(who("1"), "origin again");
    let line = check_line(&barman, "main", "archiver_errors");
    assert_eq!(line["status"], "FAILED", "{line}");
}
