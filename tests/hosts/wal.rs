//! `barman-wal-archive` and `barman-wal-restore`, over a real SSH server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::process::{self, Output};
use crate::support::sshd::Sshd;
use crate::support::{Barman, Cluster, Shutdown, account, wait_until};

/// Runs a program of a database host in `directory`.
fn host(
    sshd: &Sshd,
    barman: &Barman,
    program: &str,
    options: &[&str],
    arguments: &[&str],
    directory: &Path,
) -> Output {
    let mut command = Command::new(sshd.program(barman, program));
    account::prepare(&mut command, sshd.directory());
    command.args(options).args(sshd.arguments()).args(arguments).current_dir(directory);
    process::run(command)
}

/// A `%p`-command of PostgreSQL that runs a program of a database host.
fn shell(sshd: &Sshd, barman: &Barman, program: &str, arguments: &str) -> String {
    let quoted: Vec<String> = sshd.arguments().iter().map(|word| format!("\"{word}\"")).collect();
    format!("{} {} {arguments}", sshd.program(barman, program).display(), quoted.join(" "))
}

#[test]
fn a_database_host_without_a_key_archives_and_restores() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    let sshd = Sshd::start(&barman);
    let directory = cluster.data().to_owned();
    let test = host(&sshd, &barman, "barman-wal-archive", &["--test"], &["main"], &directory);
    assert_eq!(test.status, 0, "{test}");
    assert!(test.stdout.contains("Ready to accept WAL files for the server main"), "{test}");

    let archive = shell(&sshd, &barman, "barman-wal-archive", "main %p");
    cluster.psql("ALTER SYSTEM SET archive_mode = on");
    cluster.psql(&format!("ALTER SYSTEM SET archive_command = '{archive}'"));
    cluster.restart();
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    barman.ok(&["check", "main"]);
    barman.ok(&["backup", "main", "--wait"]);
    cluster.psql("INSERT INTO t SELECT n, 'later' FROM generate_series(1, 5000) n");
    let checksum = cluster.table_checksum("t");
    barman.ok(&["switch-wal", "main", "--force", "--archive"]);
    cluster.stop(Shutdown::Fast);

    let destination = barman.path("restored");
    barman.ok(&["restore", "main", "latest", destination.to_str().unwrap(), "--get-wal"]);
    let mut restored = Cluster::on(17, &destination)
        .option("restore_command", &shell(&sshd, &barman, "barman-wal-restore", "main %f %p"))
        .option("archive_command", &archive)
        .option("archive_mode", "on");
    restored.start();
    restored.wait_for_recovery_end();
    assert_eq!(restored.table_checksum("t"), checksum);
    // The history file of the new timeline comes without its data directory.
    let history = || {
        let output = barman.run(&["get-wal", "main", "00000002.history"]);
        output.status == 0 && output.stdout.contains("no recovery target specified")
    };
    wait_until(Duration::from_secs(60), history);
    restored.stop(Shutdown::Fast);
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn exit_codes_say_what_postgresql_must_do() {
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "wal_restore_timeout = 0\n");
    let mut sshd = Sshd::start(&barman);
    let segment = cluster.switch_wal();
    let here = barman.path("here");
    account::make_dir(&here);
    let path = cluster.data().join("pg_wal").join(&segment);
    let path = path.to_str().unwrap();
    let archive = |sshd: &Sshd, options: &[&str], server: &str| {
        host(sshd, &barman, "barman-wal-archive", options, &[server, path], &here)
    };
    let restore = |sshd: &Sshd, options: &[&str], file: &str| {
        let _ = fs::remove_file(here.join("to"));
        host(sshd, &barman, "barman-wal-restore", options, &["main", file, "to"], &here)
    };
    for compression in ["--gzip", "--bzip2", "--zstd"] {
        assert_eq!(archive(&sshd, &[compression], "main").status, 0);
    }
    assert_eq!(restore(&sshd, &[], &segment).status, 0);
    assert_eq!(fs::read(here.join("to")).unwrap(), fs::read(path).unwrap());
    let absent = restore(&sshd, &[], "000000010000000000000099");
    assert_eq!((absent.status, absent.stderr.as_str()), (1, ""), "{absent}");
    assert!(!here.join("to").exists());

    let unknown = archive(&sshd, &[], "nobody");
    assert_eq!(unknown.status, 1, "{unknown}");
    assert!(unknown.stderr.contains("nobody"), "{unknown}");
    assert_eq!(unknown.stderr.trim().lines().count(), 1, "{unknown}");
    assert_eq!(restore(&sshd, &["--timeout", "0"], "nonsense").status, 126);

    // The repository is away: nobody may take that for the end of the archive.
    let (repository, away) = (barman.repository(), barman.path("away"));
    barman::storage::local::durable_rename(&repository, &away).unwrap();
    let lost = restore(&sshd, &["--timeout", "0"], &segment);
    assert_eq!(lost.status, 126, "{lost}");
    assert!(lost.stderr.contains("no repository") || lost.stderr.contains("not exist"), "{lost}");
    assert_eq!(restore(&sshd, &["--timeout", "0", "--on-error", "missing"], &segment).status, 1);
    assert_eq!(archive(&sshd, &[], "main").status, 1);
    fs::write(here.join("standby.signal"), "").unwrap();
    let standby = restore(&sshd, &["--timeout", "2"], &segment);
    assert_eq!(standby.status, 1, "a standby asks again by itself: {standby}");
    assert_eq!(restore(&sshd, &["--timeout", "0", "--on-error", "abort"], &segment).status, 126);
    fs::remove_file(here.join("standby.signal")).unwrap();
    barman::storage::local::durable_rename(&away, &repository).unwrap();

    // The repository there hangs, or the file here does.
    let slot = fs::read_dir(repository.join("keys")).unwrap().next().unwrap().unwrap().path();
    let kept = barman.path("slot");
    barman::storage::local::durable_rename(&slot, &kept).unwrap();
    let hang = |path: &Path| {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        account::hand_over(path);
    };
    hang(&slot);
    let late = archive(&sshd, &["--timeout", "2"], "main");
    assert_eq!((late.status, late.stderr.trim().lines().count()), (1, 1), "{late}");
    fs::remove_file(&slot).unwrap();
    barman::storage::local::durable_rename(&kept, &slot).unwrap();
    let stuck = here.join(&segment);
    hang(&stuck);
    let stuck = ["main", stuck.to_str().unwrap()];
    let late = host(&sshd, &barman, "barman-wal-archive", &["--timeout", "1"], &stuck, &here);
    assert_eq!((late.status, late.stderr.trim().lines().count()), (1, 1), "{late}");

    sshd.stop();
    let unreachable = archive(&sshd, &[], "main");
    assert_eq!(unreachable.status, 1, "{unreachable}");
    assert!(unreachable.stderr.contains("cannot reach"), "{unreachable}");
    assert_eq!(archive(&sshd, &["--barman-exit-codes"], "main").status, 3);
    assert_eq!(restore(&sshd, &["--timeout", "0"], &segment).status, 126);
    assert_eq!(restore(&sshd, &["--timeout", "0", "--barman-exit-codes"], &segment).status, 2);
    // It comes back while it is asked for.
    let mut waiting = Command::new(sshd.program(&barman, "barman-wal-restore"));
    account::prepare(&mut waiting, sshd.directory());
    waiting.args(sshd.arguments()).args(["main", &segment, "to"]).current_dir(&here);
    let waiting = process::Background::spawn(waiting);
    wait_until(Duration::from_secs(20), || waiting.stderr().contains("asking again"));
    sshd.resume();
    let got = waiting.wait(Duration::from_secs(60));
    assert_eq!(got.status, 0, "{got}");
    assert_eq!(fs::read(here.join("to")).unwrap(), fs::read(path).unwrap());
}

#[test]
fn what_a_client_sends_is_checked() {
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "");
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    let content = fs::read(&path).unwrap();
    let put = |sent: &[u8]| {
        let file = barman.path("sent");
        fs::write(&file, sent).unwrap();
        let mut shell = Command::new("/bin/sh");
        let command = barman.command(&["put-wal", "main"]);
        shell.arg("-c").arg("exec \"$@\" < sent").arg("sh").arg(command.get_program());
        shell.args(command.get_args());
        account::hand_over(&file);
        account::prepare(&mut shell, &barman.path("."));
        process::run(shell)
    };
    let packed = barman::wal::shipment::pack(&segment, &content).unwrap();
    let mut changed = packed.clone();
    changed[3000] ^= 1;
    for (what, sent) in
        [("changed", changed), ("cut", packed[..9000].to_vec()), ("nothing", vec![])]
    {
        let refused = put(&sent);
        assert_eq!(refused.status, 1, "{what}: {refused}");
        assert_eq!(refused.stderr.trim().lines().count(), 1, "{what}: {refused}");
    }
    let renamed = barman::wal::shipment::pack("000000010000000000000077", &content).unwrap();
    assert_eq!(put(&renamed).status, 1);
    assert_eq!(barman.run(&["get-wal", "main", &segment]).status, 1);
    assert_eq!(put(&packed).status, 0);
    assert_eq!(put(&packed).status, 0, "the same again");
    barman.ok(&["get-wal", "main", &segment]);
}
