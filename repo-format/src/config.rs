//! The repository's configuration: readable without a key, authenticated with one.
//!
//! ```text
//! magic [8]  version u16  length u32  record  authentication [32]  BLAKE3 [32]
//! ```
//!
//! The authentication is a keyed BLAKE3 over the object's name and all bytes before it. A newer
//! configuration is a new object with the next number; the highest that authenticates counts, and
//! every key slot holds a copy, so that neither loss nor rollback goes unnoticed.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Reader, Result, strictly_ascending, within};
use crate::envelope::{self, ObjectKind};
use crate::ids::RepositoryId;
use crate::keys::NamingKeys;
use crate::limits::{LEAF, MAX_CHUNK, MAX_FEATURES, MAX_LABEL, MAX_PACK, MAX_RECORD, MAX_RUNS};
use crate::names::ObjectName;

/// The configuration of a repository.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Config {
    /// The number of this configuration, from 1.
    pub number: u64,
    /// The identity of the repository.
    pub repository: RepositoryId,
    /// When the repository was created, in microseconds since 1970-01-01 UTC.
    pub created_at: i64,
    /// What a program must understand to work with the repository.
    pub features: Features,
    /// How writers cut content. Readers need none of it.
    pub chunking: Chunking,
    /// How large writers make packs.
    pub packing: Packing,
}

/// The features that a program must know, for each kind of operation. An unknown one is a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Features {
    /// To read anything.
    pub read: Vec<String>,
    /// To add anything.
    pub write: Vec<String>,
    /// To delete anything.
    pub prune: Vec<String>,
}

/// Sizes for cutting content into chunks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Chunking {
    /// Page grid: the shortest chunk.
    pub page_minimum: u32,
    /// Page grid: the average chunk of content that has no pattern.
    pub page_average: u32,
    /// Page grid: the longest chunk.
    pub page_maximum: u32,
    /// Page grid: a chunk always ends at a multiple of this, so that parallel readers agree.
    pub page_restart: u32,
    /// FastCDC: the shortest chunk.
    pub stream_minimum: u32,
    /// FastCDC: the average chunk.
    pub stream_average: u32,
    /// FastCDC: the longest chunk.
    pub stream_maximum: u32,
}

/// Sizes of packs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Packing {
    /// Packs of a small repository.
    pub minimum: u32,
    /// Packs of a large one.
    pub maximum: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        const KIB: u32 = 1024;
        Chunking {
            page_minimum: 128 * KIB,
            page_average: 256 * KIB,
            page_maximum: 512 * KIB,
            page_restart: 64 * 1024 * KIB,
            stream_minimum: 64 * KIB,
            stream_average: 256 * KIB,
            stream_maximum: 1024 * KIB,
        }
    }
}

impl Default for Packing {
    fn default() -> Self {
        Packing { minimum: 32 << 20, maximum: 512 << 20 }
    }
}

/// The length of the authentication.
const AUTHENTICATION: usize = 32;

impl Config {
    /// The object that holds this configuration.
    pub fn seal(&self, keys: &NamingKeys) -> Result<Vec<u8>> {
        let record = self.encode()?;
        let length = u32::try_from(record.len()).expect("a configuration is not over 1 MiB");
        let mut object = envelope::prefix(ObjectKind::Config).to_vec();
        object.extend_from_slice(&length.to_le_bytes());
        object.extend_from_slice(&record);
        object.extend_from_slice(&authenticate(keys, self.number, &object));
        envelope::finish(&mut object);
        Ok(object)
    }

    /// The encoded record.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        Ok(codec::encode(self))
    }

    /// Decodes and validates a record.
    pub fn decode(record: &[u8]) -> Result<Self> {
        let config: Config = codec::decode("repository configuration", record, MAX_RECORD)?;
        config.validate()?;
        Ok(config)
    }

    /// Reads a configuration without a key: good for its format version and features, and not
    /// authenticated.
    pub fn peek(object: &[u8]) -> Result<Self> {
        let body = envelope::unwrap(ObjectKind::Config, object)?;
        let mut reader = Reader::new("repository configuration", body);
        let length = reader.u32()?;
        let record = reader.take(length as usize)?;
        reader.take(AUTHENTICATION)?;
        reader.end()?;
        Config::decode(record)
    }

    /// Reads and authenticates the configuration that the store has as `config/<number>`.
    pub fn open(keys: &NamingKeys, number: u64, object: &[u8]) -> Result<Self> {
        let what = "repository configuration";
        let config = Config::peek(object)?;
        if config.number != number {
            return Err(DecodeError::malformed(what, "its number is not that of its name"));
        }
        let end = object.len().saturating_sub(envelope::CHECKSUM);
        let (head, found) = object
            .get(..end)
            .and_then(|all| all.split_last_chunk::<AUTHENTICATION>())
            .ok_or(DecodeError::Truncated { what })?;
        // blake3::Hash compares in constant time.
        if blake3::Hash::from_bytes(authenticate(keys, number, head)) != *found {
            return Err(DecodeError::Seal { what });
        }
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let what = "repository configuration";
        if self.number == 0 {
            return Err(DecodeError::malformed(what, "its number is 0"));
        }
        for features in [&self.features.read, &self.features.write, &self.features.prune] {
            within("number of features", features.len() as u64, MAX_FEATURES as u64)?;
            strictly_ascending(what, features.iter())?;
            for feature in features {
                within("name of a feature", feature.len() as u64, MAX_LABEL as u64)?;
            }
        }
        let chunking = &self.chunking;
        let leaf = LEAF as u32;
        let page = [chunking.page_minimum, chunking.page_average, chunking.page_maximum];
        let stream = [chunking.stream_minimum, chunking.stream_average, chunking.stream_maximum];
        for sizes in [page, stream] {
            within("largest chunk", u64::from(sizes[2]), MAX_CHUNK as u64)?;
            if sizes[0] < 64 || !sizes.is_sorted() || sizes.iter().any(|size| size % 2 != 0) {
                return Err(DecodeError::malformed(what, "its chunk sizes make no sense"));
            }
        }
        if page.iter().any(|size| size % leaf != 0)
            || chunking.page_restart == 0
            || !chunking.page_restart.is_multiple_of(leaf)
        {
            return Err(DecodeError::malformed(what, "its page chunks are not whole leaves"));
        }
        // One leaf of a map covers what is between two restarts, in the worst case page by page.
        within("page restart", u64::from(chunking.page_restart), (MAX_RUNS * LEAF) as u64)?;
        // The bounds and steps of FastCDC's masks.
        if chunking.stream_average < 256
            || !chunking.stream_average.is_power_of_two()
            || chunking.stream_maximum < 1024
        {
            return Err(DecodeError::malformed(what, "its FastCDC sizes make no sense"));
        }
        within("largest pack", u64::from(self.packing.maximum), MAX_PACK)?;
        if self.packing.minimum == 0 || self.packing.minimum > self.packing.maximum {
            return Err(DecodeError::malformed(what, "its pack sizes make no sense"));
        }
        Ok(())
    }
}

fn authenticate(keys: &NamingKeys, number: u64, bytes: &[u8]) -> [u8; AUTHENTICATION] {
    let mut hasher = blake3::Hasher::new_keyed(keys.config.expose());
    // The name has no zero byte, and the object begins with its magic number.
    hasher.update(ObjectName::Config(number).to_string().as_bytes()).update(&[0]).update(bytes);
    *hasher.finalize().as_bytes()
}
