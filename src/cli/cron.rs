//! `barman cron`.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::output::Output;
use super::{Session, open};
use crate::config::RepositorySettings;
use crate::error::Result;
use crate::repository::{Access, sessions};
use crate::storage::local::create_directories;

/// Run the maintenance that is due.
///
/// To be run every minute, from cron or a systemd timer. A second run while one is active ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Accepted for scripts written for Barman: nothing is started that could lose its descriptors
    #[arg(long, hide = true)]
    pub keep_descriptors: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman cron
  * * * * * barman barman -q cron    # /etc/cron.d/barman";

/// Runs the command.
pub async fn run(_args: Args, session: &mut Session) -> Result<()> {
    let Session { config, output, .. } = session;
    let Some(_lock) = lock(&config.global.state_directory) else {
        output.debug("another cron is running");
        return Ok(());
    };
    let all = config.servers.values().map(|server| &server.repository);
    let mut known: Vec<&RepositorySettings> = vec![];
    for settings in all.chain([&config.global.repository]) {
        let is_usable = settings.location().is_ok() && settings.key().is_ok();
        if is_usable && !known.iter().any(|other| other.location == settings.location) {
            known.push(settings);
        }
    }
    for settings in known {
        if let Err(error) = tidy(settings, output).await {
            output.failure(&error);
        }
    }
    Ok(())
}

/// A file that was not touched for so long belongs to a process that is gone: files are written at once.
const UNFINISHED: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes the sessions of processes that are gone, and what they left half written.
async fn tidy(settings: &RepositorySettings, output: &Output) -> Result<()> {
    let repository = open::quietly(settings, Access::Write).await?;
    let removed = sessions::remove_dead(&repository).await?;
    if removed > 0 {
        output.debug(format!("removed {removed} dead sessions from {}", repository.location()));
    }
    let removed = repository.storage().remove_unfinished(UNFINISHED).await?;
    if removed > 0 {
        output.debug(format!("removed {removed} unfinished files from {}", repository.location()));
    }
    Ok(())
}

/// The lock that keeps a second run away; nothing if one is active. Where there is no place for a lock
/// two may run: that does no harm.
fn lock(directory: &Path) -> Option<Option<File>> {
    let file = create_directories(directory)
        .and_then(|()| File::options().create(true).append(true).open(directory.join("cron.lock")));
    match file {
        Ok(file) => match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            _ => Some(Some(file)),
        },
        Err(error) => {
            tracing::debug!("no lock in {}: {error}", directory.display());
            Some(None)
        }
    }
}
