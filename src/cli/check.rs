//! `barman check`.

use super::{Session, not_built};
use crate::error::Result;

/// Check whether servers can be backed up.
///
/// Connects to the servers and the repository and checks all that a backup and WAL archiving need. The
/// exit code is 0 when every check passes. With --nagios it prints one line for all servers and exits
/// with 2 when any check fails.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Print one line that Nagios and its kin understand
    #[arg(long)]
    pub nagios: bool,
    /// Give up on a server after so many seconds; 0 never does. Overrides check_timeout
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u32>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman check all
  barman check main --nagios
  barman -f json check main";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("check"))
}
