//! `barman status`.

use super::{Session, not_built};
use crate::error::Result;

/// Show the state of one or more servers.
///
/// What the running PostgreSQL says of itself, and what the repository holds of it: version, size, how far
/// WAL has been archived, the first and last backup.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman status main
  barman -f json status all";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("status"))
}
