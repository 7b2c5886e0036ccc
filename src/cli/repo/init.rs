//! `barman repo init`.

use crate::cli::{Session, not_built};
use crate::error::Result;

/// Create the repository.
///
/// Makes a new repository at the configured place, opened by the configured key file or password. A key
/// file that does not exist yet is created; keep a copy of it elsewhere, because without it nothing can
/// be restored. A place that holds a repository already is left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "EXAMPLES:
  barman repo init
  BARMAN_REPOSITORY=/srv/backup BARMAN_REPOSITORY_KEY_FILE=/etc/barman.key barman repo init";

/// Runs the command.
pub async fn run(_args: Args, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo init"))
}
