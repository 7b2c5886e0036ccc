//! `barman list-files`.

use super::{Session, not_built};
use crate::error::Result;

/// List the files of one backup.
///
/// The paths that a restore would write, one a line. --target says which: 'data' are the files of the base
/// backup, 'standalone' adds the WAL it needs to be consistent, 'wal' is all WAL from its beginning to
/// the next backup, and 'full' is everything.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
    /// Which files
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// List directories that are empty too
    #[arg(long)]
    pub list_empty_directories: bool,
}

/// Which files to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The base backup, and the WAL it needs to be consistent
    #[default]
    Standalone,
    /// The base backup only
    Data,
    /// The WAL from its beginning to the next backup
    Wal,
    /// The base backup and all that WAL
    Full,
}

const EXAMPLES: &str = "EXAMPLES:
  barman list-files main latest
  barman list-files main latest --target full";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("list-files"))
}
