//! Moves blobs into new packs, and has the index name them there: what pruning and repairs have in common.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::bounded;
use repo_format::blob::SealedBlob;
use repo_format::ids::{IndexId, PackId};
use repo_format::index::IndexBuilder;
use repo_format::names::ObjectName;
use tokio::runtime::Handle;

use super::Repository;
use super::error::{Error, Result};
use super::index::{self, Index};
use super::packer::{self, CHUNKS_PER_RUN};
use super::writer::Failure;

/// Takes blobs that are to be packed.
pub type Sink<'a> = dyn FnMut(SealedBlob) -> Result<()> + 'a;

/// Packs the blobs that `produce` gives to its sink; durable, and in the index, when this returns.
pub async fn pack(
    repository: &Arc<Repository>,
    produce: impl FnOnce(&Handle, &mut Sink<'_>) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (repository, runtime) = (repository.clone(), Handle::current());
    let packed = tokio::task::spawn_blocking(move || {
        let failure = Failure::default();
        let (send, blobs) = bounded(4);
        std::thread::scope(|scope| {
            let packing = scope.spawn(|| packer::pack(&repository, &runtime, &blobs, &failure));
            // The packer ends early only when it failed, which it says itself.
            let sent =
                produce(&runtime, &mut |blob| send.send(blob).map_err(|_| Error::Interrupted));
            if sent.is_err() {
                failure.set();
            }
            drop(send);
            let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            packed.and(sent)
        })
    });
    packed.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What becomes of runs that are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// They stay where they are, and count no more.
    Stay,
    /// They are deleted next.
    Go,
}

/// Puts runs for what stays of `runs`: all packs that they name but the `doomed` ones; and reads them back. They
/// supersede `runs`.
pub async fn replace_runs(
    repository: &Repository,
    index: &Index,
    runs: &BTreeSet<IndexId>,
    doomed: &HashSet<PackId>,
    replaced: Replaced,
) -> Result<()> {
    let (storage, keys) = (repository.storage(), repository.keys());
    let lengths: BTreeMap<PackId, u64> = index.packs().collect();
    let mut builder = IndexBuilder::default();
    let (mut written, mut named) = (vec![], doomed.clone());
    for run in index.runs().iter().filter(|run| runs.contains(&run.id) && !run.is_superseded) {
        for pack in &run.packs {
            let Some(length) = lengths.get(pack).filter(|_| named.insert(*pack)) else { continue };
            let entries = index::read_entries(storage.as_ref(), keys, pack, *length).await?;
            builder
                .pack(*pack, *length, entries)
                .map_err(|e| Error::damaged(ObjectName::Pack(*pack).to_string(), e))?;
        }
        // All that stays of a run is in the one run that replaces it, or in an earlier one.
        builder.supersede(run.id);
        if builder.chunks() >= CHUNKS_PER_RUN {
            written.push(put_run(repository, std::mem::take(&mut builder)).await?);
        }
    }
    // Where nothing stays, a run that replaces the others is of use only while these are there.
    if builder.chunks() > 0 || (replaced == Replaced::Stay && !builder.is_empty()) {
        written.push(put_run(repository, builder).await?);
    }
    for id in written {
        index::read_run(repository, id).await?;
    }
    Ok(())
}

/// Puts a run.
pub async fn put_run(repository: &Repository, run: IndexBuilder) -> Result<IndexId> {
    let (id, object) = run.finish(repository.keys())?;
    let name = ObjectName::Index(id).to_string();
    match repository.storage().put(&name, Bytes::from(object)).await {
        Err(error) if error.already_exists() => {}
        put => put?,
    }
    Ok(id)
}
