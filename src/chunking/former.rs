//! The former version of a file of pages, as far as the next one can be made of it.

use std::collections::HashMap;

use repo_format::blob::Encoding;
use repo_format::chunk::ChunkKind;
use repo_format::content::Run;
use repo_format::ids::{ChunkId, LeafHash};
use repo_format::index::ShortId;
use repo_format::limits::LEAF;
use repo_format::tree::File;

use crate::repository::error::Result;
use crate::repository::reader::Reader;

/// A file as a backup before has it.
#[derive(Debug)]
pub struct Former {
    stretches: Vec<Stretch>,
    leaves: Option<Vec<LeafHash>>,
}

/// What a run of the former version is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The run.
    pub run: Run,
    /// Its use.
    pub usable: Use,
}

/// What a part of the former version is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Pages that did not change stay where they are; those that did are deltas on it.
    Keep,
    /// It is in a delta of which little is needed any more. All pages move to a new one.
    Gather,
    /// It is in a plain chunk of which little is needed any more. All pages are stored anew.
    Renew,
    /// It is lost, or nothing but zeros.
    Nothing,
}

impl Former {
    /// The former version of `file`, whose leaves may be known. Nothing, if its runs are not on the grid of pages.
    ///
    /// # Errors
    /// If the repository cannot be read; what is damaged there is not used.
    pub fn load(
        reader: &Reader,
        file: &File,
        leaves: Option<Vec<LeafHash>>,
    ) -> Result<Option<Former>> {
        let runs = match reader.runs(&file.content) {
            Err(error) if error.is_damage() => {
                tracing::warn!(
                    "a file is stored whole, not compared with an earlier backup: {error}"
                );
                return Ok(None);
            }
            runs => runs?,
        };
        let window = u64::from(reader.repository().config().chunking.page_restart);
        if !is_on_grid(&runs, window) {
            return Ok(None);
        }
        let uses = uses(reader, &runs)?;
        let stretch = |run| {
            let usable = match run {
                Run::Chunk { id, .. } => uses.get(&id).copied().unwrap_or(Use::Nothing),
                Run::Zero { .. } => Use::Nothing,
            };
            Stretch { run, usable }
        };
        Ok(Some(Former { stretches: runs.into_iter().map(stretch).collect(), leaves }))
    }

    /// Its runs, in order.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// How many of its bytes are runs of zeros.
    pub fn zero_bytes(&self) -> u64 {
        let zeros = self.stretches.iter().map(|stretch| match stretch.run {
            Run::Zero { length } => length,
            Run::Chunk { .. } => 0,
        });
        zeros.sum()
    }

    /// The hashes of its leaves, if they are known.
    pub fn leaves(&self) -> Option<&[LeafHash]> {
        self.leaves.as_deref()
    }

    /// Whether the next version can be the former one as it is, if nothing changed.
    pub fn can_stay(&self) -> bool {
        self.stretches.iter().all(|stretch| match stretch.run {
            Run::Zero { .. } => true,
            Run::Chunk { .. } => stretch.usable == Use::Keep,
        })
    }

    /// The hash of the leaf at `offset` of the file; nothing if it is not known.
    pub fn leaf(&self, offset: u64) -> Option<&LeafHash> {
        let at = usize::try_from(offset / LEAF as u64).ok()?;
        self.leaves.as_ref()?.get(at)
    }
}

/// Whether runs begin with a leaf each, and no chunk is in two windows.
fn is_on_grid(runs: &[Run], window: u64) -> bool {
    let mut start = 0u64;
    runs.iter().all(|run| {
        let (first, end) = (start, start + run.length());
        start = end;
        let is_aligned = first.is_multiple_of(LEAF as u64);
        match run {
            Run::Zero { .. } => is_aligned,
            Run::Chunk { offset, .. } => {
                is_aligned
                    && offset.is_multiple_of(LEAF as u32)
                    && first / window == (end - 1) / window
            }
        }
    })
}

/// What each chunk of a file is good for.
fn uses(reader: &Reader, runs: &[Run]) -> Result<HashMap<ChunkId, Use>> {
    let mut needed: HashMap<ChunkId, u64> = HashMap::new();
    for run in runs {
        if let Run::Chunk { id, length, .. } = run {
            *needed.entry(*id).or_default() += u64::from(*length);
        }
    }
    let mut uses = HashMap::with_capacity(needed.len());
    // Plain chunks, their lengths, and how much of each is needed, also for deltas.
    let mut plain: HashMap<ShortId, (ChunkId, u64, u64)> = HashMap::new();
    let mut bases: HashMap<ShortId, u64> = HashMap::new();
    for (id, needed) in needed {
        let found = reader.index().find(&id)?;
        let Some(place) = found.iter().find(|place| place.blob.kind == ChunkKind::Data) else {
            continue;
        };
        let length = u64::from(place.length);
        if place.blob.encoding != Encoding::Delta {
            plain.insert(id.short(), (id, length, needed));
            continue;
        }
        if !reader.index().is_whole(place)? {
            continue;
        }
        // Else a restore would decode more and more that nobody needs.
        let usable = if needed * 2 <= length { Use::Gather } else { Use::Keep };
        uses.insert(id, usable);
        let on = reader.index().bases(place)?;
        let share = needed.div_ceil(on.len().max(1) as u64);
        on.into_iter().for_each(|base| *bases.entry(base).or_default() += share);
    }
    for (short, (id, length, direct)) in plain {
        let needed = direct + bases.get(&short).copied().unwrap_or_default();
        uses.insert(id, if needed * 2 <= length { Use::Renew } else { Use::Keep });
    }
    Ok(uses)
}
