//! Where everything goes: the data directory, and the tablespaces outside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, Node};

use super::files::{self, Plan, PlannedFile, WrittenFile, cannot_write, component};
use super::owner::Owner;
use super::{Request, blocking};
use crate::error::{Error, Kind, Result};
use crate::postgres::control_file::CONTROL_FILE;
use crate::progress::Progress;
use crate::repository::reader::Reader;

/// Where everything goes.
#[derive(Debug)]
pub struct Layout {
    destination: PathBuf,
    /// The directories of tablespaces, by their object ids.
    pub tablespaces: BTreeMap<u32, PathBuf>,
}

impl Layout {
    /// The layout that is asked for.
    pub fn new(snapshot: &Snapshot, request: &Request) -> Result<Self> {
        let destination = std::path::absolute(&request.destination)
            .map_err(|e| cannot_write(&request.destination, e))?;
        let mut wanted: BTreeMap<&str, &Path> = BTreeMap::new();
        for (name, path) in &request.tablespaces {
            if !snapshot.tablespaces.iter().any(|space| space.name == *name) {
                let known: Vec<&str> =
                    snapshot.tablespaces.iter().map(|space| space.name.as_str()).collect();
                return Err(Error::new(
                    Kind::Usage,
                    format!("backup {} has no tablespace {name:?}", snapshot.backup_id),
                )
                .hint(format!("it has: {}", known.join(", "))));
            }
            if !path.is_absolute() {
                return Err(Error::new(
                    Kind::Usage,
                    format!("the path of tablespace {name} must be absolute: {}", path.display()),
                ));
            }
            if wanted.insert(name, path).is_some() {
                return Err(Error::new(Kind::Usage, format!("tablespace {name} is given twice")));
            }
        }
        let tablespaces = snapshot
            .tablespaces
            .iter()
            .map(|space| {
                let original = PathBuf::from(component(&space.location));
                (space.oid, wanted.get(space.name.as_str()).map_or(original, |path| path.into()))
            })
            .collect();
        Ok(Layout { destination, tablespaces })
    }

    /// Refuses to write over anything, or where there is no room, before anything is written.
    pub fn check(&self, snapshot: &Snapshot) -> Result<()> {
        check_empty(&self.destination, "use an empty directory, or one that does not exist")?;
        for (oid, path) in &self.tablespaces {
            let name = snapshot.tablespaces.iter().find(|space| space.oid == *oid);
            let name = name.map(|space| space.name.as_str()).unwrap_or_default();
            check_empty(
                path,
                &format!("put the tablespace elsewhere: --tablespace {name}:/a/new/directory"),
            )?;
            if path.starts_with(&self.destination) {
                return Err(Error::new(
                    Kind::Refused,
                    format!("tablespace {name} would be inside the data directory"),
                )
                .hint(format!("put it elsewhere: --tablespace {name}:/a/new/directory")));
            }
        }
        if self.tablespaces.is_empty() {
            check_space(&self.destination, snapshot.statistics.bytes)?;
        }
        Ok(())
    }

    /// Writes all files but those that come last, and returns them and all directories.
    pub async fn write_files(
        &self,
        snapshot: &Snapshot,
        reader: Arc<Reader>,
        owner: Option<Owner>,
        threads: usize,
        progress: &Progress,
    ) -> Result<(Vec<WrittenFile>, Vec<PathBuf>)> {
        let mut plan = Plan::default();
        let mut outside = vec![];
        for path in std::iter::once(&self.destination).chain(self.tablespaces.values()) {
            outside.extend(missing_parents(path));
        }
        for path in &outside {
            let make = || -> std::io::Result<()> {
                crate::storage::local::create_directories(path)?;
                // The server must be able to go through them.
                owner.map_or(Ok(()), |owner| owner.give(path))
            };
            make().map_err(|e| cannot_write(path, e))?;
        }
        let mode = if snapshot.root_mode & 0o050 == 0o050 { 0o750 } else { 0o700 };
        plan.directories.push((self.destination.clone(), mode));
        for path in self.tablespaces.values() {
            plan.directories.push((path.clone(), mode));
        }
        let (destination, tablespaces) = (self.destination.clone(), self.tablespaces.clone());
        let (root, progress) = (snapshot.root.clone(), progress.clone());
        blocking(move || {
            let mut planner = Planner { reader: &reader, tablespaces: &tablespaces, plan };
            planner.directory(&root, &[], &destination)?;
            let plan = planner.plan;
            let total = plan.files.iter().map(|file| file.file.size).sum();
            progress.phase("restoring", Some(total));
            let written = files::write(&reader, &plan, owner, threads, &progress)?;
            let mut directories: Vec<PathBuf> =
                plan.directories.into_iter().map(|(path, _)| path).collect();
            directories.extend(outside.iter().filter_map(|p| p.parent().map(Path::to_owned)));
            directories.extend(destination.parent().map(Path::to_owned));
            Ok((written, directories))
        })
        .await
    }
}

/// Walks a snapshot's tree and says what goes where.
struct Planner<'a> {
    reader: &'a Reader,
    tablespaces: &'a BTreeMap<u32, PathBuf>,
    plan: Plan,
}

/// Files at the top of the data directory that a restore makes itself, or not at all.
const OWN_FILES: [&str; 3] = ["recovery.signal", "standby.signal", "tablespace_map"];

impl Planner<'_> {
    fn directory(&mut self, directory: &DirectoryRef, name: &[u8], path: &Path) -> Result<()> {
        for entry in self.reader.directory(directory)?.entries {
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
                    let elsewhere = tablespace.and_then(|oid| self.tablespaces.get(&oid));
                    if let Some(location) = elsewhere.cloned() {
                        self.plan.symlinks.push((inner_path, location.clone()));
                        self.directory(&entries, &inner_name, &location)?;
                    } else {
                        self.plan.directories.push((inner_path.clone(), mode));
                        self.directory(&entries, &inner_name, &inner_path)?;
                    }
                }
                Node::Symlink { target } => {
                    self.plan.symlinks.push((inner_path, component(&target).into()));
                }
                Node::File(file) => {
                    if text != CONTROL_FILE && !OWN_FILES.contains(&text.as_str()) {
                        self.plan.files.push(PlannedFile {
                            name: inner_name,
                            path: inner_path,
                            file,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

fn check_empty(path: &Path, hint: &str) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::new(Kind::Refused, format!("{} {what}", path.display())).hint(hint))
    };
    match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            refuse("is not a directory")
        }
        Err(error) => Err(cannot_write(path, error)),
        Ok(mut entries) => match entries.next() {
            Some(_) => refuse("is not empty"),
            None => Ok(()),
        },
    }
}

fn check_space(path: &Path, bytes: u64) -> Result<()> {
    let existing = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let Ok(space) = rustix::fs::statvfs(existing) else { return Ok(()) };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < bytes {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "{} has {} MiB free, and the backup needs {} MiB",
                existing.display(),
                free >> 20,
                bytes >> 20
            ),
        )
        .hint("free some space there, or restore to another file system"));
    }
    Ok(())
}

/// The directories above `path` that do not exist, outermost first.
fn missing_parents(path: &Path) -> Vec<PathBuf> {
    let above = path.ancestors().skip(1).take_while(|path| !path.is_dir());
    let mut missing: Vec<PathBuf> = above.map(Path::to_owned).collect();
    missing.reverse();
    missing
}
