//! `barman restore`.

mod report;

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;

use super::Session;
use super::open::Repositories;
use super::target::{Target, choose};
use crate::catalog::Catalog;
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::repository::{Access, host};
use crate::restore::agent::client::OtherHost;
use crate::restore::destination::{Destination, ThisHost};
use crate::restore::hold::Hold;
use crate::restore::prepared::resumable;
use crate::restore::programs::shell_word;
use crate::restore::settings::WalSource;
use crate::restore::target::{self, Action, Moment};
use crate::restore::{self, Onto, Prepared, Request};
use report::Done;

/// Restore a backup, to its end or to a chosen moment.
///
/// Writes the data directory of the backup into an empty directory and prepares PostgreSQL's recovery: up
/// to the end of the WAL, or to one target (time, LSN, transaction, restore point, or as soon as
/// consistent). BACKUP_ID may be 'auto': then the best backup for the target is taken. Start PostgreSQL on
/// the directory afterwards; it replays the WAL itself.
///
/// Everything is checked before anything is written: space, owner, what is at the destination, the version
/// of PostgreSQL here, and whether the archive reaches the target; --dry-run stops after that.
///
/// --delta restores into the data directory of a server that is stopped, and into its tablespaces. What is right
/// there stays, and is neither fetched nor written; what the backup does not have is removed, also logs and WAL.
/// --resume goes on with a restore that was interrupted. In both cases, as while any restore is under way, no
/// server can start on the directory until all is done.
///
/// With --only-database the files of other databases get their sizes and are all zeros, which takes no space.
/// PostgreSQL cannot open these databases: drop them when recovery has ended. Roles, templates and the
/// database postgres are always restored, and what the WAL makes after the backup comes too.
///
/// Settings of earlier recoveries, of replication and of archiving are commented out wherever PostgreSQL
/// would read them in what is restored, and the files as they were are kept as NAME.origin. What
/// may be set elsewhere is overridden in postgresql.auto.conf. A restored server neither archives nor
/// follows another one until it is told to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or auto
    pub backup_id: String,
    /// Directory to restore into
    pub destination_directory: PathBuf,
    /// Follow this timeline: a number, 'latest' or 'current'
    #[arg(long, value_name = "TARGET_TLI")]
    pub target_tli: Option<String>,
    /// Where recovery ends.
    #[command(flatten)]
    pub target: Target,
    /// Stop just before the target instead of just after it
    #[arg(long)]
    pub exclusive: bool,
    /// What PostgreSQL does when it has reached the target
    #[arg(long, value_enum)]
    pub target_action: Option<TargetAction>,
    /// Put the tablespace NAME at LOCATION; may be given for each
    #[arg(long, value_name = "NAME:LOCATION", value_parser = str::parse::<Tablespace>)]
    pub tablespace: Vec<Tablespace>,
    /// Make pg_wal a link to this directory
    #[arg(long, value_name = "DIRECTORY", value_parser = absolute)]
    pub waldir: Option<PathBuf>,
    /// Give everything to this user, by name or number. Only root has the choice, and then it is the owner of the
    /// destination or 'postgres' unless given
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Start as a standby that goes on following the archive
    ///
    /// It keeps primary_conninfo, synchronous_standby_names and recovery_min_apply_delay as they were, so that it
    /// streams from where the server that was backed up did; but not primary_slot_name, since a slot is of one
    /// standby only.
    #[arg(long, conflicts_with_all = ["Target", "target_action"])]
    pub standby_mode: bool,
    /// Leave archive_command and archive_library as they were
    ///
    /// Only for a server that takes the place of the one that was backed up: two that write into one archive
    /// spoil it.
    #[arg(long)]
    pub keep_archiving: bool,
    /// Restore to another host, which this command reaches, for example 'ssh postgres@host'
    ///
    /// The same barman must be in PATH there; it needs no configuration and no key.
    #[arg(long, value_name = "SSH_COMMAND")]
    pub remote_ssh_command: Option<String>,
    /// How the other host calls this one, of which its restore_command asks for WAL; otherwise this host's name
    #[arg(long, value_name = "HOST", requires = "remote_ssh_command")]
    pub backup_host: Option<String>,
    /// Restore into the data directory of a stopped server: write what differs, and remove what the backup does not
    /// have
    #[arg(long, alias = "delta-restore", conflicts_with_all = ["resume", "config_only", "no_delta_restore"])]
    pub delta: bool,
    /// With --delta, replace the data directory also if it is another cluster's than the backup is of
    #[arg(long, requires = "delta")]
    pub force: bool,
    /// Go on with a restore of this backup into this directory that did not come to its end
    #[arg(long, conflicts_with = "config_only")]
    pub resume: bool,
    /// Restore the data of this database only; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with_all = ["config_only", "standby_mode"])]
    pub only_database: Vec<String>,
    /// Check and plan everything, say what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore although PostgreSQL of the backup's version is not installed here, but another one
    #[arg(long)]
    pub any_version: bool,
    /// Let PostgreSQL fetch WAL from the repository while it recovers. Overrides recovery_options
    #[arg(long, overrides_with = "no_get_wal")]
    pub get_wal: bool,
    /// Write the WAL it needs into the destination now. Overrides recovery_options
    #[arg(long, overrides_with = "get_wal")]
    pub no_get_wal: bool,
    /// Write the recovery settings into this file of the destination
    #[arg(long, value_name = "FILENAME", default_value = "postgresql.auto.conf", value_parser = inside)]
    pub recovery_conf_filename: String,
    /// Write configuration files that were outside the data directory here, adapted; an empty directory
    #[arg(long, value_name = "DIRECTORY", value_parser = absolute)]
    pub config_dir: Option<PathBuf>,
    /// Write nothing but these: the data directory has been restored to the destination already
    #[arg(long, requires = "config_dir")]
    pub config_only: bool,
    /// Use so many workers. Overrides parallel_jobs
    #[arg(short, long, value_name = "NJOBS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Restores go on top of other data only with --delta
    #[arg(long, hide = true)]
    pub no_delta_restore: bool,
    /// Nothing is sent over a network in between
    #[arg(long, hide = true)]
    pub no_network_compression: bool,
    /// There is no staged WAL
    #[arg(long, hide = true)]
    pub skip_archive_wal: bool,
    /// What Barman has and is refused here.
    #[command(flatten)]
    pub missing: Missing,
}

/// What PostgreSQL does when it has reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TargetAction {
    /// Wait, readable
    Pause,
    /// Become a primary
    Promote,
    /// Stop
    Shutdown,
}

/// A tablespace and where to put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its name.
    pub name: String,
    /// Its new place, an absolute path.
    pub location: PathBuf,
}

impl FromStr for Tablespace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((name, location)) if !name.is_empty() && location.starts_with('/') => {
                Ok(Tablespace { name: name.to_owned(), location: location.into() })
            }
            _ => Err("expected NAME:LOCATION with an absolute path"),
        }
    }
}

/// A file at the top of the destination that is no other one's: whatever its name, nothing is written elsewhere.
fn inside(name: &str) -> Result<String, &'static str> {
    const TAKEN: [&str; 4] = ["backup_label", "backup_manifest", "tablespace_map", "PG_VERSION"];
    let is_taken = TAKEN.contains(&name) || name.ends_with(".signal") || name.ends_with(".pid");
    match Path::new(name).components().collect::<Vec<_>>().as_slice() {
        [Component::Normal(only)] if *only == name && !is_taken => Ok(name.to_owned()),
        _ => Err("expected the name of a configuration file at the top of the destination"),
    }
}

/// A path that means the same wherever it is read.
fn absolute(path: &str) -> Result<PathBuf, &'static str> {
    if path.starts_with('/') { Ok(path.into()) } else { Err("expected an absolute path") }
}

/// Options of Barman's that are refused.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = super::not_yet::HEADING)]
#[allow(missing_docs)]
pub struct Missing {
    /// WAL is written without staging
    #[arg(long, value_name = "DIRECTORY")]
    pub staging_wal_directory: Option<String>,
    /// restores run at full speed
    #[arg(long, value_name = "KBPS")]
    pub bwlimit: Option<String>,
    /// an interrupted restore goes on with --resume
    #[arg(long, value_name = "RETRY_TIMES")]
    pub retry_times: Option<String>,
    /// an interrupted restore goes on with --resume
    #[arg(long, value_name = "SECONDS")]
    pub retry_sleep: Option<String>,
    /// it belongs to copies by rsync
    #[arg(long, value_name = "SECONDS")]
    pub jobs_start_batch_period: Option<String>,
    /// it belongs to copies by rsync
    #[arg(long, value_name = "NJOBS")]
    pub jobs_start_batch_size: Option<String>,
    /// restores write straight to the destination
    #[arg(long, value_name = "PATH")]
    pub recovery_staging_path: Option<String>,
    /// restores write straight to the destination
    #[arg(long, value_name = "PATH")]
    pub local_staging_path: Option<String>,
    /// restores write straight to the destination
    #[arg(long, value_name = "PATH")]
    pub staging_path: Option<String>,
    /// restores write straight to the destination
    #[arg(long, value_name = "LOCATION")]
    pub staging_location: Option<String>,
    /// there are no incremental backups to combine: every backup is complete
    #[arg(long, value_name = "COMBINE_MODE")]
    pub combine_mode: Option<String>,
    /// restore_command runs barman on the restored host
    #[arg(long, value_name = "PORT")]
    pub recovery_option_port: Option<String>,
    /// edit restore_command in the recovery settings after the restore
    #[arg(long, value_name = "RESTORE_COMMAND")]
    pub restore_command: Option<String>,
    /// there are no backups by disk snapshots
    #[arg(long, value_name = "INSTANCE")]
    pub snapshot_recovery_instance: Option<String>,
    /// there are no backups by disk snapshots
    #[arg(long, value_name = "ZONE")]
    pub snapshot_recovery_zone: Option<String>,
    /// there are no backups by disk snapshots
    #[arg(long, value_name = "ZONE")]
    pub gcp_zone: Option<String>,
    /// there are no backups by disk snapshots
    #[arg(long, value_name = "GROUP")]
    pub azure_resource_group: Option<String>,
    /// there are no backups by disk snapshots
    #[arg(long, value_name = "REGION")]
    pub aws_region: Option<String>,
    /// an interrupted restore goes on with --resume
    #[arg(long)]
    pub no_retry: bool,
    /// partial segments are never archived
    #[arg(long)]
    pub partial_wal: bool,
    /// let ssh compress: --remote-ssh-command 'ssh -C postgres@host'
    #[arg(long)]
    pub network_compression: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman restore main latest /srv/pg
  barman restore main auto /srv/pg --target-time '2026-01-01 12:00:00+01' --target-action promote
  barman restore main latest /srv/pg --tablespace fast:/nvme/fast --get-wal
  barman restore main latest /var/lib/postgresql/17/main --config-dir /etc/postgresql/17/main
  barman restore main latest /var/lib/postgresql/17/main --delta --dry-run
  barman restore main latest /srv/pg --resume
  barman restore main latest /srv/pg --only-database shop
  barman restore main latest /srv/pg --dry-run";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let begun = Timestamp::now();
    let target = args.target()?;
    let destination_directory = args.destination_directory()?;
    let interrupt = &session.interrupt;
    let mut repositories = Repositories::new(&session.output);
    let server = session.server_or_known(&args.server_name, &mut repositories);
    let server = interrupt.unless(server).await?.into_owned();
    let repository = interrupt.unless(repositories.of(&server, Access::Read)).await?;
    let catalog = interrupt.unless(Catalog::load(&repository, &server.name)).await?;
    let backup = choose(&args.backup_id, &catalog, &target, &session.output, "restore")?;
    let snapshot = backup.usable()?;
    session.output.info(format!(
        "{} backup {} of server {} to {}",
        if args.dry_run { "Planning a restore of" } else { "Restoring" },
        backup.id,
        server.name,
        destination_directory.display()
    ));
    if let Moment::Time(time) = target.moment {
        session.output.info(format!("Recovery target: {}", restore::local(time)));
    }
    let request = Request {
        destination: destination_directory,
        onto: args.onto(),
        tablespaces: args.tablespace.iter().cloned().map(|t| (t.name, t.location)).collect(),
        wal_directory: args.waldir.clone(),
        owner: args.owner.clone(),
        target,
        standby: args.standby_mode,
        keep_archiving: args.keep_archiving,
        wal: args.wal_source(&server, session)?,
        settings_file: args.recovery_conf_filename.clone(),
        config_dir: args.config_dir.clone(),
        config_only: args.config_only,
        only_databases: args.only_database.clone(),
        any_version: args.any_version,
        threads: server.workers(args.jobs),
    };
    let destination = args.host().await?;
    let bar = session.progress("looking");
    let progress = bar.observer();
    let prepare = Box::pin(Prepared::new(&repository, snapshot, &request, &destination, &progress));
    let ended = if args.dry_run {
        interrupt.unless(Box::pin(plan(prepare))).await
    } else {
        let hold = Hold::begin(&repository, snapshot).await;
        let ended = restore(prepare, interrupt, &progress).await;
        hold.end().await;
        ended
    };
    bar.finish();
    let (prepared, done) = ended?;
    let access = (!session.config.is_enough()).then_some(&server.repository);
    report::report(&session.output, &prepared, &done, access, begun);
    Ok(())
}

async fn plan(prepare: impl Future<Output = Result<Prepared>>) -> Result<(Prepared, Done)> {
    let prepared = prepare.await?;
    let packs = prepared.packs().await?.len();
    Ok((prepared, Done::Planned { packs }))
}

async fn restore(
    prepare: impl Future<Output = Result<Prepared>>,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<(Prepared, Done)> {
    let prepared = interrupt.unless(prepare).await?;
    let written = interrupt.unless(Box::pin(prepared.write(progress))).await;
    let restored = written.map_err(|error| match error.kind() {
        Kind::Interrupted if !prepared.request.config_only => resumable(error),
        _ => error,
    })?;
    Ok((prepared, Done::Restored(restored)))
}

impl Args {
    /// The host that is restored to.
    async fn host(&self) -> Result<Arc<dyn Destination>> {
        let Some(command) = self.remote_ssh_command.clone() else {
            return Ok(Arc::new(ThisHost::default()));
        };
        let connected = tokio::task::spawn_blocking(move || OtherHost::connect(&command));
        let host = connected.await.unwrap_or_else(|p| std::panic::resume_unwind(p.into_panic()))?;
        Ok(Arc::new(host))
    }

    /// What may be at the destination.
    fn onto(&self) -> Onto {
        match (self.delta, self.resume) {
            (true, _) => Onto::DataDirectory { of_any: self.force },
            (false, true) => Onto::Unfinished,
            (false, false) => Onto::Nothing,
        }
    }

    /// The directory, absolute: what is said of it means the same wherever it is read.
    fn destination_directory(&self) -> Result<PathBuf> {
        let directory = &self.destination_directory;
        if self.remote_ssh_command.is_some() && !directory.is_absolute() {
            let message = "the destination on another host must be an absolute path";
            return Err(Error::new(Kind::Usage, message));
        }
        let wrong = format!("cannot restore to {}", directory.display());
        std::path::absolute(directory).map_err(|e| Error::new(Kind::Usage, wrong).because(e))
    }

    fn target(&self) -> Result<target::Target> {
        let moment = self.target.moment()?;
        let timeline = super::target::timeline(self.target_tli.as_deref())?;
        if self.target_action.is_some() && moment == Moment::Latest {
            return Err(Error::new(Kind::Usage, "--target-action needs a target")
                .hint("without one the server is promoted at the end of the archive"));
        }
        let action = self.target_action.map(|action| match action {
            TargetAction::Pause => Action::Pause,
            TargetAction::Promote => Action::Promote,
            TargetAction::Shutdown => Action::Shutdown,
        });
        Ok(target::Target { moment, timeline, exclusive: self.exclusive, action })
    }

    fn wal_source(&self, server: &Server, session: &Session) -> Result<WalSource> {
        let get_wal = self.get_wal || (server.recovery_options.get_wal && !self.no_get_wal);
        if !get_wal {
            return Ok(WalSource::Copied);
        }
        if self.remote_ssh_command.is_some() {
            // That host has no key: it asks this one, as Barman's hosts do.
            let this = self.backup_host.clone().unwrap_or_else(host::name);
            let words = ["barman-wal-restore", "-U", &host::user(), &this, &server.name];
            let words: Vec<String> = words.iter().map(|w| shell_word(Path::new(w))).collect();
            let command = words.join(" ").replace('%', "%%");
            return Ok(WalSource::Command(format!("{command} \"%f\" \"%p\"")));
        }
        // A host that is being rescued may have no /proc to ask; then it is how this program was called.
        let called = || {
            let name = std::env::args_os().next().map_or_else(|| "barman".into(), PathBuf::from);
            if name.components().count() > 1 { std::path::absolute(&name) } else { Ok(name) }
        };
        let program = std::env::current_exe()
            .or_else(|_| called())
            .map_err(|e| Error::new(Kind::Io, "cannot tell where barman is").because(e))?;
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let mut command = quoted(&program.to_string_lossy());
        if let Some(path) = &session.config.path {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            command.push_str(&format!(" -c {}", quoted(&path.to_string_lossy())));
        }
        // PostgreSQL replaces %f and %p itself, and takes %% for a percent sign.
        let command = command.replace('%', "%%");
        let server = quoted(&server.name).replace('%', "%%");
        Ok(WalSource::Command(format!("{command} wal-restore {server} \"%f\" \"%p\"")))
    }
}
