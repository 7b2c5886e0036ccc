//! One PostgreSQL server as `barman.conf` describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::time::Duration;

use serde_json::{Value, json};

use super::environment::Environment;
use super::ini::Section;
use super::redact;
use super::repository::RepositorySettings;
use super::resolve::{Effective, Message, Reader, Source};
use super::values::{self, Rate, RecoveryOptions, RetentionPolicy, Span};
use crate::error::{Error, Kind};

/// A server and all that holds for it.
#[derive(Clone)]
pub struct Server {
    /// The name of its section.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether it accepts new data: backups and WAL. Restoring works either way.
    pub active: bool,
    /// Whether it was disabled, by the option or because a value cannot be understood.
    pub disabled: bool,
    /// The cluster it belongs to; its own name unless set.
    pub cluster: String,
    /// How to connect; libpq's syntax, with secrets.
    pub conninfo: Option<String>,
    /// How to connect for replication; `conninfo` unless set.
    pub streaming_conninfo: Option<String>,
    /// How to connect to the primary of a standby.
    pub primary_conninfo: Option<String>,
    /// How long the backup of a standby waits for its WAL before a checkpoint is forced on the primary; `None` is never.
    pub primary_checkpoint_timeout: Option<Duration>,
    /// `application_name` of the connection that takes a backup.
    pub streaming_backup_name: String,
    /// The physical replication slot to use.
    pub slot_name: Option<String>,
    /// Whether WAL comes by `archive_command`.
    pub archiver: bool,
    /// Whether backups read the files of the server on this host, and it does not stream them.
    pub reads_files: bool,
    /// Whether a backup begins with a fast checkpoint instead of a spread one.
    pub immediate_checkpoint: bool,
    /// The most a backup may read from the server.
    pub bandwidth_limit: Option<Rate>,
    /// How many connections or workers a backup or restore may use, at least 1.
    pub parallel_jobs: u32,
    /// How often a failed copy is tried again.
    pub basebackup_retry_times: u32,
    /// How long to wait before that.
    pub basebackup_retry_sleep: Duration,
    /// How long a check may take; `None` is for ever.
    pub check_timeout: Option<Duration>,
    /// How many backups must stay, whatever is deleted.
    pub minimum_redundancy: u32,
    /// Which backups to keep; the others are deleted by `barman cron`.
    pub retention_policy: Option<RetentionPolicy>,
    /// `check` fails when the last backup is older.
    pub last_backup_maximum_age: Option<Span>,
    /// `check` fails when the last backup is smaller, in bytes.
    pub last_backup_minimum_size: Option<u64>,
    /// `check` fails when the last WAL segment is older.
    pub last_wal_maximum_age: Option<Span>,
    /// `check` fails when the last rehearsal that proved a backup is older.
    pub last_rehearsal_maximum_age: Option<Span>,
    /// How long a backup waits for a repository that is away.
    pub repository_timeout: Duration,
    /// How long archiving a WAL file may take before it fails.
    pub wal_archive_timeout: Duration,
    /// How long a WAL file is asked for when the repository gives no answer.
    pub wal_restore_timeout: Duration,
    /// What restores do unless told otherwise.
    pub recovery_options: RecoveryOptions,
    /// Where its backups go.
    pub repository: RepositorySettings,
    /// What is wrong with all this.
    pub messages: Vec<Message>,
    /// Every option with the value that holds, as text; with secrets.
    pub effective: BTreeMap<&'static str, Effective>,
}

/// Values of `backup_method` with which barman reads the files of a server on this host; the second is Barman's.
const LOCAL_METHODS: [&str; 2] = ["local", "local-rsync"];

/// A time limit; 0 is none.
fn or_never(limit: Duration) -> Duration {
    const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
    if limit.is_zero() { NEVER } else { limit }
}

impl Server {
    pub(super) fn read(
        name: &str,
        section: Option<&Section>,
        global: Option<&Section>,
        env: &Environment,
    ) -> Server {
        let mut r = Reader::server(name, section, global);
        let conninfo = r.text("conninfo");
        let disabled = r.get("disabled", values::boolean).unwrap_or(false);
        let archiver = r.get("archiver", values::boolean).unwrap_or(true);
        if !archiver {
            r.warning("archiver = off leaves no way for WAL to come in: it is taken as on");
        }
        let server = Server {
            name: name.to_owned(),
            description: r.text("description"),
            active: r.get("active", values::boolean).unwrap_or(true),
            disabled: false,
            cluster: r.text("cluster").unwrap_or_else(|| name.to_owned()),
            streaming_conninfo: r.text("streaming_conninfo").or_else(|| conninfo.clone()),
            conninfo,
            primary_conninfo: r.text("primary_conninfo"),
            primary_checkpoint_timeout: r
                .get("primary_checkpoint_timeout", values::seconds)
                .filter(|timeout| !timeout.is_zero()),
            streaming_backup_name: r
                .get("streaming_backup_name", values::application_name)
                .unwrap_or_else(|| "barman_streaming_backup".to_owned()),
            slot_name: r.get("slot_name", values::slot_name),
            archiver: true,
            reads_files: r
                .text("backup_method")
                .is_some_and(|method| LOCAL_METHODS.contains(&method.as_str())),
            immediate_checkpoint: r.get("immediate_checkpoint", values::boolean).unwrap_or(false),
            bandwidth_limit: r.get("bandwidth_limit", values::rate).flatten(),
            parallel_jobs: r.get("parallel_jobs", |v| values::integer(v, 1, 256)).unwrap_or(1),
            basebackup_retry_times: r
                .get("basebackup_retry_times", |v| values::integer(v, 0, 1000))
                .unwrap_or(0),
            basebackup_retry_sleep: r
                .get("basebackup_retry_sleep", values::seconds)
                .unwrap_or(Duration::from_secs(30)),
            check_timeout: r
                .get("check_timeout", values::seconds)
                .or(Some(Duration::from_secs(30)))
                .filter(|timeout| !timeout.is_zero()),
            minimum_redundancy: r
                .get("minimum_redundancy", |v| values::integer(v, 0, u32::MAX))
                .unwrap_or(0),
            retention_policy: r.get("retention_policy", str::parse),
            last_backup_maximum_age: r.get("last_backup_maximum_age", str::parse),
            last_backup_minimum_size: r.get("last_backup_minimum_size", values::size),
            last_wal_maximum_age: r.get("last_wal_maximum_age", str::parse),
            last_rehearsal_maximum_age: r.get("last_rehearsal_maximum_age", str::parse),
            repository_timeout: r
                .get("repository_timeout", values::seconds)
                .unwrap_or(Duration::from_secs(900)),
            wal_archive_timeout: r
                .get("wal_archive_timeout", values::seconds)
                .map(or_never)
                .unwrap_or(Duration::from_secs(60)),
            wal_restore_timeout: r
                .get("wal_restore_timeout", values::seconds)
                .unwrap_or(Duration::from_secs(300)),
            recovery_options: r.get("recovery_options", str::parse).unwrap_or_default(),
            repository: RepositorySettings::read(&mut r, env),
            messages: Vec::new(),
            effective: BTreeMap::new(),
        };
        if server.conninfo.is_none() {
            r.error("conninfo is not set: there is no server to connect to");
        }
        if server.repository.location.is_none() && !r.is_broken {
            r.error("repository is not set, neither here nor in [barman]: backups have no place");
        }
        Server {
            disabled: disabled || r.is_broken,
            messages: r.messages,
            effective: r.effective,
            ..server
        }
    }

    /// Whether a mistake in its configuration disables it, and nobody switched it off.
    pub fn is_misconfigured(&self) -> bool {
        let option = self.effective.get("disabled").and_then(|disabled| disabled.value.as_deref());
        let is_meant = option.is_some_and(|value| values::boolean(value) == Ok(true));
        self.active && self.disabled && !is_meant
    }

    /// What keeps the server from being backed up.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().filter(|m| m.is_error).map(|m| m.text.as_str())
    }

    /// What should be known besides.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().filter(|m| !m.is_error).map(|m| m.text.as_str())
    }

    /// Refuses when the configuration does not allow to back up the server.
    pub fn ready_for_backup(&self) -> Result<(), Error> {
        let refused = |why: String| Err(Error::new(Kind::Refused, why));
        if let Some(first) = self.errors().next() {
            return refused(format!("server '{}' is not backed up: {first}", self.name));
        }
        if self.disabled {
            return refused(format!("server '{}' is disabled (disabled = true)", self.name));
        }
        if !self.active {
            return refused(format!("server '{}' is not active (active = false)", self.name));
        }
        Ok(())
    }

    /// How many workers a command has: `jobs` if it was told, `parallel_jobs` where that is set, and else as
    /// many as there are cores.
    pub fn workers(&self, jobs: Option<u32>) -> usize {
        let option = self.effective.get("parallel_jobs");
        let is_set = option.is_some_and(|effective| effective.source != Source::Default);
        let jobs = jobs.or_else(|| is_set.then_some(self.parallel_jobs));
        match jobs.and_then(|jobs| usize::try_from(jobs).ok()) {
            Some(jobs) => jobs,
            None => std::thread::available_parallelism().map_or(1, NonZero::get),
        }
    }

    /// Every option of interest, safe to show: what works here, set or not, and all else that is set.
    pub fn shown(&self) -> BTreeMap<String, Value> {
        let mut shown = super::show::texts(&self.effective);
        let age = |span: Option<Span>| span.map(|s| s.to_string());
        for (option, value) in [
            ("active", json!(self.active)),
            ("archiver", json!(self.archiver)),
            ("bandwidth_limit", json!(self.bandwidth_limit.map(|r| r.kilobytes_per_second))),
            ("basebackup_retry_sleep", json!(self.basebackup_retry_sleep.as_secs())),
            ("basebackup_retry_times", json!(self.basebackup_retry_times)),
            ("check_timeout", json!(self.check_timeout.unwrap_or_default().as_secs())),
            ("disabled", json!(self.disabled)),
            ("immediate_checkpoint", json!(self.immediate_checkpoint)),
            ("last_backup_maximum_age", json!(age(self.last_backup_maximum_age))),
            ("last_backup_minimum_size", json!(self.last_backup_minimum_size)),
            ("last_rehearsal_maximum_age", json!(age(self.last_rehearsal_maximum_age))),
            ("last_wal_maximum_age", json!(age(self.last_wal_maximum_age))),
            ("minimum_redundancy", json!(self.minimum_redundancy)),
            ("name", json!(self.name)),
            ("parallel_jobs", json!(self.parallel_jobs)),
            ("repository_compression_level", json!(self.repository.compression_level)),
            (
                "primary_checkpoint_timeout",
                json!(self.primary_checkpoint_timeout.unwrap_or_default().as_secs()),
            ),
            ("retention_policy", json!(self.retention_policy.map(|p| p.to_string()))),
            ("repository_timeout", json!(self.repository_timeout.as_secs())),
            ("wal_archive_timeout", json!(self.wal_archive_timeout.as_secs())),
            ("wal_restore_timeout", json!(self.wal_restore_timeout.as_secs())),
            ("streaming_conninfo", json!(self.streaming_conninfo.as_deref().map(redact::conninfo))),
        ] {
            shown.insert(option.to_owned(), value);
        }
        self.repository.show(&mut shown);
        shown
    }
}

impl fmt::Debug for Server {
    /// What may be shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.shown();
        f.debug_struct("Server").field("options", &shown).field("messages", &self.messages).finish()
    }
}
