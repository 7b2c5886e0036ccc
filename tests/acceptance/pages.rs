//! A restored tree is the source's, file by file and page by page, but for what must not be there;
//! and root can restore it for the user that runs the server.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::cluster::pg_verifybackup;
use crate::support::{
    Background, Barman, Cluster, Postgres, Shutdown, account, process, wait_until,
};

const VERSION: u32 = 17;

/// A server that writes nothing by itself, archiving to server `main`, with relations of every kind.
fn source(initdb: &[&str]) -> (Cluster, Barman) {
    let mut builder = Cluster::builder(VERSION)
        .initdb("--wal-segsize=1")
        .setting("autovacuum", "off")
        .setting("bgwriter_lru_maxpages", "0")
        .setting("checkpoint_timeout", "1d")
        .setting("temp_buffers", "800kB");
    for argument in initdb {
        builder = builder.initdb(argument);
    }
    let mut cluster = builder.start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.create_tablespace("fast");
    cluster.create_tablespace("slow");
    cluster.psql("CREATE DATABASE other TABLESPACE slow");
    cluster.psql_in(
        "other",
        "CREATE TABLE o AS SELECT n, md5(n::text) FROM generate_series(1, 3000) n",
    );
    cluster.psql(
        "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n; \
         CREATE INDEX ON t (md5); DELETE FROM t WHERE n % 7 = 0; VACUUM t; \
         CREATE TABLE f TABLESPACE fast AS SELECT n, repeat(md5(n::text), 90) FROM generate_series(1, 9000) n; \
         CREATE UNLOGGED TABLE u (n int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 9000); \
         CREATE UNLOGGED TABLE v TABLESPACE fast AS SELECT n FROM generate_series(1, 9000) n",
    );
    cluster.psql("VACUUM u");
    (cluster, barman)
}

/// A session that holds a temporary table, in both tablespaces, and a temporary file.
fn temporary_things(cluster: &Cluster) -> Background {
    let mut session = cluster.client("psql");
    session.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c"]).arg(
        "SET work_mem = '64kB'; CREATE TEMP TABLE a AS SELECT n FROM generate_series(1, 90000) n; \
         CREATE TEMP TABLE b TABLESPACE fast AS SELECT n FROM generate_series(1, 90000) n; \
         DECLARE c CURSOR WITH HOLD FOR SELECT md5(n::text) FROM generate_series(1, 90000) n ORDER BY 1;",
    );
    // The held cursor is written out when its transaction ends; then the session stays.
    session.args(["-c", "SELECT pg_sleep(600)"]);
    let session = Background::spawn(session);
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until(Duration::from_secs(60), || cluster.psql(sleeping) == "1");
    let there = files(cluster.data());
    for start in ["base/pgsql_tmp/pgsql_tmp", "base/5/t", "pg_tblspc/"] {
        let is_here = |path: &String| path.starts_with(start) && is_temporary(path);
        assert!(there.keys().any(is_here), "nothing temporary in {start}");
    }
    session
}

/// All files below the data directory, those in tablespaces too, by their paths in it.
fn files(data: &Path) -> BTreeMap<String, PathBuf> {
    fn collect(path: &Path, name: &str, found: &mut BTreeMap<String, PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let name = format!("{name}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                collect(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name, entry.path());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(data, "", &mut found);
    found
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// Files of temporary relations (`t3_16384`, `t3_16384_fsm`) and of sorts and the like.
fn is_temporary(path: &str) -> bool {
    let relation = file_name(path).strip_prefix('t').and_then(|rest| rest.split_once('_'));
    relation.is_some_and(|(backend, _)| backend.parse::<u32>().is_ok())
        || path.contains("pgsql_tmp")
}

/// What PostgreSQL leaves out of a backup by rights, or writes anew.
fn is_left_out(path: &str, unlogged: &[String]) -> bool {
    let is_unlogged = unlogged.iter().any(|relation| {
        let rest = path.strip_prefix(relation.as_str());
        rest.is_some_and(|rest| {
            rest.is_empty()
                || rest.starts_with('.')
                || rest.starts_with("_fsm")
                || rest.starts_with("_vm")
        })
    });
    is_unlogged
        || is_temporary(path)
        || path == "global/pg_control"
        || file_name(path) == "pg_internal.init"
}

/// The relation files of the directories that hold relations.
fn relations(data: &Path) -> BTreeMap<String, PathBuf> {
    let mut files = files(data);
    files.retain(|path, _| ["base/", "global/", "pg_tblspc/"].iter().any(|d| path.starts_with(d)));
    files
}

fn unlogged_relations(cluster: &Cluster) -> Vec<String> {
    let sql = "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relpersistence = 'u'";
    cluster.psql(sql).lines().map(str::to_owned).collect()
}

/// Compares trees; the number of files that are equal.
fn compare(source: &Path, restored: &Path, unlogged: &[String]) -> usize {
    let (mut theirs, mut ours) = (relations(source), relations(restored));
    theirs.retain(|path, _| !is_left_out(path, unlogged));
    assert_eq!(
        theirs.keys().collect::<Vec<_>>(),
        ours.keys().filter(|path| *path != "global/pg_control").collect::<Vec<_>>()
    );
    ours.remove("global/pg_control");
    for (path, theirs) in &theirs {
        let (theirs, ours) = (fs::read(theirs).unwrap(), fs::read(&ours[path]).unwrap());
        assert_eq!(theirs.len(), ours.len(), "length of {path}");
        for (block, (theirs, ours)) in theirs.chunks(8192).zip(ours.chunks(8192)).enumerate() {
            assert!(theirs == ours, "{path}, block {block}");
        }
    }
    theirs.len()
}

/// The mode, user and group of everything below a directory, and of itself.
fn owners(path: &Path, found: &mut Vec<(PathBuf, u32, u32, u32)>) {
    let metadata = fs::metadata(path).unwrap();
    found.push((path.to_owned(), metadata.mode() & 0o7777, metadata.uid(), metadata.gid()));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            owners(&entry.unwrap().path(), found);
        }
    }
}

/// Restores as whoever runs the tests: root, where they run as root.
fn restore_as_ourselves(barman: &Barman, arguments: &[&str]) {
    let command = barman.command(arguments);
    let mut own = std::process::Command::new(command.get_program());
    own.args(command.get_args()).env_clear().env("HOME", barman.path("")).current_dir("/");
    own.env("PATH", Postgres::path());
    process::run(own).expect_success();
}

#[test]
fn every_page_is_restored_and_nothing_that_is_temporary() {
    let (mut cluster, barman) = source(&[]);
    let unlogged = unlogged_relations(&cluster);
    assert_eq!(unlogged.len(), 3, "two tables and an index: {unlogged:?}");
    let tables = ["t", "f"].map(|table| (table, cluster.table_checksum(table)));
    let other = cluster.table_checksum_in("other", "o");
    let session = temporary_things(&cluster);
    barman.ok(&["backup", "main", "--wait"]);
    // As a crash does: what is on disk now is what was there during the backup.
    cluster.stop(Shutdown::Immediate);
    drop(session);

    let destination = barman.path("restored");
    let (fast, slow) = (barman.path("fast"), barman.path("slow"));
    let rules = [format!("fast:{}", fast.display()), format!("slow:{}", slow.display())];
    let to = destination.to_str().unwrap();
    let mapped = ["--tablespace", &rules[0], "--tablespace", &rules[1]];
    barman.ok(&[&["restore", "main", "latest", to], mapped.as_slice()].concat());
    pg_verifybackup(VERSION, &destination, &[]);
    let equal = compare(cluster.data(), &destination, &unlogged);
    assert!(equal > 900, "{equal} relation files");

    let restored = files(&destination);
    for relation in &unlogged {
        assert!(restored.contains_key(&format!("{relation}_init")), "{relation}_init");
        assert!(!restored.contains_key(relation), "{relation}");
    }
    let temporary: Vec<&String> = restored.keys().filter(|path| is_temporary(path)).collect();
    assert!(temporary.is_empty(), "{temporary:?}");

    let mut server = Cluster::on(VERSION, &destination);
    server.start();
    server.wait_for_recovery_end();
    for (table, checksum) in tables {
        assert_eq!(server.table_checksum(table), checksum, "{table}");
    }
    assert_eq!(server.table_checksum_in("other", "o"), other);
    for table in ["u", "v"] {
        assert_eq!(server.psql(&format!("SELECT count(*) FROM {table}")), "0", "{table}");
        server.psql(&format!("INSERT INTO {table} VALUES (1)"));
    }
    server.pg_amcheck();
}

#[test]
fn root_restores_for_the_user_of_the_server() {
    let (cluster, barman) = source(&["--allow-group-access"]);
    barman.ok(&["backup", "main", "--wait"]);

    // Into directories that do not exist, while the source runs and uses its tablespaces.
    let destination = barman.path("new/place/data");
    let (fast, slow) = (barman.path("new/spaces/fast"), barman.path("slow"));
    account::make_dir(&slow);
    let rules = [format!("fast:{}", fast.display()), format!("slow:{}", slow.display())];
    let to = destination.to_str().unwrap();
    let mapped = ["--tablespace", &rules[0], "--tablespace", &rules[1]];
    restore_as_ourselves(
        &barman,
        &[&["restore", "main", "latest", to], mapped.as_slice()].concat(),
    );
    pg_verifybackup(VERSION, &destination, &[]);

    let account = account::current();
    let mut found = vec![];
    for directory in [&destination, &fast, &slow] {
        owners(directory, &mut found);
    }
    assert!(found.len() > 900, "{} files and directories", found.len());
    for (path, mode, user, group) in found {
        assert_eq!((user, group), (account.uid, account.gid), "{}", path.display());
        let wanted = if path.is_dir() { [0o700, 0o750] } else { [0o600, 0o640] };
        assert!(wanted.contains(&mode), "{}: {mode:o}", path.display());
        // What was backed up has the mode it had, if it was not rewritten for recovery.
        let name = path.strip_prefix(&destination).ok().filter(|name| name.starts_with("base"));
        if let Some(theirs) = name.and_then(|name| fs::metadata(cluster.data().join(name)).ok()) {
            assert_eq!(mode, theirs.mode() & 0o7777, "{}", path.display());
        }
    }
    for (space, location) in [("fast", &fast), ("slow", &slow)] {
        let oid = cluster.psql(&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{space}'"));
        let link = fs::read_link(destination.join("pg_tblspc").join(oid)).unwrap();
        assert_eq!(&link, location, "{space}");
    }

    let mut server = Cluster::on(VERSION, &destination);
    server.start();
    server.wait_for_recovery_end();
    for table in ["t", "f"] {
        assert_eq!(server.table_checksum(table), cluster.table_checksum(table), "{table}");
    }
    // Each has files of its own: what one does is not seen by the other.
    server.psql("DELETE FROM f; VACUUM FULL f; CREATE TABLE g TABLESPACE slow AS SELECT 1 AS one");
    server.psql("CHECKPOINT");
    assert_eq!(cluster.psql("SELECT count(*) FROM f"), "9000");
    // Nothing in the repository became root's: its user can go on.
    barman.ok(&["backup", "main", "--wait"]);
    barman.ok(&["repo", "check"]);
}
