//! Notes about backups: kept, failed, deleted. The newest of its kind wins.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use repo_format::names::{ObjectName, escape};
use repo_format::note::{Fact, Failure, KeepTarget, Note};
use repo_format::record::Record;

use super::error::{Error, Result};
use super::{Repository, host, now_micros, servers};

/// What the notes about one backup say together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupNotes {
    /// For what the backup is kept, if it is.
    pub keep: Option<KeepTarget>,
    /// How the backup failed, if it did.
    pub failure: Option<Failure>,
    /// Whether the backup was deleted.
    pub deleted: bool,
    /// How its last rehearsal ended, if it had any.
    pub rehearsal: Option<Rehearsal>,
    /// The notes that cannot be read; what they say is not known.
    pub unreadable: Vec<String>,
    /// The highest number of a note.
    last: u64,
}

/// A restore of a backup for trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// When it was noted, by the store's clock.
    pub at: SystemTime,
    /// The host that it was on.
    pub host: String,
    /// Whether the restored server proved good.
    pub good: bool,
    /// What was found, for people.
    pub report: String,
}

impl BackupNotes {
    /// Applies a note that came to the store at a time.
    fn apply(&mut self, note: Note, at: SystemTime) {
        match note.fact {
            Fact::Keep(_) | Fact::Release => {
                self.keep = match note.fact {
                    Fact::Keep(target) => Some(target),
                    _ => None,
                };
                // Whatever an older note said, this is what holds.
                self.unreadable.clear();
            }
            Fact::Failed(failure) => self.failure = Some(failure),
            Fact::Deleted { .. } => self.deleted = true,
            Fact::Undeleted => self.deleted = false,
            Fact::Rehearsed { good, report } => {
                self.rehearsal = Some(Rehearsal { at, host: note.host, good, report });
            }
        }
    }
}

/// What the notes say of each backup of a server that has any, by its id.
pub async fn of_server(
    repository: &Repository,
    server: &str,
) -> Result<BTreeMap<String, BackupNotes>> {
    let server = servers::stored_name(repository, server).await?;
    let notes = below(repository, &format!("notes/{}/", escape(&server))).await?;
    Ok(notes.into_iter().map(|((_, backup_id), notes)| (backup_id, notes)).collect())
}

/// The ids of the backups of a server that have notes, in order. Reads none of them.
pub async fn noted(repository: &Repository, server: &str) -> Result<Vec<String>> {
    let server = servers::stored_name(repository, server).await?;
    let listed = repository.storage().list(&format!("notes/{}/", escape(&server))).await?;
    let id = |name: &str| match ObjectName::parse(name)? {
        ObjectName::Note { backup_id, .. } => Some(backup_id),
        _ => None,
    };
    let mut ids: Vec<String> = listed.iter().filter_map(|object| id(&object.name)).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// What the notes say of one backup.
pub async fn of_backup(
    repository: &Repository,
    server: &str,
    backup_id: &str,
) -> Result<BackupNotes> {
    let server = servers::stored_name(repository, server).await?;
    let notes = below(repository, &format!("notes/{}/{backup_id}/", escape(&server))).await?;
    Ok(notes.into_values().next().unwrap_or_default())
}

/// What the notes say of each backup of any server that has any, by its server and id.
pub async fn of_all(repository: &Repository) -> Result<BTreeMap<(String, String), BackupNotes>> {
    below(repository, "notes/").await
}

/// What the notes whose names begin with `prefix` say of each backup, by its server and id.
async fn below(
    repository: &Repository,
    prefix: &str,
) -> Result<BTreeMap<(String, String), BackupNotes>> {
    let mut names: Vec<(String, String, u64, SystemTime)> = repository
        .storage()
        .list(prefix)
        .await?
        .iter()
        .filter_map(|object| match ObjectName::parse(&object.name)? {
            ObjectName::Note { server, backup_id, number } => {
                Some((server, backup_id, number, object.modified))
            }
            _ => None,
        })
        .collect();
    names.sort_unstable();
    let mut notes: BTreeMap<(String, String), BackupNotes> = BTreeMap::new();
    for (server, backup_id, number, at) in names {
        let name =
            ObjectName::Note { server: server.clone(), backup_id: backup_id.clone(), number };
        let note = match repository.storage().get(&name.to_string()).await {
            Err(error) if error.is_not_found() => continue,
            Err(error) if error.is_damage() => Err(error.into()),
            Err(error) => return Err(error.into()),
            Ok(object) => Note::open(repository.keys(), &name, &object)
                .map_err(|error| Error::damaged(name.to_string(), error)),
        };
        let known = notes.entry((server, backup_id)).or_default();
        known.last = number;
        match note {
            Ok(note) => known.apply(note, at),
            Err(error) => {
                let error = crate::error::Error::from(error);
                tracing::warn!("{name} is damaged, and left out: {error}");
                known.unreadable.push(name.to_string());
            }
        }
    }
    Ok(notes)
}

/// The names of all notes about one backup.
pub async fn names(
    repository: &Repository,
    server: &str,
    backup_id: &str,
) -> Result<Vec<ObjectName>> {
    let server = servers::stored_name(repository, server).await?;
    let listed =
        repository.storage().list(&format!("notes/{}/{backup_id}/", escape(&server))).await?;
    let names = listed.iter().filter_map(|object| ObjectName::parse(&object.name));
    Ok(names.filter(|name| matches!(name, ObjectName::Note { .. })).collect())
}

/// Notes a fact about a backup.
pub async fn add(repository: &Repository, server: &str, backup_id: &str, fact: Fact) -> Result<()> {
    let note = Note { at: now_micros(), host: host::name(), fact };
    let server = servers::stored_name(repository, server).await?;
    let known = of_server(repository, &server).await?;
    let mut number = known.get(backup_id).map_or(0, |notes| notes.last);
    loop {
        number += 1;
        let name =
            ObjectName::Note { server: server.clone(), backup_id: backup_id.to_owned(), number };
        let object = Bytes::from(note.seal(repository.keys(), &name)?);
        match repository.storage().put(&name.to_string(), object).await {
            // Somebody else noted something at the same time; what we note is newer.
            Err(error) if error.already_exists() => {}
            put => return Ok(put?),
        }
    }
}
