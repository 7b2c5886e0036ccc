//! `barman keep`.

use super::{Session, not_built};
use crate::error::Result;

/// Keep a backup from being deleted.
///
/// A kept backup is never deleted, neither by a retention policy nor by 'barman delete', until it is
/// released. With --target full the WAL from its beginning on stays too; with --target standalone only the
/// WAL it needs to be consistent.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
    /// What to do.
    #[command(flatten)]
    pub action: Action,
}

/// What to do; exactly one of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Action {
    /// Release the backup
    #[arg(short, long)]
    pub release: bool,
    /// Say whether the backup is kept, and how
    #[arg(short, long)]
    pub status: bool,
    /// Keep it, with this much WAL
    #[arg(long, value_enum)]
    pub target: Option<Target>,
}

/// How much WAL a kept backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// All from its beginning on: every later moment can be restored
    Full,
    /// What it needs to be consistent
    Standalone,
}

const EXAMPLES: &str = "EXAMPLES:
  barman keep main latest --target full
  barman keep main 20260101T010203 --status
  barman keep main 20260101T010203 --release";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("keep"))
}
