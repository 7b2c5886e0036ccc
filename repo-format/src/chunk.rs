//! Leaves, chunks and files: how content gets its identity.
//!
//! Content is hashed in leaves of 8 KiB, once; the ids of chunks and the digests of files are hashes
//! over leaf hashes. A chunk on the page grid of its file therefore shares its leaves with the file.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, Result};
use crate::ids::{ChunkId, Digest, LeafHash};
use crate::keys::NamingKeys;
use crate::limits::LEAF;

/// What the bytes of a chunk are.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum ChunkKind {
    /// Content of a backed-up file.
    Data = 1,
    /// Content of a WAL file. It may be encoded again as a delta, and is never a base.
    Wal = 2,
    /// A leaf of the map of a large file ([`crate::content::encode_leaf`]).
    Map = 3,
    /// A part of an encoded directory ([`crate::tree::Directory`]).
    Tree = 4,
    /// A copy of a snapshot's record ([`crate::snapshot::Snapshot`]).
    Snapshot = 5,
}

impl ChunkKind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Result<Self> {
        Ok(match number {
            1 => ChunkKind::Data,
            2 => ChunkKind::Wal,
            3 => ChunkKind::Map,
            4 => ChunkKind::Tree,
            5 => ChunkKind::Snapshot,
            _ => {
                return Err(DecodeError::malformed("chunk kind", format!("unknown kind {number}")));
            }
        })
    }

    /// What the bases of a delta of such chunks are; nothing if such chunks are never deltas. A copy of
    /// a snapshot must be readable from its blob alone.
    pub fn base_kind(self) -> Option<ChunkKind> {
        match self {
            ChunkKind::Data | ChunkKind::Wal => Some(ChunkKind::Data),
            ChunkKind::Map => Some(ChunkKind::Map),
            ChunkKind::Tree => Some(ChunkKind::Tree),
            ChunkKind::Snapshot => None,
        }
    }

    /// Whether such chunks describe content (and live in metadata packs) rather than being content.
    pub fn is_metadata(self) -> bool {
        matches!(self, ChunkKind::Map | ChunkKind::Tree | ChunkKind::Snapshot)
    }
}

impl NamingKeys {
    /// The hash of one leaf: at most [`LEAF`] bytes.
    pub fn leaf(&self, content: &[u8]) -> LeafHash {
        debug_assert!(content.len() <= LEAF);
        LeafHash::from_bytes(*blake3::keyed_hash(self.leaf.expose(), content).as_bytes())
    }

    /// The hashes of all leaves of `content`, which starts on the grid.
    pub fn leaves(&self, content: &[u8]) -> Vec<LeafHash> {
        content.chunks(LEAF).map(|leaf| self.leaf(leaf)).collect()
    }

    /// The identity of a chunk: its kind, its length in bytes, and its leaves.
    pub fn chunk_id(&self, kind: ChunkKind, length: u64, leaves: &[LeafHash]) -> ChunkId {
        debug_assert_eq!(leaves.len() as u64, length.div_ceil(LEAF as u64));
        let mut hasher = blake3::Hasher::new_keyed(self.chunk.expose());
        hasher.update(&[kind as u8]).update(&length.to_le_bytes());
        for leaf in leaves {
            hasher.update(leaf.as_bytes());
        }
        ChunkId::from_bytes(*hasher.finalize().as_bytes())
    }

    /// The identity of the chunk that `content` is.
    pub fn chunk_id_of(&self, kind: ChunkKind, content: &[u8]) -> ChunkId {
        self.chunk_id(kind, content.len() as u64, &self.leaves(content))
    }

    /// The digest of the file that `content` is.
    pub fn digest_of(&self, content: &[u8]) -> Digest {
        let mut hasher = FileHasher::new(self);
        hasher.update(content);
        hasher.finish()
    }
}

/// Computes the digest of a file from its leaves, which may come from chunks that share its grid.
#[derive(Debug, Clone)]
pub struct DigestBuilder {
    hasher: blake3::Hasher,
}

impl DigestBuilder {
    /// A digest of nothing yet.
    pub fn new(keys: &NamingKeys) -> Self {
        DigestBuilder { hasher: blake3::Hasher::new_keyed(keys.digest.expose()) }
    }

    /// Adds the next leaves of the file, in order.
    pub fn leaves(&mut self, leaves: &[LeafHash]) {
        for leaf in leaves {
            self.hasher.update(leaf.as_bytes());
        }
    }

    /// The digest of the file with these leaves and `length` bytes. The length comes last because a
    /// file's size is certain only when it has been read.
    pub fn finish(mut self, length: u64) -> Digest {
        self.hasher.update(&length.to_le_bytes());
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

/// Computes the digest of a file from its bytes, in pieces of any size.
#[derive(Debug, Clone)]
pub struct FileHasher<'k> {
    keys: &'k NamingKeys,
    digest: DigestBuilder,
    partial: Vec<u8>,
    length: u64,
}

impl<'k> FileHasher<'k> {
    /// A hasher that has seen nothing yet.
    pub fn new(keys: &'k NamingKeys) -> Self {
        FileHasher {
            keys,
            digest: DigestBuilder::new(keys),
            partial: Vec::with_capacity(LEAF),
            length: 0,
        }
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if !self.partial.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(LEAF - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = tail;
            if self.partial.len() < LEAF {
                return;
            }
            self.digest.leaves(&[self.keys.leaf(&self.partial)]);
            self.partial.clear();
        }
        let mut leaves = bytes.chunks_exact(LEAF);
        for leaf in &mut leaves {
            self.digest.leaves(&[self.keys.leaf(leaf)]);
        }
        self.partial.extend_from_slice(leaves.remainder());
    }

    /// The digest of all that was added.
    pub fn finish(mut self) -> Digest {
        if !self.partial.is_empty() {
            self.digest.leaves(&[self.keys.leaf(&self.partial)]);
        }
        self.digest.finish(self.length)
    }
}
