//! Builds the tree of a snapshot from paths, as they come.

use std::collections::BTreeMap;

use repo_format::chunk::ChunkKind;
use repo_format::keys::NamingKeys;
use repo_format::limits::{MAX_DEPTH, MAX_FILE_NAME};
use repo_format::tree::{Directory, DirectoryRef, Entry, File, Node};

use crate::chunking::Grid;
use crate::chunking::writer::store_bytes;
use crate::error::{Error, Kind, Result};
use crate::repository::{self, writer::Writer};

/// The files and directories of a backup.
#[derive(Debug)]
pub struct TreeBuilder {
    root: Branches,
    /// What a directory has that is known only from what is in it.
    default_mode: u32,
}

/// What is in a directory, by name.
type Branches = BTreeMap<Vec<u8>, Branch>;

#[derive(Debug)]
enum Branch {
    Directory { mode: u32, entries: Branches },
    File(File),
    Symlink(Vec<u8>),
}

impl TreeBuilder {
    /// A tree of nothing; directories get `default_mode` unless they come themselves.
    pub fn new(default_mode: u32) -> Self {
        TreeBuilder { root: BTreeMap::new(), default_mode }
    }

    /// The mode of directories that do not come themselves.
    pub fn default_mode(&self) -> u32 {
        self.default_mode
    }

    /// Adds a directory, or the mode of one that has come already.
    pub fn directory(&mut self, path: &[u8], mode: u32) -> Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        match parent.get_mut(name) {
            None => {
                parent.insert(name.to_vec(), Branch::Directory { mode, entries: BTreeMap::new() });
                Ok(())
            }
            Some(Branch::Directory { mode: known, .. }) => {
                *known = mode;
                Ok(())
            }
            Some(_) => Err(unexpected(path, "comes twice, once as a file")),
        }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &[u8], file: File) -> Result<()> {
        self.leaf(path, Branch::File(file))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &[u8], target: Vec<u8>) -> Result<()> {
        self.leaf(path, Branch::Symlink(target))
    }

    /// Whether there is a file at `path`.
    pub fn has_file(&self, path: &[u8]) -> bool {
        let mut branches = &self.root;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            match branches.get(part) {
                Some(Branch::Directory { entries, .. }) => branches = entries,
                found => return parts.peek().is_none() && matches!(found, Some(Branch::File(_))),
            }
        }
        false
    }

    /// Stores every directory, from the innermost out, and returns the root.
    pub fn finish(self, writer: &mut Writer, keys: &NamingKeys) -> Result<DirectoryRef> {
        store(writer, keys, self.root)
    }

    fn leaf(&mut self, path: &[u8], branch: Branch) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        if parent.contains_key(name) {
            return Err(unexpected(path, "comes twice"));
        }
        parent.insert(name.to_vec(), branch);
        Ok(())
    }

    /// The directory that `path` is in, and the name it has there.
    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<(&mut Branches, &'p [u8])> {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let wrong = |part: &&[u8]| {
            part.is_empty() || *part == b"." || *part == b".." || part.len() > MAX_FILE_NAME
        };
        if parts.iter().any(wrong) || parts.len() > MAX_DEPTH {
            return Err(unexpected(path, "is not a path within a data directory"));
        }
        let name = parts.pop().unwrap_or_default();
        let mode = self.default_mode;
        let mut directory = &mut self.root;
        for part in parts {
            let branch = directory
                .entry(part.to_vec())
                .or_insert_with(|| Branch::Directory { mode, entries: BTreeMap::new() });
            match branch {
                Branch::Directory { entries, .. } => directory = entries,
                _ => return Err(unexpected(path, "is below something that is no directory")),
            }
        }
        Ok((directory, name))
    }
}

fn store(writer: &mut Writer, keys: &NamingKeys, branches: Branches) -> Result<DirectoryRef> {
    let mut directory = Directory::default();
    for (name, branch) in branches {
        let node = match branch {
            Branch::Directory { mode, entries } => {
                Node::Directory { mode, entries: store(writer, keys, entries)? }
            }
            Branch::File(file) => Node::File(file),
            Branch::Symlink(target) => Node::Symlink { target },
        };
        directory.entries.push(Entry { name, node });
    }
    let bytes = directory.encode().map_err(|e| repository::Error::damaged("a new directory", e))?;
    let stored = store_bytes(writer, keys, Grid::Stream, ChunkKind::Tree, &bytes)?;
    Ok(DirectoryRef { length: stored.length, content: stored.content })
}

fn unexpected(path: &[u8], what: &str) -> Error {
    Error::new(
        Kind::Postgres,
        format!("the server sent something unexpected: {} {what}", String::from_utf8_lossy(path)),
    )
}
