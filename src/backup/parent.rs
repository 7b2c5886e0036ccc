//! The backup that a new one is compared with: what did not change since is not stored again.

use std::sync::Arc;

use repo_format::content::Content;
use repo_format::ids::LeafHash;
use repo_format::names::BackupName;
use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryBuilder, DirectoryRef, EncodedDirectory, File, Node};

use crate::chunking::former::Former;
use crate::chunking::page_map::{PageMap, PageMapWriter, PageMaps};
use crate::repository::error::{Error, Result};
use crate::repository::reader::Reader;
use crate::repository::{Repository, snapshots};

/// The newest backup of the cluster: of this server, whose backups are `existing` in their order, else of another name
/// that the cluster has had, or of another node of it.
pub async fn newest(
    repository: &Repository,
    existing: &[Snapshot],
    system_id: u64,
) -> Result<Option<Snapshot>> {
    if let Some(own) = existing.iter().rfind(|snapshot| snapshot.system_id == system_id) {
        return Ok(Some(own.clone()));
    }
    let mut others: Vec<BackupName> = snapshots::names(repository, None).await?;
    others.retain(|name| name.system_id == system_id);
    // Ids begin with the time, and which of several it is makes no difference but in size.
    others.sort_by(|a, b| b.backup_id.cmp(&a.backup_id));
    for name in others {
        match snapshots::read(repository, &name).await {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error) if error.is_not_found() || error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A backup whose files are looked up by their paths.
#[derive(Debug)]
pub struct Parent {
    reader: Arc<Reader>,
    root: DirectoryRef,
    page_map: Option<PageMap>,
    /// The directory in which something was looked for last: files come directory by directory.
    open: Option<(Vec<u8>, Option<EncodedDirectory>)>,
}

impl Parent {
    /// The backup that `snapshot` is; `page_maps` may have its page map.
    pub fn new(reader: Arc<Reader>, snapshot: &Snapshot, page_maps: &PageMaps) -> Self {
        let page_map = page_maps.open(&snapshot.backup_id);
        Parent { reader, root: snapshot.root.clone(), page_map, open: None }
    }

    /// Whether the hashes of its pages are known.
    pub fn has_page_map(&self) -> bool {
        self.page_map.is_some()
    }

    /// The file at `path` and what can be used of it; nothing if there is none, or it cannot be read.
    pub fn former(&mut self, path: &[u8]) -> Result<Option<(File, Former)>> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let keys = self.reader.repository().keys().naming();
        let leaves = self.page_map.as_ref().and_then(|map| map.leaves(keys, path, &file));
        let former = Former::load(&self.reader, &file, leaves)?;
        Ok(former.map(|former| (file, former)))
    }

    fn file(&mut self, path: &[u8]) -> Result<Option<File>> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = match at {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..)),
            None => (&[][..], Some(path)),
        };
        if self.open.as_ref().is_none_or(|(open, _)| open != directory) {
            self.open = None;
            let found = unless_damaged(self.directory(directory))?.flatten();
            self.open = Some((directory.to_vec(), found));
        }
        let Some((_, Some(directory))) = &self.open else { return Ok(None) };
        let found = directory.find(name.unwrap_or_default());
        Ok(found.and_then(|entry| match entry.node {
            Node::File(file) => Some(file),
            _ => None,
        }))
    }

    /// The directory at `path`; nothing if there is none.
    fn directory(&self, path: &[u8]) -> Result<Option<EncodedDirectory>> {
        let mut directory = self.root.clone();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let mut next = None;
            for entry in self.reader.entries(&directory)? {
                let entry = entry?;
                if entry.name == part
                    && let Node::Directory { entries, .. } = entry.node
                {
                    next = Some(entries);
                    break;
                }
            }
            match next {
                Some(next) => directory = next,
                None => return Ok(None),
            }
        }
        let damaged = |error| Error::damaged("a directory", error);
        let mut entries = DirectoryBuilder::default();
        for entry in self.reader.entries(&directory)? {
            entries.add(&entry?).map_err(damaged)?;
        }
        Ok(Some(entries.finish().map_err(damaged)?))
    }
}

/// What is known of pages: those of the parent, and this backup's own, for the next one.
#[derive(Debug, Default)]
pub struct KnownPages {
    /// The backup that this one is compared with.
    pub parent: Option<Parent>,
    /// The page map of this backup.
    pub own: Option<PageMapWriter>,
}

impl KnownPages {
    /// The former version of the file at `path`, if there is one to compare with.
    pub fn former(&mut self, path: &[u8]) -> Result<Option<(File, Former)>> {
        match &mut self.parent {
            Some(parent) => parent.former(path),
            None => Ok(None),
        }
    }

    /// Notes the pages of a file, if it is more than one chunk, which is compared by its id. A page map that cannot be
    /// written is only missed by the next backup.
    pub fn note(&mut self, path: &[u8], content: &Content, leaves: &[LeafHash]) {
        if leaves.is_empty() || matches!(content, Content::Runs(runs) if runs.len() <= 1) {
            return;
        }
        if let Some(map) = &mut self.own
            && let Err(error) = map.add(path, leaves)
        {
            tracing::warn!("the hashes of pages cannot be kept for the next backup: {error}");
            self.own = None;
        }
    }
}

/// Nothing in place of what is damaged: it is only not compared with.
fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_damage() => {
            tracing::warn!("an earlier backup is damaged, and not compared with: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
