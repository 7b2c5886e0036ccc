//! What a restore checks before it writes, what it changes, and what it says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, Output, Postgres, Shutdown, account, process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A server that archives as `main`, and its sandbox.
fn archiving(version: u32) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

/// Adds lines to a file of the data directory, of which the running server is not told.
fn append(cluster: &Cluster, name: &str, lines: &str) {
    let path = cluster.data().join(name);
    let text = fs::read_to_string(&path).unwrap_or_default();
    account::write_file(&path, &(text + lines));
}

fn restore(barman: &Barman, name: &str, arguments: &[&str]) -> (PathBuf, Value) {
    let destination = barman.path(name);
    let to = destination.to_str().unwrap();
    (destination.clone(), barman.json(&[&["restore", "main", "latest", to], arguments].concat()))
}

fn texts(said: &Value, key: &str) -> String {
    let texts = said[key].as_array().unwrap_or_else(|| panic!("{key}: {said}"));
    texts.iter().map(|text| text.as_str().unwrap().to_owned() + "\n").collect()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_eq!(output.status, 1, "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

/// Settings that would send a restored server astray, and what they must be after the restore.
const STRAY: [(&str, &str); 6] = [
    ("archive_cleanup_command", "false"),
    ("primary_conninfo", "host=/nowhere password=secret"),
    ("primary_slot_name", "of_another"),
    ("recovery_min_apply_delay", "1d"),
    ("recovery_target_xid", "3"),
    ("synchronous_standby_names", "nobody"),
];

fn settings_of_another_life_do_not_count(version: u32) {
    let (cluster, barman) = archiving(version);
    cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) AS n");
    account::make_dir(&cluster.data().join("conf.d"));
    let included: String =
        STRAY.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
    append(&cluster, "conf.d/1.conf", &included);
    append(
        &cluster,
        "postgresql.conf",
        "\ninclude_dir = 'conf.d'\nsynchronous_standby_names = 'x'\n",
    );
    append(&cluster, "postgresql.auto.conf", "recovery_end_command = 'false'\n");
    append(&cluster, "standby.signal", "");
    append(&cluster, "recovery.conf", "standby_mode = on\n");
    append(&cluster, "postgresql.conf", "shared_preload_libraries = 'plpgsql,no_such_library'\n");
    let lost = cluster.directory().join("lost");
    let place = format!("hba_file = '{}'\n", cluster.data().join("pg_hba.conf").display());
    append(&cluster, "postgresql.conf", &place);
    append(&cluster, "postgresql.conf", &format!("data_directory = '{}'\n", lost.display()));
    let original = fs::read(cluster.data().join("postgresql.conf")).unwrap();
    barman.ok(&["backup", "main", "--wait"]);

    let (destination, said) = restore(&barman, "restored", &[]);
    pg_verifybackup(version, &destination, &[]);
    assert_eq!(fs::read(destination.join("postgresql.conf.origin")).unwrap(), original);
    let kept = fs::read_to_string(destination.join("conf.d/1.conf.origin")).unwrap();
    assert_eq!(kept, included);
    let changes = texts(&said, "changes");
    for words in [
        "standby.signal is left out",
        "recovery.conf is left out",
        "conf.d/1.conf: primary_conninfo is",
        "postgresql.conf: data_directory is commented out",
        &format!("hba_file = '{}/pg_hba.conf' instead of", destination.display()),
    ] {
        assert!(changes.contains(words), "{words}: {changes}");
    }
    assert!(!changes.contains("secret"), "{changes}");
    let warnings = texts(&said, "warnings");
    for words in ["shared_preload_libraries", ": no_such_library"] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    let mut server =
        Cluster::on(version, &destination).option("shared_preload_libraries", "plpgsql");
    server.start();
    server.wait_for_recovery_end();
    // It would wait for ever for a standby that it does not have.
    server.psql("INSERT INTO t VALUES (0)");
    assert_eq!(server.table_checksum("t").split(':').next(), Some("1001"));
    for (name, value) in STRAY {
        assert_ne!(server.psql(&format!("SHOW {name}")), value, "{name}");
    }
    assert_eq!(server.psql("SHOW archive_command"), "false");
    let hba = destination.join("pg_hba.conf");
    assert_eq!(server.psql("SHOW hba_file"), hba.to_str().unwrap());
    // What was seen is not overridden: a user may set it again in postgresql.conf.
    assert_eq!(
        server.psql("SELECT source FROM pg_settings WHERE name = 'primary_conninfo'"),
        "default"
    );
    server.stop(Shutdown::Immediate);
    fs::remove_dir_all(&destination).unwrap();

    // What lies outside of the data directory cannot be commented out, and is overridden.
    let outside = cluster.directory().join("outside.conf");
    account::write_file(&outside, &included);
    append(&cluster, "postgresql.conf", &format!("include '{}'\n", outside.display()));
    barman.ok(&["backup", "main", "--wait"]);
    let (destination, said) = restore(&barman, "overridden", &["--keep-archiving"]);
    pg_verifybackup(version, &destination, &[]);
    let warnings = texts(&said, "warnings");
    assert!(warnings.contains("leads out of the data directory"), "{warnings}");
    let mut server =
        Cluster::on(version, &destination).option("shared_preload_libraries", "plpgsql");
    server.start();
    server.wait_for_recovery_end();
    server.psql("INSERT INTO t VALUES (0)");
    for (name, value) in STRAY {
        assert_ne!(server.psql(&format!("SHOW {name}")), value, "{name}");
    }
    assert!(server.psql("SHOW archive_command").contains("wal-archive main"));
    server.stop(Shutdown::Immediate);
}

#[test]
fn settings_of_another_life_do_not_count_on_postgresql_15() {
    settings_of_another_life_do_not_count(15);
}

#[test]
fn settings_of_another_life_do_not_count_on_postgresql_18() {
    settings_of_another_life_do_not_count(18);
}

#[test]
fn a_standby_follows_whom_the_backup_followed_without_its_slot() {
    let (primary, barman) = archiving(17);
    let conninfo = primary.conninfo();
    append(&primary, "postgresql.conf", &format!("\nprimary_conninfo = '{conninfo}'\n"));
    append(&primary, "postgresql.conf", "primary_slot_name = 'of_another'\n");
    barman.ok(&["backup", "main", "--wait"]);
    let (destination, said) = restore(&barman, "standby", &["--standby-mode"]);
    let changes = texts(&said, "changes");
    assert!(changes.contains("primary_slot_name is commented out"), "{changes}");
    assert!(texts(&said, "next_steps").contains("pg_promote()"), "{said}");
    let mut standby = Cluster::on(17, &destination);
    standby.start();
    // What no archive has yet arrives: it streams.
    primary.psql("CREATE TABLE streamed AS SELECT 42 AS answer");
    wait_until(LIMIT, || {
        let found = standby.try_psql("postgres", "SELECT answer FROM streamed");
        found.status == 0 && found.stdout.trim() == "42"
    });
    standby.stop(Shutdown::Fast);
    let to = destination.to_str().unwrap();
    let both = ["restore", "main", "latest", to, "--standby-mode", "--target-immediate"];
    assert_eq!(barman.run(&both).status, 2);
}

#[test]
fn a_dry_run_says_what_a_restore_does_and_writes_nothing() {
    let (cluster, barman) = archiving(17);
    cluster.create_tablespace("fast");
    cluster.psql("CREATE TABLE t TABLESPACE fast AS SELECT n FROM generate_series(1, 90000) n");
    barman.ok(&["backup", "main", "--wait"]);
    let (space, wal) = (barman.path("fast"), barman.path("wal"));
    let rule = format!("fast:{}", space.display());
    let arguments = ["--tablespace", &rule, "--waldir", wal.to_str().unwrap()];
    let before = files(&barman.repository());
    let dry = [arguments.as_slice(), &["--dry-run"]].concat();
    let (destination, planned) = restore(&barman, "restored", &dry);
    assert!(!destination.exists() && !space.exists() && !wal.exists(), "nothing was written");
    assert_eq!(files(&barman.repository()), before);
    let text =
        barman.ok(&[&["restore", "main", "latest", destination.to_str().unwrap()], dry.as_slice()]
            .concat());
    for words in
        ["Would restore", " packs", "tablespace fast in ", "WAL from 0000", "Nothing was written"]
    {
        assert!(text.stdout.contains(words), "{words}: {text}");
    }
    let reached = text.stdout.lines().find(|line| line.starts_with("Can be reached: ")).unwrap();
    assert_eq!(reached.matches(" (LSN 0/").count(), 2, "{reached}");
    let is_second = |text: &str| text.rsplit(' ').next().is_some_and(|time| !time.contains('.'));
    let last = reached.split(" (LSN 0/").nth(1).unwrap();
    assert!(is_second(last), "{reached}");
    assert!(reached.contains(" on timeline 1; the last WAL file, 0000"), "{reached}");
    // Where it would be is said in full.
    let here = [&["restore", "main", "latest", "relative"], dry.as_slice()].concat();
    let mut here = barman.command(&here);
    here.current_dir(barman.path("."));
    let here = process::run(here).expect_success();
    assert!(
        here.stdout.contains(&format!(" to {}\n", barman.path("relative").display())),
        "{here}"
    );
    assert_eq!(planned["dry_run"], Value::Bool(true));
    assert!(planned["plan"]["packs"].as_u64().unwrap() > 0, "{planned}");
    let directories = planned["plan"]["directories"].as_array().unwrap();
    let whats: Vec<_> = directories.iter().map(|part| part["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["the data directory", "tablespace fast", "pg_wal"]);
    for part in directories {
        assert!(part["free_bytes"].as_u64().unwrap() > part["bytes"].as_u64().unwrap(), "{part}");
    }
    assert!(directories[1]["bytes"].as_u64().unwrap() > 2 << 20, "{planned}");

    let (_, restored) = restore(&barman, "restored", &arguments);
    for key in ["changes", "warnings", "recovery_window", "start_command"] {
        assert_eq!(restored[key], planned[key], "{key}");
    }
    pg_verifybackup(17, &destination, &[]);
    assert_eq!(fs::read_link(destination.join("pg_wal")).unwrap(), wal);
    let start = restored["start_command"].as_str().unwrap();
    let program = Postgres::require(17).program("pg_ctl").canonicalize().unwrap();
    assert_eq!(start, format!("{} -D {} start", program.display(), destination.display()));
    assert!(texts(&restored, "next_steps").contains("another port first: -o '-p 5433'"));
    let window = &restored["recovery_window"];
    assert!(window["begin_lsn"].as_str() < window["end_lsn"].as_str(), "{window}");
    let mut server = Cluster::on(17, &destination).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), cluster.table_checksum("t"));
    server.stop(Shutdown::Fast);
    let segments = fs::read_dir(&wal).unwrap().count();
    assert!(segments > 2, "its WAL is there");
}

#[test]
fn the_places_of_other_servers_are_left_alone() {
    let (mut cluster, barman) = archiving(15);
    let space = cluster.create_tablespace("fast");
    barman.ok(&["backup", "main", "--wait"]);
    let data = cluster.data().to_owned();
    let elsewhere = format!("fast:{}", barman.path("fast").display());
    let run = |to: &Path, more: &[&str]| {
        let arguments = ["restore", "main", "latest", to.to_str().unwrap()];
        barman.run(&[&arguments, more].concat())
    };
    let new = barman.path("new");
    let at = |path: &Path| format!("fast:{}", path.display());
    refused(&run(&data, &[]), &["a PostgreSQL server runs on it (process "]);
    refused(&run(&data.join("inner"), &["--tablespace", &elsewhere]), &["is inside", "server's"]);
    refused(&run(&new, &["--tablespace", &at(&space)]), &["is a tablespace of"]);
    let inside = fs::read_dir(&space).unwrap().next().unwrap().unwrap().path().join("x");
    refused(&run(&new, &["--tablespace", &at(&inside)]), &["is inside"]);
    refused(
        &run(&new, &["--tablespace", &at(&new.join("x"))]),
        &["would be inside the data directory"],
    );
    refused(
        &run(
            &new,
            &["--tablespace", &elsewhere, "--waldir", barman.path("fast").to_str().unwrap()],
        ),
        &["would be tablespace fast too"],
    );
    let wal = data.join("pg_wal");
    refused(
        &run(&new, &["--tablespace", &elsewhere, "--waldir", wal.to_str().unwrap()]),
        &["is not empty"],
    );
    cluster.stop(Shutdown::Fast);
    refused(&run(&data, &[]), &["it is the data directory of a PostgreSQL server"]);
    refused(&run(Path::new("/proc/new"), &["--tablespace", &elsewhere]), &["cannot be written"]);
    assert!(!new.exists() && !barman.path("fast").exists(), "nothing was written");
}

#[test]
fn a_host_with_another_version_only_is_no_place_for_a_server() {
    let (_cluster, barman) = archiving(17);
    barman.ok(&["backup", "main", "--wait"]);
    let destination = barman.path("restored");
    let run = |more: &[&str]| {
        let arguments = ["restore", "main", "latest", destination.to_str().unwrap()];
        let mut command = barman.command(&[&arguments, more].concat());
        let other = Postgres::require(15).program("");
        command.env("PATH", format!("{}:/usr/bin:/bin", other.display()));
        process::run(command)
    };
    refused(&run(&[]), &["is of PostgreSQL 17, and only 15 is installed", "--any-version"]);
    assert!(!destination.exists());
    let restored = run(&["--any-version"]).expect_success();
    assert!(restored.stderr.contains("PostgreSQL 17 is not installed here"), "{restored}");
    assert!(restored.stdout.contains("pg_ctl -D "), "{restored}");
    pg_verifybackup(17, &destination, &[]);
}

#[test]
fn the_owner_is_who_was_asked_for() {
    let (_cluster, barman) = archiving(15);
    barman.ok(&["backup", "main", "--wait"]);
    let account = account::current();
    let destination = barman.path("restored");
    let to = destination.to_str().unwrap();
    let run = |name: &str| barman.run(&["restore", "main", "latest", to, "--owner", name]);
    refused(&run("no-such-user"), &["there is no user \"no-such-user\""]);
    refused(&run("4000000"), &["only root can make 4000000 the owner"]);
    assert!(!destination.exists());
    run(&account.name).expect_success();
    fs::remove_dir_all(&destination).unwrap();
    if !account::is_root() {
        return;
    }
    let as_root = |more: &[&str]| {
        let mut command = barman.command(&[&["restore", "main", "latest", to], more].concat());
        std::os::unix::process::CommandExt::uid(&mut command, 0);
        std::os::unix::process::CommandExt::gid(&mut command, 0);
        process::run(command)
    };
    refused(&as_root(&["--owner", "root"]), &["does not run as root"]);
    as_root(&["--owner", "4000000"]).expect_success();
    for file in files(&destination) {
        assert_eq!(fs::symlink_metadata(&file).unwrap().uid(), 4_000_000, "{}", file.display());
    }
    fs::remove_dir_all(&destination).unwrap();
    let restored = as_root(&[]).expect_success();
    assert_eq!(fs::metadata(&destination).unwrap().uid(), account.uid);
    assert!(restored.stdout.contains("runuser -u postgres -- "), "{restored}");
}

#[test]
fn a_running_restore_is_seen_in_the_repository_and_only_then() {
    let (cluster, barman) = archiving(15);
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n");
    barman.ok(&["backup", "main", "--wait"]);
    let sessions = barman.repository().join("sessions");
    let is_empty = || files(&sessions).iter().all(|path| path.is_dir());
    let interrupted = |name: &str, signal: Signal| {
        let destination = barman.path(name);
        let running = barman.spawn(&["restore", "main", "latest", destination.to_str().unwrap()]);
        while !destination.exists() {
            std::thread::yield_now();
        }
        running.signal(signal);
        running.wait(LIMIT)
    };
    let killed = interrupted("killed", Signal::KILL);
    assert_eq!(killed.status, 137, "{killed}");
    assert!(!is_empty(), "what was killed had a session");
    let of_restore = sessions_of(&barman);
    let id = barman.json(&["show-backup", "main", "latest"])["main"]["backup_id"].clone();
    assert_eq!(of_restore, [(id.as_str().unwrap().to_owned(), "a restore of backup".to_owned())]);
    // The next backup clears it away.
    barman.ok(&["backup", "main", "--wait"]);
    assert!(is_empty());
    let ended = interrupted("ended", Signal::TERM);
    assert_eq!(ended.status, 143, "{ended}");
    assert!(is_empty(), "what ended took its session with it");
    let no = barman.run(&["restore", "main", "latest", barman.repository().to_str().unwrap()]);
    refused(&no, &["is not empty"]);
    assert!(is_empty(), "so did what failed");

    // Who may not write to the repository reads it all the same.
    let ours = fs::metadata(&sessions).unwrap().permissions();
    fs::set_permissions(&sessions, fs::Permissions::from_mode(0o500)).unwrap();
    let destination = barman.path("read-only");
    let quiet = barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    assert!(!quiet.stderr.contains("session"), "{quiet}");
    let again = barman.path("again");
    let loud = barman.ok(&["--debug", "restore", "main", "latest", again.to_str().unwrap()]);
    assert!(loud.stderr.contains("without a session"), "{loud}");
    fs::set_permissions(&sessions, ours).unwrap();

    // Nor is anything put into a mirror.
    let role = repo_format::role::PlaceRole::Mirror.encode();
    fs::write(barman.repository().join("role"), role).unwrap();
    account::hand_over(&barman.repository().join("role"));
    let mirrored = barman.path("mirrored");
    let loud = barman.ok(&["--debug", "restore", "main", "latest", mirrored.to_str().unwrap()]);
    assert!(loud.stderr.contains("without a session"), "{loud}");
}

/// The backups that sessions in the repository read, with the beginning of what for.
fn sessions_of(barman: &Barman) -> Vec<(String, String)> {
    use barman::repository::{Access, Repository, key_file, sessions};
    use repo_format::session::Activity;
    use repo_format::slot::Credential;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let storage =
            barman::storage::location::storage_at(barman.repository().to_str().unwrap()).unwrap();
        let key = Credential::KeyFile(key_file::read(&barman.key_file()).unwrap());
        let repository = Repository::open(storage, &key, Access::Read).await.unwrap();
        let found = sessions::list(&repository).await.unwrap();
        let read = found.into_iter().filter_map(|found| match found.session?.activity {
            Activity::Read { purpose, backups } => Some((
                backups.into_iter().map(|backup| backup.backup_id).collect::<String>(),
                purpose.chars().take(19).collect(),
            )),
            _ => None,
        });
        read.collect()
    })
}

/// Everything below a directory.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        }
        found.insert(path);
    }
    found
}
