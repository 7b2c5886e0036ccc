//! `barman repo check`.

use crate::cli::{Session, not_built};
use crate::error::Result;

/// Check that the repository is whole.
///
/// Checks that everything a backup refers to is there. With --read-data it also reads, decrypts and
/// compares all data, which takes as long as reading the whole repository.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Read and verify all data too
    #[arg(long)]
    pub read_data: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo check
  barman repo check --read-data";

/// Runs the command.
pub async fn run(_args: Args, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo check"))
}
