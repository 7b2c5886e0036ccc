//! Settles what processes that died have left: their sessions, and the backups that they did not end.

use std::sync::Arc;

use repo_format::note::{Fact, Failure};
use repo_format::session::{Activity, Session};

use super::error::{Error, Result};
use super::{Repository, commit, maintenance, notes, sessions, snapshots};

/// Removes the sessions that are known to be dead, and says how many. Of a backup it is found out first what
/// became of it: one that was put and not verified is verified now; one that never came that far is noted as
/// failed, if it is certain that its process is gone.
pub async fn settle(repository: &Arc<Repository>) -> Result<usize> {
    let dead = sessions::dead(repository).await?;
    for found in &dead {
        if let Some(session) = &found.session
            && let Activity::Backup { server, backup_id, .. } = &session.activity
            && let Some(reason) = failure(repository, session, server, backup_id).await?
        {
            let begun_at = session.begun_at;
            let failure = Failure { reason, begun_at, name: None, system_id: None };
            notes::add(repository, server, backup_id, Fact::Failed(failure)).await?;
        }
        sessions::remove(repository, found.id).await?;
    }
    Ok(dead.len())
}

/// Why a backup whose session is dead failed, if it did and nothing says so yet.
async fn failure(
    repository: &Arc<Repository>,
    session: &Session,
    server: &str,
    backup_id: &str,
) -> Result<Option<String>> {
    let notes = notes::of_server(repository, server).await?;
    if notes.get(backup_id).is_some_and(|notes| notes.failure.is_some()) {
        return Ok(None);
    }
    let names = snapshots::names(repository, Some(server)).await?;
    let Some(name) = names.iter().find(|name| name.backup_id == backup_id) else {
        let gone = sessions::is_gone_from_this_host(session);
        return Ok(gone.then(|| {
            format!("its process, {} on {}, ended without a word", session.process, session.host)
        }));
    };
    let snapshot = match snapshots::read(repository, name).await {
        Ok(snapshot) => snapshot,
        // It says itself that it is no good backup, or is gone.
        Err(error) if error.is_damage() => return Ok(None),
        Err(error) => return Err(error),
    };
    let doomed = maintenance::doomed_packs(repository).await?;
    match commit::resolve(repository, &snapshot, &doomed).await {
        Ok(()) => Ok(None),
        Err(error @ Error::MissingChunk(_)) => {
            Ok(Some(format!("its process ended before it was verified, and {error}")))
        }
        Err(error) => Err(error),
    }
}
