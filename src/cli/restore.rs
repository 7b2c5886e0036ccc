//! `barman restore`.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Session, not_built};
use crate::error::Result;

/// Restore a backup, to its end or to a chosen moment.
///
/// Writes the data directory of the backup into an empty directory and prepares PostgreSQL's recovery: up
/// to the end of the WAL, or to one target (time, LSN, transaction, restore point, or as soon as
/// consistent). BACKUP_ID may be 'auto': then the best backup for the target is taken. Start PostgreSQL on
/// the directory afterwards; it replays the WAL itself.
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
    /// Start as a standby that goes on following the archive
    #[arg(long)]
    pub standby_mode: bool,
    /// Let PostgreSQL fetch WAL from the repository while it recovers. Overrides recovery_options
    #[arg(long, overrides_with = "no_get_wal")]
    pub get_wal: bool,
    /// Write the WAL it needs into the destination now. Overrides recovery_options
    #[arg(long, overrides_with = "get_wal")]
    pub no_get_wal: bool,
    /// Write the recovery settings into this file of the destination
    #[arg(long, value_name = "FILENAME", default_value = "postgresql.auto.conf")]
    pub recovery_conf_filename: String,
    /// Use so many workers. Overrides parallel_jobs
    #[arg(short, long, value_name = "NJOBS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Restores never go on top of other data
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

/// Where recovery ends; at most one of them.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct Target {
    /// End recovery at this time, for example "2026-01-01 12:00:00+01"
    #[arg(long, value_name = "TIME")]
    pub target_time: Option<String>,
    /// End recovery with this transaction
    #[arg(long, value_name = "XID")]
    pub target_xid: Option<String>,
    /// End recovery at this WAL location
    #[arg(long, value_name = "LSN")]
    pub target_lsn: Option<String>,
    /// End recovery at this restore point (pg_create_restore_point)
    #[arg(long, value_name = "NAME")]
    pub target_name: Option<String>,
    /// End recovery as soon as the backup is consistent
    #[arg(long)]
    pub target_immediate: bool,
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

/// Options of Barman's that are refused.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = super::not_yet::HEADING)]
#[allow(missing_docs)]
pub struct Missing {
    /// run barman on the host to restore to
    #[arg(long, value_name = "SSH_COMMAND")]
    pub remote_ssh_command: Option<String>,
    /// WAL is written without staging
    #[arg(long, value_name = "DIRECTORY")]
    pub staging_wal_directory: Option<String>,
    /// restores run at full speed
    #[arg(long, value_name = "KBPS")]
    pub bwlimit: Option<String>,
    /// an interrupted restore goes on where it stopped
    #[arg(long, value_name = "RETRY_TIMES")]
    pub retry_times: Option<String>,
    /// an interrupted restore goes on where it stopped
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
    /// an interrupted restore goes on where it stopped
    #[arg(long)]
    pub no_retry: bool,
    /// partial segments are never archived
    #[arg(long)]
    pub partial_wal: bool,
    /// run barman on the host to restore to
    #[arg(long)]
    pub network_compression: bool,
    /// restore into an empty directory
    #[arg(long)]
    pub delta_restore: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman restore main latest /srv/pg
  barman restore main auto /srv/pg --target-time '2026-01-01 12:00:00+01' --target-action promote
  barman restore main latest /srv/pg --tablespace fast:/nvme/fast --get-wal";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("restore"))
}
