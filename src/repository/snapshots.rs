//! Snapshots in the store.

use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, stream};
use repo_format::DecodeError;
use repo_format::ids::SnapshotHash;
use repo_format::names::{BackupName, ObjectName, escape};
use repo_format::record::Record;
use repo_format::snapshot::Snapshot;

use super::error::{Error, Result};
use super::{Repository, servers};

/// How many snapshots are read at once.
const PARALLEL_READS: usize = 8;

/// The names of all snapshots, or of those of one server, oldest id first.
pub async fn names(repository: &Repository, server: Option<&str>) -> Result<Vec<BackupName>> {
    let prefix = match server {
        Some(server) => {
            format!("snapshots/{}/", escape(&servers::stored_name(repository, server).await?))
        }
        None => "snapshots/".to_owned(),
    };
    let mut names: Vec<BackupName> = repository
        .storage()
        .list(&prefix)
        .await?
        .iter()
        .filter_map(|object| match ObjectName::parse(&object.name)? {
            ObjectName::Snapshot(name) => Some(name),
            _ => None,
        })
        .collect();
    names.sort_by(|a, b| (&a.server, &a.backup_id).cmp(&(&b.server, &b.backup_id)));
    Ok(names)
}

/// One snapshot.
pub async fn read(repository: &Repository, name: &BackupName) -> Result<Snapshot> {
    let name = ObjectName::Snapshot(name.clone());
    let object = repository.storage().get(&name.to_string()).await?;
    Snapshot::open(repository.keys(), &name, &object)
        .map_err(|e| Error::damaged(name.to_string(), e))
}

/// A snapshot that cannot be read.
#[derive(Debug)]
pub struct DamagedSnapshot {
    /// Whose it is.
    pub name: BackupName,
    /// How it shows.
    pub error: Error,
}

/// All snapshots, or those of one server, in the order of their sequence, and those that are damaged. One
/// that was deleted since it was listed is left out.
///
/// # Errors
/// If the store fails, or a snapshot has a format that only a newer program can read.
pub async fn all(
    repository: &Repository,
    server: Option<&str>,
) -> Result<(Vec<Snapshot>, Vec<DamagedSnapshot>)> {
    let names = names(repository, server).await?;
    let mut reads = stream::iter(names)
        .map(async |name| (read(repository, &name).await, name))
        .buffer_unordered(PARALLEL_READS)
        .boxed_local();
    let (mut snapshots, mut damaged) = (vec![], vec![]);
    while let Some((snapshot, name)) = reads.next().await {
        match snapshot {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(error) if error.is_not_found() => {}
            Err(error @ Error::Damaged { error: DecodeError::Version { .. }, .. }) => {
                return Err(error);
            }
            Err(error) if error.is_damage() => damaged.push(DamagedSnapshot { name, error }),
            Err(error) => return Err(error),
        }
    }
    snapshots.sort_by(|a, b| (a.sequence, &a.backup_id).cmp(&(b.sequence, &b.backup_id)));
    Ok((snapshots, damaged))
}

/// The sound snapshots of a server, in the order of their sequence. What is damaged goes to the log.
pub async fn of_server(repository: &Repository, server: &str) -> Result<Vec<Snapshot>> {
    let (snapshots, damaged) = all(repository, Some(server)).await?;
    for DamagedSnapshot { name, error } in damaged {
        tracing::warn!("the snapshot of backup {} is left out: {error}", name.backup_id);
    }
    Ok(snapshots)
}

/// When a snapshot was put, by the store's clock; nothing if there is none.
pub async fn stored_at(repository: &Repository, name: &BackupName) -> Result<Option<SystemTime>> {
    let name = ObjectName::Snapshot(name.clone()).to_string();
    let listed = repository.storage().list(&name).await?;
    Ok(listed.iter().find(|object| object.name == name).map(|object| object.modified))
}

/// Puts a snapshot. A second attempt to put the very same one succeeds.
pub async fn put(repository: &Repository, snapshot: &Snapshot) -> Result<()> {
    let name = snapshot.object_name();
    let object = Bytes::from(snapshot.seal(repository.keys(), &name)?);
    match repository.storage().put(&name.to_string(), object).await {
        Err(error) if error.already_exists() => {
            if read(repository, &snapshot.backup_name()).await? == *snapshot {
                Ok(())
            } else {
                Err(error.into())
            }
        }
        put => Ok(put?),
    }
}

/// The place in the order of a server's backups that comes after `snapshots`, and the hashes of those
/// that no other names as its previous one.
pub fn next_in_order(snapshots: &[Snapshot]) -> (u64, Vec<SnapshotHash>) {
    let named: Vec<&SnapshotHash> = snapshots.iter().flat_map(|s| &s.previous).collect();
    let hashes = snapshots.iter().map(|snapshot| (snapshot.sequence, snapshot.hash()));
    let mut heads: Vec<(u64, SnapshotHash)> =
        hashes.filter(|(_, hash)| !named.contains(&hash)).collect();
    heads.sort_unstable();
    let sequence = heads.last().map_or(0, |(sequence, _)| *sequence) + 1;
    // A long history of deletions leaves many heads; the newest tell enough.
    let newest = heads.iter().rev().take(16);
    let mut newest: Vec<SnapshotHash> = newest.map(|(_, hash)| *hash).collect();
    newest.sort_unstable();
    (sequence, newest)
}
