//! One repository that two users of a host share.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::{self, Output};
use crate::support::{Barman, Cluster, Shutdown, account};

/// The user that backs up here, as Debian has it, beside the one that archives.
const OTHER: &str = "backup";

/// Runs `barman` as a user with the group of the servers' user, and an umask that takes all it can.
fn run_as(user: &str, barman: &Barman, arguments: &[&str]) -> Output {
    let group = account::current().gid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--groups", &group, "--"]);
    command.args(["sh", "-c", "umask 077; exec \"$@\"", "sh"]).arg(barman.binary());
    command.arg("-c").arg(barman.config()).args(arguments);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    command.env("HOME", "/nonexistent").env("TZ", "UTC").current_dir("/");
    process::run(command)
}

/// Lets everybody see what is not the repository's: the way there, the configuration, the server's socket.
fn open_the_way(paths: &[PathBuf]) {
    for path in paths {
        let bits = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    }
}

/// All files and directories below `path`, and itself.
fn everything(path: &Path, found: &mut Vec<PathBuf>) {
    found.push(path.to_owned());
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            everything(&entry.unwrap().path(), found);
        }
    }
}

#[test]
fn one_user_archives_and_another_backs_up_and_both_maintain() {
    if !account::is_root() {
        eprintln!("only root can be two users: there is no more to see than in storage::local");
        return;
    }
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::new();
    let postgres = account::current().name.clone();
    barman.server("main", &cluster, "immediate_checkpoint = true\nwal_archive_timeout = 20\n");
    open_the_way(&[
        barman.path("."),
        barman.path("servers.d"),
        barman.path("servers.d/main.conf"),
        barman.config(),
        cluster.directory().to_owned(),
    ]);
    let said = run_as(&postgres, &barman, &["repo", "init", "--group", &postgres]);
    let said = said.expect_success();
    assert!(said.stdout.contains(&format!("shared by the users of group {postgres}")), "{said}");
    let again = run_as(&postgres, &barman, &["repo", "init", "--group", "root"]);
    assert!(again.status == 1 && again.stderr.contains("there is a repository"), "{again}");
    let key = fs::metadata(barman.key_file()).unwrap();
    assert_eq!((key.mode() & 0o777, key.gid()), (0o640, account::current().gid));

    // The server runs as `postgres`, and its archiver makes the first directories of its WAL.
    barman.archive_from("main", &mut cluster);
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    run_as(OTHER, &barman, &["check", "main"]).expect_success();
    run_as(OTHER, &barman, &["backup", "main", "--wait"]).expect_success();
    cluster.psql("INSERT INTO t SELECT n, 'later' FROM generate_series(1, 20000) n");
    run_as(&postgres, &barman, &["backup", "main", "--wait"]).expect_success();
    for user in [OTHER, &postgres] {
        let list = ["list-backups", "main"];
        assert_eq!(run_as(user, &barman, &list).expect_success().stdout.lines().count(), 2);
        run_as(user, &barman, &["repo", "check", "--read-data"]).expect_success();
        run_as(user, &barman, &["cron"]).expect_success();
    }
    let mut found = vec![];
    everything(&barman.repository(), &mut found);
    let mut users: Vec<u32> = vec![];
    for path in &found {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!(metadata.gid(), account::current().gid, "{}", path.display());
        let is_reserve = path.ends_with(".reserve");
        let bits = match (path.is_dir(), is_reserve) {
            (true, _) => 0o2770,
            (_, true) => 0o660,
            _ => 0o440,
        };
        assert_eq!(metadata.mode() & 0o7777, bits, "{}", path.display());
        users.push(metadata.uid());
    }
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), 2, "both have made something");

    // Each takes away what the other has made.
    run_as(&postgres, &barman, &["delete", "main", "oldest"]).expect_success();
    run_as(OTHER, &barman, &["delete", "main", "oldest"]).expect_success();
    cluster.stop(Shutdown::Fast);
    run_as(&postgres, &barman, &["repo", "check"]).expect_success();

    // Nobody else gets in.
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--", "ls"]);
    stranger.arg(barman.repository());
    assert_ne!(process::run(stranger).status, 0);
}

/// The bits and the group of a file.
fn rights(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.mode() & 0o7777, metadata.gid())
}

#[test]
fn a_key_file_that_is_made_later_is_for_the_group_too() {
    if !account::is_root() {
        eprintln!("only root can give a file to a group of others");
        return;
    }
    let barman = Barman::new();
    let account = account::current();
    let (user, group) = (account.name.as_str(), account.gid);
    run_as(user, &barman, &["repo", "init", "--group", user]).expect_success();
    let code = run_as(user, &barman, &["-f", "json", "repo", "key", "recovery-code"]);
    let code: serde_json::Value = serde_json::from_str(&code.expect_success().stdout).unwrap();
    let file = barman.path("code");
    account::write_file(&file, code["recovery_code"].as_str().unwrap());

    fs::remove_file(barman.key_file()).unwrap();
    let recover = ["repo", "key", "recover", "--code-file", file.to_str().unwrap()];
    run_as(user, &barman, &recover).expect_success();
    assert_eq!(rights(&barman.key_file()), (0o640, group));

    let second = barman.path("second.key");
    let add = ["repo", "key", "add", "--key-file", second.to_str().unwrap()];
    run_as(user, &barman, &add).expect_success();
    assert_eq!(rights(&second), (0o640, group));
    // One that is there is somebody's own.
    fs::set_permissions(&second, fs::Permissions::from_mode(0o600)).unwrap();
    run_as(user, &barman, &add);
    assert_eq!(rights(&second).0, 0o600);
}

#[test]
fn a_repository_is_shared_later() {
    if !account::is_root() {
        eprintln!("only root can be two users: there is no more to see than in storage::local");
        return;
    }
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::new();
    let user = account::current().name.clone();
    let options = "immediate_checkpoint = true\nrepository_reserve = 1Mi\n";
    barman.server("main", &cluster, options);
    open_the_way(&[
        barman.path("."),
        barman.path("servers.d"),
        barman.path("servers.d/main.conf"),
        barman.config(),
        cluster.directory().to_owned(),
    ]);
    let init = ["repo", "init", "--server", "main"];
    run_as(&user, &barman, &init).expect_success();
    barman.archive_from("main", &mut cluster);
    run_as(&user, &barman, &["backup", "main", "--wait"]).expect_success();
    assert_ne!(run_as(OTHER, &barman, &["list-backups", "main"]).status, 0);

    let again = run_as(&user, &barman, &[&init[..], &["--group", &user]].concat());
    let command = format!("barman repo share {user}");
    assert!(again.status == 1 && again.stderr.contains(&command), "{again}");
    // Who does not own it cannot give it away.
    let share = ["repo", "share", "--server", "main", user.as_str()];
    assert_ne!(run_as(OTHER, &barman, &share).status, 0);
    let closed = barman.path("no-such-group");
    let unknown = ["repo", "share", "--server", "main", closed.to_str().unwrap()];
    assert!(run_as(&user, &barman, &unknown).stderr.contains("there is no group"));

    // Somebody else's directory above is told.
    fs::set_permissions(barman.path("."), fs::Permissions::from_mode(0o700)).unwrap();
    let shared = run_as(&user, &barman, &share).expect_success();
    let warning = format!("users of group {user} may not enter {}", barman.path("").display());
    assert!(shared.stderr.contains(warning.trim_end_matches('/')), "{shared}");
    fs::set_permissions(barman.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    let shared = run_as(&user, &barman, &share).expect_success();
    assert!(!shared.stderr.contains("may not enter"), "{shared}");

    let group = account::current().gid;
    let mut found = vec![];
    everything(&barman.repository(), &mut found);
    for path in &found {
        let bits = match (path.is_dir(), path.ends_with(".reserve")) {
            (true, _) => 0o2770,
            (_, true) => 0o660,
            _ => 0o440,
        };
        assert_eq!(rights(path), (bits, group), "{}", path.display());
    }
    assert_eq!(rights(&barman.key_file()), (0o640, group));
    // Both work there, and the archiver goes on.
    run_as(OTHER, &barman, &["check", "main"]).expect_success();
    run_as(OTHER, &barman, &["backup", "main", "--wait"]).expect_success();
    run_as(&user, &barman, &["delete", "main", "latest"]).expect_success();
    run_as(OTHER, &barman, &["delete", "main", "latest"]).expect_success();
    run_as(OTHER, &barman, &["repo", "prune", "--server", "main"]).expect_success();
    run_as(&user, &barman, &["repo", "check", "--read-data"]).expect_success();
    cluster.stop(Shutdown::Fast);
}

#[test]
fn without_a_group_only_the_owner_writes() {
    let barman = Barman::initialised();
    let mut found = vec![];
    everything(&barman.repository(), &mut found);
    for path in found {
        let bits = fs::metadata(&path).unwrap().mode() & 0o7777;
        assert_eq!(bits & 0o027, 0, "{} has mode {bits:o}", path.display());
    }
    assert_eq!(fs::metadata(barman.key_file()).unwrap().mode() & 0o777, 0o600);
    if account::is_root() {
        // Who changes only the owner and not the group bits of the directory has not shared it.
        chown(barman.repository(), Some(account::current().uid), Some(0)).unwrap();
        barman.ok(&["repo", "check"]);
    }
}
