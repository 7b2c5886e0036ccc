//! `barman wal-archive`.

use std::path::PathBuf;
use std::time::Duration;

use super::watchdog::End;
use super::{Session, open};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::repository::Access;
use crate::wal::archive::{self, Archived};
use crate::wal::arrival::Arrival;

/// Archive one WAL file: the archive_command of PostgreSQL.
///
/// Stores the file in the repository and returns 0 only when it is safe there. The same file again is
/// success; another content under a name that is taken is an error. Every failure is one line and an exit code that
/// makes PostgreSQL try again, at the latest when wal_archive_timeout is over. Needs no configuration file when
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

/// The name of the command.
pub const NAME: &str = "wal-archive";

/// An archiver that hangs is worse than one that fails: PostgreSQL tries again.
pub const TOO_LATE: End = End {
    option: "wal_archive_timeout",
    limit: Duration::from_secs(60),
    message: "not archived",
    code: 1,
};

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let server = session.server_or_bare(&args.server_name)?;
    accepts_wal(&server)?;
    let repository = open::quietly(&server.repository, Access::Write).await?;
    match archive::archive(&repository, &server.name, Arrival::read_aside(&args.wal_path).await?)
        .await?
    {
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
