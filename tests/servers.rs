//! The test servers themselves: each version starts, stops, recovers and answers.

use crate::support::cluster::{pg_checksums, pg_verifybackup};
use crate::support::{Auth, Barman, Cluster, Postgres, Shutdown, process};

#[test]
fn every_version_keeps_its_table_over_a_restart() {
    for version in Postgres::VERSIONS {
        let mut cluster = Cluster::builder(version).initdb("--wal-segsize=1").start();
        assert_eq!(cluster.psql("SHOW server_version_num")[..2], version.to_string());
        cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 10000) i");
        let before = cluster.table_checksum("t");
        assert!(before.starts_with("10000:"), "{before}");
        cluster.stop(Shutdown::Immediate);
        assert!(!cluster.is_running());
        cluster.start();
        assert_eq!(cluster.table_checksum("t"), before);
        cluster.psql("UPDATE t SET md5 = 'other' WHERE i = 1");
        assert_ne!(cluster.table_checksum("t"), before);
        cluster.stop(Shutdown::Fast);
        pg_checksums(version, cluster.data());
    }
}

#[test]
fn a_copied_data_directory_starts_beside_its_source() {
    for version in Postgres::VERSIONS {
        let cluster = Cluster::builder(version).linked_wal().start();
        cluster.create_tablespace("elsewhere");
        cluster.pgbench(&["-i", "-q", "-s", "1"]);
        let before = cluster.table_checksum("pgbench_accounts");
        let copy = cluster.directory().join("copy");
        let mapping = cluster.directory().join("tablespace-copy");
        let mut command = cluster.client("pg_basebackup");
        command.arg("-D").arg(&copy).args(["--checkpoint=fast", "--no-sync", "-T"]).arg(format!(
            "{}={}",
            cluster.directory().join("tablespace-elsewhere").display(),
            mapping.display()
        ));
        process::run(command).expect_success();
        pg_verifybackup(version, &copy, &[]);
        let mut restored = Cluster::on(version, &copy).option("archive_mode", "off");
        restored.start();
        assert_ne!(restored.port(), cluster.port());
        assert_eq!(restored.table_checksum("pgbench_accounts"), before);
        restored.pg_amcheck();
    }
}

#[test]
fn scram_and_client_certificates_are_asked_for() {
    let cluster = Cluster::builder(17)
        .auth(Auth::Scram)
        .tls("carl")
        .hba("hostssl all carl 127.0.0.1/32 cert")
        .start();
    cluster.psql("CREATE ROLE carl LOGIN");
    let connect = |conninfo: String| {
        let mut command = cluster.client("psql");
        command.args(["-X", "-A", "-t", "-c", "SELECT current_user", "-d"]).arg(conninfo);
        process::run(command)
    };
    assert_eq!(connect(cluster.tcp_conninfo()).expect_success().stdout, "postgres\n");
    assert!(!connect(cluster.tcp_conninfo_as("postgres", "wrong")).success());
    let tls = cluster.tls();
    let verified = format!(
        "host=localhost port={} user=carl dbname=postgres sslmode=verify-full \
         sslrootcert={} sslcert={} sslkey={}",
        cluster.port(),
        tls.ca.display(),
        tls.client_certificate.display(),
        tls.client_key.display()
    );
    assert_eq!(connect(verified).expect_success().stdout, "carl\n");
    assert!(!connect(cluster.tcp_conninfo_as("carl", "")).success());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let mut cluster = Cluster::builder(15).setting("shared_buffers", "nonsense").create();
    let log = cluster.try_start().unwrap_err();
    assert!(log.contains("shared_buffers"), "{log}");
}

#[test]
fn the_sandbox_runs_the_command() {
    let barman = Barman::new();
    assert!(barman.run(&["--version"]).success());
    assert!(barman.archive_command("main").ends_with("wal-archive main %p"));
}
