//! The commit of a backup: from chunks that are stored to a snapshot that counts.
//!
//! Packs and index runs are durable before the snapshot is put, and the snapshot is put *before* we
//! look whether anything it refers to is about to be deleted. A pruner writes down what it will delete
//! before it looks for snapshots; so one of the two always sees the other, whatever the clocks say.

use std::collections::BTreeSet;
use std::sync::Arc;

use repo_format::chunk::ChunkKind;
use repo_format::ids::PackId;
use repo_format::record::{Record, SealError};
use repo_format::snapshot::Snapshot;

use super::error::{Error, Result};
use super::index::Index;
use super::reader::Reader;
use super::references::References;
use super::sessions::{OwnSession, SILENCE};
use super::writer::{Writer, WriterOptions};
use super::{Access, Repository, maintenance, servers, snapshots};

/// Puts `snapshot`, all of whose chunks are stored, and makes sure that it is whole. When this
/// returns, the backup is done.
///
/// # Errors
/// If something that the snapshot refers to was, or is about to be, deleted. The snapshot is taken back
/// then: what is missing could only be read again from the server, by a new backup.
pub async fn commit(
    repository: &Arc<Repository>,
    session: &OwnSession,
    snapshot: &Snapshot,
) -> Result<()> {
    store_copy(repository, snapshot).await?;
    let Snapshot { server, system_id, backup_id, .. } = snapshot;
    servers::bind(repository, server, *system_id, backup_id).await?;
    snapshots::put(repository, snapshot).await?;
    let verified = verify(repository, session, snapshot).await;
    if matches!(verified, Err(Error::MissingChunk(_) | Error::Fenced { .. })) {
        // It was never reported done: whoever lists backups must not take it for one.
        repository.storage().delete(&snapshot.object_name().to_string()).await?;
    }
    verified
}

/// Resolves everything that the snapshot refers to in what the store has now, in the order of
/// `SPEC.md` 15.5: first what a pruner announces, then our own session, then index and packs.
async fn verify(
    repository: &Arc<Repository>,
    session: &OwnSession,
    snapshot: &Snapshot,
) -> Result<()> {
    repository.require_newest(Access::Write).await?;
    let doomed = maintenance::doomed_packs(repository).await?;
    let fenced = !session.is_known().await?;
    match resolve(repository, snapshot, &doomed).await {
        Err(Error::MissingChunk(_)) if fenced => {
            Err(Error::Fenced { silence: format!("{} s", SILENCE.as_secs()) })
        }
        resolved => resolved,
    }
}

/// Whether everything that the snapshot refers to is in the store now, outside of the `doomed` packs.
///
/// # Errors
/// [`Error::MissingChunk`] if something is not.
pub(super) async fn resolve(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    doomed: &BTreeSet<PackId>,
) -> Result<()> {
    let index = Arc::new(maintenance::usable_index(repository, doomed).await?);
    let reader = Reader::new(repository.clone(), index.clone());
    let snapshot = snapshot.clone();
    let followed =
        tokio::task::spawn_blocking(move || References::new(&reader, &index).follow(&snapshot));
    followed.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Stores the snapshot's record as a chunk as well, from which a lost snapshot can be recovered.
async fn store_copy(repository: &Arc<Repository>, snapshot: &Snapshot) -> Result<()> {
    let record = snapshot.encode().map_err(SealError::from)?;
    let id = repository.keys().naming().chunk_id_of(ChunkKind::Snapshot, &record);
    let options = WriterOptions { threads: 1, level: 3, deltas: false };
    let mut writer = Writer::new(repository.clone(), Arc::new(Index::empty()?), options)?;
    let stored = tokio::task::spawn_blocking(move || {
        writer.add(ChunkKind::Snapshot, id, record)?;
        writer.finish()
    });
    stored.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(())
}
