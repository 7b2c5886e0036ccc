//! The checks of a server: what a backup and WAL archiving need, under Barman's names.

use std::time::{Duration, SystemTime};

use repo_format::names::{ObjectName, escape};

use super::human;
use super::open::Repositories;
use super::remote::{self, Remote};
use crate::catalog::{Catalog, Status};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::sql::SqlConnection;
use crate::repository::{self, Access, Repository, servers, snapshots};

/// How long the first WAL file of a server may take to arrive.
const FIRST_WAL: Duration = Duration::from_secs(10);

/// So far the clocks of this host and of the repository may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// One line of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Barman's name for it.
    pub name: &'static str,
    /// What was found, or what to do; may be empty.
    pub hint: String,
    /// Whether all is well.
    pub passed: bool,
    /// Whether there can be no backup when it is not.
    pub blocks: bool,
}

/// All checks of a server.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The lines, in order.
    pub checks: Vec<Check>,
    /// The size of the last backup, in bytes.
    pub backup_bytes: u64,
    /// What all WAL takes in the archive, in bytes.
    pub wal_bytes: u64,
}

impl Report {
    /// Whether everything passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// What keeps the server from being backed up.
    pub fn blockers(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed && check.blocks)
    }

    fn add(&mut self, name: &'static str, blocks: bool, passed: bool, hint: impl Into<String>) {
        self.checks.push(Check { name, hint: hint.into(), passed, blocks });
    }

    /// A line that a backup depends on.
    fn must(&mut self, name: &'static str, passed: bool, hint: impl Into<String>) {
        self.add(name, true, passed, hint);
    }

    /// A line that only tells of trouble.
    fn should(&mut self, name: &'static str, passed: bool, hint: impl Into<String>) {
        self.add(name, false, passed, hint);
    }

    /// The result of something that a backup depends on.
    fn outcome<T>(&mut self, name: &'static str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.must(name, true, "");
                Some(value)
            }
            Err(error) => {
                self.must(name, false, error.in_one_line());
                None
            }
        }
    }
}

/// Checks `server`, for at most `timeout`.
pub async fn run(
    server: &Server,
    repositories: &Repositories<'_>,
    timeout: Option<Duration>,
) -> Report {
    let mut report = Report::default();
    let all = Box::pin(check(server, repositories, &mut report));
    match timeout {
        None => all.await,
        Some(limit) => {
            if tokio::time::timeout(limit, all).await.is_err() {
                let hint = format!("the checks took more than {}", human::duration(limit));
                report.must("check timeout", false, hint);
            }
        }
    }
    report
}

async fn check(server: &Server, repositories: &Repositories<'_>, report: &mut Report) {
    for message in server.errors() {
        report.must("configuration", false, message);
    }
    if !report.checks.is_empty() {
        return;
    }
    let sql = report.outcome("PostgreSQL", remote::connect(server).await);
    let mut remote = None;
    if let Some(sql) = &sql {
        match Remote::ask_over(sql).await {
            Ok(asked) => remote = Some(asked),
            Err(error) => report.must("PostgreSQL", false, error.in_one_line()),
        }
    }
    if let Some(remote) = &remote {
        check_server(remote, report);
    }
    let streaming =
        report.outcome("PostgreSQL streaming", remote::streaming_system_id(server).await);
    let repository = open(server, repositories, report).await;
    let catalog = match &repository {
        Some(repository) => match Catalog::load(repository, &server.name).await {
            Ok(catalog) => Some(catalog),
            Err(error) => {
                report.must("repository", false, error.in_one_line());
                None
            }
        },
        None => None,
    };
    report.must("retention policy settings", true, "");
    if let (Some(catalog), Some(repository)) = (&catalog, &repository) {
        let now = check_clock(repository, report).await;
        let last = catalog.usable().next_back().map(|(_, snapshot)| snapshot.backup_name());
        let last = match last {
            Some(name) => snapshots::stored_at(repository, &name).await.ok().flatten(),
            None => None,
        };
        let age = |at: SystemTime| now.duration_since(at).unwrap_or_default();
        check_catalog(server, catalog, last.map(age), age, report);
    }
    let primary = match &remote {
        Some(remote) => connect_to_primary(server, remote, report).await,
        None => None,
    };
    let first_wal = match (&repository, &catalog, &remote, primary.as_ref().or(sql.as_ref())) {
        (Some(repository), Some(catalog), Some(remote), Some(writer)) if lacks_wal(catalog) => {
            Some(first_wal(server, repository, writer, remote).await)
        }
        _ => None,
    };
    // Asked again where WAL was just made to come: that may have ended an older failure.
    let remote = match (&sql, &first_wal) {
        (Some(sql), Some(Ok(true))) => Remote::ask_over(sql).await.ok().or(remote),
        _ => remote,
    };
    if let Some(remote) = &remote {
        let accepted = match &repository {
            Some(repository) => servers::systems(repository, &server.name).await.ok(),
            None => None,
        };
        check_system(server, remote, streaming, &accepted.unwrap_or_default(), report);
        check_archiving(remote, report);
    }
    match first_wal {
        None | Some(Ok(true)) => {}
        Some(Ok(false)) => {
            report.must("WAL archive", false, "please make sure WAL shipping is setup");
        }
        Some(Err(error)) => report.must("WAL archive", false, error.in_one_line()),
    }
    if let Some(repository) = &repository {
        check_conflicts(server, repository, report).await;
    }
    for connection in sql.into_iter().chain(primary) {
        connection.close().await;
    }
}

/// Connects to the primary of a standby, if one is configured, and sees that it is what it is called.
async fn connect_to_primary(
    server: &Server,
    remote: &Remote,
    report: &mut Report,
) -> Option<SqlConnection> {
    server.primary_conninfo.as_ref()?;
    let hint = "it is no standby any more: take primary_conninfo away, or change conninfo";
    let standby = remote.in_recovery;
    report.should("PostgreSQL server is standby", standby, if standby { "" } else { hint });
    let asked = async {
        let Some(primary) = remote::connect_to_primary(server).await? else { return Ok(None) };
        let (in_recovery, system_id) =
            (primary.is_in_recovery().await?, primary.system_id().await?.0);
        Ok::<_, Error>(Some((primary, in_recovery, system_id)))
    };
    match asked.await {
        Ok(None) => None,
        Ok(Some((primary, in_recovery, system_id))) => {
            let hint = if in_recovery { "primary_conninfo leads to a standby" } else { "" };
            report.must("Primary server is not a standby", !in_recovery, hint);
            let same = system_id == remote.system_id;
            let hint = format!(
                "primary_conninfo leads to system {system_id}, and conninfo to {}",
                remote.system_id
            );
            let name = "Primary and standby have same system ID";
            report.must(name, same, if same { "" } else { &hint });
            Some(primary).filter(|_| same && !in_recovery)
        }
        Err(error) => {
            report.must("Primary server is not a standby", false, error.in_one_line());
            None
        }
    }
}

fn check_server(remote: &Remote, report: &mut Report) {
    let privileges = &remote.privileges;
    if privileges.can_backup() {
        report.must("superuser or standard user with backup privileges", true, "");
    } else {
        report.must("no access to backup functions", false, privileges.missing.join("; "));
    }
    let level = remote.setting("wal_level");
    let hint = if level == "minimal" { "set it to 'replica' or 'logical' and restart" } else { "" };
    report.must("wal_level", level != "minimal", hint);
    let hint = format!("the server has {}, and 15 or later is needed", remote.version);
    let supported = remote.version_num >= 150_000;
    report.must("postgres minimal version", supported, if supported { "" } else { &hint });
}

/// Opens the repository, and tells a wrong key from a store that cannot be reached.
async fn open(
    server: &Server,
    repositories: &Repositories<'_>,
    report: &mut Report,
) -> Option<std::sync::Arc<Repository>> {
    let no_key = server.repository.key().err();
    let opened = match no_key {
        Some(error) => Err(error),
        None => repositories.of(server, Access::Write).await,
    };
    match opened {
        Ok(repository) => {
            report.must("repository", true, repository.location());
            report.must("repository key", true, "");
            Some(repository)
        }
        Err(error) => {
            let is_key = error.kind() == Kind::Key || server.repository.key().is_err();
            report.must(
                if is_key { "repository key" } else { "repository" },
                false,
                error.in_one_line(),
            );
            None
        }
    }
}

/// Compares this host's clock with the store's, which is returned: ages are differences of times of the store.
async fn check_clock(repository: &Repository, report: &mut Report) -> SystemTime {
    let before = SystemTime::now();
    let now = match repository.storage().now().await {
        Ok(now) => now,
        Err(error) => {
            report.should(
                "clock skew",
                false,
                Error::from(repository::Error::from(error)).in_one_line(),
            );
            return before;
        }
    };
    // Asking takes time: this host's clock agrees with all of it.
    let (ahead, behind) = (before.duration_since(now), now.duration_since(SystemTime::now()));
    let (how, skew) = match (ahead, behind) {
        (Ok(skew), _) if skew > CLOCK_SKEW => ("ahead of", skew),
        (_, Ok(skew)) if skew > CLOCK_SKEW => ("behind", skew),
        _ => {
            report.should("clock skew", true, "");
            return now;
        }
    };
    let skew = human::duration(skew);
    let hint = format!("this host's clock is {skew} {how} the repository's: set both by NTP");
    report.should("clock skew", false, hint);
    now
}

/// What the catalogue tells; `last_age` is the last backup's, and `age` that of any moment of the store.
fn check_catalog(
    server: &Server,
    catalog: &Catalog,
    last_age: Option<Duration>,
    age: impl Fn(SystemTime) -> Duration,
    report: &mut Report,
) {
    let last = catalog.usable().next_back().map(|(_, snapshot)| snapshot);
    report.backup_bytes = last.map_or(0, |snapshot| snapshot.statistics.bytes);
    match server.last_backup_maximum_age {
        None => report.should("backup maximum age", true, "no last_backup_maximum_age provided"),
        Some(limit) => {
            let shown = last_age.map_or("No available backups".to_owned(), human::duration);
            let passed = last_age.is_some_and(|age| age <= limit.duration());
            let hint = format!("interval provided: {limit}, latest backup age: {shown}");
            report.should("backup maximum age", passed, hint);
        }
    }
    let minimum = server.last_backup_minimum_size;
    let passed = minimum.is_none_or(|minimum| report.backup_bytes >= minimum);
    let size = human::size(report.backup_bytes);
    let hint = match minimum {
        Some(minimum) if !passed => format!("{size} is below {}", human::size(minimum)),
        _ => size,
    };
    report.should("backup minimum size", passed, hint);
    let newest = catalog.wal.values().flat_map(|inventory| {
        inventory.files().map(|(_, file)| (file.archived_at, file.stored_size))
    });
    let (newest, bytes) =
        newest.fold((None, 0), |(newest, bytes), (at, size)| (newest.max(Some(at)), bytes + size));
    report.wal_bytes = bytes;
    match server.last_wal_maximum_age {
        None => report.should("wal maximum age", true, "no last_wal_maximum_age provided"),
        Some(limit) => {
            let age = newest.map(age);
            let shown = age.map_or("No WAL files archived".to_owned(), human::duration);
            let passed = age.is_some_and(|age| age <= limit.duration());
            let hint = format!("interval provided: {limit}, latest wal age: {shown}");
            report.should("wal maximum age", passed, hint);
        }
    }
    report.should("wal size", true, human::size(bytes));
    report.must("compression settings", true, "");
    let with = |status| catalog.backups.iter().filter(|b| b.status() == status).count();
    let failed = with(Status::Failed);
    report.should("failed backups", failed == 0, format!("there are {failed} failed backups"));
    let (done, minimum) = (with(Status::Done), server.minimum_redundancy);
    let enough = done >= usize::try_from(minimum).unwrap_or(usize::MAX);
    let hint = format!("have {done} backups, expected at least {minimum}");
    report.should("minimum redundancy requirements", enough, hint);
}

/// Both connections must lead to one cluster, and to the one that the server stands for: nothing of another
/// one is taken.
fn check_system(
    server: &Server,
    remote: &Remote,
    streaming: Option<u64>,
    accepted: &[u64],
    report: &mut Report,
) {
    let id = remote.system_id;
    if let Some(other) = streaming.filter(|other| *other != id) {
        let hint = format!("conninfo leads to system {id}, and streaming_conninfo to {other}");
        report.must("systemid coherence", false, hint);
        return;
    }
    match accepted.last() {
        Some(other) if !accepted.contains(&id) => {
            let hint = format!(
                "the server is system {id}, and its backups are of system {other}: after pg_upgrade or \
                 a new initdb run: barman repo server-accept {}; otherwise conninfo leads to the \
                 wrong server",
                server.name
            );
            report.must("systemid coherence", false, hint);
        }
        Some(_) => report.must("systemid coherence", true, ""),
        None => report.must("systemid coherence", true, "no system Id stored on disk"),
    }
}

fn check_archiving(remote: &Remote, report: &mut Report) {
    let mode = remote.setting("archive_mode");
    if remote.in_recovery && mode != "always" {
        report.must("archive_mode", true, "a standby: its primary archives");
        return;
    }
    let on = matches!(mode, "on" | "always");
    report.must("archive_mode", on, if on { "" } else { "set it to 'on' and restart PostgreSQL" });
    let has = remote.has_archiver();
    let hint = "set it to: barman wal-archive SERVER_NAME %p";
    report.must("archive_command", has, if has { "" } else { hint });
    let archiver = &remote.archiver;
    let hint = match (&archiver.last_failed_wal, archiver.is_failing()) {
        (Some(file), true) => format!("archiving {file} fails: see PostgreSQL's log"),
        _ => String::new(),
    };
    report.must("continuous archiving", remote.is_archiving(), hint);
}

/// Files that came with other content than the archive has under their names.
async fn check_conflicts(server: &Server, repository: &Repository, report: &mut Report) {
    let stored = servers::stored_name(repository, &server.name).await;
    let prefix = format!("conflicts/{}/", escape(&stored.unwrap_or_else(|_| server.name.clone())));
    match repository.storage().list(&prefix).await {
        Ok(objects) => {
            let conflicts =
                objects.iter().filter(|object| ObjectName::parse(&object.name).is_some()).count();
            let hint = match conflicts {
                0 => String::new(),
                count => format!("{count} WAL files came with other content, kept in {prefix}"),
            };
            report.should("archiver errors", conflicts == 0, hint);
        }
        Err(error) => report.must(
            "repository",
            false,
            Error::from(repository::Error::from(error)).in_one_line(),
        ),
    }
}

/// Whether no WAL has ever come, and none is waited for.
fn lacks_wal(catalog: &Catalog) -> bool {
    let has_wal = catalog.wal.values().any(|inventory| inventory.files().next().is_some());
    let waits = catalog.backups.iter().any(|backup| backup.status() == Status::WaitingForWals);
    !has_wal && !waits
}

/// Makes a new server send WAL by its `writer`, the server itself or its primary, since nothing else shows
/// that it does; whether some came.
async fn first_wal(
    server: &Server,
    repository: &Repository,
    writer: &SqlConnection,
    remote: &Remote,
) -> Result<bool> {
    if writer.is_in_recovery().await? || !Remote::ask_over(writer).await?.is_archiver_on() {
        return Ok(false);
    }
    writer.switch_wal(true).await?;
    let until = tokio::time::Instant::now() + FIRST_WAL;
    while tokio::time::Instant::now() < until {
        let wal = repository::wal::of_system(repository, &server.name, remote.system_id).await?;
        if !wal.is_empty() && !writer.archiver_status().await?.is_failing() {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}
