//! Walks the tree of a snapshot and says what goes where.

use std::collections::BTreeMap;
use std::path::Path;

use repo_format::chunk::ChunkKind;
use repo_format::snapshot::Snapshot;
use repo_format::tree::{self, DirectoryRef, Node};

use super::files::{Plan, PlannedFile, component};
use super::layout::Layout;
use super::marker::MARKER;
use crate::error::{Error, Kind, Result};
use crate::postgres::control_file::CONTROL_FILE;
use crate::repository::reader::Reader;

/// Files at the top of the data directory that a restore makes itself.
const OWN_FILES: [&str; 3] = ["backup_manifest", "tablespace_map", MARKER];

/// Files there that belong to an earlier recovery. PostgreSQL refuses to start with a recovery.conf.
const OF_RECOVERY: [&str; 3] = ["recovery.conf", "recovery.signal", "standby.signal"];

/// No configuration file, and no control file, is larger.
const MAX_SMALL_FILE: u64 = 4 << 20;

/// The tree of a snapshot.
#[derive(Debug)]
pub struct Tree {
    /// What is written of it as it is.
    pub plan: Plan,
    /// The control file, which comes last.
    pub control: tree::File,
    /// Files of an earlier recovery that are left out.
    pub left_out: Vec<String>,
}

impl Tree {
    /// Walks the tree of `snapshot`, and counts in `layout` what goes where.
    pub fn walk(reader: &Reader, snapshot: &Snapshot, layout: &mut Layout) -> Result<Tree> {
        let mut plan = Plan::default();
        // As initdb: the group may read, or nobody but the owner.
        let mode = if snapshot.root_mode & 0o050 == 0o050 { 0o750 } else { 0o700 };
        for part in &layout.parts {
            plan.directories.push((part.place.path.clone(), mode));
        }
        let (control, left_out) = (None, vec![]);
        let mut walk = Walk { reader, layout, plan, control, left_out };
        let destination = walk.layout.destination.clone();
        walk.directory(&snapshot.root, &[], &destination)?;
        let Walk { plan, control, left_out, .. } = walk;
        let control = control.ok_or_else(|| {
            let message = format!("backup {} has no {CONTROL_FILE}", snapshot.backup_id);
            Error::new(Kind::Damaged, message)
        })?;
        Ok(Tree { plan, control, left_out })
    }
}

struct Walk<'a> {
    reader: &'a Reader,
    layout: &'a mut Layout,
    plan: Plan,
    control: Option<tree::File>,
    left_out: Vec<String>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &DirectoryRef, name: &[u8], path: &Path) -> Result<()> {
        for entry in self.reader.entries(directory)? {
            let entry = entry?;
            let inner_name = match name {
                [] => entry.name.clone(),
                name => [name, b"/", &entry.name].concat(),
            };
            let text = String::from_utf8_lossy(&inner_name).into_owned();
            let inner_path = path.join(component(&entry.name));
            match entry.node {
                Node::Directory { mode, entries } => {
                    let tablespace =
                        text.strip_prefix("pg_tblspc/").and_then(|oid| oid.parse::<u32>().ok());
                    let elsewhere = match tablespace {
                        Some(oid) => self.layout.tablespaces.get(&oid),
                        None => self.layout.wal.as_ref().filter(|_| text == "pg_wal"),
                    };
                    if let Some(location) = elsewhere.cloned() {
                        self.plan.symlinks.push((inner_path, location.clone()));
                        self.directory(&entries, &inner_name, &location)?;
                    } else {
                        self.count(&inner_path, 0);
                        self.plan.directories.push((inner_path.clone(), mode));
                        self.directory(&entries, &inner_name, &inner_path)?;
                    }
                }
                Node::Symlink { target } => {
                    self.plan.symlinks.push((inner_path, component(&target).into()));
                }
                Node::File(file) => {
                    self.count(&inner_path, file.size);
                    if text == CONTROL_FILE {
                        self.control = Some(file);
                    } else if OF_RECOVERY.contains(&text.as_str()) {
                        self.left_out.push(text);
                    } else if !OWN_FILES.contains(&text.as_str()) {
                        let (name, path) = (inner_name, inner_path);
                        self.plan.files.push(PlannedFile { name, path, is_there: false, file });
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, path: &Path, bytes: u64) {
        if let Some(part) = self.layout.part_of(path) {
            part.count(bytes);
        }
    }
}

/// Whether a file of the data directory is one that a restore makes, or leaves out.
pub fn is_own(name: &str) -> bool {
    name == CONTROL_FILE || OWN_FILES.contains(&name) || OF_RECOVERY.contains(&name)
}

/// Reads a small file of a backup, and verifies it.
pub fn read_small(reader: &Reader, name: &str, file: &tree::File) -> Result<Vec<u8>> {
    let bytes = reader.bytes(ChunkKind::Data, &file.content, MAX_SMALL_FILE)?;
    if reader.repository().keys().naming().digest_of(&bytes) != file.digest {
        return Err(Error::new(Kind::Damaged, format!("{name} is not what was backed up"))
            .hint("run: barman repo check --read-data"));
    }
    Ok(bytes)
}

/// The files of a plan by their names, for who reads the configuration.
#[derive(Debug)]
pub struct PlannedFiles<'a> {
    reader: &'a Reader,
    by_name: BTreeMap<&'a [u8], &'a tree::File>,
}

impl<'a> PlannedFiles<'a> {
    /// Those of `plan`.
    pub fn of(reader: &'a Reader, plan: &'a Plan) -> Self {
        let names = plan.files.iter().map(|planned| (planned.name.as_slice(), &planned.file));
        PlannedFiles { reader, by_name: names.collect() }
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name.as_bytes())
    }

    /// Its permission bits.
    pub fn mode(&self, name: &str) -> Option<u32> {
        self.by_name.get(name.as_bytes()).map(|file| file.mode)
    }

    /// The content of a file, by its path within the data directory.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let file = self.by_name.get(name.as_bytes());
        file.map(|file| read_small(self.reader, name, file)).transpose()
    }

    /// The names of the files directly in a directory, sorted; nothing if there is none.
    pub fn list(&self, directory: &str) -> Option<Vec<String>> {
        let prefix = [directory.as_bytes(), b"/"].concat();
        let from_it = self.by_name.range(prefix.as_slice()..);
        let inside = from_it.map_while(|(name, _)| name.strip_prefix(prefix.as_slice()));
        let names: Vec<String> = inside
            .filter(|name| !name.contains(&b'/'))
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        (!names.is_empty()).then_some(names)
    }
}
