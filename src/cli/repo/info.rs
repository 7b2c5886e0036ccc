//! `barman repo info`.

use crate::cli::{Session, not_built};
use crate::error::Result;

/// Show what the repository is and holds.
///
/// Its identity, format, features, keys, sizes, and how much deduplication saves.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "EXAMPLES:
  barman repo info
  barman -f json repo info";

/// Runs the command.
pub async fn run(_args: Args, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo info"))
}
