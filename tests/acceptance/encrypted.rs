//! A server that lets nobody in but over TLS, with a password that is bound to the connection.

use crate::support::account::write_file;
use crate::support::cluster::pg_verifybackup;
use crate::support::{Auth, Barman, Cluster};

const VERSION: u32 = 17;
const PASSWORD: &str = "pass # word; 100%";

#[test]
fn a_backup_over_verified_tls_with_channel_binding() {
    let mut cluster = Cluster::builder(VERSION)
        .initdb("--wal-segsize=1")
        .auth(Auth::Scram)
        .tls("nobody")
        .setting("log_connections", "on")
        .hba("local all,replication barman reject")
        .hba("hostnossl all,replication barman 127.0.0.1/32 reject")
        .hba("hostssl all,replication barman 127.0.0.1/32 scram-sha-256")
        .start();
    cluster.psql(&format!("CREATE ROLE barman SUPERUSER LOGIN REPLICATION PASSWORD '{PASSWORD}'"));
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 10000) AS n");
    let barman = Barman::initialised();
    barman.archive_from("main", &mut cluster);

    let passwords = barman.path("passwords");
    write_file(&passwords, &format!("*:*:*:barman:{PASSWORD}\n"));
    let configure = |root: &std::path::Path, binding: &str, host: &str| {
        let conninfo = format!(
            "host={host} hostaddr=127.0.0.1 port={} user=barman dbname=postgres \
             sslmode=verify-full sslrootcert={} channel_binding={binding} passfile={}",
            cluster.port(),
            root.display(),
            passwords.display()
        );
        let file = format!(
            "[main]\ndescription = over TLS\nconninfo = {conninfo}\n\
             streaming_conninfo = {conninfo}\nimmediate_checkpoint = true\n"
        );
        write_file(&barman.path("servers.d/main.conf"), &file);
    };

    let tls = cluster.tls();
    configure(&tls.ca, "require", "localhost");
    barman.ok(&["check", "main"]);
    barman.ok(&["backup", "main", "--wait"]);
    let log = cluster.log();
    for kind in ["connection", "replication connection"] {
        let authorized = format!("{kind} authorized: user=barman");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&authorized)).collect();
        assert!(!lines.is_empty(), "no {kind}: {log}");
        assert!(lines.iter().all(|line| line.contains("SSL enabled")), "{lines:?}");
    }
    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap()]);
    pg_verifybackup(VERSION, &destination, &[]);
    let mut server = Cluster::on(VERSION, &destination);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), cluster.table_checksum("t"));

    // Whom nobody vouches for is told nothing, least of all the password.
    for (root, host, reason) in [
        (&tls.client_certificate, "localhost", "UnknownIssuer"),
        (&tls.ca, "wrong.example", "not valid for name"),
    ] {
        configure(root, "require", host);
        let check = barman.run(&["check", "main"]);
        assert_eq!(check.status, 1, "{check}");
        for name in ["PostgreSQL", "PostgreSQL streaming"] {
            let line = check.stdout.lines().find(|l| l.starts_with(&format!("\t{name}: FAILED")));
            assert!(line.is_some_and(|line| line.contains(reason)), "{name}, {reason}: {check}");
        }
        let backup = barman.run(&["backup", "main"]);
        assert_eq!(backup.status, 1, "{backup}");
        for output in [check, backup] {
            assert!(!output.to_string().contains("pass # word"), "{output}");
        }
    }
    let listed = barman.json(&["list-backups", "main"]);
    assert_eq!(listed["main"].as_array().unwrap().len(), 1, "{listed}");
}
