//! Clusters of every shape come back as they were.

use std::fs;
use std::path::Path;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, Postgres, Shutdown};

/// Waits for the end of recovery, compares, and stops.
fn starts_with(version: u32, destination: &Path, tables: &[(&str, String)]) {
    // Its archive_command is 'false', which a shutdown would try again and again.
    let mut server = Cluster::on(version, destination).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    for (table, checksum) in tables {
        assert_eq!(&server.table_checksum(table), checksum, "{table}");
    }
    server.stop(Shutdown::Fast);
}

#[test]
fn tablespaces_relations_and_links_of_every_kind() {
    for version in Postgres::VERSIONS {
        let mut cluster = Cluster::builder(version)
            .initdb("--wal-segsize=1")
            .setting("allow_in_place_tablespaces", "on")
            .setting("temp_buffers", "800kB")
            .linked_wal()
            .start();
        let barman = Barman::initialised();
        barman.server("main", &cluster, "immediate_checkpoint = true\n");
        barman.archive_from("main", &mut cluster);
        cluster.create_tablespace("fast");
        cluster.psql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''");
        let long = "n".repeat(63);
        cluster.psql(&format!(
            "CREATE TABLE t TABLESPACE fast AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n; \
             CREATE TABLE i TABLESPACE inside AS SELECT n FROM generate_series(1, 5000) n; \
             CREATE TABLE {long} AS SELECT 1 AS one; \
             CREATE UNLOGGED TABLE forgotten AS SELECT n FROM generate_series(1, 9000) n; \
             CREATE TABLE sparse (n int, filler text)"
        ));
        let tables = ["t", "i", long.as_str()].map(|table| (table, cluster.table_checksum(table)));
        let mut session = cluster.client("psql");
        session.args(["-c", "CREATE TEMP TABLE passing AS SELECT n FROM generate_series(1, 50000) n; SELECT pg_sleep(20)"]);
        let passing = crate::support::Background::spawn(session);
        std::thread::sleep(std::time::Duration::from_millis(500));
        barman.ok(&["backup", "main", "--wait"]);
        drop(passing);

        // The tablespace's own place is taken by the running server: refused, with what to do.
        let destination = barman.path("restored");
        let to = destination.to_str().unwrap();
        let refused = barman.run(&["restore", "main", "latest", to]);
        assert_eq!(refused.status, 1, "{refused}");
        assert!(refused.stderr.contains("--tablespace fast:"), "{refused}");
        assert!(!destination.exists(), "nothing was written");

        let elsewhere = barman.path("fast-elsewhere");
        let rule = format!("fast:{}", elsewhere.display());
        barman.ok(&["restore", "main", "latest", to, "--tablespace", &rule]);
        pg_verifybackup(version, &destination, &[]);
        assert!(fs::read_dir(&elsewhere).unwrap().count() == 1);
        starts_with(version, &destination, &tables);
        let unlogged = Cluster::on(version, &destination);
        let mut unlogged = unlogged;
        unlogged.start();
        assert_eq!(unlogged.psql("SELECT count(*) FROM forgotten"), "0");
        unlogged.stop(Shutdown::Fast);
    }
}

fn a_relation_over_a_gibibyte(version: u32) {
    let mut cluster = Cluster::builder(version)
        .setting("max_wal_size", "4GB")
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("fsync", "off")
        .start();
    cluster.psql(
        "BEGIN; CREATE TABLE large (n bigint, filler text); ALTER TABLE large ALTER filler SET STORAGE PLAIN; \
         COPY large FROM PROGRAM 'seq 1 1150000 | awk ''{ printf \"%d\\t%0950d\\n\", $1, $1 }'''; COMMIT",
    );
    cluster.psql("ALTER SYSTEM SET wal_level = replica");
    cluster.psql("ALTER SYSTEM SET max_wal_senders = 10");
    cluster.restart();
    assert!(cluster.psql("SELECT pg_relation_size('large') > 1100 * 1024 * 1024") == "t");
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    let sum = "SELECT count(*) || ':' || sum(n) || ':' || sum(hashtext(filler)::bigint) FROM large";
    let expected = cluster.psql(sum);

    let measured = |arguments: &[&str]| {
        let command = barman.command(arguments);
        let mut timed = std::process::Command::new("/bin/sh");
        // The highest resident size, in KiB, of the only child there is.
        timed.arg("-c").arg("\"$@\" >/dev/null & p=$!; peak=0; while [ -d /proc/$p ]; do \
            m=$(awk '/VmHWM/ {print $2}' /proc/$p/status 2>/dev/null); [ \"${m:-0}\" -gt $peak ] && peak=$m; \
            sleep 0.05; done; wait $p || exit 1; echo $peak");
        timed.arg("sh").arg(command.get_program()).args(command.get_args());
        crate::support::account::prepare(&mut timed, &barman.path("."));
        timed.env("PATH", Postgres::path());
        let output = crate::support::process::run(timed).expect_success();
        output.stdout.trim().parse::<u64>().unwrap_or_else(|_| panic!("{output}")) / 1024
    };
    let backup = measured(&["backup", "main", "--wait"]);
    assert!(backup < 300, "the backup took {backup} MiB");
    let destination = barman.path("restored");
    let restore = measured(&["restore", "main", "latest", destination.to_str().unwrap()]);
    assert!(restore < 300, "the restore took {restore} MiB");
    pg_verifybackup(version, &destination, &[]);
    let mut server = Cluster::on(version, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql(sum), expected);
    server.stop(Shutdown::Fast);
}

#[test]
fn a_relation_over_a_gibibyte_of_postgresql_15_passes_in_little_memory_and_comes_back() {
    a_relation_over_a_gibibyte(15);
}

#[test]
fn a_relation_over_a_gibibyte_of_postgresql_17_passes_in_little_memory_and_comes_back() {
    a_relation_over_a_gibibyte(17);
}

#[test]
fn a_relation_over_a_gibibyte_of_postgresql_18_passes_in_little_memory_and_comes_back() {
    a_relation_over_a_gibibyte(18);
}

fn ten_thousand_small_relations(version: u32) {
    let mut cluster =
        Cluster::builder(version).setting("max_locks_per_transaction", "1024").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    for _ in 0..10 {
        cluster.psql(
            "DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE %I AS SELECT %s AS n', \
             't' || gen_random_uuid(), i); END LOOP; END $$",
        );
    }
    barman.ok(&["backup", "main", "--wait"]);
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    pg_verifybackup(version, &destination, &[]);
    let mut server = Cluster::on(version, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(
        server.psql("SELECT count(*) FROM pg_class WHERE relname LIKE 't%-%' AND relkind = 'r'"),
        "10000"
    );
    server.stop(Shutdown::Fast);
}

#[test]
fn ten_thousand_small_relations_of_postgresql_15() {
    ten_thousand_small_relations(15);
}

#[test]
fn ten_thousand_small_relations_of_postgresql_17() {
    ten_thousand_small_relations(17);
}

#[test]
fn ten_thousand_small_relations_of_postgresql_18() {
    ten_thousand_small_relations(18);
}

#[test]
fn every_page_of_an_idle_server_is_restored_and_a_second_backup_adds_nothing() {
    for version in Postgres::VERSIONS {
        let mut cluster = Cluster::builder(version).start();
        let barman = Barman::initialised();
        barman.server("main", &cluster, "immediate_checkpoint = true\n");
        barman.archive_from("main", &mut cluster);
        cluster.pgbench(&["-i", "-q", "-s", "5"]);
        cluster.psql("VACUUM FREEZE");
        cluster.psql("CHECKPOINT");
        barman.ok(&["backup", "main", "--wait"]);
        let stored = |id: &str| {
            let shown = barman.json(&["show-backup", "main", id]);
            shown["main"]["repository_information"]["stored_bytes"].as_u64().unwrap()
        };
        let (first, _) = (stored("latest"), ());
        barman.ok(&["backup", "main", "--wait"]);
        let second = stored("latest");
        assert!(second * 200 < first, "{second} bytes were added to {first}");

        cluster.stop(Shutdown::Fast);
        let destination = barman.path("restored");
        barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
        let mut compared = 0;
        compare_relations(cluster.data(), &destination, &mut compared);
        assert!(compared > 100, "{compared} relation files");
    }
}

/// Relation files are the same, page by page; only files of the catalogue that a shutdown writes differ.
fn compare_relations(source: &Path, restored: &Path, compared: &mut u32) {
    for database in fs::read_dir(source.join("base")).unwrap() {
        let name = database.unwrap().file_name();
        let (from, to) = (source.join("base").join(&name), restored.join("base").join(&name));
        for file in fs::read_dir(&from).unwrap() {
            let file = file.unwrap().file_name();
            let text = file.to_string_lossy().into_owned();
            if !text.starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            let (theirs, ours) =
                (fs::read(from.join(&file)).unwrap(), fs::read(to.join(&file)).unwrap());
            assert!(theirs == ours, "{name:?}/{text} differs");
            *compared += 1;
        }
    }
}

#[test]
fn tablespaces_come_in_whatever_order() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    for name in ["d", "b", "a", "c", "e"] {
        cluster.create_tablespace(name);
        cluster.psql(&format!("CREATE TABLE t_{name} TABLESPACE {name} AS SELECT 1 AS n"));
    }
    cluster.psql("DROP TABLE t_b; DROP TABLESPACE b");
    cluster.create_tablespace("f");
    barman.ok(&["backup", "main", "--wait"]);
    let destination = barman.path("restored");
    let spaces: Vec<String> = ["a", "c", "d", "e", "f"]
        .iter()
        .map(|name| format!("--tablespace={name}:{}", barman.path(&format!("to-{name}")).display()))
        .collect();
    let mut arguments = vec!["restore", "main", "latest", destination.to_str().unwrap()];
    arguments.extend(spaces.iter().map(String::as_str));
    barman.ok(&arguments);
    pg_verifybackup(17, &destination, &[]).expect_success();
}
