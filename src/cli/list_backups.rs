//! `barman list-backups`.

use super::{Session, not_built};
use crate::error::Result;

/// List the backups of one or more servers.
///
/// One line a backup, the newest first: its id, its name, when it ended, its size, and the size of the WAL
/// since.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Print the ids only
    #[arg(long)]
    pub minimal: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman list-backups main
  barman list-backups all --minimal
  barman -f json list-backups main";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("list-backups"))
}
