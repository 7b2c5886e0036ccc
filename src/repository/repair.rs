//! Brings back what can be made again from the rest (`SPEC.md` 15.7). Nothing is deleted.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use repo_format::DecodeError;
use repo_format::blob::{Frame, SealedBlob};
use repo_format::chunk::ChunkKind;
use repo_format::ids::PackId;
use repo_format::index::IndexBuilder;
use repo_format::names::{BackupName, ObjectName};
use repo_format::pack;
use repo_format::record::Record;
use repo_format::snapshot::Snapshot;

use super::check::check_frame;
use super::error::{Error, Result};
use super::index::{self, Index, packs_in_store};
use super::packer::{CHUNKS_PER_RUN, PACKS_PER_RUN};
use super::reader::Reader;
use super::references::References;
use super::rewrite::{self, Replaced};
use super::{Repository, notes, sessions, snapshots};
use crate::blocking::blocking;
use crate::progress::Progress;

/// The snapshots of which only the copy in the packs is left: those that are not among the `sound` ones,
/// without a note that they failed or were deleted, and without a session that is just making them.
pub async fn lost_snapshots(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    sound: &[Snapshot],
) -> Result<Vec<Snapshot>> {
    let sound: BTreeSet<BackupName> = sound.iter().map(Snapshot::backup_name).collect();
    let mut lost = copies(repository, index).await?;
    lost.retain(|copy| !sound.contains(&copy.backup_name()));
    let running = sessions::running_backups(repository).await?;
    let notes = notes::of_all(repository).await?;
    lost.retain(|copy| {
        let backup = (copy.server.clone(), copy.backup_id.clone());
        let notes = notes.get(&backup);
        let is_known = notes.is_some_and(|notes| notes.deleted || notes.failure.is_some());
        !is_known && !running.contains_key(&backup)
    });
    Ok(lost)
}

/// Puts a lost snapshot in its place again, if everything that it refers to is there.
pub async fn put_snapshot_back(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    snapshot: &Snapshot,
) -> Result<()> {
    let reader = Reader::new(repository.clone(), index.clone());
    let (owned, index) = (snapshot.clone(), index.clone());
    let followed =
        tokio::task::spawn_blocking(move || References::new(&reader, &index).follow(&owned)).await;
    followed.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let name = snapshot.object_name().to_string();
    let is_damaged = match snapshots::read(repository, &snapshot.backup_name()).await {
        Err(Error::Damaged { .. }) => true,
        Err(error) if error.is_not_found() => false,
        Ok(_) => return Ok(()),
        Err(error) => return Err(error),
    };
    if is_damaged {
        // An object is never overwritten; the good one takes the place of bytes that nobody can read.
        repository.storage().delete(&name).await?;
    }
    snapshots::put(repository, snapshot).await
}

/// What [`repair_index`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairedIndex {
    /// Packs that no sound run named, and that are in the index now.
    pub packs: u64,
    /// Runs that are damaged, and replaced.
    pub replaced: u64,
    /// Packs of which nothing can be read.
    pub unreadable: u64,
}

/// Puts runs for all packs that no sound run names, which replace the damaged ones.
pub async fn repair_index(repository: &Arc<Repository>) -> Result<RepairedIndex> {
    let index = Index::load(repository).await?;
    let known: BTreeSet<PackId> = index.packs().map(|(id, _)| id).collect();
    let mut repaired = RepairedIndex::default();
    let mut run = IndexBuilder::default();
    let storage = repository.storage().as_ref();
    let mut packs_in_run = 0;
    for (id, size) in packs_in_store(storage).await? {
        if known.contains(&id) {
            continue;
        }
        let entries = match index::read_entries(storage, repository.keys(), &id, size).await {
            Ok(entries) if !entries.is_empty() => entries,
            Ok(_) | Err(Error::Damaged { .. }) => {
                repaired.unreadable += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        run.pack(id, size, entries)
            .map_err(|e| Error::damaged(ObjectName::Pack(id).to_string(), e))?;
        repaired.packs += 1;
        packs_in_run += 1;
        if packs_in_run >= PACKS_PER_RUN || run.chunks() >= CHUNKS_PER_RUN {
            rewrite::put_run(repository, std::mem::take(&mut run)).await?;
            packs_in_run = 0;
        }
    }
    // Last, when all that they named is named again. A run whose key is not at hand may be a sound one.
    for (object, error) in index.damaged() {
        if let Some(ObjectName::Index(id)) = ObjectName::parse(object)
            && !matches!(error, DecodeError::UnknownKey { .. })
        {
            run.supersede(id);
            repaired.replaced += 1;
        }
    }
    if !run.is_empty() {
        rewrite::put_run(repository, run).await?;
    }
    Ok(repaired)
}

/// What [`repair_packs`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairedPacks {
    /// The packs that are damaged.
    pub damaged: Vec<PackId>,
    /// Blobs in them that are intact, and in a new pack now.
    pub saved: u64,
}

/// Reads all packs, and copies what is intact in the damaged ones into new packs. The index then names nothing
/// in the damaged ones any more: what is lost counts as missing, and the next backup stores it again.
pub async fn repair_packs(
    repository: &Arc<Repository>,
    progress: &Progress,
) -> Result<RepairedPacks> {
    let mut repaired = RepairedPacks::default();
    let in_store = packs_in_store(repository.storage().as_ref()).await?;
    progress.phase("reading packs", Some(in_store.values().sum()));
    let index = Arc::new(Index::load(repository).await?);
    let known: BTreeSet<PackId> = index.packs().map(|(id, _)| id).collect();
    for (id, size) in in_store {
        let is_sound = match repository.storage().get(&ObjectName::Pack(id).to_string()).await {
            Ok(bytes) => {
                let owned = repository.clone();
                let open = move || pack::open(owned.keys(), &id, &bytes).is_ok();
                blocking(open).await
            }
            Err(error) if error.is_unreadable() => false,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        if !is_sound && known.contains(&id) {
            repaired.damaged.push(id);
        }
        progress.advance(size);
    }
    if repaired.damaged.is_empty() {
        return Ok(repaired);
    }
    let saved = Arc::new(AtomicU64::new(0));
    let reader = Reader::new(repository.clone(), index.clone());
    let (damaged, count) = (repaired.damaged.clone(), saved.clone());
    rewrite::pack(repository, move |runtime, sink| {
        for id in damaged {
            let name = ObjectName::Pack(id).to_string();
            let storage = reader.repository().storage();
            let Ok(bytes) = runtime.block_on(storage.get(&name)) else { continue };
            for blob in intact_blobs(&reader, &bytes) {
                sink(blob)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })
    .await?;
    repaired.saved = saved.load(Ordering::Relaxed);
    let doomed: HashSet<PackId> = repaired.damaged.iter().copied().collect();
    let runs = index.runs_with(&doomed);
    rewrite::replace_runs(repository, &index, &runs, &doomed, Replaced::Stay).await?;
    Ok(repaired)
}

/// The blobs of a damaged pack that open, decode, and have the chunks that they say.
fn intact_blobs(reader: &Reader, bytes: &[u8]) -> Vec<SealedBlob> {
    let entries = pack::scan(reader.repository().keys(), bytes);
    let intact = entries.into_iter().filter_map(|entry| {
        let bytes = bytes.get(entry.offset as usize..entry.end() as usize)?;
        let (frame, _) = Frame::split(bytes).ok()?;
        let (header, body) = check_frame(reader, &frame).ok()?;
        let (encoding, bases) = (body.encoding(), body.base_chunks());
        Some(SealedBlob { header, encoding, bases, frame: bytes.to_vec() })
    });
    intact.collect()
}

/// The copies of snapshots in the packs; one that cannot be read is left out.
async fn copies(repository: &Arc<Repository>, index: &Arc<Index>) -> Result<Vec<Snapshot>> {
    let blobs = index.blobs_of(ChunkKind::Snapshot)?;
    let reader = Reader::new(repository.clone(), index.clone());
    blocking(move || {
        let mut found: Vec<(BackupName, Snapshot)> = vec![];
        for blob in blobs {
            let (header, content) = match reader.whole_blob(&blob) {
                Ok(read) => read,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let mut rest = content.as_slice();
            for chunk in header.chunks {
                let (record, after) =
                    rest.split_at_checked(chunk.length as usize).unwrap_or_default();
                rest = after;
                if let Ok(snapshot) = Snapshot::decode(record) {
                    found.push((snapshot.backup_name(), snapshot));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.dedup_by(|a, b| a.0 == b.0);
        Ok(found.into_iter().map(|(_, snapshot)| snapshot).collect())
    })
    .await
}
