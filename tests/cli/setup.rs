//! The roles of `barman setup-sql` on real servers: enough for everything, and none of them superuser.

use crate::support::{Barman, Cluster, Postgres, Shutdown, account};

/// What the script grants, as it is revoked.
const REVOKED: [&str; 4] = [
    "pg_read_all_settings FROM \"barman\"",
    "pg_read_all_stats FROM \"barman\"",
    "EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() FROM \"barman\"",
    "EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) FROM \"barman\"",
];

/// Configures the server with a role for SQL and one for streaming.
fn with_roles(barman: &Barman, cluster: &Cluster, sql: &str, streaming: &str) {
    let as_role = |role: &str| {
        cluster
            .conninfo()
            .replace("user=postgres", &format!("user='{}'", role.replace('\'', "\\'")))
    };
    let text = format!(
        "[main]\nconninfo = {}\nstreaming_conninfo = {}\nimmediate_checkpoint = true\n",
        as_role(sql),
        as_role(streaming)
    );
    account::write_file(&barman.path("servers.d").join("main.conf"), &text);
}

#[track_caller]
fn run_script(barman: &Barman, cluster: &Cluster) -> String {
    let script = barman.ok(&["setup-sql", "main"]).stdout;
    let said = cluster.try_psql("postgres", &script);
    assert!(said.success(), "{said}\n{script}");
    script
}

#[test]
fn the_roles_of_the_script_are_enough_and_none_of_their_rights_is_too_much() {
    for version in Postgres::VERSIONS {
        let mut cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
        let barman = Barman::initialised();
        with_roles(&barman, &cluster, "barman", "streaming_barman");
        let script = run_script(&barman, &cluster);
        assert!(!script.contains("SUPERUSER"), "{script}");
        // Its roles let the second run ask the server.
        let again = run_script(&barman, &cluster);
        assert!(again.contains(&format!("PostgreSQL {version} to be backed up")), "{again}");
        assert!(again.contains("archive_mode = 'on'    # now 'off': needs a restart"), "{again}");
        barman.archive_from("main", &mut cluster);
        let supers = "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname LIKE '%barman'";
        assert_eq!(cluster.psql(supers), "0");

        cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
        barman.ok(&["check", "main"]);
        let backup = barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
        assert!(backup.stdout.contains(": DONE\n"), "{backup}");
        assert_eq!(backup.stderr, "");
        barman.ok(&["switch-wal", "main", "--force", "--archive"]);
        let status = barman.ok(&["status", "main"]).stdout;
        assert!(status.contains("Current data size") && status.contains("Data directory"));
        if version == 17 {
            restores(&barman, version);
        }
        for revoked in REVOKED {
            cluster.psql(&format!("REVOKE {revoked}"));
            let check = barman.run(&["check", "main"]);
            let statement = format!("GRANT {}", revoked.replace(" FROM ", " TO "));
            let line = format!(
                "\tno access to backup functions: FAILED (run as superuser in database postgres: \
                 {statement})\n"
            );
            assert!(check.stdout.contains(&line), "{line}: {check}");
            assert_eq!(check.stdout.matches("FAILED").count(), 1, "{check}");
            cluster.psql(&statement);
        }
        cluster.psql("ALTER ROLE streaming_barman NOREPLICATION");
        let check = barman.run(&["check", "main"]);
        let statement = "run as superuser: ALTER ROLE \"streaming_barman\" REPLICATION";
        let failed = check.stdout.lines().find(|line| line.contains("FAILED")).unwrap();
        assert!(failed.contains("PostgreSQL streaming: ") && failed.contains(statement), "{check}");
        assert_eq!(check.stdout.matches("FAILED").count(), 1, "{check}");
        cluster.psql("ALTER ROLE streaming_barman REPLICATION");
        barman.ok(&["check", "main"]);
    }
}

#[track_caller]
#[test]
fn where_files_are_read_two_more_functions_are_granted() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    with_roles(&barman, &cluster, "barman", "streaming_barman");
    let streamed = run_script(&barman, &cluster);
    assert!(!streamed.contains("pg_backup_start"), "{streamed}");
    barman.archive_from("main", &mut cluster);
    let config = barman.path("servers.d/main.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    account::write_file(&config, &format!("{text}backup_method = local\n"));
    let check = barman.run(&["check", "main"]);
    assert_eq!(check.status, 1, "{check}");
    assert!(check.stdout.contains("pg_backup_stop(boolean) TO"), "{check}");
    assert_eq!(barman.run(&["backup", "main"]).status, 1);
    run_script(&barman, &cluster);
    barman.ok(&["check", "main"]);
    let backup = barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
    assert_eq!(backup.stderr, "");
    let refused = barman.run(&["backup", "main", "--read", "changed"]);
    assert!(refused.stderr.contains("backup_method = postgres"), "{refused}");
    cluster.stop(Shutdown::Fast);
}

fn restores(barman: &Barman, version: u32) {
    let restored = barman.path("restored");
    account::make_dir(&restored);
    barman.ok(&["restore", "main", "latest", restored.to_str().unwrap()]);
    let mut server = Cluster::on(version, &restored);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql("SELECT count(*) FROM t"), "1000");
    server.stop(Shutdown::Fast);
}

#[test]
fn one_role_does_when_the_configuration_has_one() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    let odd = "o'brien $barman$ \"B\"";
    with_roles(&barman, &cluster, odd, odd);
    let script = run_script(&barman, &cluster);
    assert_eq!(script.matches("CREATE ROLE").count(), 1, "{script}");
    barman.archive_from("main", &mut cluster);
    barman.ok(&["check", "main"]);
    barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
}

#[test]
fn it_is_written_without_a_server_too() {
    let barman = Barman::new();
    let write = |conninfo: &str| {
        let text = format!("[main]\nconninfo = {conninfo}\n");
        account::write_file(&barman.path("servers.d").join("main.conf"), &text);
    };
    write("host=db.example sslmode=verify-full user=barman dbname=Main");
    let script = barman.ok(&["setup-sql", "main", "--pg-version", "17"]).stdout;
    for line in [
        "-- Prepares PostgreSQL 17 to be backed up as server 'main'.",
        "-- (With \"Main\" instead of all, backups do not note the extensions of other databases.)",
        "--   hostssl  all  barman  ADDRESS-OF-THE-BACKUP-HOST/32  scram-sha-256",
        "--   hostssl  replication  barman  ADDRESS-OF-THE-BACKUP-HOST/32  scram-sha-256",
        "--   wal_level = 'replica'    # needs a restart",
    ] {
        assert!(script.lines().any(|found| found == line), "{line}: {script}");
    }
    let json = barman.json(&["setup-sql", "main", "--pg-version", "18"]);
    assert!(json["main"]["sql"].as_str().unwrap().contains("PostgreSQL 18"), "{json}");
    let refused = barman.run(&["setup-sql", "main", "--pg-version", "14"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("15 or later"), "{refused}");
    // A name that would leave its comment is refused.
    write("postgresql://a%%0aDROP@db/postgres");
    let refused = barman.run(&["setup-sql", "main", "--pg-version", "17"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (1, ""), "{refused}");
}
