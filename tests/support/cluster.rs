//! A running PostgreSQL cluster of a test, in a directory of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::account;
use super::barman::Barman;
use super::postgres::Postgres;
use super::process::{self, Background, Output, TIME_LIMIT};
use super::tls::Tls;

/// The superuser's name.
pub const SUPERUSER: &str = "postgres";
/// The superuser's password, asked for over TCP where [`Auth::Scram`] is chosen.
pub const PASSWORD: &str = "correct horse battery staple";

/// How clients over TCP prove who they are; over the Unix socket everyone is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// No password.
    Trust,
    /// SCRAM-SHA-256.
    Scram,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Ends the sessions, writes the shutdown checkpoint.
    Fast,
    /// Stops without a checkpoint, as a crash does.
    Immediate,
}

/// What a new cluster shall be like.
#[derive(Debug)]
pub struct Builder {
    postgres: Postgres,
    initdb: Vec<String>,
    checksums: bool,
    locale: String,
    auth: Auth,
    settings: Vec<String>,
    hba: Vec<String>,
    tls_role: Option<String>,
    linked_wal: bool,
}

impl Builder {
    /// Adds an argument of initdb, e.g. `--wal-segsize=1`.
    pub fn initdb(mut self, argument: &str) -> Builder {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Makes the cluster without data checksums; they are on by default.
    pub fn without_checksums(mut self) -> Builder {
        self.checksums = false;
        self
    }

    /// Chooses the locale, `C.UTF-8` by default; the encoding is UTF8 except under `C`, where it is SQL_ASCII.
    pub fn locale(mut self, locale: &str) -> Builder {
        self.locale = locale.to_owned();
        self
    }

    /// Chooses how clients over TCP authenticate: trusted by default.
    pub fn auth(mut self, auth: Auth) -> Builder {
        self.auth = auth;
        self
    }

    /// Adds a line to postgresql.conf; `value` needs no quotes.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push(setting_line(name, value));
        self
    }

    /// Adds a line to pg_hba.conf, before those that let everyone in.
    pub fn hba(mut self, line: &str) -> Builder {
        self.hba.push(line.to_owned());
        self
    }

    /// Turns TLS on, see [`Cluster::tls`]; `role` gets a client certificate.
    pub fn tls(mut self, role: &str) -> Builder {
        self.tls_role = Some(role.to_owned());
        self
    }

    /// Puts pg_wal outside of the data directory, behind a symbolic link.
    pub fn linked_wal(mut self) -> Builder {
        self.linked_wal = true;
        self
    }

    /// Makes the cluster, not started yet.
    #[track_caller]
    pub fn create(self) -> Cluster {
        let directory = account::temp_dir();
        let data = directory.path().join("data");
        self.run_initdb(directory.path(), &data);
        let tls = self.tls_role.as_ref().map(|role| Tls::generate(directory.path(), role));
        let conf = data.join("postgresql.conf");
        let sample = fs::read_to_string(&conf).unwrap();
        account::write_file(&conf, &(sample + &self.postgresql_conf(tls.as_ref())));
        account::write_file(&data.join("pg_hba.conf"), &self.pg_hba_conf());
        Cluster::new(self.postgres, directory, data, tls)
    }

    /// Makes the cluster and starts it.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let mut cluster = self.create();
        cluster.start();
        cluster
    }

    #[track_caller]
    fn run_initdb(&self, directory: &Path, data: &Path) {
        let password = directory.join("password");
        account::write_file(&password, PASSWORD);
        let mut command = self.postgres.command("initdb", directory);
        command.arg("-D").arg(data).arg("--pwfile").arg(&password);
        command.args(["-U", SUPERUSER, "--no-sync", "--no-instructions"]);
        command.arg(format!("--locale={}", self.locale));
        command.args(["--encoding", if self.locale == "C" { "SQL_ASCII" } else { "UTF8" }]);
        if self.checksums {
            command.arg("--data-checksums");
        } else if self.postgres.version() >= 18 {
            command.arg("--no-data-checksums");
        }
        if self.linked_wal {
            command.arg("--waldir").arg(directory.join("wal"));
        }
        process::run(with_args(command, &self.initdb)).expect_success();
    }

    fn postgresql_conf(&self, tls: Option<&Tls>) -> String {
        // Tests kill servers, never the machine: nothing need reach the disk in time.
        let mut lines = vec!["fsync = off".to_owned(), "shared_buffers = 32MB".to_owned()];
        if let Some(tls) = tls {
            lines.push(setting_line("ssl", "on"));
            lines.push(setting_line("ssl_ca_file", &tls.ca.to_string_lossy()));
            lines.push(setting_line("ssl_cert_file", &tls.server_certificate.to_string_lossy()));
            lines.push(setting_line("ssl_key_file", &tls.server_key.to_string_lossy()));
        }
        lines.extend(self.settings.iter().cloned());
        lines.join("\n") + "\n"
    }

    fn pg_hba_conf(&self) -> String {
        let method = match self.auth {
            Auth::Trust => "trust",
            Auth::Scram => "scram-sha-256",
        };
        let mut lines = self.hba.clone();
        for database in ["all", "replication"] {
            lines.push(format!("local {database} all trust"));
            lines.push(format!("host {database} all 127.0.0.1/32 {method}"));
        }
        lines.join("\n") + "\n"
    }
}

/// A cluster, its server running or not; dropping it stops the server and removes its directory.
#[derive(Debug)]
pub struct Cluster {
    postgres: Postgres,
    directory: TempDir,
    data: PathBuf,
    tls: Option<Tls>,
    port: u16,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    server: Option<Child>,
}

impl Cluster {
    /// Describes a new cluster of the given major version.
    #[track_caller]
    pub fn builder(version: u32) -> Builder {
        Builder {
            postgres: Postgres::require(version),
            initdb: Vec::new(),
            checksums: true,
            locale: "C.UTF-8".to_owned(),
            auth: Auth::Trust,
            settings: Vec::new(),
            hba: Vec::new(),
            tls_role: None,
            linked_wal: false,
        }
    }

    /// Takes an existing data directory, e.g. a restored one, whose server is not running.
    ///
    /// The directory itself stays where it is when this is dropped.
    #[track_caller]
    pub fn on(version: u32, data: &Path) -> Cluster {
        let directory = account::temp_dir();
        Cluster::new(Postgres::require(version), directory, data.to_owned(), None)
    }

    /// Overrides a setting on the server's command line, from the next start on.
    pub fn option(mut self, name: &str, value: &str) -> Cluster {
        self.options.push(format!("{name}={value}"));
        self
    }

    /// Sets variables of the server's environment, from the next start on.
    pub fn environment(mut self, variables: Vec<(String, String)>) -> Cluster {
        self.environment = variables;
        self
    }

    /// Starts the server and waits until it takes connections; panics with its log where it does not.
    #[track_caller]
    pub fn start(&mut self) {
        // Another program may take the port between our look and the server's: then, another one.
        for _ in 0..5 {
            match self.try_start() {
                Ok(()) => return,
                Err(log) if log.contains("could not bind") => self.port = free_port(),
                Err(log) => panic!("the server in {} did not start:\n{log}", self.data.display()),
            }
        }
        panic!("found no free port for the server in {}", self.data.display());
    }

    /// Starts the server; the error is what it logged.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.server.is_none(), "the server in {} runs already", self.data.display());
        let log_start = self.log().len();
        let log = fs::File::options().append(true).open(self.log_path()).unwrap();
        let mut command = self.postgres.command("postgres", self.directory.path());
        command.envs(self.environment.iter().cloned());
        command.arg("-D").arg(&self.data);
        command.arg("-c").arg(format!("port={}", self.port));
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "logging_collector=off"]);
        command
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.directory.path().display()));
        for option in &self.options {
            command.arg("-c").arg(option);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().map_err(|error| error.to_string())?;
        let pid = child.id();
        self.server = Some(child);
        let deadline = Instant::now() + TIME_LIMIT;
        while !self.is_ready(pid) {
            let ended = self.server.as_mut().is_some_and(|c| c.try_wait().unwrap().is_some());
            if ended || Instant::now() > deadline {
                self.stop(Shutdown::Immediate);
                return Err(self.log()[log_start..].to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops the server; does nothing where it is not running.
    pub fn stop(&mut self, how: Shutdown) {
        let Some(mut child) = self.server.take() else { return };
        if child.try_wait().unwrap().is_some() {
            return;
        }
        process::send(&child, if how == Shutdown::Fast { Signal::INT } else { Signal::QUIT });
        if process::wait_for_exit(&mut child, TIME_LIMIT).is_none() {
            let _ = child.kill();
            let _ = child.wait();
            eprintln!("the server in {} had to be killed", self.data.display());
        }
    }

    /// Stops the server (fast) and starts it again on the same port.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(Shutdown::Fast);
        self.start();
    }

    /// Ends recovery: a standby becomes a primary on a new timeline.
    #[track_caller]
    pub fn promote(&self) {
        let mut command = self.postgres.command("pg_ctl", self.directory.path());
        command.arg("promote").arg("-w").arg("-D").arg(&self.data);
        process::run(command).expect_success();
    }

    /// Starts a standby that streams from `primary` too, and waits until it does.
    #[track_caller]
    pub fn follow(mut self, primary: &Cluster) -> Cluster {
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let before = primary.psql(streams);
        self = self.option("primary_conninfo", &primary.conninfo());
        self.start();
        process::wait_until(TIME_LIMIT, || primary.psql(streams) > before);
        self
    }

    /// Waits until this standby has replayed all that `primary` has written by now.
    #[track_caller]
    pub fn wait_for_replay_of(&self, primary: &Cluster) {
        let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        process::wait_until(TIME_LIMIT, || self.psql(&question) == "t");
    }

    /// Waits until the server has left recovery.
    #[track_caller]
    pub fn wait_for_recovery_end(&self) {
        process::wait_until(TIME_LIMIT, || self.psql("SELECT pg_is_in_recovery()") == "f");
    }

    /// True while the server's process runs.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// The programs of the cluster's version.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.postgres.version()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory that holds everything of this cluster, its socket among it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The TCP port on 127.0.0.1, also part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificates, where TLS is on.
    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("made with Builder::tls")
    }

    /// All that the server logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap()).into_owned()
    }

    /// How to connect as superuser through the Unix socket.
    pub fn conninfo(&self) -> String {
        let directory = self.directory.path().display();
        format!("host={directory} port={} user={SUPERUSER} dbname=postgres", self.port)
    }

    /// How to connect as superuser over TCP, with the password.
    pub fn tcp_conninfo(&self) -> String {
        self.tcp_conninfo_as(SUPERUSER, PASSWORD)
    }

    /// How to connect as `role` over TCP.
    pub fn tcp_conninfo_as(&self, role: &str, password: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user={role} password='{password}' dbname=postgres",
            self.port
        )
    }

    /// Runs SQL as superuser; returns unaligned rows, `|` between columns, without the last newline.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// As [`Cluster::psql`], in another database.
    #[track_caller]
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let output = self.try_psql(database, sql);
        assert!(output.success(), "{sql}\n{output}\n--- server log\n{}", self.log());
        output.stdout.trim_end_matches('\n').to_owned()
    }

    /// As [`Cluster::psql_in`], where failing is expected.
    pub fn try_psql(&self, database: &str, sql: &str) -> Output {
        let mut command = self.client("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]);
        process::run_with_input(command, sql, TIME_LIMIT)
    }

    /// Runs pgbench to its end in the database `postgres`.
    #[track_caller]
    pub fn pgbench(&self, args: &[&str]) -> Output {
        process::run(self.pgbench_command(args)).expect_success()
    }

    /// Runs pgbench beside the test.
    #[track_caller]
    pub fn pgbench_background(&self, args: &[&str]) -> Background {
        Background::spawn(self.pgbench_command(args))
    }

    /// A client program of this version that will connect as superuser through the Unix socket.
    pub fn client(&self, name: &str) -> std::process::Command {
        let mut command = self.postgres.command(name, self.directory.path());
        command.env("PGHOST", self.directory.path());
        command.env("PGPORT", self.port.to_string());
        command.env("PGUSER", SUPERUSER);
        command
    }

    /// Makes a directory beside the data directory and a tablespace in it.
    #[track_caller]
    pub fn create_tablespace(&self, name: &str) -> PathBuf {
        let location = self.directory.path().join(format!("tablespace-{name}"));
        account::make_dir(&location);
        self.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", location.display()));
        location
    }

    /// Row count and a checksum of all rows, whatever their order: equal for equal contents.
    #[track_caller]
    pub fn table_checksum(&self, table: &str) -> String {
        self.table_checksum_in("postgres", table)
    }

    /// As [`Cluster::table_checksum`], in another database.
    #[track_caller]
    pub fn table_checksum_in(&self, database: &str, table: &str) -> String {
        self.psql_in(
            database,
            &format!(
                "SELECT count(*) || ':' || coalesce(md5(string_agg(row, '' ORDER BY row)), '') \
                 FROM (SELECT md5(t::text) COLLATE \"C\" AS row FROM {table} AS t) AS rows"
            ),
        )
    }

    /// The position up to which WAL is written, as `X/X`.
    #[track_caller]
    pub fn current_lsn(&self) -> String {
        self.psql("SELECT pg_current_wal_lsn()")
    }

    /// Closes the current WAL segment, which is never empty, and returns its name.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.psql("SELECT pg_logical_emit_message(false, 'barman', 'switch')");
        self.psql("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// Runs pg_amcheck on every database; it installs the extension it needs.
    #[track_caller]
    pub fn pg_amcheck(&self) {
        let mut command = self.client("pg_amcheck");
        command.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
        process::run(command).expect_success();
    }

    fn new(postgres: Postgres, directory: TempDir, data: PathBuf, tls: Option<Tls>) -> Cluster {
        account::write_file(&directory.path().join("log"), "");
        let (port, options, environment) = (free_port(), Vec::new(), Vec::new());
        Cluster { postgres, directory, data, tls, port, options, environment, server: None }
    }

    fn pgbench_command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.client("pgbench");
        command.args(args).env("PGDATABASE", "postgres");
        command
    }

    /// The postmaster's own word: its status is the eighth line of postmaster.pid.
    fn is_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&pid.to_string()) && matches!(lines.nth(6), Some("ready" | "standby"))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server in {}\n{}", self.data.display(), self.log());
        }
        self.stop(Shutdown::Immediate);
    }
}

/// A primary that archives as server `main` with a table `t` of a thousand rows, and a standby of it that was
/// restored from its backup and is not started yet: it has the archive alone to follow.
#[track_caller]
pub fn primary_and_standby(options: &str) -> (Cluster, Cluster, Barman) {
    let mut primary = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &primary, &format!("immediate_checkpoint = true\n{options}"));
    barman.archive_from("main", &mut primary);
    primary.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    barman.ok(&["backup", "main", "--wait"]);
    let standby = restored_standby(&barman, 17);
    (primary, standby, barman)
}

/// A standby from the latest backup of server `main`, not started yet.
#[track_caller]
pub fn restored_standby(barman: &Barman, version: u32) -> Cluster {
    let data = barman.path("standby");
    let to = data.to_str().unwrap();
    barman.ok(&["restore", "main", "latest", to, "--standby-mode", "--get-wal"]);
    Cluster::on(version, &data)
}

/// Checks a plain data directory that nobody has started yet against its backup_manifest.
#[track_caller]
pub fn pg_verifybackup(version: u32, data: &Path, args: &[&str]) -> Output {
    let mut command = Postgres::require(version).command("pg_verifybackup", Path::new("/tmp"));
    command.args(args).arg(data);
    process::run(command).expect_success()
}

/// Checks every page's checksum in the data directory of a server that is not running.
///
/// It wants a cluster that was shut down cleanly.
#[track_caller]
pub fn pg_checksums(version: u32, data: &Path) -> Output {
    let mut command = Postgres::require(version).command("pg_checksums", Path::new("/tmp"));
    command.arg("--check").arg("-D").arg(data);
    process::run(command).expect_success()
}

fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'", value.replace('\'', "''"))
}

fn with_args(mut command: std::process::Command, args: &[String]) -> std::process::Command {
    command.args(args);
    command
}

/// A port that nobody listens on, below the range from which clients get theirs.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once start at different places.
    let start = std::process::id().wrapping_mul(37);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start.wrapping_add(step) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
