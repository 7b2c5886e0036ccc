//! `barman repo upgrade`.

use crate::cli::{Session, not_built};
use crate::error::Result;

/// Bring the repository to the newest format.
///
/// Writes a new configuration object that allows the features of this version. Older versions may then
/// refuse to write to it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "EXAMPLES:
  barman repo upgrade";

/// Runs the command.
pub async fn run(_args: Args, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo upgrade"))
}
