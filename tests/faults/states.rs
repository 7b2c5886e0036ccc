//! The table of docs/what-happens-when.md: what each command does in each state of its repository.

use std::fs;
use std::process::Command;
use std::time::Duration;

use barman::storage::local::durable_rename;
use rustix::process::Signal;

use super::golden_copy::{files, sandbox};
use super::small_disk::SmallDisk;
use crate::support::{Barman, Cluster, account};

/// What a command ends with, and a part of what it says where that is a failure.
type Outcome = (i32, &'static str);

const DONE: Outcome = (0, "");
const ABSENT: &str = "does not exist";
const UNMOUNTED: &str = "there is no repository in";
const READ_ONLY: &str = "read-only";
const FULL: &str = "no space is left";

/// The states, in the order of the table.
const STATES: [&str; 4] = ["away", "not mounted", "read-only", "full"];

/// The commands, with their outcomes in this order. `SEGMENT` is one that is archived, `NEW` one that is not.
const ROWS: [(&str, [Outcome; 4]); 14] = [
    ("wal-archive other NEW", [(1, ABSENT), (1, UNMOUNTED), (1, READ_ONLY), (1, FULL)]),
    ("wal-restore main SEGMENT TO", [(126, ABSENT), (126, UNMOUNTED), DONE, DONE]),
    ("get-wal main SEGMENT", [(126, ABSENT), (126, UNMOUNTED), DONE, DONE]),
    ("backup main", [(1, ABSENT), (1, UNMOUNTED), (1, "checks failed"), (1, "checks failed")]),
    ("check main", [(1, ""), (1, ""), (1, ""), (1, "")]),
    ("list-backups main", [(1, ABSENT), (1, UNMOUNTED), DONE, DONE]),
    ("show-backup main latest", [(1, ABSENT), (1, UNMOUNTED), DONE, DONE]),
    ("verify-backup main latest", [(1, ABSENT), (1, UNMOUNTED), DONE, DONE]),
    ("restore main latest TO", [(1, ABSENT), (1, UNMOUNTED), DONE, DONE]),
    ("repo check", [(1, ABSENT), (1, UNMOUNTED), DONE, DONE]),
    ("keep main latest --target full", [(1, ABSENT), (1, UNMOUNTED), (1, READ_ONLY), (1, FULL)]),
    ("delete main oldest", [(1, ABSENT), (1, UNMOUNTED), (1, READ_ONLY), DONE]),
    ("repo prune --server main", [(1, ABSENT), (1, UNMOUNTED), (1, READ_ONLY), DONE]),
    ("cron", [(1, ABSENT), (1, UNMOUNTED), (1, READ_ONLY), DONE]),
];

/// The names of two segments: one that the golden repository has, and a file that it does not have.
fn segments(barman: &Barman) -> (String, String) {
    let archived = files(&barman.repository().join("wal")).remove(0);
    let name = archived.file_name().unwrap().to_string_lossy();
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let new = cluster.switch_wal();
    let copy = barman.path(&new);
    fs::copy(cluster.data().join("pg_wal").join(&new), &copy).unwrap();
    account::hand_over(&copy);
    (name.split('-').next().unwrap().to_owned(), copy.to_str().unwrap().to_owned())
}

#[test]
fn every_command_says_what_the_table_says() {
    let barman = sandbox();
    barman.write_config(
        "[main]\nconninfo = host=/nowhere\nwal_restore_timeout = 0\nrepository_reserve = 1Mi\n\
         [other]\nconninfo = host=/nowhere\nrepository_reserve = 1Mi\n",
    );
    let (archived, new) = segments(&barman);
    let play = |state: usize| {
        for (row, outcomes) in ROWS {
            let (status, words) = outcomes[state];
            let to = barman.path(&format!("to-{state}"));
            let line = row
                .replace("SEGMENT", &archived)
                .replace("NEW", &new)
                .replace("TO", to.to_str().unwrap());
            let output = barman.run(&line.split(' ').collect::<Vec<_>>());
            let _ = fs::remove_dir_all(&to);
            let _ = fs::remove_file(&to);
            let state = STATES[state];
            assert_eq!(output.status, status, "{state}: {output}");
            assert!(output.stderr.contains(words), "{state}: {words}: {output}");
        }
    };
    let (repository, away) = (barman.repository(), barman.path("away"));
    durable_rename(&repository, &away).unwrap();
    play(0);
    account::make_dir(&repository);
    play(1);
    assert_eq!(fs::read_dir(&repository).unwrap().count(), 0);
    fs::remove_dir(&repository).unwrap();
    if !account::is_root() {
        eprintln!("only root can mount a small file system");
        return;
    }
    let disk = SmallDisk::mount(&repository);
    let mut copy = Command::new("cp");
    assert!(copy.arg("-a").arg(away.join(".")).arg(&repository).status().unwrap().success());
    account::hand_over(&repository);
    barman.ok(&["repo", "prune", "--server", "main"]);
    assert!(repository.join(".reserve").exists());
    disk.remount("ro");
    play(2);
    disk.remount("rw");
    disk.fill();
    play(3);
}

#[test]
fn who_waits_for_a_store_that_hangs_can_be_interrupted() {
    let barman = sandbox();
    let slot = files(&barman.repository().join("keys")).remove(0);
    fs::remove_file(&slot).unwrap();
    assert!(Command::new("mkfifo").arg(&slot).status().unwrap().success());
    account::hand_over(&slot);
    for command in ["list-backups", "restore", "delete"] {
        let arguments: &[&str] = match command {
            "restore" => &["restore", "main", "latest", "/nowhere/at/all"],
            "delete" => &["delete", "main", "oldest"],
            _ => &[command, "main"],
        };
        let mut waiting = barman.spawn(arguments);
        std::thread::sleep(Duration::from_millis(700));
        assert!(waiting.is_running(), "{command}: {}", waiting.stderr());
        waiting.signal(Signal::INT);
        assert_eq!(waiting.wait(Duration::from_secs(20)).status, 130, "{command}");
    }
    let checked = barman.run(&["check", "main", "--check-timeout", "1"]);
    assert_eq!(checked.status, 1, "{checked}");
    assert!(checked.stdout.contains("repository: FAILED (no answer in"), "{checked}");
}
