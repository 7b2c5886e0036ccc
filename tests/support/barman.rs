//! A sandbox in which the `barman` command runs: configuration, repository and key file in one directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::account;
use super::cluster::Cluster;
use super::postgres::Postgres;
use super::process::{self, Background, Output};

/// A `barman.conf`, the repository it names, and the command to use them with.
#[derive(Debug)]
pub struct Barman {
    directory: TempDir,
    binary: PathBuf,
}

impl Barman {
    /// Lays a sandbox with a configuration of no server; the repository is not initialised yet.
    pub fn new() -> Barman {
        let directory = account::temp_dir();
        let binary = reachable_binary(directory.path());
        let barman = Barman { directory, binary };
        account::make_dir(&barman.path("servers.d"));
        barman.write_config("");
        barman
    }

    /// As [`Barman::new`], with the repository initialised.
    #[track_caller]
    pub fn initialised() -> Barman {
        let barman = Barman::new();
        barman.ok(&["repo", "init"]);
        barman
    }

    /// A path inside the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The main configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("barman.conf")
    }

    /// Where the repository lies.
    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// The key file that opens the repository.
    pub fn key_file(&self) -> PathBuf {
        self.path("repository.key")
    }

    /// Writes the main configuration file anew: the sandbox's own global settings, then `more`.
    ///
    /// `more` may go on with global settings and then open `[server]` sections.
    pub fn write_config(&self, more: &str) {
        let text = format!(
            "[barman]\n\
             barman_user = {user}\n\
             barman_home = {home}\n\
             configuration_files_directory = {servers}\n\
             repository = {repository}\n\
             repository_key_file = {key_file}\n\
             repository_reserve = 0\n\
             {more}",
            user = account::current().name,
            home = self.path("home").display(),
            servers = self.path("servers.d").display(),
            repository = self.repository().display(),
            key_file = self.key_file().display(),
        );
        account::write_file(&self.config(), &text);
    }

    /// Configures (or configures anew) server `name` to be `cluster`, over its Unix socket; `more` are further lines.
    pub fn server(&self, name: &str, cluster: &Cluster, more: &str) {
        let text = format!(
            "[{name}]\n\
             description = {name}\n\
             conninfo = {conninfo}\n\
             streaming_conninfo = {conninfo}\n\
             {more}",
            conninfo = cluster.conninfo(),
        );
        account::write_file(&self.path("servers.d").join(format!("{name}.conf")), &text);
    }

    /// An archive_command that hands WAL to server `name`.
    pub fn archive_command(&self, name: &str) -> String {
        format!("{} wal-archive {name} %p", self.invocation())
    }

    /// A restore_command that gets WAL of server `name`.
    pub fn restore_command(&self, name: &str) -> String {
        format!("{} wal-restore {name} %f %p", self.invocation())
    }

    /// Makes `cluster` archive its WAL to server `name`; restarts it where archive_mode was off.
    #[track_caller]
    pub fn archive_from(&self, name: &str, cluster: &mut Cluster) {
        let command = self.archive_command(name).replace('\'', "''");
        cluster.psql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
        if cluster.psql("SHOW archive_mode") == "off" {
            cluster.psql("ALTER SYSTEM SET archive_mode = on");
            cluster.restart();
        } else {
            cluster.psql("SELECT pg_reload_conf()");
        }
    }

    /// The command with `args`, ready for a test to add environment to it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        account::prepare(&mut command, self.directory.path());
        command.env("PATH", Postgres::path());
        command.arg("-c").arg(self.config()).args(args);
        command
    }

    /// Runs the command to its end, whatever that is.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        process::run(self.command(args))
    }

    /// Runs the command, which must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Output {
        self.run(args).expect_success()
    }

    /// Runs the command with `-f json`; it must succeed and print one JSON value.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.ok(&[&["-f", "json"], args].concat());
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// Starts the command beside the test, e.g. to be killed half-way.
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Background {
        Background::spawn(self.command(args))
    }

    /// As [`Barman::run`], with a time limit of its own and `input` on standard input.
    #[track_caller]
    pub fn run_with_input(&self, args: &[&str], input: &str, limit: Duration) -> Output {
        process::run_with_input(self.command(args), input, limit)
    }

    /// The program.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Writes a script that is `barman` with the configuration of this sandbox.
    pub fn wrapper(&self, path: &Path) {
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", self.invocation());
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        account::hand_over(path);
    }

    fn invocation(&self) -> String {
        format!("{} -c {}", self.binary.display(), self.config().display())
    }
}

/// The built command where the servers' account can run it: a link or copy of it in `directory`
/// when the target directory lies below a private one, such as root's home.
fn reachable_binary(directory: &Path) -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_barman"));
    if !account::is_root() || account::reachable_by_all(&built) {
        return built;
    }
    let ours = directory.join("barman");
    if fs::hard_link(&built, &ours).is_err() {
        fs::copy(&built, &ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o755)).unwrap();
    }
    ours
}
