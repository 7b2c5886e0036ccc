//! `barman cron`.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::output::Output;
use super::{Session, memory, open};
use crate::catalog::retention::{self, Retention};
use crate::catalog::{Catalog, deletion};
use crate::config::{RepositorySettings, Server};
use crate::error::{Kind, Result};
use crate::progress::{Progress, Unobserved};
use crate::repository::prune::Pruner;
use crate::repository::{Access, Repository, aftermath};
use crate::storage::local::create_directories;

/// Run the maintenance that is due.
///
/// Deletes what the retention policies do not need, and the WAL that no backup needs; frees its space when
/// nothing else is at work; tidies up after processes that died. To be run every minute, from cron or a systemd
/// timer. A second run while one is active ends at once. A server whose configuration has a mistake is told of, and
/// the others are looked after all the same.
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
        let servers = config.servers.values();
        let servers: Vec<&Server> =
            servers.filter(|server| server.repository.location == settings.location).collect();
        let state = &config.global.state_directory;
        if let Err(error) = maintain(settings, &servers, state, output).await {
            output.failure(&error);
        }
    }
    for server in config.servers.values().filter(|server| server.is_misconfigured()) {
        for error in server.errors() {
            output.error(format!("server '{}' is not looked after: {error}", server.name));
        }
    }
    Ok(())
}

/// A file that was not touched for so long belongs to a process that is gone: files are written at once.
const UNFINISHED: Duration = Duration::from_secs(24 * 60 * 60);

/// Pruning looks at all that backups refer to, which is too much work for every minute.
const REST: Duration = Duration::from_secs(60 * 60);

/// Even where nothing was deleted, backups that failed have left packs.
const LONG_REST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// All that is due in one repository. A server that fails does not keep the others from it.
async fn maintain(
    settings: &RepositorySettings,
    servers: &[&Server],
    state: &Path,
    output: &Output,
) -> Result<()> {
    let repository = open::quietly(settings, Access::Prune).await?;
    memory::try_to_remember(state, &repository);
    let removed = aftermath::settle(&repository).await?;
    if removed > 0 {
        output.debug(format!("removed {removed} dead sessions from {}", repository.location()));
    }
    let removed = repository.storage().remove_unfinished(UNFINISHED).await?;
    if removed > 0 {
        output.debug(format!("removed {removed} unfinished files from {}", repository.location()));
    }
    let mut deleted = 0;
    for server in servers.iter().filter(|server| server.active && !server.disabled) {
        match expire(&repository, server, output).await {
            Ok(count) => deleted += count,
            Err(error) => output.failure(&error.context(format!("server {}", server.name))),
        }
    }
    prune(&repository, deleted > 0, output).await?;
    Ok(repository.storage().ensure_reserve(settings.reserve).await?)
}

/// Deletes the backups that the server's policy does not need, and the WAL that none needs; how many
/// deleted backups there are whose space is not free yet.
async fn expire(repository: &Arc<Repository>, server: &Server, output: &Output) -> Result<usize> {
    let mut catalog = Catalog::load(repository, &server.name).await?;
    let retentions = retention::of(&catalog.backups, server, Timestamp::now());
    let obsolete: Vec<String> = catalog
        .backups
        .iter()
        .zip(retentions)
        .filter(|(_, retention)| *retention == Retention::Obsolete)
        .map(|(backup, _)| backup.id.clone())
        .collect();
    let mut deleted = catalog.deleted.len();
    for id in obsolete {
        let backup = catalog.find(&id)?;
        if let Some(reason) = deletion::obstacle(repository, server, &catalog, backup).await? {
            output.debug(format!("obsolete, and not deleted: {reason}"));
            continue;
        }
        deletion::delete(repository, &server.name, &id, "retention policy").await?;
        output.info(format!("Deleted backup {id} of server {}: it is obsolete", server.name));
        catalog = catalog.without(&id);
        deleted += 1;
    }
    let wal = deletion::retire_wal(repository, &catalog).await?;
    if !wal.is_empty() {
        output.debug(format!("deleted {} WAL files of server {}", wal.len(), server.name));
    }
    Ok(deleted)
}

/// Frees space, if that is due and nobody else is at work.
async fn prune(repository: &Arc<Repository>, was_deleted: bool, output: &Output) -> Result<()> {
    let rest = if was_deleted { REST } else { LONG_REST };
    // By this host's clock first, so that no session is begun every minute.
    if crate::repository::prune::rests(repository, rest).await? {
        return Ok(());
    }
    let pruner = match Pruner::begin(repository).await {
        Ok(pruner) => pruner,
        Err(error @ crate::repository::Error::NotAlone { .. }) => {
            output.debug(format!("not pruned: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let progress: Progress = Arc::new(Unobserved);
    let pruned = pruner.run(&progress, false, async || deletion::leftovers(repository).await).await;
    match pruned {
        Ok(plan) => {
            output.debug(format!("freed {} bytes in {}", plan.freed(), repository.location()));
            Ok(())
        }
        Err(error) if error.kind() == Kind::Refused => {
            output.debug(format!("not pruned: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
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
