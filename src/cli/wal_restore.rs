//! `barman wal-restore`.

use std::path::PathBuf;

use super::{Session, not_built};
use crate::error::Result;

/// Fetch one WAL file: the restore_command of PostgreSQL.
///
/// Writes the file to its destination and returns 0. The exit code is 1 only when the repository certainly
/// does not have it, which tells PostgreSQL that the archive ends there; other failures end recovery
/// instead of ending it too early. Needs no configuration file when BARMAN_REPOSITORY and
/// BARMAN_REPOSITORY_KEY_FILE are set.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Name of the WAL file: %f of restore_command
    pub wal_name: String,
    /// Where to write it: %p of restore_command
    pub wal_dest: PathBuf,
}

const EXAMPLES: &str = "EXAMPLES:
  restore_command = 'barman wal-restore main %f %p'    # postgresql.conf
  barman wal-restore main 000000010000000000000042 /tmp/segment";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("wal-restore"))
}
