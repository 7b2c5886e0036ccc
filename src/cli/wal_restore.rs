//! `barman wal-restore`.

use std::path::PathBuf;

use super::{Session, not_built};
use crate::error::Result;

/// Fetch one WAL file: the restore_command of PostgreSQL.
///
/// Writes the file to its destination and returns 0. The exit code is 1 only when the repository certainly
/// does not have it, which tells PostgreSQL that the archive ends there. All other failures have exit
/// code 126, with which PostgreSQL stops instead of taking an earlier end for the end. Needs no configuration file when BARMAN_REPOSITORY and
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

/// The name of the command.
pub const NAME: &str = "wal-restore";

/// The exit code of every failure but a file that certainly is not there. PostgreSQL takes all codes
/// up to 125 for "the archive ends here", and would open the server for writing too early.
pub const FAILED: u8 = 126;

/// Runs the command. Every error becomes exit code [`FAILED`]; a file that is not there, or a standby
/// that must go on asking, is `set_exit_code(1)` without an error.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("wal-restore"))
}
