//! `barman wal-archive`.

use std::path::PathBuf;

use super::{Session, open};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::repository::Access;
use crate::wal::archive::{self, Archived};
use crate::wal::arrival::Arrival;

/// Archive one WAL file: the archive_command of PostgreSQL.
///
/// Stores the file in the repository and returns 0 only when it is safe there. The same file again is
/// success; another content under a name that is taken is an error. Needs no configuration file when
/// BARMAN_REPOSITORY and BARMAN_REPOSITORY_KEY_FILE are set.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Path of the WAL file: %p of archive_command
    pub wal_path: PathBuf,
}

const EXAMPLES: &str = "EXAMPLES:
  archive_command = 'barman wal-archive main %p'    # postgresql.conf
  barman wal-archive main pg_wal/000000010000000000000042";

/// Runs the command. What fails is said in one line, because it goes to PostgreSQL's log.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    if let Err(error) = in_time(&args.server_name, session, archive_file(&args, session)).await {
        session.output.error(error.in_one_line());
    }
    Ok(())
}

/// Does `work` within the time that archiving may take: an archiver that hangs is worse than one that fails.
pub async fn in_time(
    server: &str,
    session: &Session,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let limit = session.server_or_bare(server)?.wal_archive_timeout;
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("not archived within wal_archive_timeout ({} s)", limit.as_secs());
        Err(Error::new(Kind::Storage, message).hint("PostgreSQL tries again"))
    })
}

async fn archive_file(args: &Args, session: &Session) -> Result<()> {
    let server = session.server_or_bare(&args.server_name)?;
    accepts_wal(&server)?;
    let repository = open::quietly(&server.repository, Access::Write).await?;
    match archive::archive(&repository, &server.name, Arrival::read(&args.wal_path)?).await? {
        Archived::Stored(bytes) => {
            tracing::info!("archived {} in {bytes} bytes", args.wal_path.display());
        }
        Archived::AlreadyThere => {
            tracing::info!("{} is archived already", args.wal_path.display());
        }
    }
    Ok(())
}

/// Refuses WAL of a server that was switched off. One whose configuration has a mistake elsewhere
/// goes on archiving: WAL that is refused fills the server's disk.
pub fn accepts_wal(server: &Server) -> Result<()> {
    let switched_off = server.disabled && server.errors().next().is_none();
    if switched_off || !server.active {
        let how = if switched_off { "disabled = true" } else { "active = false" };
        let message = format!("server '{}' takes no WAL ({how})", server.name);
        return Err(Error::new(Kind::Refused, message));
    }
    Ok(())
}
