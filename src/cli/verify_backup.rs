//! `barman verify-backup`.

use super::{Session, not_built};
use crate::error::Result;

/// Read a backup back and verify it.
///
/// Reads every file of the backup from the repository, decrypts and decodes it and compares its digest.
/// Nothing is written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman verify-backup main latest";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("verify-backup"))
}
