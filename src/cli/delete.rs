//! `barman delete`.

use super::{Session, not_built};
use crate::error::Result;

/// Delete one backup.
///
/// Refused when the backup is kept ('barman keep'), and when fewer than minimum_redundancy would be left.
/// Every backup is complete by itself, so deleting one harms no other. What only this backup used becomes
/// free with the next maintenance.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman delete main 20260101T010203
  barman delete main oldest";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("delete"))
}
