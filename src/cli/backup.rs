//! `barman backup`.

use super::{Session, not_built};
use crate::error::Result;

/// Take a base backup of one or more servers.
///
/// Reads the whole cluster over a replication connection and stores what the repository does not have
/// yet; every backup is complete by itself. The checks of 'barman check' come first, and a server that
/// fails one is not backed up. Without --wait the backup is done when all files are stored; with it, when
/// the WAL it needs has been archived too. Several servers are backed up one after the other.
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
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub wait_timeout: Option<u32>,
    /// Begin with a fast checkpoint. Overrides immediate_checkpoint
    #[arg(long, overrides_with = "no_immediate_checkpoint")]
    pub immediate_checkpoint: bool,
    /// Begin with a checkpoint spread over time. Overrides immediate_checkpoint
    #[arg(long, overrides_with = "immediate_checkpoint")]
    pub no_immediate_checkpoint: bool,
    /// Use so many workers. Overrides parallel_jobs
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
    /// Give up the checks after so many seconds; 0 never does. Overrides check_timeout
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u32>,
    /// What Barman has and is refused here.
    #[command(flatten)]
    pub missing: Missing,
}

/// Options of Barman's that are refused.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = super::not_yet::HEADING)]
#[allow(missing_docs)]
pub struct Missing {
    /// every backup stores only what the repository does not have yet, and is complete
    #[arg(long, value_name = "BACKUP_ID")]
    pub incremental: Option<String>,
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
  barman backup all --immediate-checkpoint --bwlimit 50000";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("backup"))
}
