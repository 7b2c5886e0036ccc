//! `barman switch-wal`.

use super::{Session, not_built};
use crate::error::Result;

/// Make servers begin a new WAL segment.
///
/// The segment being written is completed, so that it can be archived. PostgreSQL does nothing when
/// nothing was written since the last switch; --force runs a checkpoint first, so that there is something.
/// With --archive the command waits until a segment has arrived in the repository.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Run a checkpoint first
    #[arg(long)]
    pub force: bool,
    /// Wait for one WAL segment to be archived
    #[arg(long)]
    pub archive: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub archive_timeout: u32,
}

const EXAMPLES: &str = "EXAMPLES:
  barman switch-wal main
  barman switch-wal main --force --archive --archive-timeout 60";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("switch-wal"))
}
