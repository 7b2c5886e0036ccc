//! `barman wal-restore`.

use std::path::{Path, PathBuf};

use super::{Session, open};
use crate::error::{Error, Kind, Result};
use crate::postgres::control_file::{CONTROL_FILE, ControlFile};
use crate::postgres::error::FormatError;
use crate::postgres::wal_name::WalName;
use crate::repository::Access;
use crate::wal::fetch;

/// Fetch one WAL file: the restore_command of PostgreSQL.
///
/// Writes the file to its destination and returns 0. The exit code is 1 only when the repository certainly
/// does not have it, which tells PostgreSQL that the archive ends there; and on a standby, which asks
/// again, when the repository cannot be reached. All other failures have exit code 126, with which
/// PostgreSQL stops instead of taking an earlier end for the end. Needs no configuration file when
/// BARMAN_REPOSITORY and BARMAN_REPOSITORY_KEY_FILE are set.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Name of the WAL file: %f of restore_command
    pub wal_name: String,
    /// Where to write it: %p of restore_command
    pub wal_dest: PathBuf,
}

const EXAMPLES: &str = "EXAMPLES:
  restore_command = 'barman wal-restore main %f %p'    # postgresql.conf
  barman wal-restore main 000000010000000000000042 /tmp/segment";

/// The name of the command.
pub const NAME: &str = "wal-restore";

/// The exit code of every failure but a file that certainly is not there. PostgreSQL takes all codes
/// up to 125 for "the archive ends here", and would open the server for writing too early.
pub const FAILED: u8 = 126;

/// Runs the command. Every error becomes exit code [`FAILED`]; a file that is not there, or a standby
/// that must go on asking, is exit code 1 without an error.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    match restore_file(&args, session).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::info!("{} is not in the archive of {}", args.wal_name, args.server_name);
            session.output.set_exit_code(1);
        }
        // A standby asks again and streams meanwhile; it would not survive another code.
        Err(error) if error.kind() == Kind::Storage && Path::new("standby.signal").exists() => {
            session.output.error(error);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Writes the file; whether there is one.
async fn restore_file(args: &Args, session: &Session) -> Result<bool> {
    let server = session.server_or_bare(&args.server_name)?;
    let name: WalName = args.wal_name.parse().map_err(|error: FormatError| {
        Error::new(Kind::Usage, format!("{:?} is not a WAL file", args.wal_name))
            .because(error)
            .hint("restore_command must pass %f and %p")
    })?;
    let repository = open::quietly(&server.repository, Access::Read).await?;
    let system_id = system_id_here();
    match fetch::fetch(&repository, &server.name, &name, system_id).await? {
        Some(content) => fetch::write_whole(&args.wal_dest, &content).map(|()| true),
        None => Ok(false),
    }
}

/// The cluster whose data directory is the current directory, as it is when PostgreSQL runs this.
fn system_id_here() -> Option<u64> {
    let file = std::fs::read(CONTROL_FILE).ok()?;
    Some(ControlFile::parse(&file).ok()?.system_id.0)
}
