//! A server under load is backed up and restored to moments of every kind, on every version.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::cluster::{pg_checksums, pg_verifybackup};
use crate::support::{Barman, Cluster, Shutdown};

/// What a server held at some moment, and how to name that moment.
struct Moment {
    name: &'static str,
    arguments: Vec<String>,
    checksum: String,
}

fn moments_are_restored(version: u32) {
    let mut cluster = Cluster::builder(version).initdb("--wal-segsize=4").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.pgbench(&["-i", "-q", "-s", "2"]);
    let checksum = |cluster: &Cluster| cluster.table_checksum("pgbench_accounts");

    let load = cluster.pgbench_background(&["-n", "-c", "2", "-T", "60"]);
    std::thread::sleep(Duration::from_secs(1));
    barman.ok(&["backup", "main", "--wait", "--name", "loaded"]);
    drop(load);
    cluster.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'",
    );

    let mut moments = vec![];
    let work = || cluster.pgbench(&["-n", "-t", "50"]);
    work();
    let time = cluster.psql("SELECT clock_timestamp()");
    moments.push(("time", vec!["--target-time".into(), time], checksum(&cluster)));
    std::thread::sleep(Duration::from_millis(50));
    work();
    let xid = cluster.psql(
        "BEGIN; UPDATE pgbench_accounts SET abalance = 4711 WHERE aid = 1; \
         SELECT pg_current_xact_id(); COMMIT",
    );
    let after_xid = checksum(&cluster);
    moments.push(("xid", vec!["--target-xid".into(), xid], after_xid));
    work();
    let lsn = cluster.psql("SELECT pg_current_wal_insert_lsn()");
    moments.push(("lsn", vec!["--target-lsn".into(), lsn], checksum(&cluster)));
    work();
    cluster.psql("SELECT pg_create_restore_point('the place')");
    moments.push(("name", vec!["--target-name".into(), "the place".into()], checksum(&cluster)));
    work();
    moments.push(("latest", vec![], checksum(&cluster)));
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);

    for (name, mut arguments, checksum) in moments {
        if !arguments.is_empty() {
            arguments.extend(["--target-action".into(), "promote".into()]);
        }
        restored_is(&barman, version, &Moment { name, arguments, checksum });
    }

    // As soon as it is consistent; nobody knows what the load had done by then.
    let destination =
        restore(&barman, "immediate", &["--target-immediate", "--target-action", "promote"]);
    pg_verifybackup(version, &destination, &[]);
    let server = started(version, &destination);
    assert_eq!(server.psql("SELECT count(*) FROM pgbench_accounts"), "200000");
    server.pg_amcheck();
    drop(server);

    second_timeline(&barman, version, &cluster);
}

/// A restored server goes on as the new primary, on timeline 2; both timelines can be restored.
fn second_timeline(barman: &Barman, version: u32, cluster: &Cluster) {
    let first = cluster.table_checksum("pgbench_accounts");
    let destination = restore(barman, "second", &["--get-wal"]);
    let mut second = Cluster::on(version, &destination)
        .option("archive_command", &barman.archive_command("main"));
    second.start();
    second.wait_for_recovery_end();
    assert_eq!(second.table_checksum("pgbench_accounts"), first);
    second.pgbench(&["-n", "-t", "50"]);
    let on_second = second.table_checksum("pgbench_accounts");
    assert_ne!(on_second, first);
    second.switch_wal();
    crate::support::wait_until(Duration::from_secs(60), || {
        second.psql("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
            == "0"
    });
    second.stop(Shutdown::Fast);
    for (name, timeline, checksum) in
        [("newest", "latest", &on_second), ("number", "2", &on_second), ("old", "current", &first)]
    {
        let arguments = vec!["--target-tli".to_owned(), timeline.to_owned()];
        restored_is(barman, version, &Moment { name, arguments, checksum: checksum.clone() });
    }
}

fn restored_is(barman: &Barman, version: u32, moment: &Moment) {
    let arguments: Vec<&str> = moment.arguments.iter().map(String::as_str).collect();
    let destination = restore(barman, moment.name, &arguments);
    pg_verifybackup(version, &destination, &[]);
    let mut server = started(version, &destination);
    assert_eq!(
        server.table_checksum("pgbench_accounts"),
        moment.checksum,
        "PostgreSQL {version}, target {}",
        moment.name
    );
    server.pg_amcheck();
    server.stop(Shutdown::Fast);
    pg_checksums(version, &destination);
    std::fs::remove_dir_all(destination).unwrap();
}

fn restore(barman: &Barman, name: &str, arguments: &[&str]) -> PathBuf {
    let destination = barman.path(&format!("restored-{name}"));
    let to = destination.to_str().unwrap();
    barman.ok(&[&["restore", "main", "loaded", to], arguments].concat());
    destination
}

fn started(version: u32, destination: &std::path::Path) -> Cluster {
    // Its archive_command is 'false', which a shutdown would try again and again.
    let mut server = Cluster::on(version, destination).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    server
}

#[test]
fn moments_of_postgresql_15() {
    moments_are_restored(15);
}

#[test]
fn moments_of_postgresql_17() {
    moments_are_restored(17);
}

#[test]
fn moments_of_postgresql_18() {
    moments_are_restored(18);
}
