//! Hashes the parts of files from the bytes that a restore writes, and writes only those that differ where
//! a file is there already.

use repo_format::chunk::{ChunkKind, DigestBuilder};
use repo_format::ids::{ChunkId, Digest, LeafHash};
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;

use super::destination::Output;
use crate::error::Result;

/// So much of a file that is there is read at a time: a whole number of leaves.
const PIECE: usize = 64 * LEAF;

/// A leaf of zeros.
const ZEROS: [u8; LEAF] = [0; LEAF];

/// What a part is.
pub struct PartHash {
    /// The hashes of its leaves.
    pub leaves: Vec<LeafHash>,
    /// The CRC-32C of its bytes.
    pub crc: u32,
    /// Its length in bytes.
    pub length: u64,
    /// The bytes of it that were written.
    pub written: u64,
}

/// What a file has before it is corrected.
pub struct There {
    leaves: Vec<LeafHash>,
    /// The CRC-32C of the file from its beginning to the end of each leaf.
    crcs: Vec<u32>,
}

impl There {
    /// Reads a file of `size` bytes.
    pub fn read(keys: &NamingKeys, output: &dyn Output, size: u64) -> Result<There> {
        let mut there = There { leaves: vec![], crcs: vec![] };
        let (mut buffer, mut offset, mut crc) = (vec![0; PIECE], 0, 0);
        while offset < size {
            let length = (size - offset).min(PIECE as u64);
            buffer.truncate(length as usize);
            output.read(offset, &mut buffer)?;
            for leaf in buffer.chunks(LEAF) {
                crc = crc32c::crc32c_append(crc, leaf);
                there.leaves.push(keys.leaf(leaf));
                there.crcs.push(crc);
            }
            offset += length;
        }
        Ok(there)
    }

    /// The digest of the file.
    pub fn digest(&self, keys: &NamingKeys, size: u64) -> Digest {
        let mut digest = DigestBuilder::new(keys);
        digest.leaves(&self.leaves);
        digest.finish(size)
    }

    /// What it is as a part, of which nothing has to be written.
    pub fn into_part(self, length: u64) -> PartHash {
        let crc = self.crcs.last().copied().unwrap_or_default();
        PartHash { leaves: self.leaves, crc, length, written: 0 }
    }

    /// The CRC-32C of the file up to a leaf.
    fn crc_before(&self, leaf: usize) -> u32 {
        let before = leaf.checked_sub(1).and_then(|before| self.crcs.get(before));
        before.copied().unwrap_or_default()
    }
}

/// Hashes a part of a file.
pub struct PartHasher<'a> {
    keys: &'a NamingKeys,
    zero_leaf: &'a LeafHash,
    /// What is there already of the file, and where differences are written to.
    there: Option<(&'a There, &'a dyn Output)>,
    leaves: Vec<LeafHash>,
    partial: Vec<u8>,
    crc: u32,
    /// The bytes that were written.
    pub written: u64,
}

impl<'a> PartHasher<'a> {
    /// A hasher of what is written to a new file.
    pub fn new(keys: &'a NamingKeys, zero_leaf: &'a LeafHash) -> Self {
        let (leaves, partial) = (vec![], vec![]);
        PartHasher { keys, zero_leaf, there: None, leaves, partial, crc: 0, written: 0 }
    }

    /// A hasher of all that a file must be, which writes what it has otherwise.
    pub fn correcting(
        keys: &'a NamingKeys,
        zero_leaf: &'a LeafHash,
        there: &'a There,
        output: &'a dyn Output,
    ) -> Self {
        PartHasher { there: Some((there, output)), ..PartHasher::new(keys, zero_leaf) }
    }

    /// The next bytes.
    pub fn bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        if !self.partial.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(LEAF - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = tail;
            if self.partial.len() < LEAF {
                return Ok(());
            }
            self.end_partial()?;
        }
        let mut leaves = bytes.chunks_exact(LEAF);
        for leaf in &mut leaves {
            self.leaf(self.keys.leaf(leaf), leaf)?;
        }
        self.partial.extend_from_slice(leaves.remainder());
        Ok(())
    }

    /// So many zeros.
    pub fn zeros(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            if self.partial.is_empty() && length >= LEAF as u64 {
                self.crc = crc32c::crc32c_append(self.crc, &ZEROS);
                self.leaf(*self.zero_leaf, &ZEROS)?;
                length -= LEAF as u64;
            } else {
                let some = length.min((LEAF - self.partial.len()) as u64);
                self.bytes(ZEROS.get(..some as usize).unwrap_or_default())?;
                length -= some;
            }
        }
        Ok(())
    }

    /// Takes what is there for the next `length` bytes, if it is all of this chunk. Whether it is can be
    /// told only of what is made of whole leaves of the file, of which the last may be short.
    pub fn keep(&mut self, id: &ChunkId, length: u64, is_end: bool) -> bool {
        let Some((there, _)) = self.there else { return false };
        if !self.partial.is_empty() || !(length.is_multiple_of(LEAF as u64) || is_end) {
            return false;
        }
        let first = self.leaves.len();
        let end = first + length.div_ceil(LEAF as u64) as usize;
        let Some(leaves) = there.leaves.get(first..end) else { return false };
        if self.keys.chunk_id(ChunkKind::Data, length, leaves) != *id {
            return false;
        }
        // As the CRC is linear, that of a stretch is the difference of those up to its two ends.
        let (before, after) = (there.crc_before(first), there.crc_before(end));
        let crc = crc32c::crc32c_combine(before, after, length as usize);
        self.crc = crc32c::crc32c_combine(self.crc, crc, length as usize);
        self.leaves.extend_from_slice(leaves);
        true
    }

    /// What the part is, of `length` bytes.
    pub fn finish(mut self, length: u64) -> Result<PartHash> {
        if !self.partial.is_empty() {
            self.end_partial()?;
        }
        Ok(PartHash { leaves: self.leaves, crc: self.crc, length, written: self.written })
    }

    fn end_partial(&mut self) -> Result<()> {
        let mut partial = std::mem::take(&mut self.partial);
        self.leaf(self.keys.leaf(&partial), &partial)?;
        partial.clear();
        self.partial = partial;
        Ok(())
    }

    fn leaf(&mut self, hash: LeafHash, content: &[u8]) -> Result<()> {
        if let Some((there, output)) = self.there
            && there.leaves.get(self.leaves.len()) != Some(&hash)
        {
            output.write(0, (self.leaves.len() * LEAF) as u64, content)?;
            self.written += content.len() as u64;
        }
        self.leaves.push(hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use repo_format::keys::Secret;

    use super::*;

    /// A file in memory.
    struct Memory(Mutex<Vec<u8>>);

    impl Output for Memory {
        fn write(&self, _: usize, offset: u64, bytes: &[u8]) -> Result<()> {
            let at = offset as usize;
            self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            let at = offset as usize;
            buffer.copy_from_slice(&self.0.lock().unwrap()[at..at + buffer.len()]);
            Ok(())
        }

        fn finish(&self, _: i64) -> Result<()> {
            Ok(())
        }

        fn sync(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_differs_is_written_and_the_rest_counts_as_it_is() {
        let keys = NamingKeys::new(&Secret::from_bytes([7; 32]));
        let zero_leaf = keys.leaf(&ZEROS);
        let one: Vec<u8> = (0..3 * LEAF).map(|n| (n / 100) as u8).collect();
        let (id, hole, last) = (keys.chunk_id_of(ChunkKind::Data, &one), 2 * LEAF, &b"the end"[..]);
        let wanted = [&one, &vec![0; hole], last].concat();
        let size = wanted.len() as u64;
        let correct = |had: &[u8], keeps: bool| {
            let output = Memory(Mutex::new(had.to_vec()));
            let there = There::read(&keys, &output, size).unwrap();
            let mut hasher = PartHasher::correcting(&keys, &zero_leaf, &there, &output);
            let kept = hasher.keep(&id, one.len() as u64, false);
            assert_eq!(kept, keeps);
            if !kept {
                hasher.bytes(&one[..100]).unwrap();
                hasher.bytes(&one[100..]).unwrap();
            }
            hasher.zeros(hole as u64).unwrap();
            hasher.bytes(last).unwrap();
            let part = hasher.finish(size).unwrap();
            assert_eq!(output.0.into_inner().unwrap(), wanted);
            assert_eq!(part.crc, crc32c::crc32c(&wanted));
            let mut digest = DigestBuilder::new(&keys);
            digest.leaves(&part.leaves);
            assert_eq!(digest.finish(part.length), keys.digest_of(&wanted));
            part.written
        };
        assert_eq!(correct(&wanted, true), 0);
        let turned = |at: usize| {
            let mut had = wanted.clone();
            had[at] ^= 1;
            had
        };
        assert_eq!(correct(&turned(LEAF), false), LEAF as u64);
        assert_eq!(correct(&turned(4 * LEAF), true), LEAF as u64);
        assert_eq!(correct(&turned(wanted.len() - 1), true), last.len() as u64);
        assert_eq!(correct(&vec![0; wanted.len()], false), 3 * LEAF as u64 + last.len() as u64);
        let there = There::read(&keys, &Memory(Mutex::new(wanted.clone())), size).unwrap();
        assert_eq!(there.digest(&keys, size), keys.digest_of(&wanted));
        assert_eq!(there.into_part(size).crc, crc32c::crc32c(&wanted));
    }

    #[test]
    fn what_is_no_whole_number_of_leaves_is_not_kept_but_at_the_end() {
        let keys = NamingKeys::new(&Secret::from_bytes([7; 32]));
        let (zero_leaf, file) = (keys.leaf(&ZEROS), vec![1; LEAF + 1]);
        let output = Memory(Mutex::new(file.clone()));
        let there = There::read(&keys, &output, file.len() as u64).unwrap();
        let mut hasher = PartHasher::correcting(&keys, &zero_leaf, &there, &output);
        let id = keys.chunk_id_of(ChunkKind::Data, &file);
        assert!(!hasher.keep(&id, file.len() as u64, false));
        assert!(!hasher.keep(&id, 9 * LEAF as u64, true));
        assert!(hasher.keep(&id, file.len() as u64, true));
    }
}
