//! `barman wal-restore`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::output::Output;
use super::{Session, open};
use crate::error::{Error, Kind, Result};
use crate::postgres::control_file::{CONTROL_FILE, ControlFile};
use crate::postgres::error::FormatError;
use crate::postgres::wal_name::WalName;
use crate::repository::{self, Access, Repository, snapshots};
use crate::wal::fetch;

/// Fetch one WAL file: the restore_command of PostgreSQL.
///
/// Writes the file to its destination and returns 0. The exit code is 1 only when the repository certainly
/// does not have it, which tells PostgreSQL that the archive ends there. A repository that cannot be reached is asked
/// again for wal_restore_timeout. Then the exit code is 126, with which PostgreSQL stops instead of taking an earlier end
/// for the end; on a standby it is 1, because a standby asks again by itself, however long the outage is. So do not
/// promote a standby during an outage of the repository unless you know that it has all WAL: it would go its own way
/// from an earlier moment. Needs no configuration file when BARMAN_REPOSITORY and BARMAN_REPOSITORY_KEY_FILE are set.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Name of the WAL file: %f of restore_command
    pub wal_name: String,
    /// Where to write it: %p of restore_command
    pub wal_dest: PathBuf,
    /// What to do when the repository could not be asked for wal_restore_timeout
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_error: Option<OnError>,
}

const EXAMPLES: &str = "EXAMPLES:
  restore_command = 'barman wal-restore main %f %p'    # postgresql.conf
  barman wal-restore main 000000010000000000000042 /tmp/segment";

/// The name of the command.
pub const NAME: &str = "wal-restore";

/// The exit code of every failure but a file that certainly is not there. PostgreSQL takes all codes
/// up to 125 for "the archive ends here", and would open the server for writing too early.
pub const FAILED: u8 = 126;

/// The pause between the first two attempts; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The least time that an attempt has.
const ATTEMPT: Duration = Duration::from_secs(60);

/// What makes a server a standby, in its data directory, in which PostgreSQL runs its commands.
const STANDBY_SIGNAL: &str = "standby.signal";

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What to do when a file can neither be had nor be proved absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// Go on asking without end
    Retry,
    /// Exit with 126: PostgreSQL stops, a standby too
    Abort,
    /// Exit with 1, as if there were no such file: PostgreSQL takes the archive to end there, and opens for writing
    Missing,
}

/// How long a file is asked for that can neither be had nor be proved absent.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// So long.
    pub limit: Duration,
    /// What is done then, whatever the server is.
    pub on_error: Option<OnError>,
}

impl Patience {
    /// Asks until there is an answer, whether there is such a file; or until patience ends.
    ///
    /// # Errors
    /// The last failure, where PostgreSQL must stop.
    pub async fn ask(
        &self,
        output: &Output,
        mut attempt: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<bool> {
        let end = Instant::now() + self.limit;
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        loop {
            let error = match self.attempt_until(end, &mut attempt).await {
                Ok(is_there) => return Ok(is_there),
                Err(error) => error,
            };
            // What is wrong with the command line stays wrong, and is nothing that PostgreSQL should go on with.
            if matches!(error.kind(), Kind::Usage | Kind::Config | Kind::Internal) {
                return Err(error);
            }
            let may_pass = !matches!(error.kind(), Kind::Refused | Kind::Damaged);
            let is_late = self.on_error != Some(OnError::Retry) && Instant::now() + pause > end;
            if !may_pass || is_late {
                return self.give_up(output, error);
            }
            let line = error.in_one_line();
            if line != said {
                output.warning(format!("{line}; asking again"));
                said = line;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One attempt. A store that hangs is as good as one that fails.
    async fn attempt_until(
        &self,
        end: Instant,
        attempt: &mut impl AsyncFnMut() -> Result<bool>,
    ) -> Result<bool> {
        let limit = end.saturating_duration_since(Instant::now()).max(ATTEMPT);
        tokio::time::timeout(limit, attempt()).await.unwrap_or_else(|_| {
            let message = format!("the repository gave no answer in {} s", limit.as_secs());
            Err(Error::new(Kind::Storage, message))
        })
    }

    /// What PostgreSQL is told when there was no answer. A standby goes on for 1: it asks again by itself, and streams
    /// meanwhile. Any other recovery would end there, with whatever it has.
    fn give_up(&self, output: &Output, error: Error) -> Result<bool> {
        let is_missing = match self.on_error {
            Some(OnError::Missing) => true,
            Some(OnError::Abort | OnError::Retry) => false,
            None => Path::new(STANDBY_SIGNAL).exists(),
        };
        if !is_missing {
            return Err(error);
        }
        output.error(error.in_one_line());
        Ok(false)
    }
}

/// Runs the command. Every error becomes exit code [`FAILED`]; a file that is not there, or a standby
/// that must go on asking, is exit code 1 without an error.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let limit = session.server_or_bare(&args.server_name)?.wal_restore_timeout;
    let patience = Patience { limit, on_error: args.on_error };
    if !patience.ask(&session.output, async || restore_file(&args, session).await).await? {
        tracing::info!("{} is not in the archive of {}", args.wal_name, args.server_name);
        session.output.set_exit_code(1);
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
        None => {
            if let Cow::Owned(unconfigured) = &server {
                require_known(&repository, &unconfigured.name).await?;
            }
            Ok(false)
        }
    }
}

/// An archive that has nothing of a server that no configuration knows proves nothing: its name may be wrong.
pub async fn require_known(repository: &Repository, server: &str) -> Result<()> {
    let is_known = !snapshots::names(repository, Some(server)).await?.is_empty()
        || !repository::wal::of_server(repository, server).await?.is_empty();
    if is_known {
        return Ok(());
    }
    let location = repository.location();
    let message = format!("the repository in {location} has nothing of server '{server}'");
    Err(Error::new(Kind::Refused, message).hint("is that its name?"))
}

/// The cluster whose data directory is the current directory, as it is when PostgreSQL runs this.
pub fn system_id_here() -> Option<u64> {
    let file = std::fs::read(CONTROL_FILE).ok()?;
    Some(ControlFile::parse(&file).ok()?.system_id.0)
}
