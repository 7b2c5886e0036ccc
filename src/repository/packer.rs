//! Fills packs with sealed blobs, uploads them, and says in index runs where everything is.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use repo_format::blob::SealedBlob;
use repo_format::index::IndexBuilder;
use repo_format::names::ObjectName;
use repo_format::pack::{Pack, PackBuilder};
use tokio::runtime::Handle;

use super::Repository;
use super::error::{Error, Result};
use super::writer::Failure;
use crate::storage;

/// An index run is written after so many packs, so that an interrupted backup leaves chunks that the
/// next one finds.
pub const PACKS_PER_RUN: usize = 32;

/// The most chunks of one index run; its rows are held in memory until it is written.
pub const CHUNKS_PER_RUN: usize = 500_000;

/// What has been added to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    /// Packs.
    pub packs: u64,
    /// Bytes of packs and index runs.
    pub bytes: u64,
}

/// Packs blobs until `blobs` ends, then what is left. Returns when everything is durable.
pub fn pack(
    repository: &Arc<Repository>,
    runtime: &Handle,
    blobs: &Receiver<SealedBlob>,
    failure: &Failure,
) -> Result<Added> {
    std::thread::scope(|scope| {
        // One pack is filled while one is uploaded: more would only cost memory.
        let (packs, finished) = bounded(0);
        let uploader = scope.spawn(move || upload(repository, runtime, &finished, failure));
        let filled = fill(repository, blobs, &packs, failure);
        drop(packs);
        let added = uploader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        filled.and(added)
    })
}

fn fill(
    repository: &Repository,
    blobs: &Receiver<SealedBlob>,
    packs: &Sender<Pack>,
    failure: &Failure,
) -> Result<()> {
    let target = repository.config().packing.minimum as usize;
    let (mut data, mut metadata) = (PackBuilder::default(), PackBuilder::default());
    let finish = |builder: &mut PackBuilder| -> Result<()> {
        if !builder.is_empty() && !failure.happened() {
            // The uploader ends early only when it failed, which it reports itself.
            let _ = packs.send(std::mem::take(builder).finish(repository.keys())?);
        }
        Ok(())
    };
    for blob in blobs {
        let builder = if blob.header.kind.is_metadata() { &mut metadata } else { &mut data };
        builder.push(&blob).map_err(|e| Error::damaged("a new blob", e))?;
        if builder.length() >= target || builder.is_full() {
            finish(builder)?;
        }
    }
    finish(&mut data)?;
    finish(&mut metadata)
}

fn upload(
    repository: &Repository,
    runtime: &Handle,
    packs: &Receiver<Pack>,
    failure: &Failure,
) -> Result<Added> {
    let mut added = Added::default();
    let mut run = IndexBuilder::default();
    let mut packs_in_run = 0;
    for pack in packs {
        let length = pack.bytes.len() as u64;
        put_by_hash(repository, runtime, &ObjectName::Pack(pack.id), pack.bytes)
            .inspect_err(|_| failure.set())?;
        added.packs += 1;
        added.bytes += length;
        run.pack(pack.id, length, pack.entries)
            .map_err(|e| Error::damaged(ObjectName::Pack(pack.id).to_string(), e))
            .inspect_err(|_| failure.set())?;
        packs_in_run += 1;
        if packs_in_run >= PACKS_PER_RUN || run.chunks() >= CHUNKS_PER_RUN {
            added.bytes += put_run(repository, runtime, std::mem::take(&mut run))
                .inspect_err(|_| failure.set())?;
            packs_in_run = 0;
        }
    }
    // Also when something else has failed, the server for example: the next backup finds what is there.
    if !run.is_empty() {
        added.bytes += put_run(repository, runtime, run)?;
    }
    Ok(added)
}

fn put_run(repository: &Repository, runtime: &Handle, run: IndexBuilder) -> Result<u64> {
    let (id, object) = run.finish(repository.keys())?;
    let length = object.len() as u64;
    put_by_hash(repository, runtime, &ObjectName::Index(id), object)?;
    Ok(length)
}

/// Puts an object that is named by its hash: if it is there already, it is the same.
fn put_by_hash(
    repository: &Repository,
    runtime: &Handle,
    name: &ObjectName,
    bytes: Vec<u8>,
) -> Result<()> {
    match runtime.block_on(repository.storage().put(&name.to_string(), Bytes::from(bytes))) {
        Err(error @ storage::Error { .. }) if error.already_exists() => Ok(()),
        put => Ok(put?),
    }
}
