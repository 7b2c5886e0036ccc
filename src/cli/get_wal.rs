//! `barman get-wal`.

use std::path::PathBuf;

use super::{Session, not_built};
use crate::error::Result;

/// Print one WAL segment or history file.
///
/// The content goes to standard output, or with --output-directory into a file of the same name there. Works for
/// inactive and disabled servers too. In restore_command use 'barman wal-restore', whose exit codes tell
/// PostgreSQL whether to ask again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Name of the WAL segment or history file
    #[arg(required_unless_present = "test")]
    pub wal_name: Option<String>,
    /// Write it into this directory
    #[arg(short, long, value_name = "DIRECTORY")]
    pub output_directory: Option<PathBuf>,
    /// Print the names of up to SIZE segments that are there, from this one on
    #[arg(short, long, value_name = "SIZE", value_parser = clap::value_parser!(u32).range(1..))]
    pub peek: Option<u32>,
    /// Only check that WAL could be had
    #[arg(short, long)]
    pub test: bool,
    /// Partial segments are never archived, so there is none to take in place of a full one
    #[arg(short = 'P', long, hide = true)]
    pub partial: bool,
    /// What Barman has and is refused here.
    #[command(flatten)]
    pub missing: Missing,
}

/// Options of Barman's that are refused.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = super::not_yet::HEADING)]
#[allow(missing_docs)]
pub struct Missing {
    /// pipe the output through gzip
    #[arg(short = 'z', short_alias = 'x', long)]
    pub gzip: bool,
    /// pipe the output through bzip2
    #[arg(short = 'j', long)]
    pub bzip2: bool,
    /// what the repository holds is encrypted, so it cannot be given away as it is
    #[arg(long)]
    pub keep_compression: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman get-wal main 000000010000000000000042 > segment
  barman get-wal main 000000010000000000000042 -o /tmp
  barman get-wal main 000000010000000000000042 --peek 10";

/// Runs the command.
pub async fn run(_args: Args, _session: &mut Session) -> Result<()> {
    Err(not_built("get-wal"))
}
