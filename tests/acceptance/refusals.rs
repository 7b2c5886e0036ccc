//! What cannot be done is refused before anything is written, with the reason.

use crate::support::{Barman, Cluster, Output};

#[track_caller]
fn refused(barman: &Barman, arguments: &[&str], words: &[&str]) -> Output {
    let destination = barman.path("refused");
    let to = destination.to_str().unwrap();
    let output = barman.run(&[&["restore", "main", "latest", to], arguments].concat());
    assert_ne!(output.status, 0, "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?}: {output}");
    }
    assert!(!destination.exists(), "nothing is written");
    output
}

#[test]
fn targets_that_the_archive_cannot_reach() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    let before = cluster.psql("SELECT clock_timestamp()");
    barman.ok(&["backup", "main", "--wait"]);
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);

    refused(&barman, &["--target-time", &before], &["before the end of backup"]);
    refused(
        &barman,
        &["--target-time", "2100-01-01 00:00:00+00"],
        &["does not reach", "last commit"],
    );
    refused(&barman, &["--target-lsn", "F0/0"], &["WAL is missing, from"]);
    refused(&barman, &["--target-name", "nowhere"], &["restore point \"nowhere\""]);
    refused(&barman, &["--target-xid", "999999"], &["transaction 999999"]);
    refused(&barman, &["--target-tli", "7"], &["no history of timeline 7"]);
    refused(&barman, &["--tablespace", "none:/tmp/none"], &["no tablespace \"none\""]);
    for outside in ["../outside.conf", "/tmp/outside.conf", "a/b", "backup_label", ""] {
        let words = ["--recovery-conf-filename", "at the top of the destination"];
        refused(&barman, &["--recovery-conf-filename", outside], &words);
    }

    // A segment in the middle is lost: what lies behind it cannot be reached.
    let wal = barman.repository().join("wal/main");
    let mut segments: Vec<_> = walk(&wal)
        .into_iter()
        .filter(|path| path.file_name().unwrap().len() == 24 + 1 + 32)
        .collect();
    segments.sort();
    let lost = segments.remove(segments.len() - 2);
    let name = lost.file_name().unwrap().to_str().unwrap()[..24].to_owned();
    std::fs::remove_file(lost).unwrap();
    let lsn = cluster.current_lsn();
    let output = refused(&barman, &["--target-lsn", &lsn], &["WAL is missing, from", &name]);
    assert!(output.stderr.contains("HINT"), "{output}");

    // A destination with anything in it is left alone.
    let taken = barman.path("taken");
    crate::support::account::make_dir(&taken);
    std::fs::write(taken.join("precious"), "data").unwrap();
    let output = barman.run(&["restore", "main", "latest", taken.to_str().unwrap()]);
    assert!(output.status == 1 && output.stderr.contains("is not empty"), "{output}");
    assert_eq!(std::fs::read_dir(taken).unwrap().count(), 1);
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
