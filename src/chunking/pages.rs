//! Cuts files of pages, on the page grid, where the hash of a page says so.
//!
//! The leaves are hashed anyway, so that the cut costs nothing, and boundaries are keyed for free. The
//! rule is that of `SPEC.md`: a chunk of at least the minimum ends after a leaf whose hash is zero
//! modulo a power of two; it ends at the maximum; and it ends at every multiple of the restart, so that
//! parallel readers agree. Long stretches of zeros, and zeros at the beginning of a chunk, are not
//! stored.

use repo_format::config::Chunking;
use repo_format::ids::LeafHash;
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;

use crate::repository::buffers::Buffers;

/// So many zero leaves in a row are not stored, wherever they are.
const ZERO_STRETCH: usize = 16;

/// A stretch of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A chunk.
    Chunk {
        /// Its bytes.
        content: Vec<u8>,
        /// Its leaves.
        leaves: Vec<LeafHash>,
    },
    /// So many zero bytes.
    Zeros(u64),
}

/// Where a chunk of pages ends.
#[derive(Debug, Clone, Copy)]
pub struct CutRule {
    minimum: usize,
    maximum: usize,
    divisor: u64,
}

impl CutRule {
    /// The rule of a repository.
    pub fn new(chunking: &Chunking) -> Self {
        let leaves_above_minimum =
            (chunking.page_average - chunking.page_minimum).div_ceil(LEAF as u32).max(1);
        CutRule {
            minimum: chunking.page_minimum as usize,
            maximum: chunking.page_maximum as usize,
            divisor: u64::from(leaves_above_minimum.next_power_of_two()),
        }
    }

    /// Whether a chunk of `length` bytes ends after a leaf with this hash.
    pub fn ends_after(&self, length: usize, hash: &LeafHash) -> bool {
        let marked = || {
            let bytes = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(bytes).is_multiple_of(self.divisor)
        };
        length >= self.maximum || length >= self.minimum && marked()
    }
}

/// Cuts one file.
#[derive(Debug)]
pub struct PageCutter {
    rule: CutRule,
    restart: u64,
    zero_leaf: LeafHash,
    buffers: Buffers,
    content: Vec<u8>,
    leaves: Vec<LeafHash>,
    /// Zero leaves that follow `content` and are not decided about.
    pending_zeros: usize,
    offset: u64,
}

impl PageCutter {
    /// A cutter at the beginning of a file, that puts chunks into `buffers`.
    pub fn new(keys: &NamingKeys, chunking: &Chunking, buffers: &Buffers) -> Self {
        PageCutter {
            rule: CutRule::new(chunking),
            restart: u64::from(chunking.page_restart),
            zero_leaf: keys.leaf(&ZEROS),
            buffers: buffers.clone(),
            content: Vec::new(),
            leaves: Vec::new(),
            pending_zeros: 0,
            offset: 0,
        }
    }

    /// Adds the next leaf of the file; only the last one may be short. Returns its hash.
    pub fn leaf(
        &mut self,
        keys: &NamingKeys,
        leaf: &[u8],
        mut emit: impl FnMut(Piece),
    ) -> LeafHash {
        let zero = leaf == ZEROS;
        let hash = if zero { self.zero_leaf } else { keys.leaf(leaf) };
        self.offset += leaf.len() as u64;
        if zero {
            self.pending_zeros += 1;
        } else {
            self.decide_zeros(&mut emit);
            self.push(leaf, hash, &mut emit);
        }
        if self.offset.is_multiple_of(self.restart) {
            self.end(&mut emit);
        }
        hash
    }

    /// Ends the file.
    pub fn end(&mut self, mut emit: impl FnMut(Piece)) {
        self.decide_zeros(&mut emit);
        self.cut(&mut emit);
    }

    fn decide_zeros(&mut self, emit: &mut impl FnMut(Piece)) {
        if self.pending_zeros >= ZERO_STRETCH {
            self.cut(emit);
        }
        while self.pending_zeros > 0 && !self.content.is_empty() {
            self.pending_zeros -= 1;
            self.push(&ZEROS, self.zero_leaf, emit);
        }
        if self.pending_zeros > 0 {
            emit(Piece::Zeros((self.pending_zeros * LEAF) as u64));
            self.pending_zeros = 0;
        }
    }

    fn push(&mut self, leaf: &[u8], hash: LeafHash, emit: &mut impl FnMut(Piece)) {
        if self.content.capacity() == 0 {
            self.content = self.buffers.take();
        }
        self.content.extend_from_slice(leaf);
        self.leaves.push(hash);
        if self.rule.ends_after(self.content.len(), &hash) {
            self.cut(emit);
        }
    }

    fn cut(&mut self, emit: &mut impl FnMut(Piece)) {
        if !self.content.is_empty() {
            emit(Piece::Chunk {
                content: std::mem::take(&mut self.content),
                leaves: std::mem::take(&mut self.leaves),
            });
        }
    }
}

/// A leaf of zeros.
pub const ZEROS: [u8; LEAF] = [0; LEAF];

#[cfg(test)]
mod tests {
    use super::*;
    use repo_format::keys::{KeyRing, MasterSecrets};

    fn cut(keys: &NamingKeys, file: &[u8]) -> Vec<Piece> {
        let mut pieces = vec![];
        let mut cutter = PageCutter::new(keys, &Chunking::default(), &Buffers::new(0, 0));
        for leaf in file.chunks(LEAF) {
            cutter.leaf(keys, leaf, |piece| pieces.push(piece));
        }
        cutter.end(|piece| pieces.push(piece));
        pieces
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn pieces_are_the_file_and_their_sizes_are_in_bounds() {
        let ring = KeyRing::new(&MasterSecrets::random().unwrap()).unwrap();
        let keys = ring.naming();
        let mut file = noise(40 * 1024 * 1024 + 100);
        file[1 << 20..3 << 20].fill(0);
        file[8 << 20..(8 << 20) + 2 * LEAF].fill(0);
        file[..LEAF].fill(0);
        let mut joined = vec![];
        let mut chunks = 0;
        for piece in cut(keys, &file) {
            match piece {
                Piece::Zeros(length) => joined.resize(joined.len() + length as usize, 0),
                Piece::Chunk { content, leaves } => {
                    assert_eq!(keys.leaves(&content), leaves);
                    assert!(content.len() <= 512 * 1024);
                    joined.extend(content);
                    chunks += 1;
                }
            }
        }
        assert!(joined == file);
        assert!((100..220).contains(&chunks), "{chunks} chunks of 38 MiB");
    }

    #[test]
    fn a_change_moves_no_boundary_far_away() {
        let ring = KeyRing::new(&MasterSecrets::random().unwrap()).unwrap();
        let before = noise(16 << 20);
        let mut after = before.clone();
        after[5 << 20] ^= 1;
        let (before, after) = (cut(ring.naming(), &before), cut(ring.naming(), &after));
        let changed = after.iter().filter(|piece| !before.contains(piece)).count();
        assert!(changed <= 5, "{changed} chunks changed");
    }

    #[test]
    fn a_file_of_zeros_is_one_stretch_between_restarts() {
        let ring = KeyRing::new(&MasterSecrets::random().unwrap()).unwrap();
        assert_eq!(cut(ring.naming(), &[0; 3 * LEAF]), [Piece::Zeros(3 * LEAF as u64)]);
        assert_eq!(cut(ring.naming(), &[]), []);
        // A short last leaf is stored, even of zeros.
        assert_eq!(cut(ring.naming(), &[0; LEAF + 1]).len(), 2);
    }

    #[test]
    fn cuts_are_those_of_the_golden_vectors() {
        let golden = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let secrets = golden(include_str!("../../repo-format/vectors/keys.json"));
        let identity: repo_format::ids::Digest =
            secrets["identity_secret"].as_str().unwrap().parse().unwrap();
        let keys = NamingKeys::new(&repo_format::keys::Secret::from_bytes(*identity.as_bytes()));
        let mut noise = vec![0; 400 * LEAF];
        blake3::Hasher::new().update(b"page grid").finalize_xof().fill(&mut noise);
        let vectors = golden(include_str!("../../repo-format/vectors/page-grid.json"));
        for case in vectors["cases"].as_array().unwrap() {
            let number = |name: &str| case[name].as_u64().unwrap();
            let chunking = Chunking {
                page_minimum: number("minimum") as u32,
                page_average: number("average") as u32,
                page_maximum: number("maximum") as u32,
                page_restart: number("restart") as u32,
                ..Chunking::default()
            };
            let (mut file, mut rest) = (vec![], noise.as_slice());
            for stretch in case["stretches"].as_array().unwrap() {
                let length = stretch["leaves"].as_u64().unwrap() as usize * LEAF;
                if stretch["zero"].as_bool().unwrap() {
                    file.resize(file.len() + length, 0);
                } else {
                    file.extend_from_slice(&rest[..length]);
                    rest = &rest[length..];
                }
            }
            file.extend_from_slice(&rest[..number("more_bytes") as usize]);
            let mut runs = vec![];
            let mut emit = |piece| {
                runs.push(match piece {
                    Piece::Zeros(length) => serde_json::json!(["zero", length]),
                    Piece::Chunk { content, .. } => serde_json::json!(["chunk", content.len()]),
                });
            };
            let mut cutter = PageCutter::new(&keys, &chunking, &Buffers::new(0, 0));
            for leaf in file.chunks(LEAF) {
                cutter.leaf(&keys, leaf, &mut emit);
            }
            cutter.end(&mut emit);
            assert_eq!(serde_json::Value::from(runs), case["runs"]);
        }
    }
}
