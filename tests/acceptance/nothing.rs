//! Servers are restored where nothing is left of them: with the program, the repository, and its key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::cluster::pg_verifybackup;
use crate::support::{Barman, Cluster, Output, Shutdown, account, process};

/// A root directory that has the program and the libraries that it is linked with, and nothing else.
struct BareRoot(tempfile::TempDir);

impl BareRoot {
    fn new(barman: &Barman) -> BareRoot {
        let root = BareRoot(account::temp_dir());
        let copy = |from: &Path, to: &Path| {
            let to = root.path(to.to_str().unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, &to).unwrap();
        };
        copy(barman.binary(), Path::new("/barman"));
        fs::set_permissions(root.path("/barman"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut ldd = Command::new("ldd");
        ldd.arg(barman.binary());
        let libraries = process::run(ldd).expect_success().stdout;
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(path), Path::new(path));
        }
        copy(&barman.key_file(), Path::new("/repository.key"));
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(barman.repository()).arg(root.path("/repository"));
        process::run(cp).expect_success();
        root
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside.trim_start_matches('/'))
    }

    /// Runs the program there; who is not root needs a user namespace for it.
    fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = if account::is_root() {
            Command::new("chroot")
        } else {
            let mut unshare = Command::new("unshare");
            unshare.args(["--map-current-user", "--keep-caps", "chroot"]);
            unshare
        };
        command.arg(self.0.path()).arg("/barman").args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(variables.iter().copied());
        process::run(command)
    }
}

#[test]
fn a_server_comes_back_on_a_host_without_anything() {
    let mut cluster = Cluster::builder(15).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) AS n");
    barman.ok(&["backup", "main", "--wait"]);
    let segment = cluster.psql("SELECT last_archived_wal FROM pg_stat_archiver");
    let segment = &segment[..24];
    let id = barman.ok(&["list-backups", "main", "--minimal"]).stdout.trim().to_owned();
    let expected = cluster.table_checksum("t");
    cluster.stop(Shutdown::Fast);

    let root = BareRoot::new(&barman);
    let environment =
        [("BARMAN_REPOSITORY", "/repository"), ("BARMAN_REPOSITORY_KEY_FILE", "/repository.key")];
    let run = |arguments: &[&str]| root.run(&environment, arguments);
    let lists = run(&["list-servers", "--minimal"]).expect_success();
    assert_eq!(lists.stdout, "main\n", "{lists}");
    for server in ["main", "all"] {
        let lists = run(&["list-backups", server, "--minimal"]).expect_success();
        assert_eq!(lists.stdout.trim(), id, "{lists}");
    }
    let shown = run(&["show-backup", "main", "latest"]).expect_success();
    assert!(shown.stdout.contains(&id), "{shown}");
    run(&["get-wal", "main", segment, "-o", "/"]).expect_success();
    assert_eq!(fs::metadata(root.path(segment)).unwrap().len(), 1 << 20);
    for arguments in [&["show-backup", "mian", "latest"][..], &["list-backups", "mian"]] {
        let unknown = run(arguments);
        assert_eq!(unknown.status, 1, "{unknown}");
        assert!(unknown.stderr.contains("has no server 'mian'\nHINT: it has: main"), "{unknown}");
    }

    // By options as well; there is no user 'postgres', but a number will do.
    let options = ["--repository", "/repository", "--repository-key-file", "repository.key"];
    let restore = ["restore", "main", "latest", "/new/data"];
    let by_options = |more: &[&str]| root.run(&[], &[&options, restore.as_slice(), more].concat());
    let owner = account::current().uid.to_string();
    let dry = by_options(&["--owner", &owner, "--dry-run"]).expect_success();
    assert!(dry.stderr.contains("PostgreSQL 15 is not installed here"), "{dry}");
    assert!(!root.path("/new").exists(), "{dry}");
    if account::is_root() {
        let nobody = by_options(&[]);
        assert!(nobody.stderr.contains("there is no user 'postgres' here"), "{nobody}");
        assert!(!root.path("/new").exists(), "{nobody}");
    }
    let asking = by_options(&["--owner", &owner, "--get-wal", "--dry-run"]).expect_success();
    let variables = "env BARMAN_REPOSITORY=/repository BARMAN_REPOSITORY_KEY_FILE=/repository.key";
    assert!(asking.stdout.contains(variables), "{asking}");
    by_options(&["--owner", &owner]).expect_success();
    let data = root.path("/new/data");
    pg_verifybackup(15, &data, &[]);
    let mut server = Cluster::on(15, &data);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), expected);
    server.stop(Shutdown::Immediate);
}
