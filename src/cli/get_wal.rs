//! `barman get-wal`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use super::wal_restore::{FAILED, require_known};
use super::watchdog::End;
use super::{Session, open};
use crate::error::{Error, Kind, Result};
use crate::postgres::error::FormatError;
use crate::postgres::wal_name::WalName;
use crate::repository::{Access, Repository, snapshots};
use crate::wal::fetch;
use crate::wal::inventory::{Inventory, system_ids};

/// Print one WAL segment or history file.
///
/// The content goes to standard output, or with --output-directory into a file of the same name there. Works for
/// inactive and disabled servers too. The exit code is 1 only when the repository certainly does not have the file, and
/// 126 for all other failures: barman-wal-restore, also Barman's own, passes it on to PostgreSQL.
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
    /// Of the cluster with this system identifier, where the server has had several
    #[arg(long, value_name = "ID")]
    pub system_id: Option<u64>,
    /// Taken for Barman's sake: partial segments have names of their own
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

/// The name of the command.
pub const NAME: &str = "get-wal";

/// Who asked over SSH does not wait any longer, and asks again.
pub const TOO_LATE: End = End {
    option: "wal_restore_timeout",
    limit: Duration::from_secs(60),
    message: "the repository gave no answer",
    code: FAILED,
};

/// Runs the command. Every error becomes exit code [`FAILED`]; a file that is not there is
/// exit code 1.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server_or_bare(&args.server_name)?;
    let repository = open::quietly(&server.repository, Access::Read).await?;
    let name = match (&args.wal_name, args.test) {
        (Some(name), false) => name,
        _ => {
            output.info(format!("Ready to retrieve WAL files from the server {}", server.name));
            return Ok(());
        }
    };
    let name: WalName = name.parse().map_err(|error: FormatError| {
        Error::new(Kind::Usage, format!("{name:?} is not a WAL file")).because(error)
    })?;
    if let Some(count) = args.peek {
        return peek(&repository, &server.name, &name, count, session).await;
    }
    let content = fetch::fetch(&repository, &server.name, &name, args.system_id).await?;
    let Some(content) = content else {
        if let Cow::Owned(unconfigured) = &server {
            require_known(&repository, &unconfigured.name).await?;
        }
        output.error(format!("WAL file '{name}' not found in server '{}'", server.name));
        return Ok(());
    };
    match &args.output_directory {
        Some(directory) => fetch::write_whole(&directory.join(name.to_string()), &content),
        None => output.raw(&content),
    }
}

/// Prints the names of the segments that are there, of the cluster that was backed up or archived last.
async fn peek(
    repository: &Repository,
    server: &str,
    name: &WalName,
    count: u32,
    session: &Session,
) -> Result<()> {
    let WalName::Segment(first) = *name else {
        return Err(Error::new(Kind::Usage, format!("{name} is not a WAL segment")));
    };
    let newest = snapshots::of_server(repository, server).await?.pop();
    let system = match newest {
        Some(snapshot) => Some(snapshot.system_id),
        None => system_ids(repository, server).await?.pop(),
    };
    let Some(system) = system else { return Ok(()) };
    let inventory = Inventory::load(repository, server, system).await?;
    let names: Vec<String> = inventory
        .segments_from(first)
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .map(|(segment, _)| segment.to_string())
        .collect();
    for name in &names {
        session.output.listing(name);
    }
    Ok(())
}
