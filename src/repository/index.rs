//! Where every chunk is: the index runs of the store, loaded and searched together.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use repo_format::DecodeError;
use repo_format::blob::Encoding;
use repo_format::chunk::ChunkKind;
use repo_format::ids::{ChunkId, IndexId, PackId};
use repo_format::index::{ChunkLocation, IndexBuilder, IndexRun, ShortId};
use repo_format::keys::KeyRing;
use repo_format::names::ObjectName;
use repo_format::pack::{self, PackEntry};

use super::Repository;
use super::error::{Error, Result};
use crate::storage::Storage;

/// How many objects are read at once.
const PARALLEL_READS: usize = 8;

/// The index of a repository at one moment.
#[derive(Debug, Default)]
pub struct Index {
    runs: Vec<(IndexId, IndexRun)>,
}

impl Index {
    /// Loads every run in the store.
    ///
    /// # Errors
    /// If a run is damaged; [`Index::rebuild`] reads the packs instead.
    pub async fn load(repository: &Repository) -> Result<Self> {
        let ids = list(repository.storage().as_ref()).await?;
        Index::load_runs(repository, ids).await
    }

    /// Loads every run that is sound, and says which are not.
    pub async fn load_sound(repository: &Repository) -> Result<(Self, Vec<(String, DecodeError)>)> {
        let (mut runs, mut damaged) = (vec![], vec![]);
        for id in list(repository.storage().as_ref()).await? {
            match Index::load_runs(repository, vec![id]).await {
                Ok(loaded) => runs.extend(loaded.runs),
                Err(Error::Damaged { object, error }) => damaged.push((object, error)),
                Err(error) => return Err(error),
            }
        }
        let mut index = Index { runs };
        index.drop_superseded();
        Ok((index, damaged))
    }

    /// Makes an index from the packs themselves: from their footers, or, where a footer is lost, from
    /// the headers of the blobs. This reads no index object.
    pub async fn rebuild(repository: &Repository) -> Result<Self> {
        let storage = repository.storage().as_ref();
        let mut builder = IndexBuilder::default();
        for object in storage.list("packs/").await? {
            let Some(ObjectName::Pack(id)) = ObjectName::parse(&object.name) else { continue };
            match read_entries(storage, repository.keys(), &id, object.size).await {
                Ok(entries) => {
                    if let Err(error) = builder.pack(id, object.size, entries) {
                        tracing::warn!("{} makes no sense: {error}", object.name);
                    }
                }
                Err(error) => tracing::warn!("{} cannot be read: {error}", object.name),
            }
        }
        let run = builder
            .encode()
            .and_then(|run| IndexRun::decode(&run))
            .map_err(|e| Error::damaged("packs", e))?;
        Ok(Index { runs: vec![(IndexId::from_bytes([0; IndexId::LEN]), run)] })
    }

    /// How many chunks the index has, with those that are in several places counted for each.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.len()).sum()
    }

    /// Whether the index has no chunks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs.
    pub fn runs(&self) -> impl Iterator<Item = &IndexRun> {
        self.runs.iter().map(|(_, run)| run)
    }

    /// The names of the runs.
    pub fn ids(&self) -> BTreeSet<IndexId> {
        self.runs.iter().map(|(id, _)| *id).collect()
    }

    /// Whether a chunk is in the repository.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.runs.iter().any(|(_, run)| run.find(id).next().is_some())
    }

    /// Everywhere a chunk is, places where it is stored plain first.
    pub fn find(&self, id: &ChunkId) -> Vec<ChunkLocation> {
        let mut found: Vec<ChunkLocation> =
            self.runs.iter().flat_map(|(_, run)| run.find(id)).collect();
        found.sort_by_key(|location| location.blob.encoding == Encoding::Delta);
        found
    }

    /// The short ids of the chunks that a chunk needs where it is stored as a delta.
    pub fn bases(&self, id: &ChunkId) -> Vec<ShortId> {
        let of_run = |run: &IndexRun| -> Vec<ShortId> {
            run.find(id).flat_map(|at| run.bases(at.blob_number).to_vec()).collect()
        };
        self.runs().flat_map(of_run).collect()
    }

    /// Where a chunk is stored plain, so that it can be the base of a delta: depth is one, for ever.
    pub fn find_base(&self, short: &ShortId) -> Option<ChunkLocation> {
        self.runs().flat_map(|run| run.find_short(*short)).find(|location| {
            location.blob.encoding != Encoding::Delta && location.blob.kind == ChunkKind::Data
        })
    }

    /// The packs that the index knows, and their lengths in bytes.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, u64)> + '_ {
        self.runs.iter().flat_map(|(_, run)| run.packs())
    }

    async fn load_runs(repository: &Repository, ids: Vec<IndexId>) -> Result<Self> {
        let load = |id: IndexId| async move {
            let name = ObjectName::Index(id).to_string();
            let object = match repository.storage().get(&name).await {
                // A pruner replaced it since it was listed; its successor is in the next listing.
                Err(error) if error.is_not_found() => return Ok(None),
                object => object?,
            };
            let run = IndexRun::open(repository.keys(), &id, &object)
                .map_err(|e| Error::damaged(name, e))?;
            Ok::<_, Error>(Some((id, run)))
        };
        let runs = stream::iter(ids)
            .map(load)
            .buffer_unordered(PARALLEL_READS)
            .try_filter_map(|run| async move { Ok(run) })
            .try_collect()
            .await?;
        let mut index = Index { runs };
        index.drop_superseded();
        Ok(index)
    }

    /// A run that another one replaces may name packs that are about to go.
    fn drop_superseded(&mut self) {
        let superseded: HashSet<IndexId> =
            self.runs.iter().flat_map(|(_, run)| run.superseded().iter().copied()).collect();
        self.runs.retain(|(id, _)| !superseded.contains(id));
    }
}

/// The names of all runs in the store.
pub async fn list(storage: &dyn Storage) -> Result<Vec<IndexId>> {
    let id = |name: &str| match ObjectName::parse(name)? {
        ObjectName::Index(id) => Some(id),
        _ => None,
    };
    Ok(storage.list("index/").await?.iter().filter_map(|object| id(&object.name)).collect())
}

/// The blobs of a pack of `size` bytes: from its footer, or by walking the pack.
pub async fn read_entries(
    storage: &dyn Storage,
    keys: &KeyRing,
    id: &PackId,
    size: u64,
) -> Result<Vec<PackEntry>> {
    let name = ObjectName::Pack(*id).to_string();
    match read_footer(storage, keys, &name, size).await {
        Ok(entries) => return Ok(entries),
        Err(error @ Error::Storage(_)) => return Err(error),
        Err(error) => tracing::warn!("{name}: {error}; reading the headers of its blobs instead"),
    }
    let bytes = storage.get(&name).await?;
    Ok(pack::scan(keys, &bytes))
}

async fn read_footer(
    storage: &dyn Storage,
    keys: &KeyRing,
    name: &str,
    size: u64,
) -> Result<Vec<PackEntry>> {
    let damaged = |e: DecodeError| Error::damaged(name, e);
    let trailer_at = size.saturating_sub(pack::TRAILER as u64);
    let trailer = storage.get_range(name, trailer_at..size).await?;
    let (offset, length) = pack::footer_range(size, &trailer).map_err(damaged)?;
    let footer = storage.get_range(name, offset..offset + length).await?;
    pack::open_footer(keys, offset, &footer).map_err(damaged)
}
