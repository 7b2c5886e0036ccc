//! WAL segments of other sizes than usual, and past the end of a log: 4 GiB.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, process, wait_until};

const VERSION: u32 = 17;

/// An archiving server whose next segment is the last but one of its first log.
fn near_the_end_of_a_log(mebibytes: u32) -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(VERSION)
        .initdb(&format!("--wal-segsize={mebibytes}"))
        .setting("wal_keep_size", "1GB")
        .create();
    let next = format!("0000000100000000{:08X}", 4096 / mebibytes - 2);
    let mut command = cluster.postgres().command("pg_resetwal", cluster.directory());
    command.arg("--next-wal-file").arg(&next).arg("-D").arg(cluster.data());
    process::run(command).expect_success();
    cluster.start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

/// `wal` is where recovery gets it from.
fn segments_of(mebibytes: u32, wal: &str) {
    let (cluster, barman) = near_the_end_of_a_log(mebibytes);
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n");
    barman.ok(&["backup", "main", "--wait"]);
    let shown = barman.json(&["show-backup", "main", "latest"])["main"].clone();
    assert_eq!(shown["status"], json!("DONE"), "{shown}");

    // From here on over the end of the log, where the numbering of segments begins anew.
    for n in 0..3 {
        cluster.psql(&format!(
            "INSERT INTO t SELECT {n}, md5(n::text) FROM generate_series(1, 9000) n"
        ));
        cluster.switch_wal();
    }
    let expected = cluster.table_checksum("t");
    let time = cluster.psql("SELECT clock_timestamp()");
    cluster.psql("DELETE FROM t WHERE n % 2 = 0");
    let last = cluster.switch_wal();
    assert!(last.starts_with("0000000100000001"), "{last}");
    wait_until(Duration::from_secs(60), || {
        cluster.psql(&format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver")) == "t"
    });

    let fetched = barman.path("fetched");
    let first_of_log = "000000010000000100000000";
    for name in [first_of_log, last.as_str()] {
        barman.ok(&["wal-restore", "main", name, fetched.to_str().unwrap()]);
        assert_eq!(fs::metadata(&fetched).unwrap().len(), u64::from(mebibytes) << 20);
    }
    let theirs = fs::read(cluster.data().join("pg_wal").join(&last)).unwrap();
    assert!(fs::read(&fetched).unwrap() == theirs, "{last} came back changed");
    // What is behind a switch is zeros, and takes no room.
    let info = barman.json(&["repo", "info"])["repository"].clone();
    assert!(info["wal_bytes"].as_u64().unwrap() < 16 << 20, "{info}");

    let destination = barman.path("restored");
    let to = destination.to_str().unwrap();
    let at = ["--target-time", time.as_str(), "--target-action", "promote", wal];
    barman.ok(&[["restore", "main", "latest", to].as_slice(), &at].concat());
    pg_verifybackup(VERSION, &destination, &[]);
    assert_eq!(checksum_of(&destination), expected);
}

/// The checksum of table `t` when the server has recovered; it goes on in segments of the same size.
fn checksum_of(destination: &Path) -> String {
    let mut server = Cluster::on(VERSION, destination);
    server.start();
    server.wait_for_recovery_end();
    let checksum = server.table_checksum("t");
    server.switch_wal();
    checksum
}

#[test]
fn segments_of_64_mib() {
    segments_of(64, "--no-get-wal");
}

#[test]
fn segments_of_1_mib() {
    segments_of(1, "--get-wal");
}
