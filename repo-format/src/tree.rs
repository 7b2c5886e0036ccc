//! Directories: the inner nodes of a snapshot.
//!
//! A directory is encoded as a list of entries, and its encoded bytes are content like any other: cut
//! into chunks of kind [`crate::chunk::ChunkKind::Tree`], so that what did not change is shared.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Result, strictly_ascending, within};
use crate::content::Content;
use crate::ids::Digest;
use crate::limits::{MAX_DIRECTORY, MAX_FILE_NAME, MAX_SYMLINK};

/// The encoded form of a directory, as content.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DirectoryRef {
    /// The length of the encoded directory in bytes.
    pub length: u64,
    /// What gives these bytes.
    pub content: Content,
}

impl DirectoryRef {
    /// Refuses a directory whose length is not that of its content.
    pub fn validate(&self) -> Result<()> {
        within("directory", self.length, MAX_DIRECTORY)?;
        if self.content.validate()? != self.length {
            return Err(DecodeError::malformed("directory", "its content has another length"));
        }
        Ok(())
    }
}

/// What is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// The name within the directory: bytes, as the file system has them.
    pub name: Vec<u8>,
    /// What it names.
    pub node: Node,
}

/// A directory, a file, or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Node {
    /// A directory.
    Directory {
        /// Its permission bits.
        mode: u32,
        /// Its entries.
        entries: DirectoryRef,
    } = 1,
    /// A regular file.
    File(File) = 2,
    /// A symbolic link that is part of the data directory (not a tablespace's).
    Symlink {
        /// Where it points: bytes, as the file system has them.
        target: Vec<u8>,
    } = 3,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct File {
    /// Its permission bits.
    pub mode: u32,
    /// When it was last modified, in seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Its length in bytes.
    pub size: u64,
    /// The keyed hash of its bytes.
    pub digest: Digest,
    /// What gives its bytes.
    pub content: Content,
}

/// The entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Directory {
    /// The entries, in ascending order of their names' bytes.
    pub entries: Vec<Entry>,
}

impl Directory {
    /// The encoded form.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let bytes = codec::encode(self);
        within("directory", bytes.len() as u64, MAX_DIRECTORY)?;
        Ok(bytes)
    }

    /// Decodes and validates a directory.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let directory: Directory = codec::decode("directory", bytes, MAX_DIRECTORY as usize)?;
        directory.validate()?;
        Ok(directory)
    }

    fn validate(&self) -> Result<()> {
        strictly_ascending("directory", self.entries.iter().map(|entry| &entry.name))?;
        self.entries.iter().try_for_each(Entry::validate)
    }
}

impl Entry {
    fn validate(&self) -> Result<()> {
        validate_name(&self.name)?;
        match &self.node {
            Node::Directory { mode, entries } => {
                validate_mode(*mode)?;
                entries.validate()
            }
            Node::File(file) => {
                validate_mode(file.mode)?;
                if file.content.validate()? != file.size {
                    let detail = "the content of a file has another length than the file";
                    return Err(DecodeError::malformed("directory", detail));
                }
                Ok(())
            }
            Node::Symlink { target } if target.is_empty() || target.contains(&0) => {
                Err(DecodeError::malformed("directory", "a symbolic link points nowhere"))
            }
            Node::Symlink { target } => {
                within("symbolic link", target.len() as u64, MAX_SYMLINK as u64)
            }
        }
    }
}

/// A name must stay within its directory, whatever program makes a file of it.
fn validate_name(name: &[u8]) -> Result<()> {
    within("file name", name.len() as u64, MAX_FILE_NAME as u64)?;
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        let detail = format!("{:?} cannot name a file", String::from_utf8_lossy(name));
        return Err(DecodeError::malformed("directory", detail));
    }
    Ok(())
}

/// Permission bits are the lowest twelve; the kind of file is not among them.
pub(crate) fn validate_mode(mode: u32) -> Result<()> {
    within("permission bits", u64::from(mode), 0o7777)
}
