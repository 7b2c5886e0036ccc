//! Restores of single databases out of a cluster.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, Shutdown};

/// The bytes that a file has, and those that it takes on the disk.
fn sizes(path: &Path) -> (u64, u64) {
    let found = fs::metadata(path).unwrap();
    (found.len(), found.blocks() * 512)
}

fn other_databases_are_holes(version: u32) {
    let mut cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.create_tablespace("fast");
    for name in ["shop", "other", "draft"] {
        cluster.psql(&format!("CREATE DATABASE {name}"));
        cluster.psql_in(
            name,
            "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n; \
             CREATE TABLE far TABLESPACE fast AS SELECT * FROM t",
        );
    }
    // pg_database is somewhere else than initdb put it, and has rows that are dead.
    cluster.psql("VACUUM FULL pg_database");
    cluster.psql("ALTER DATABASE draft RENAME TO secret");
    let paths = |name: &str| {
        ["t", "far", "pg_class"]
            .map(|table| cluster.psql_in(name, &format!("SELECT pg_relation_filepath('{table}')")))
    };
    let (shop, other) = (paths("shop"), paths("other"));
    barman.ok(&["backup", "main", "--wait"]);
    // Recovery meets the files that are all zeros.
    for name in ["shop", "other"] {
        cluster.psql_in(name, "UPDATE t SET md5 = 'x' WHERE n % 10 = 0; DELETE FROM far; VACUUM t");
    }
    cluster.psql("CREATE DATABASE later");
    let wanted = cluster.table_checksum_in("shop", "t");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);

    let to = barman.path("restored");
    let rule = format!("fast:{}", barman.path("fast").display());
    let arguments = |more: &[&'static str]| -> Vec<String> {
        let to = to.to_str().unwrap();
        let all = ["restore", "main", "latest", to, "--tablespace", &rule];
        all.into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let run = |more: &[&'static str]| {
        let arguments = arguments(more);
        barman.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let unknown = run(&["--only-database", "sh0p"]);
    assert_eq!(unknown.status, 1, "{unknown}");
    assert!(unknown.stderr.contains("no database \"sh0p\""), "{unknown}");
    let known = "it has: other, postgres, secret, shop, template0, template1";
    assert!(unknown.stderr.contains(known), "{unknown}");
    assert!(!to.exists());
    let check = || {
        for path in &shop {
            assert!(sizes(&to.join(path)).1 > 0, "{path}");
        }
        for path in &other {
            let (length, taken) = sizes(&to.join(path));
            // What is small, and was there, is not worth being made anew.
            assert!(taken == 0 || length < 1 << 20, "{path}: {length} {taken}");
            let content = fs::read(to.join(path)).unwrap();
            assert!(length > 0 && content.iter().all(|byte| *byte == 0), "{path}");
        }
        pg_verifybackup(version, &to, &[]);
    };
    let restored = run(&["--only-database", "shop"]).expect_success();
    for words in
        ["database other is all zeros", "DROP DATABASE \"other\"; DROP DATABASE \"secret\""]
    {
        assert!(restored.stdout.contains(words), "{words}: {restored}");
    }
    check();
    let mut server = Cluster::on(version, &to).option("archive_mode", "off");
    let start = |server: &mut Cluster| {
        server.start();
        server.wait_for_recovery_end();
        assert_eq!(server.table_checksum_in("shop", "t"), wanted);
        assert_eq!(server.psql_in("shop", "SELECT count(*) FROM far"), "0");
        assert_eq!(server.psql_in("later", "SELECT 1"), "1");
        assert_ne!(server.try_psql("other", "SELECT count(*) FROM t").status, 0);
        server.psql("DROP DATABASE other");
        server.psql("DROP DATABASE secret");
        server.psql_in("shop", "INSERT INTO t VALUES (0, 'after'); VACUUM FREEZE");
        server.stop(Shutdown::Fast);
    };
    start(&mut server);

    // In place too; and all of it again, where it was holes.
    run(&["--delta", "--only-database", "shop", "--only-database", "secret"]).expect_success();
    check();
    let whole = run(&["--delta"]).expect_success();
    assert!(!whole.stdout.contains("DROP DATABASE"), "{whole}");
    run(&["--delta", "--only-database", "shop"]).expect_success();
    check();
    run(&["--delta"]).expect_success();
    server.start();
    server.wait_for_recovery_end();
    for name in ["shop", "other"] {
        assert_eq!(server.table_checksum_in(name, "t"), cluster.table_checksum_in(name, "t"));
    }
    server.stop(Shutdown::Fast);
}

#[test]
fn other_databases_are_holes_on_postgresql_15() {
    other_databases_are_holes(15);
}

#[test]
fn other_databases_are_holes_on_postgresql_17() {
    other_databases_are_holes(17);
}

#[test]
fn other_databases_are_holes_on_postgresql_18() {
    other_databases_are_holes(18);
}
