//! The content of a file: which chunks, or parts of chunks, its bytes are.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Result, within};
use crate::ids::ChunkId;
use crate::limits::{MAX_CHUNK, MAX_MAP_LEAVES, MAX_RUNS};

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Run {
    /// `length` zero bytes, which are stored nowhere.
    Zero {
        /// How many zero bytes.
        length: u64,
    } = 0,
    /// `length` bytes of a chunk, from `offset` on.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Where the run begins in the chunk, in bytes.
        offset: u32,
        /// How many bytes of the chunk.
        length: u32,
    } = 1,
}

impl Run {
    /// The length of the run in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Run::Zero { length } => *length,
            Run::Chunk { length, .. } => u64::from(*length),
        }
    }

    /// This run and the one after it as one, if they are one.
    pub fn joined(&self, next: &Run) -> Option<Run> {
        match (*self, *next) {
            (Run::Zero { length: one }, Run::Zero { length: two }) => {
                Some(Run::Zero { length: one.saturating_add(two) })
            }
            (
                Run::Chunk { id, offset, length },
                Run::Chunk { id: next, offset: next_offset, length: next_length },
            ) if id == next && offset.checked_add(length) == Some(next_offset) => {
                let length = length.checked_add(next_length)?;
                Some(Run::Chunk { id, offset, length })
            }
            _ => None,
        }
    }
}

/// A leaf of a map: a chunk of kind [`crate::chunk::ChunkKind::Map`] that holds runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct MapLeaf {
    /// The chunk that holds the runs.
    pub chunk: ChunkId,
    /// How many bytes of the file its runs give.
    pub covers: u64,
}

/// What gives the bytes of a file, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Content {
    /// The runs themselves.
    Runs(Vec<Run>) = 0,
    /// The leaves that hold the runs. Large files have them, so that a stretch that did not change
    /// is described by the same leaf.
    Map(Vec<MapLeaf>) = 1,
}

impl Content {
    /// The length of the content in bytes; an error if it has no canonical form.
    pub fn validate(&self) -> Result<u64> {
        match self {
            Content::Runs(runs) => validate_runs(runs),
            Content::Map(leaves) => {
                within("map of a file", leaves.len() as u64, MAX_MAP_LEAVES as u64)?;
                if leaves.is_empty() || leaves.iter().any(|leaf| leaf.covers == 0) {
                    return Err(DecodeError::malformed(
                        "map of a file",
                        "it is, or has, an empty leaf",
                    ));
                }
                total("map of a file", leaves.iter().map(|leaf| leaf.covers))
            }
        }
    }
}

/// Appends `run`, joined with the last of `runs` where it goes on where that ends: lists in which two
/// neighbours could be one are refused.
pub fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) => match last.joined(&run) {
            Some(joined) => *last = joined,
            None => runs.push(run),
        },
        None => runs.push(run),
    }
}

/// Encodes the runs of a map's leaf, as the content of a chunk.
pub fn encode_leaf(runs: &[Run]) -> Result<Vec<u8>> {
    validate_leaf(runs)?;
    Ok(codec::encode(&runs))
}

/// Decodes the leaf of a map that must give `covers` bytes of a file.
pub fn decode_leaf(bytes: &[u8], covers: u64) -> Result<Vec<Run>> {
    let what = "leaf of a map";
    let runs: Vec<Run> = codec::decode(what, bytes, MAX_CHUNK)?;
    let length = validate_leaf(&runs)?;
    if length != covers {
        let detail = format!("its runs give {length} bytes instead of {covers}");
        return Err(DecodeError::malformed(what, detail));
    }
    Ok(runs)
}

fn validate_leaf(runs: &[Run]) -> Result<u64> {
    match validate_runs(runs)? {
        0 => Err(DecodeError::malformed("leaf of a map", "it is empty")),
        length => Ok(length),
    }
}

/// The length of `runs` together, in bytes.
fn validate_runs(runs: &[Run]) -> Result<u64> {
    let what = "content of a file";
    within("number of runs", runs.len() as u64, MAX_RUNS as u64)?;
    for run in runs {
        if run.length() == 0 {
            return Err(DecodeError::malformed(what, "a run is empty"));
        }
        if let Run::Chunk { offset, length, .. } = run {
            within("end of a run", u64::from(*offset) + u64::from(*length), MAX_CHUNK as u64)?;
        }
    }
    if runs.array_windows().any(|[one, next]| one.joined(next).is_some()) {
        return Err(DecodeError::malformed(what, "two neighbouring runs could be one"));
    }
    total(what, runs.iter().map(Run::length))
}

fn total(what: &'static str, lengths: impl Iterator<Item = u64>) -> Result<u64> {
    lengths
        .into_iter()
        .try_fold(0u64, u64::checked_add)
        .filter(|total| *total <= i64::MAX as u64)
        .ok_or_else(|| DecodeError::malformed(what, "its length overflows"))
}
