//! `barman backup`.

mod wal;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use futures::{StreamExt, stream};
use repo_format::note::Fact;
use repo_format::snapshot::{Method, Snapshot};
use serde_json::json;

use super::backup_info::{self, WalRange};
use super::open::Repositories;
use super::output::Output;
use super::progress::Bar;
use super::{Session, check, human, memory, remote};
use crate::backup::changed::Reading;
use crate::backup::{self, Incremental, Made, Request};
use crate::catalog::{Catalog, Status};
use crate::chunking::page_map::PageMaps;
use crate::config::Server;
use crate::config::values::Rate;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;
use crate::repository::{Access, Repository, notes, now_micros};
use crate::server::check::{self as checks, Check, Patience, Place};
use crate::storage::patient::PatientStorage;

/// Take a base backup of one or more servers.
///
/// Reads the cluster over a replication connection, or what changed in it where the server knows that; with
/// backup_method = local, its files on this host, by -j readers. Stores what the repository does not have yet: of
/// pages that changed since the newest backup of the cluster, what changed in them. Every backup is complete by
/// itself. The checks of 'barman check' come first, and a server that
/// fails one is not backed up. Without --wait the backup is done when all files are stored; with it, when
/// the WAL it needs has been archived too. A temporary replication slot keeps that WAL on the server meanwhile.
/// With --wal stream it is not left to the server's archiving, but streamed beside the files.
///
/// Exit codes: 0, the backup is stored; 1, it failed; 3, it is stored, and the WAL that it needs did not come in
/// --wait-timeout: the message names the segment, and the backup is complete as soon as that arrives.
///
/// Several servers are backed up one after the other, or with -j so many at a
/// time; those that fail are listed at the end. A repository that is away for a while is waited for, up to
/// repository_timeout.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Name the backup, to be used in place of its id
    #[arg(long, value_name = "BACKUP_NAME")]
    pub name: Option<String>,
    /// Wait until the WAL that the backup needs is archived
    #[arg(short, long)]
    pub wait: bool,
    /// Give up waiting (--wait, or --wal stream) after so many seconds (3600 unless set), with exit code 3
    #[arg(long, value_name = "SECONDS")]
    pub wait_timeout: Option<u32>,
    /// How the WAL that the backup needs comes into the repository
    #[arg(long, value_name = "METHOD", value_enum, default_value_t)]
    pub wal: WalMethod,
    /// Begin with a fast checkpoint. Overrides immediate_checkpoint
    #[arg(long, overrides_with = "no_immediate_checkpoint")]
    pub immediate_checkpoint: bool,
    /// Begin with a checkpoint spread over time. Overrides immediate_checkpoint
    #[arg(long, overrides_with = "immediate_checkpoint")]
    pub no_immediate_checkpoint: bool,
    /// Back up so many servers at a time; of a single server, use so many workers. Overrides parallel_jobs
    #[arg(short, long, value_name = "NJOBS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Read no faster than so many kB/s; 0 is no limit. Overrides bandwidth_limit
    #[arg(long, value_name = "KBPS")]
    pub bwlimit: Option<u32>,
    /// Try a failed copy again so many times. Overrides basebackup_retry_times
    #[arg(long, value_name = "RETRY_TIMES")]
    pub retry_times: Option<u32>,
    /// Wait so many seconds before that. Overrides basebackup_retry_sleep
    #[arg(long, value_name = "SECONDS")]
    pub retry_sleep: Option<u32>,
    /// Do not try a failed copy again
    #[arg(long, conflicts_with_all = ["retry_times", "retry_sleep"])]
    pub no_retry: bool,
    /// The backup that this one is compared with: an id, 'auto' (the newest of the cluster), or 'none'. Every
    /// backup is complete, whatever it is compared with
    #[arg(long, value_name = "BACKUP_ID", default_value = "auto")]
    pub incremental: String,
    /// What is read of the server: what changed where its summaries of WAL are known to be complete (PostgreSQL 17.11,
    /// 18.6, summarize_wal = on), everything, or what changed also elsewhere: what the summaries miss is then lost in this
    /// backup and in all that build on it, until everything is read
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub read: ReadWhat,
    /// Begin even if the repository is not expected to have room
    #[arg(long)]
    pub no_space_check: bool,
    /// Give up the checks after so many seconds; 0 never does. Overrides check_timeout
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u32>,
    /// What Barman has and is refused here.
    #[command(flatten)]
    pub missing: Missing,
}

/// `--wal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WalMethod {
    /// The server archives it
    #[default]
    Archive,
    /// It is streamed during the backup, and waited for; archiving need not work
    Stream,
}

/// `--read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ReadWhat {
    /// What changed, if nothing can be missed; else everything
    #[default]
    Auto,
    /// Everything
    Full,
    /// What changed, even if something may be missed
    Changed,
}

impl From<ReadWhat> for Reading {
    fn from(what: ReadWhat) -> Self {
        match what {
            ReadWhat::Auto => Reading::Auto,
            ReadWhat::Full => Reading::Full,
            ReadWhat::Changed => Reading::Changed,
        }
    }
}

impl Args {
    fn streams_wal(&self) -> bool {
        self.wal == WalMethod::Stream
    }

    /// Whether the WAL is waited for.
    fn waits(&self) -> bool {
        self.wait || self.streams_wal()
    }

    /// Refuses a limit of waiting where nothing waits.
    pub(super) fn check_waiting(&self) -> Result<()> {
        if self.wait_timeout.is_some() && !self.waits() {
            let message = "--wait-timeout is for a backup that waits for its WAL";
            return Err(Error::new(Kind::Usage, message).hint("add --wait"));
        }
        Ok(())
    }
}

/// Options of Barman's that are refused.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = super::not_yet::HEADING)]
#[allow(missing_docs)]
pub struct Missing {
    /// every backup stores only what the repository does not have yet
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "REUSE_BACKUP")]
    pub reuse_backup: Option<Option<String>>,
    /// it belongs to copies by rsync
    #[arg(long, value_name = "SECONDS")]
    pub jobs_start_batch_period: Option<String>,
    /// it belongs to copies by rsync
    #[arg(long, value_name = "NJOBS")]
    pub jobs_start_batch_size: Option<String>,
    /// it belongs to copies by rsync
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_interval: Option<String>,
    /// every restore writes a backup_manifest
    #[arg(long)]
    pub manifest: bool,
    /// every restore writes a backup_manifest
    #[arg(long)]
    pub no_manifest: bool,
    /// backups go to the repository without staging
    #[arg(long, value_name = "DIRECTORY")]
    pub cloud_staging_directory: Option<String>,
    /// backups go to the repository without staging
    #[arg(long, value_name = "SIZE")]
    pub cloud_staging_max_size: Option<String>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman backup main
  barman backup main --name before-upgrade --wait
  barman backup main --wait --wait-timeout 600
  barman backup main --wal stream
  barman backup all --immediate-checkpoint --bwlimit 50000
  barman backup all -j 4";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    args.check_waiting()?;
    let session = &*session;
    let output = &session.output;
    let repositories = Repositories::new(output);
    let servers = session.servers(&args.server_name);
    let several = servers.len() > 1;
    let at_once = match args.jobs {
        Some(jobs) if several => usize::try_from(jobs).unwrap_or(usize::MAX),
        _ => 1,
    };
    let (all, mut failed) = (servers.len(), vec![]);
    let run = Run { args: &args, session, repositories: &repositories, several, at_once };
    let mut made = stream::iter(servers)
        .map(async |server| (server, Box::pin(run.back_up(server)).await))
        .buffer_unordered(at_once)
        .boxed_local();
    while let Some((server, made)) = made.next().await {
        let Err(error) = made else { continue };
        if several && error.kind() != Kind::Waiting {
            failed.push(server.name.as_str());
        }
        let is_interrupted = error.kind() == Kind::Interrupted;
        output.failure(&error.context(format!("backup of server {}", server.name)));
        if is_interrupted && at_once == 1 {
            break;
        }
    }
    if !failed.is_empty() {
        output.error(format!("{} of {all} backups failed: {}", failed.len(), failed.join(", ")));
    }
    Ok(())
}

/// One run of the command.
struct Run<'r> {
    args: &'r Args,
    session: &'r Session,
    repositories: &'r Repositories<'r>,
    /// Whether there is more than one server.
    several: bool,
    /// How many of them are backed up at a time.
    at_once: usize,
}

impl Run<'_> {
    /// Backs up a server, and tells what came of it.
    async fn back_up(&self, server: &Server) -> Result<()> {
        match self.copy(server).await {
            Ok((repository, request, made)) => {
                self.complete(server, &repository, &request, made).await
            }
            Err(error) => {
                if self.several {
                    let status = Status::Failed.name();
                    let failure = json!({ "status": status, "error": error.to_string() });
                    self.session.output.result(&server.name, failure);
                }
                Err(error)
            }
        }
    }

    /// Checks the server, and makes the backup.
    async fn copy(&self, server: &Server) -> Result<(Arc<Repository>, Request, Made)> {
        let Run { args, session, repositories, .. } = *self;
        let output = &session.output;
        server.ready_for_backup()?;
        if server.reads_files && args.read == ReadWhat::Changed {
            let message =
                format!("server {} is backed up by reading all of its files", server.name);
            return Err(Error::new(Kind::Usage, message)
                .hint("--read changed is for backup_method = postgres"));
        }
        let timeout = check::timeout(args.check_timeout, server);
        let interrupt = &session.interrupt;
        let checks = async {
            let opening = repositories.of(server, Access::Write);
            let place = Place::new(opening, Patience::of(timeout));
            Ok(checks::run(server, &place, timeout).await)
        };
        let report = interrupt.unless(Box::pin(checks)).await?;
        let concerns = |check: &&Check| !(args.streams_wal() && check.is_about_archiving());
        let mut blockers = report.blockers().filter(concerns).peekable();
        let is_blocked = blockers.peek().is_some();
        for Check { name, hint, .. } in blockers {
            let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
            let whose = if self.several { format!("{}: ", server.name) } else { String::new() };
            output.error(format!("{whose}the check '{name}' failed{hint}"));
        }
        if is_blocked {
            return Err(Error::new(Kind::Refused, "not started, because checks failed")
                .hint(format!("see all checks: barman check {}", server.name)));
        }
        let opened = interrupt.unless(repositories.of(server, Access::Write)).await?;
        memory::try_to_remember(&session.config.global.state_directory, &opened);
        let patient = PatientStorage::new(
            opened.storage().clone(),
            server.repository_timeout,
            interrupt.clone(),
        );
        let repository = Arc::new(opened.through(Arc::new(patient)));
        let request = self.request(server, &repository)?;
        output.info(format!(
            "Starting backup of server {} into {}",
            server.name,
            repository.location()
        ));
        if !request.fast_checkpoint {
            output.info(
                "It begins with a checkpoint spread over time, which may take minutes; \
                 --immediate-checkpoint makes it a fast one.",
            );
        }
        let bar = session.progress("starting");
        let bar = if self.several { bar.named(&server.name) } else { bar };
        let made = make(args, server, &repository, &request, &bar, session).await;
        bar.finish();
        Ok((repository, request, made?))
    }

    /// Sees to the WAL of a backup whose files are stored, and shows it.
    async fn complete(
        &self,
        server: &Server,
        repository: &Repository,
        request: &Request,
        mut made: Made,
    ) -> Result<()> {
        let (output, interrupt) = (&self.session.output, &self.session.interrupt);
        tell(&made, output);
        tell_unread(&server.name, repository, &made.snapshot, output).await;
        let seen_to = Box::pin(self.see_to_wal(server, repository, request, &mut made));
        let waited = interrupt.unless(seen_to).await;
        // Nothing is kept on the server any longer.
        let Made { snapshot, wal, .. } = made;
        drop(wal);
        let catalog = Catalog::load(repository, &server.name).await?;
        let backup = catalog.find(&snapshot.backup_id)?;
        let fields = backup_info::fields(&server.name, backup);
        if self.several {
            output.result(&server.name, fields);
        } else {
            fields.into_iter().for_each(|(key, value)| output.result(key, value));
        }
        output.print(format!(
            "Backup {} of server {}: {}",
            backup.id,
            server.name,
            backup.status().name()
        ));
        if waited.is_ok() && backup.status() == Status::WaitingForWals {
            let end = WalRange::of(&snapshot).end;
            output.print(format!("It is complete when {end} is archived"));
        }
        waited
    }

    fn request(&self, server: &Server, repository: &Repository) -> Result<Request> {
        let Run { args, session, several, at_once, .. } = *self;
        let rate = match args.bwlimit {
            Some(limit) => Rate::from_kilobytes(limit),
            None => server.bandwidth_limit,
        };
        let fast = match (args.immediate_checkpoint, args.no_immediate_checkpoint) {
            (true, _) => true,
            (_, true) => false,
            _ => server.immediate_checkpoint,
        };
        Ok(Request {
            server: server.name.clone(),
            sql: remote::sql_conninfo(server)?,
            replication: remote::streaming_conninfo(server)?,
            method: if server.reads_files { Method::Local } else { Method::Stream },
            name: args.name.clone(),
            fast_checkpoint: fast,
            max_rate: rate.map(|rate| rate.kilobytes_per_second),
            // Those that run beside each other share the cores.
            threads: match several {
                true => server.workers(None).div_ceil(at_once),
                false => server.workers(args.jobs),
            },
            level: server.repository.compression_level,
            deltas: server.repository.delta.is_worthwhile(),
            reserve: server.repository.reserve,
            needs_room: !args.no_space_check,
            stream_wal: args.streams_wal(),
            incremental: match args.incremental.as_str() {
                "auto" => Incremental::Auto,
                "none" => Incremental::None,
                id => Incremental::On(id.to_owned()),
            },
            reading: args.read.into(),
            page_maps: page_maps(&session.config.global.state_directory, repository, server),
        })
    }
}

/// Where this host keeps the page maps of a server.
fn page_maps(state_directory: &Path, repository: &Repository, server: &Server) -> PageMaps {
    let id = repository.config().repository.to_string();
    let name = repo_format::names::escape(&server.name);
    PageMaps::new(state_directory.join("page-maps").join(id).join(name))
}

/// Makes the backup, and tries again when the server or the way to it failed.
async fn make(
    args: &Args,
    server: &Server,
    repository: &Arc<Repository>,
    request: &Request,
    bar: &Bar,
    session: &Session,
) -> Result<Made> {
    let mut retries = match (args.no_retry, args.retry_times) {
        (true, _) => 0,
        (false, times) => times.unwrap_or(server.basebackup_retry_times),
    };
    let sleep = args
        .retry_sleep
        .map_or(server.basebackup_retry_sleep, |seconds| Duration::from_secs(seconds.into()));
    loop {
        let begun_at = now_micros();
        match Box::pin(backup::back_up(repository, request, &session.interrupt, &bar.observer()))
            .await
        {
            Err(error) if retries > 0 && error.kind() == Kind::Postgres => {
                retries -= 1;
                session
                    .output
                    .warning(format!("{error}; trying again in {}", human::duration(sleep)));
                forget_failed(repository, &server.name, begun_at).await?;
                bar.phase("waiting to try again");
                session
                    .interrupt
                    .unless(async {
                        tokio::time::sleep(sleep).await;
                        Ok(())
                    })
                    .await?;
            }
            made => return made,
        }
    }
}

/// Takes an attempt that is made again out of the catalogue: only the last one tells how it went.
async fn forget_failed(repository: &Repository, server: &str, begun_at: i64) -> Result<()> {
    for (id, known) in notes::of_server(repository, server).await? {
        if known.failure.is_some_and(|failure| failure.begun_at >= begun_at) {
            let fact = Fact::Deleted { reason: "the backup was tried again".to_owned() };
            notes::add(repository, server, &id, fact).await?;
        }
    }
    Ok(())
}

fn tell(made: &Made, output: &Output) {
    let snapshot = &made.snapshot;
    if let Some(why) = &made.why_full {
        output.print(format!("The server was read in full: {why}"));
    } else if let (false, Some(parent)) = (made.read_in_full, &snapshot.parent) {
        output.print(format!("What changed since backup {parent} was read"));
    }
    let (statistics, range) = (&snapshot.statistics, WalRange::of(snapshot));
    let lsn = |lsn: u64| Lsn(lsn).to_string();
    output.print(format!(
        "Backup start at LSN: {} ({}, {:08X})",
        lsn(snapshot.wal.start_lsn),
        range.begin,
        range.begin_offset
    ));
    output.print(format!(
        "Backup end at LSN: {} ({}, {:08X})",
        lsn(snapshot.wal.stop_lsn),
        range.end,
        range.end_offset
    ));
    output.print(format!(
        "Backup size: {} in {} files; new: {}, stored: {} ({:.1} % deduplicated)",
        human::size(statistics.bytes),
        statistics.files,
        human::size(statistics.new_bytes),
        human::size(statistics.stored_bytes),
        backup_info::deduplicated_percent(snapshot)
    ));
    let taken = Duration::from_micros(
        u64::try_from(snapshot.ended_at - snapshot.begun_at).unwrap_or_default(),
    );
    output.print(format!(
        "Backup copied (start time: {}, elapsed time: {})",
        human::time_with_offset(backup_info::time(snapshot.begun_at)),
        human::duration(taken)
    ));
    if snapshot.bad_pages.count > 0 {
        let first = snapshot.bad_pages.first.iter().take(5);
        let named: Vec<String> =
            first.map(|page| format!("{} block {}", page.path, page.block)).collect();
        output.warning(format!(
            "{} pages have wrong checksums on the server: {}. They are backed up as they are; see \
             barman show-backup {} {}, and examine the server's storage",
            snapshot.bad_pages.count,
            named.join(", "),
            snapshot.server,
            snapshot.backup_id
        ));
    }
}

/// Names the configuration files that could not be read. A backup that shall be quiet, as one from cron, tells it when it
/// is news: otherwise the same message would be mailed every night.
async fn tell_unread(server: &str, repository: &Repository, snapshot: &Snapshot, output: &Output) {
    let unread = |of: &Snapshot| of.configuration.as_ref().map(|it| it.unread.clone());
    let Some(files) = unread(snapshot).filter(|files| !files.is_empty()) else { return };
    let message = format!(
        "configuration files outside the data directory could not be read: {}. What the server \
         shows of them is kept instead, as far as it does. What to grant, to have them as they are, is \
         said by: barman setup-sql {server}",
        files.join(", ")
    );
    let is_known = |catalog: Catalog| {
        let mut snapshots = catalog.backups.iter().filter_map(|backup| backup.snapshot.as_ref());
        let before = snapshots.rfind(|other| other.sequence < snapshot.sequence);
        before.and_then(unread).is_some_and(|before| before == files)
    };
    if output.is_quiet() && Catalog::load(repository, server).await.is_ok_and(is_known) {
        tracing::info!("{message}");
    } else {
        output.warning(message);
    }
}
