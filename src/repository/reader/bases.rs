//! What the next version of pages can be stored as a delta on: the plain version that is in the repository.

use std::sync::Arc;

use repo_format::blob::{BaseRange, Encoding};
use repo_format::chunk::ChunkKind;
use repo_format::index::BlobLocation;

use super::Reader;
use crate::repository::error::Result;

impl Reader {
    /// What a new version of `ranges` of chunks can be a delta on: the ranges themselves where they are stored
    /// plain, and the versions that they are deltas on where they are not. Nothing, if that is not known of every byte.
    pub fn plain_versions(
        &self,
        kind: ChunkKind,
        ranges: &[BaseRange],
    ) -> Result<Option<Vec<BaseRange>>> {
        let mut plain: Vec<BaseRange> = vec![];
        for range in ranges {
            let found = self.index.find(&range.chunk)?;
            let Some(location) = found.iter().find(|place| place.blob.kind == kind) else {
                return Ok(None);
            };
            if location.blob.encoding != Encoding::Delta {
                push_range(&mut plain, *range);
                continue;
            }
            let bases = self.bases_of(&location.blob)?;
            let Some(versions) = part_of(&bases, location.offset + range.offset, range.length)
            else {
                return Ok(None);
            };
            for version in versions {
                if self.index.find_base(&version.chunk.short(), kind)?.is_empty() {
                    return Ok(None);
                }
                push_range(&mut plain, version);
            }
        }
        Ok(Some(plain))
    }

    /// The base ranges of a delta, if they are as long as its content: a writer then put the former version of
    /// each byte at the same place.
    fn bases_of(&self, location: &BlobLocation) -> Result<Arc<[BaseRange]>> {
        let key = (location.pack, location.offset);
        self.bases.get_or_insert_with(&key, || {
            let (header, body) = self.open_blob(location)?;
            let length: u64 = body.bases().iter().map(|base| u64::from(base.length)).sum();
            let aligned = length == header.content_length() as u64;
            Ok(if aligned { body.bases().into() } else { Arc::new([]) })
        })
    }
}

/// Adds a range, to the one before if it goes on where that ends.
fn push_range(ranges: &mut Vec<BaseRange>, range: BaseRange) {
    match ranges.last_mut() {
        Some(last) if last.chunk == range.chunk && last.offset + last.length == range.offset => {
            last.length += range.length;
        }
        _ => ranges.push(range),
    }
}

/// What is from `offset` on in `ranges`, one after the other; nothing if that ends before `length` bytes.
fn part_of(ranges: &[BaseRange], offset: u32, length: u32) -> Option<Vec<BaseRange>> {
    let (mut part, mut skip, mut left) = (vec![], offset, length);
    for range in ranges {
        let skipped = skip.min(range.length);
        skip -= skipped;
        let taken = left.min(range.length - skipped);
        left -= taken;
        if taken > 0 {
            part.push(BaseRange { offset: range.offset + skipped, length: taken, ..*range });
        }
    }
    (left == 0).then_some(part)
}

#[cfg(test)]
mod tests {
    use repo_format::ids::ChunkId;

    use super::*;

    fn range(chunk: u8, offset: u32, length: u32) -> BaseRange {
        BaseRange { chunk: ChunkId::from_bytes([chunk; 32]), offset, length }
    }

    #[test]
    fn a_part_of_ranges_begins_and_ends_within_them() {
        let ranges = [range(1, 100, 10), range(2, 0, 10), range(3, 50, 10)];
        assert_eq!(part_of(&ranges, 0, 30), Some(ranges.to_vec()));
        assert_eq!(part_of(&ranges, 5, 10), Some(vec![range(1, 105, 5), range(2, 0, 5)]));
        assert_eq!(part_of(&ranges, 20, 1), Some(vec![range(3, 50, 1)]));
        assert_eq!(part_of(&ranges, 25, 6), None);
        assert_eq!(part_of(&[], 0, 1), None);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut ranges = vec![];
        for next in [range(1, 0, 8), range(1, 8, 8), range(1, 24, 8), range(2, 32, 8)] {
            push_range(&mut ranges, next);
        }
        assert_eq!(ranges, [range(1, 0, 16), range(1, 24, 8), range(2, 32, 8)]);
    }
}
