//! Where every chunk is: the index runs of the store, loaded and searched together.

mod live;
mod rows;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt, stream};
use repo_format::DecodeError;
use repo_format::blob::Encoding;
use repo_format::chunk::ChunkKind;
use repo_format::ids::{ChunkId, IndexId, PackId};
use repo_format::index::{BlobLocation, ChunkLocation, IndexRun, ShortId};
use repo_format::keys::KeyRing;
use repo_format::names::ObjectName;
use repo_format::pack::{self, PackEntry};

use super::error::{Error, Result};
use super::{Repository, host};
use crate::storage::Storage;

pub use live::LiveBlobs;
pub use rows::RowSet;
use table::{Pack, Table, TableBuilder};

/// How many objects are read at once.
const PARALLEL_READS: usize = 8;

/// The index of a repository at one moment. A large one is kept in files without names, in the
/// directory for temporary files, so that memory has a ceiling.
#[derive(Debug)]
pub struct Index {
    table: Table,
    damaged: Vec<(String, DecodeError)>,
    runs: Vec<Run>,
}

/// A run that an index was loaded from.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its name.
    pub id: IndexId,
    /// The packs that it names.
    pub packs: Vec<PackId>,
    /// Whether another run replaces it.
    pub is_superseded: bool,
}

impl Index {
    /// An index of nothing.
    pub fn empty() -> Result<Self> {
        Index::of(TableBuilder::new(&host::scratch_directory()))
    }

    /// Loads the runs in the store. A run that is damaged is left out, and told of in the log: what only
    /// it knows, [`Index::rebuild`] finds.
    ///
    /// # Errors
    /// If the store fails, or a run has a format that only a newer program can read.
    pub async fn load(repository: &Repository) -> Result<Self> {
        let ids = list(repository.storage().as_ref()).await?;
        let mut builder = TableBuilder::new(&host::scratch_directory());
        let (mut superseded, mut damaged) = (HashSet::new(), vec![]);
        let mut packs_of_runs: Vec<(IndexId, Vec<u32>)> = vec![];
        let mut runs =
            stream::iter(ids).map(|id| read_run(repository, id)).buffer_unordered(PARALLEL_READS);
        while let Some(run) = runs.next().await {
            match run {
                Ok(Some((id, run))) => {
                    superseded.extend(run.superseded().iter().copied());
                    let packs = builder.run(&run).map_err(Error::Scratch)?;
                    packs_of_runs.push((id, packs));
                }
                Ok(None) => {}
                Err(error @ Error::Damaged { error: DecodeError::Version { .. }, .. }) => {
                    return Err(error);
                }
                Err(Error::Damaged { object, error }) => damaged.push((object, error)),
                Err(error) => return Err(error),
            }
        }
        // A repair supersedes a damaged run, which stays where it is.
        damaged.retain(|(object, _)| {
            !matches!(ObjectName::parse(object), Some(ObjectName::Index(id)) if superseded.contains(&id))
        });
        for (object, error) in &damaged {
            tracing::warn!("{object} is damaged, and left out: {error}");
        }
        let mut index = Index { damaged, ..Index::of(builder)? };
        let pack = |number: &u32| index.table.packs().get(*number as usize).map(|pack| pack.id);
        let runs = packs_of_runs.iter().map(|(id, packs)| Run {
            id: *id,
            packs: packs.iter().filter_map(pack).collect(),
            is_superseded: superseded.contains(id),
        });
        index.runs = runs.collect();
        // A run that another one replaces may name packs that are about to go.
        let counting: HashSet<u32> = packs_of_runs
            .into_iter()
            .filter(|(id, _)| !superseded.contains(id))
            .flat_map(|(_, packs)| packs)
            .collect();
        for (number, pack) in (0u32..).zip(index.table.packs_mut()) {
            pack.counts = counting.contains(&number);
        }
        Ok(index)
    }

    /// Makes an index from the packs themselves: from their footers, or, where a footer is lost, from
    /// the headers of the blobs. This reads no index object.
    pub async fn rebuild(repository: &Repository) -> Result<Self> {
        let storage = repository.storage().as_ref();
        let mut builder = TableBuilder::new(&host::scratch_directory());
        let mut packs = stream::iter(packs_in_store(storage).await?)
            .map(|(id, size)| async move {
                (id, size, read_entries(storage, repository.keys(), &id, size).await)
            })
            .buffer_unordered(PARALLEL_READS);
        while let Some((id, size, entries)) = packs.next().await {
            match entries {
                Ok(entries) => builder.entries(id, size, &entries).map_err(Error::Scratch)?,
                Err(error) if error.is_damage() => {
                    tracing::warn!("{} cannot be read: {error}", ObjectName::Pack(id));
                }
                Err(error) => return Err(error),
            }
        }
        Index::of(builder)
    }

    fn of(builder: TableBuilder) -> Result<Self> {
        Ok(Index {
            table: builder.finish().map_err(Error::Scratch)?,
            damaged: vec![],
            runs: vec![],
        })
    }

    /// Leaves out the packs that are not `available` in the length that they must have: for who writes, a
    /// chunk that is only there is missing.
    #[must_use]
    pub fn within(mut self, available: &BTreeMap<PackId, u64>) -> Self {
        for pack in self.table.packs_mut() {
            pack.counts &= available.get(&pack.id) == Some(&pack.length);
        }
        self
    }

    /// The runs that are damaged, and how it shows.
    pub fn damaged(&self) -> &[(String, DecodeError)] {
        &self.damaged
    }

    /// The sound runs that the index was loaded from.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs that others replace, or must, because they name `doomed` packs.
    pub fn runs_with(&self, doomed: &HashSet<PackId>) -> BTreeSet<IndexId> {
        let goes = |run: &&Run| run.is_superseded || run.packs.iter().any(|p| doomed.contains(p));
        self.runs.iter().filter(goes).map(|run| run.id).collect()
    }

    /// How many chunks the index has, with those that are in several places counted for each.
    pub fn len(&self) -> u64 {
        self.table.len()
    }

    /// Whether the index has no chunks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a chunk is in the repository, with what it is a delta on if it is nowhere plain.
    pub fn contains(&self, id: &ChunkId) -> Result<bool> {
        for location in self.find(id)? {
            if self.is_whole(&location)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether everything is there that the chunk at a place is a delta on. What nothing needs any more may be left of a
    /// delta without it.
    pub fn is_whole(&self, location: &ChunkLocation) -> Result<bool> {
        for base in self.bases(location)? {
            if self.find_base(&base, location.blob.kind)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Everywhere a chunk is, places where it is stored plain first.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<ChunkLocation>> {
        let mut found = self.table.find(&id.short()).map_err(Error::Scratch)?;
        found.sort_by_key(|location| location.blob.encoding == Encoding::Delta);
        Ok(found)
    }

    /// The short ids of the chunks that a chunk needs at a place that [`Index::find`] named.
    pub fn bases(&self, location: &ChunkLocation) -> Result<Vec<ShortId>> {
        self.table.bases(location).map_err(Error::Scratch)
    }

    /// Everywhere a chunk is stored plain, so that it can be the base of a delta of `kind`: depth is one, for
    /// ever.
    pub fn find_base(&self, short: &ShortId, kind: ChunkKind) -> Result<Vec<ChunkLocation>> {
        let mut found = self.table.find(short).map_err(Error::Scratch)?;
        found.retain(|location| {
            location.blob.encoding != Encoding::Delta
                && Some(location.blob.kind) == kind.base_kind()
        });
        Ok(found)
    }

    /// All blobs that hold chunks of `kind`.
    pub fn blobs_of(&self, kind: ChunkKind) -> Result<Vec<BlobLocation>> {
        self.table.blobs_of(kind).map_err(Error::Scratch)
    }

    /// The packs that the index knows, and their lengths in bytes.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, u64)> + '_ {
        let counting = self.table.packs().iter().filter(|pack| pack.counts);
        counting.map(|Pack { id, length, .. }| (*id, *length))
    }
}

/// The packs in the store, and their lengths in bytes.
pub async fn packs_in_store(storage: &dyn Storage) -> Result<BTreeMap<PackId, u64>> {
    let pack = |name: &str| match ObjectName::parse(name)? {
        ObjectName::Pack(id) => Some(id),
        _ => None,
    };
    let listed = storage.list("packs/").await?;
    Ok(listed.iter().filter_map(|object| Some((pack(&object.name)?, object.size))).collect())
}

/// One run of the index; nothing if it is not there.
pub async fn read_run(repository: &Repository, id: IndexId) -> Result<Option<(IndexId, IndexRun)>> {
    let name = ObjectName::Index(id).to_string();
    let object = match repository.storage().get(&name).await {
        // A pruner replaced it since it was listed; its successor is in the next listing.
        Err(error) if error.is_not_found() => return Ok(None),
        object => object?,
    };
    let run =
        IndexRun::open(repository.keys(), &id, &object).map_err(|e| Error::damaged(name, e))?;
    Ok(Some((id, run)))
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
