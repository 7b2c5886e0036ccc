//! Deletes backups: what must not go, the note by which one is gone, and the WAL that nothing needs then.

use futures::{StreamExt, TryStreamExt, stream};
use repo_format::names::{BackupName, ObjectName};
use repo_format::note::Fact;
use repo_format::session::{Activity, Session};

use super::expiry::{self, ExpiredWal};
use super::{Backup, Catalog, Status};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::repository::{self, Repository, notes, servers, sessions};

/// So many WAL objects are deleted at once.
const PARALLEL_DELETES: usize = 16;

/// Why `backup` must stay; nothing if it may go.
pub async fn obstacle(
    repository: &Repository,
    server: &Server,
    catalog: &Catalog,
    backup: &Backup,
) -> Result<Option<String>> {
    if let Some(reason) = rule_against(server, catalog, backup) {
        return Ok(Some(reason));
    }
    let user = user_of(repository, &server.name, &backup.id).await?;
    Ok(user.map(|session| {
        format!(
            "backup {} of server {} is in use by {} (process {} on {})",
            backup.id,
            server.name,
            sessions::describe(&session.activity),
            session.process,
            session.host
        )
    }))
}

/// What the catalogue says against deleting a backup.
fn rule_against(server: &Server, catalog: &Catalog, backup: &Backup) -> Option<String> {
    let (id, name) = (&backup.id, &server.name);
    if backup.status() == Status::Started {
        return Some(format!("backup {id} of server {name} is being made"));
    }
    if backup.keep.is_some() {
        return Some(format!(
            "backup {id} of server {name} is kept; to delete it, release it first: \
             barman keep {name} {id} --release"
        ));
    }
    if let [note, ..] = backup.unreadable_notes.as_slice() {
        return Some(format!(
            "{note} is damaged: it may say that backup {id} of server {name} is kept; say anew \
             whether it is: barman keep {name} {id} --target full, or --release"
        ));
    }
    // Backups whose WAL is not complete are no redundancy.
    let done = catalog.backups.iter().filter(|backup| backup.status() == Status::Done).count();
    let minimum = usize::try_from(server.minimum_redundancy).unwrap_or(usize::MAX);
    (backup.status() == Status::Done && done <= minimum).then(|| {
        format!(
            "backup {id} of server {name} must stay because of minimum redundancy requirements \
             (minimum redundancy = {minimum}, current redundancy = {done})"
        )
    })
}

/// Who uses a backup now: a restore, or a backup that is compared with it.
async fn user_of(
    repository: &Repository,
    server: &str,
    backup_id: &str,
) -> Result<Option<Session>> {
    let stored = servers::stored_name(repository, server).await?;
    let live = sessions::live(repository).await?;
    Ok(live.into_iter().filter_map(|found| found.session).find(|session| {
        let (Activity::Backup { parents: used, .. } | Activity::Read { backups: used, .. }) =
            &session.activity
        else {
            return false;
        };
        used.iter().any(|name| name.server == stored && name.backup_id == backup_id)
    }))
}

/// Notes that a backup is deleted: from now on it is in no catalogue, and its space is free for the next
/// pruning.
///
/// # Errors
/// If somebody said at the same moment that it is to be kept: then it is not deleted.
pub async fn delete(
    repository: &Repository,
    server: &str,
    backup_id: &str,
    reason: &str,
) -> Result<()> {
    let fact = Fact::Deleted { reason: reason.to_owned() };
    notes::add(repository, server, backup_id, fact).await?;
    // Who keeps it looks after its own note, too: one of the two sees the other.
    let known = notes::of_server(repository, server).await?;
    if known.get(backup_id).is_some_and(|notes| notes.keep.is_some()) {
        notes::add(repository, server, backup_id, Fact::Undeleted).await?;
        let message = format!("backup {backup_id} of server {server} was just told to be kept");
        return Err(Error::new(Kind::Refused, message).hint("it is not deleted"));
    }
    Ok(())
}

/// Deletes the WAL that no backup in `catalog` needs, and says what that was.
pub async fn retire_wal(repository: &Repository, catalog: &Catalog) -> Result<Vec<ExpiredWal>> {
    let expired = expiry::expired_wal(repository, catalog).await?;
    stream::iter(&expired)
        .map(async |wal| repository.storage().delete(&wal.object.to_string()).await)
        .buffer_unordered(PARALLEL_DELETES)
        .try_collect::<()>()
        .await
        .map_err(repository::Error::from)?;
    Ok(expired)
}

/// What deleted backups have left, for a pruner: their snapshots, and the notes that are of no more use.
pub async fn leftovers(repository: &Repository) -> Result<Vec<ObjectName>> {
    let mut gone: Vec<ObjectName> = vec![];
    let names = repository::snapshots::names(repository, None).await?;
    let notes = notes::of_all(repository).await?;
    let is_deleted = |server: &str, backup_id: &str| {
        let notes = notes.get(&(server.to_owned(), backup_id.to_owned()));
        notes.is_some_and(|notes| notes.deleted)
    };
    let (deleted, remaining): (Vec<BackupName>, Vec<BackupName>) =
        names.into_iter().partition(|name| is_deleted(&name.server, &name.backup_id));
    gone.extend(deleted.into_iter().map(ObjectName::Snapshot));
    // The newest backup that was deleted before the oldest that remains is the one which that names as its
    // previous one: that it was deleted on purpose must stay known.
    for ((server, backup_id), _) in notes.iter().filter(|(_, notes)| notes.deleted) {
        let oldest =
            remaining.iter().filter(|name| name.server == *server).map(|n| &n.backup_id).min();
        let superseded = oldest.is_some_and(|oldest| {
            let between = (backup_id.clone(), oldest.clone());
            notes.iter().any(|((of, id), notes)| {
                of == server && notes.deleted && *id > between.0 && *id < between.1
            })
        });
        if superseded {
            gone.extend(notes::names(repository, server, backup_id).await?);
        }
    }
    Ok(gone)
}
