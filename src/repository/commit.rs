//! The commit of a backup: from chunks that are stored to a snapshot that counts.
//!
//! Packs and index runs are durable before the snapshot is put, and the snapshot is put *before* we
//! look whether anything it refers to is about to be deleted. A pruner writes down what it will delete
//! before it looks for snapshots; so one of the two always sees the other, whatever the clocks say.

use std::collections::BTreeSet;
use std::sync::Arc;

use repo_format::chunk::ChunkKind;
use repo_format::ids::IndexId;
use repo_format::maintenance::Maintenance;
use repo_format::names::ObjectName;
use repo_format::record::{Record, SealError};
use repo_format::snapshot::Snapshot;

use super::Repository;
use super::check::verify_references;
use super::error::{Error, Result};
use super::index::{self, Index};
use super::sessions::{OwnSession, SILENCE};
use super::snapshots;
use super::writer::{Writer, WriterOptions};

/// Puts `snapshot`, all of whose chunks are stored, and makes sure that it is whole.
///
/// `used` are the index runs that told what the repository had. When this returns, the backup is done.
pub async fn commit(
    repository: &Arc<Repository>,
    session: &OwnSession,
    used: BTreeSet<IndexId>,
    snapshot: &Snapshot,
) -> Result<()> {
    store_copy(repository, snapshot).await?;
    snapshots::put(repository, snapshot).await?;
    let listed: BTreeSet<IndexId> =
        index::list(repository.storage().as_ref()).await?.into_iter().collect();
    let undisturbed = used.is_subset(&listed)
        && session.is_known().await?
        && !maintenance_is_under_way(repository).await?;
    if undisturbed {
        return Ok(());
    }
    let verified = verify(repository, snapshot).await;
    if verified.is_err() {
        // It was never reported done: whoever lists backups must not take it for one.
        repository.storage().delete(&snapshot.object_name().to_string()).await?;
        if !session.is_known().await? {
            let silence = format!("{} s", SILENCE.as_secs());
            return Err(Error::Fenced { silence });
        }
    }
    verified
}

/// Stores the snapshot's record as a chunk as well, from which a lost snapshot can be recovered.
async fn store_copy(repository: &Arc<Repository>, snapshot: &Snapshot) -> Result<()> {
    let record = snapshot.encode().map_err(SealError::from)?;
    let id = repository.keys().naming().chunk_id_of(ChunkKind::Snapshot, &record);
    let options = WriterOptions { threads: 1, level: 3 };
    let mut writer = Writer::new(repository.clone(), Arc::default(), options)?;
    let stored = tokio::task::spawn_blocking(move || {
        writer.add(ChunkKind::Snapshot, id, record)?;
        writer.finish()
    });
    stored.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(())
}

async fn maintenance_is_under_way(repository: &Repository) -> Result<bool> {
    for object in repository.storage().list("maintenance/").await? {
        if let Some(ObjectName::Maintenance(epoch)) = ObjectName::parse(&object.name) {
            let record = match repository.storage().get(&object.name).await {
                Err(error) if error.is_not_found() => continue,
                record => record?,
            };
            Maintenance::open(repository.keys(), &ObjectName::Maintenance(epoch), &record)
                .map_err(|e| Error::damaged(object.name, e))?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Resolves everything that the snapshot refers to in the store's newest index.
async fn verify(repository: &Arc<Repository>, snapshot: &Snapshot) -> Result<()> {
    let index = Arc::new(Index::load(repository).await?);
    let (repository, snapshot) = (repository.clone(), snapshot.clone());
    let reader = super::reader::Reader::new(repository, index.clone());
    tokio::task::spawn_blocking(move || verify_references(&reader, &index, &snapshot))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
