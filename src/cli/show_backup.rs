//! `barman show-backup`.

use super::{Session, not_built};
use crate::error::Result;

/// Show all about one backup.
///
/// Its times, sizes and WAL range, what it stored, and the backups before and after it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman show-backup main latest
  barman -f json show-backup main 20260101T010203";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("show-backup"))
}
