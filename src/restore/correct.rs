//! Makes a file that is there what it must be: what is right stays, and is neither fetched nor written.
//!
//! All of it is read and hashed. If that gives the digest, nothing is left to do; else each chunk that it
//! has as a whole is known by its id, and only the others are fetched and compared.

use repo_format::content::{Content, Run};
use repo_format::ids::LeafHash;
use repo_format::tree;

use super::destination::Output;
use super::hashing::{PartHash, PartHasher, There};
use crate::error::Result;
use crate::progress::Progress;
use crate::repository::reader::{Reader, run_bytes};

/// Corrects a file that has its size already. Returns what it is then.
pub fn correct(
    reader: &Reader,
    file: &tree::File,
    output: &dyn Output,
    zero_leaf: &LeafHash,
    progress: &Progress,
) -> Result<PartHash> {
    let keys = reader.repository().keys().naming();
    let there = There::read(keys, output, file.size)?;
    if there.digest(keys, file.size) == file.digest {
        progress.advance(file.size);
        return Ok(there.into_part(file.size));
    }
    let mut hasher = PartHasher::correcting(keys, zero_leaf, &there, output);
    let mut offset = 0;
    for runs in stretches(reader, &file.content) {
        for run in runs? {
            offset += run.length();
            match run {
                Run::Zero { length } => hasher.zeros(length)?,
                Run::Chunk { id, offset: 0, length }
                    if hasher.keep(&id, length.into(), offset == file.size) => {}
                Run::Chunk { id, offset: from, length } => {
                    let chunk = reader.chunk(&id)?;
                    hasher.bytes(run_bytes(&chunk, &id, from, length)?)?;
                }
            }
            progress.advance(run.length());
        }
    }
    hasher.finish(offset)
}

/// The runs of a file, stretch by stretch: those of a large one are not in memory all at once.
fn stretches<'a>(
    reader: &'a Reader,
    content: &'a Content,
) -> impl Iterator<Item = Result<Vec<Run>>> + 'a {
    let (own, leaves) = match content {
        Content::Runs(runs) => (Some(Ok(runs.clone())), [].as_slice()),
        Content::Map(leaves) => (None, leaves.as_slice()),
    };
    own.into_iter().chain(leaves.iter().map(|leaf| Ok(reader.leaf(&leaf.chunk, leaf.covers)?)))
}
