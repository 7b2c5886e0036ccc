//! `barman agent`.

use crate::error::Result;
use crate::restore::agent::server;

/// Write files on this host for a restore that runs on another one.
///
/// 'barman restore --remote-ssh-command' starts it, and speaks to it over its standard input and output. It needs no
/// configuration, no repository and no key, and may write what its user may.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "EXAMPLES:
  barman agent    # by: barman restore --remote-ssh-command 'ssh postgres@host'";

/// Runs the command.
pub fn run() -> Result<()> {
    server::serve(std::io::stdin().lock(), std::io::stdout())
}
