//! `barman cron`.

use super::{Session, not_built};
use crate::error::Result;

/// Run the maintenance that is due.
///
/// To be run every minute, from cron or a systemd timer. A second run while one is active ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Accepted for scripts written for Barman: nothing is started that could lose its descriptors
    #[arg(long, hide = true)]
    pub keep_descriptors: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman cron
  * * * * * barman barman -q cron    # /etc/cron.d/barman";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("cron"))
}
