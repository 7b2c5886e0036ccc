//! `barman put-wal`.

use std::io::IsTerminal;

use super::wal_archive::accepts_wal;
use super::{Session, open};
use crate::error::{Error, Kind, Result};
use crate::repository::Access;
use crate::wal::archive::{self, Archived};
use crate::wal::arrival::Arrival;
use crate::wal::shipment;

/// Take WAL files from a database host.
///
/// Reads a tar archive with WAL files and their checksums from standard input, and returns 0 only when they are
/// safe in the repository. barman-wal-archive runs it over SSH; Barman's own client works too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Only check that WAL could be taken
    #[arg(short, long)]
    pub test: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  archive_command = 'barman-wal-archive backup-host main %p'    # on the database host; it runs:
  ssh barman@backup-host barman put-wal main";

/// The name of the command.
pub const NAME: &str = "put-wal";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let server = session.server(&args.server_name)?;
    accepts_wal(server)?;
    let repository = open::quietly(&server.repository, Access::Write).await?;
    if args.test {
        session.output.info(format!("Ready to accept WAL files for the server {}", server.name));
        return Ok(());
    }
    if std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "standard input is a terminal, and no WAL file")
            .hint("barman-wal-archive on the database host runs this command"));
    }
    let read = tokio::task::spawn_blocking(|| {
        let came = shipment::unpack(std::io::stdin().lock())?;
        came.into_iter().map(shipment::plain).collect::<Result<Vec<_>>>()
    });
    for came in read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))? {
        let arrival = Arrival::received(&came.file, came.content)?;
        match archive::archive(&repository, &server.name, arrival).await? {
            Archived::Stored(bytes) => tracing::info!("archived {} in {bytes} bytes", came.file),
            Archived::AlreadyThere => tracing::info!("{} is archived already", came.file),
        }
    }
    Ok(())
}
