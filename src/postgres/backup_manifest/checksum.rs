//! The checksums a manifest can hold.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::fmt;

/// An algorithm for the checksums of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// CRC-32C, the server's default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// Some other, by its name.
    Other(String),
}

impl ChecksumAlgorithm {
    /// The algorithm a manifest calls `name`.
    pub fn from_name(name: &str) -> ChecksumAlgorithm {
        match name {
            "CRC32C" => ChecksumAlgorithm::Crc32c,
            "SHA224" => ChecksumAlgorithm::Sha224,
            "SHA256" => ChecksumAlgorithm::Sha256,
            "SHA384" => ChecksumAlgorithm::Sha384,
            "SHA512" => ChecksumAlgorithm::Sha512,
            other => ChecksumAlgorithm::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
            ChecksumAlgorithm::Other(name) => name,
        })
    }
}

/// The checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChecksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// Its bytes, in the order the manifest prints them.
    pub value: Vec<u8>,
}

impl FileChecksum {
    /// A CRC-32C. Manifests hold its bytes in the server's own order: little-endian.
    pub fn crc32c(crc: u32) -> FileChecksum {
        FileChecksum { algorithm: ChecksumAlgorithm::Crc32c, value: crc.to_le_bytes().to_vec() }
    }

    /// The CRC-32C that this is, if it is one.
    pub fn as_crc32c(&self) -> Option<u32> {
        let is_crc = self.algorithm == ChecksumAlgorithm::Crc32c;
        let value = self.value.as_slice().try_into().ok().filter(|_| is_crc)?;
        Some(u32::from_le_bytes(value))
    }
}

/// Computes a file's checksum from its bytes as they pass.
#[derive(Clone)]
pub enum FileHasher {
    /// CRC-32C so far.
    Crc32c(u32),
    /// SHA-224 so far.
    Sha224(Sha224),
    /// SHA-256 so far.
    Sha256(Sha256),
    /// SHA-384 so far.
    Sha384(Sha384),
    /// SHA-512 so far.
    Sha512(Sha512),
}

impl FileHasher {
    /// A hasher, if the algorithm is known.
    pub fn new(algorithm: &ChecksumAlgorithm) -> Option<FileHasher> {
        Some(match algorithm {
            ChecksumAlgorithm::Crc32c => FileHasher::Crc32c(0),
            ChecksumAlgorithm::Sha224 => FileHasher::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => FileHasher::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => FileHasher::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => FileHasher::Sha512(Sha512::new()),
            ChecksumAlgorithm::Other(_) => return None,
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            FileHasher::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            FileHasher::Sha224(hasher) => hasher.update(bytes),
            FileHasher::Sha256(hasher) => hasher.update(bytes),
            FileHasher::Sha384(hasher) => hasher.update(bytes),
            FileHasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The checksum of all bytes taken.
    pub fn finish(self) -> FileChecksum {
        let (algorithm, value) = match self {
            FileHasher::Crc32c(crc) => return FileChecksum::crc32c(crc),
            FileHasher::Sha224(hasher) => (ChecksumAlgorithm::Sha224, hasher.finalize().to_vec()),
            FileHasher::Sha256(hasher) => (ChecksumAlgorithm::Sha256, hasher.finalize().to_vec()),
            FileHasher::Sha384(hasher) => (ChecksumAlgorithm::Sha384, hasher.finalize().to_vec()),
            FileHasher::Sha512(hasher) => (ChecksumAlgorithm::Sha512, hasher.finalize().to_vec()),
        };
        FileChecksum { algorithm, value }
    }
}
