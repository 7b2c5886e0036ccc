//! `barman wal-archive`.

use std::path::PathBuf;

use super::{Session, not_built};
use crate::error::Result;

/// Archive one WAL file: the archive_command of PostgreSQL.
///
/// Stores the file in the repository and returns 0 only when it is safe there. The same file again is
/// success; another content under a name that is taken is an error. Needs no configuration file when
/// BARMAN_REPOSITORY and BARMAN_REPOSITORY_KEY_FILE are set.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Path of the WAL file: %p of archive_command
    pub wal_path: PathBuf,
}

const EXAMPLES: &str = "EXAMPLES:
  archive_command = 'barman wal-archive main %p'    # postgresql.conf
  barman wal-archive main pg_wal/000000010000000000000042";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("wal-archive"))
}
