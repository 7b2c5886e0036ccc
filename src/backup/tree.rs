//! Builds the tree of a snapshot from paths, as they come.

use std::collections::BTreeMap;

use repo_format::DecodeError;
use repo_format::chunk::ChunkKind;
use repo_format::keys::NamingKeys;
use repo_format::limits::{MAX_DEPTH, MAX_FILE_NAME};
use repo_format::tree::{DirectoryBuilder, DirectoryRef, Entry, File, Node};

use crate::chunking::Grid;
use crate::chunking::writer::ContentWriter;
use crate::error::{Error, Kind, Result};
use crate::repository::writer::Writer;

/// The files and directories of a backup. Files are held as they will be stored: there may be millions.
#[derive(Debug)]
pub struct TreeBuilder {
    root: Branch,
    /// What a directory has that is known only from what is in it.
    default_mode: u32,
}

/// A directory.
#[derive(Debug)]
struct Branch {
    mode: u32,
    directories: BTreeMap<Vec<u8>, Branch>,
    /// Everything else that is in it.
    leaves: DirectoryBuilder,
}

impl Branch {
    fn new(mode: u32) -> Self {
        Branch { mode, directories: BTreeMap::new(), leaves: DirectoryBuilder::default() }
    }
}

impl TreeBuilder {
    /// A tree of nothing; directories get `default_mode` unless they come themselves.
    pub fn new(default_mode: u32) -> Self {
        TreeBuilder { root: Branch::new(default_mode), default_mode }
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
        parent.directories.entry(name.to_vec()).or_insert_with(|| Branch::new(mode)).mode = mode;
        Ok(())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &[u8], file: File) -> Result<()> {
        self.leaf(path, Node::File(file))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &[u8], target: Vec<u8>) -> Result<()> {
        self.leaf(path, Node::Symlink { target })
    }

    /// Whether there is a file at `path`.
    pub fn has_file(&self, path: &[u8]) -> bool {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let name = parts.pop().unwrap_or_default();
        let directory =
            parts.iter().try_fold(&self.root, |branch, part| branch.directories.get(*part));
        let found = directory.and_then(|directory| directory.leaves.find(name));
        matches!(found, Some(Entry { node: Node::File(_), .. }))
    }

    /// Stores every directory, from the innermost out, and returns the root.
    pub fn finish(self, writer: &mut Writer, keys: &NamingKeys) -> Result<DirectoryRef> {
        store(writer, keys, self.root)
    }

    fn leaf(&mut self, path: &[u8], node: Node) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        parent.leaves.add(&Entry { name: name.to_vec(), node }).map_err(refused)
    }

    /// The directory that `path` is in, and the name it has there.
    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<(&mut Branch, &'p [u8])> {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let wrong = |part: &&[u8]| {
            part.is_empty() || *part == b"." || *part == b".." || part.len() > MAX_FILE_NAME
        };
        if parts.iter().any(wrong) || parts.len() > MAX_DEPTH {
            return Err(unexpected(path, "is not a path within a data directory"));
        }
        let name = parts.pop().unwrap_or_default();
        let mode = self.default_mode;
        let parent = parts.into_iter().fold(&mut self.root, |directory, part| {
            directory.directories.entry(part.to_vec()).or_insert_with(|| Branch::new(mode))
        });
        Ok((parent, name))
    }
}

fn store(writer: &mut Writer, keys: &NamingKeys, branch: Branch) -> Result<DirectoryRef> {
    let Branch { directories, mut leaves, .. } = branch;
    for (name, directory) in directories {
        let mode = directory.mode;
        let entries = store(writer, keys, directory)?;
        leaves.add(&Entry { name, node: Node::Directory { mode, entries } }).map_err(refused)?;
    }
    let encoded = leaves.finish().map_err(refused)?;
    let mut content = ContentWriter::new(writer, keys, Grid::Stream, ChunkKind::Tree);
    encoded.pieces().try_for_each(|piece| content.write(piece))?;
    let stored = content.finish()?;
    Ok(DirectoryRef { length: stored.length, content: stored.content })
}

/// What cannot be in a directory.
fn refused(error: DecodeError) -> Error {
    Error::new(Kind::Postgres, format!("the server sent something unexpected: {error}"))
}

fn unexpected(path: &[u8], what: &str) -> Error {
    Error::new(
        Kind::Postgres,
        format!("the server sent something unexpected: {} {what}", String::from_utf8_lossy(path)),
    )
}
