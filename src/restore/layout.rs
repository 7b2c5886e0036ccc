//! Where everything goes: the data directory, and what is outside it; and whether it may go there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use repo_format::snapshot::Snapshot;

use super::Request;
use super::claim::Claim;
use super::destination::{Destination, cannot_write};
use super::files::component;
use super::marker::Marker;
use super::place::{Content, Place};
use crate::error::{Error, Kind, Result};

/// Where everything goes.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The data directory, absolute.
    pub destination: PathBuf,
    /// The directories of tablespaces, by their object ids.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// What `pg_wal` points to, if it is a link.
    pub wal: Option<PathBuf>,
    /// All of them, the data directory first.
    pub parts: Vec<Part>,
    /// Whether the destination is a data directory already, as it must be for configuration that is written
    /// by itself.
    pub is_restored: bool,
    /// What of it may be written into although it is not empty.
    pub claim: Claim,
    /// The marker of this restore.
    pub marker: Marker,
}

/// A directory that a restore fills.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it becomes, as a person would call it.
    pub what: String,
    /// The place.
    pub place: Place,
    /// How to put it elsewhere.
    pub elsewhere: String,
    /// The files that it gets.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The files and directories there that stay, or are removed before anything is written.
    pub has_files: u64,
    /// Their bytes, as far as they count.
    pub has_bytes: u64,
    /// Whether others may have something directly in it too.
    pub is_shared: bool,
}

impl Part {
    fn new(what: String, place: Place, elsewhere: String) -> Part {
        let (files, bytes, has_files, has_bytes, is_shared) = (0, 0, 0, 0, false);
        Part { what, place, elsewhere, files, bytes, has_files, has_bytes, is_shared }
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Error {
        let path = self.place.path.display();
        Error::new(Kind::Refused, format!("{path} {why}")).hint(self.elsewhere.clone())
    }

    /// Counts a file that goes there.
    pub fn count(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }

    /// Refuses what is not empty, what is a server's, and where this process may not write.
    fn check(&self, claim: &Claim) -> Result<()> {
        let Place { content, inside, existing, is_writable, path, .. } = &self.place;
        match content {
            Content::Missing | Content::Empty => {}
            Content::Something | Content::Tablespace if claim.has(&self.place) => {}
            Content::DataDirectory { server: None } | Content::Unfinished
                if claim.is_of(&self.place) => {}
            Content::Unfinished => {
                let refused = self.refuse("is not empty: a restore into it was not finished");
                return Err(refused.hint(format!(
                    "go on with it by the same command and --resume; or {}",
                    self.elsewhere
                )));
            }
            Content::Something => return Err(self.refuse("is not empty")),
            Content::Other => return Err(self.refuse("is not a directory")),
            Content::Tablespace => {
                return Err(self.refuse("is not empty: it is a tablespace of a PostgreSQL server"));
            }
            Content::DataDirectory { server: Some(process) } => {
                return Err(self.refuse(format_args!(
                    "is not empty: a PostgreSQL server runs on it (process {process})"
                )));
            }
            Content::DataDirectory { server: None } => {
                return Err(
                    self.refuse("is not empty: it is the data directory of a PostgreSQL server")
                );
            }
        }
        if let Some(server) = inside {
            return Err(
                self.refuse(format_args!("is inside {}, which is a server's", server.display()))
            );
        }
        if !is_writable {
            let whose = if existing == path { "it" } else { "what is above it" };
            return Err(self
                .refuse(format_args!("cannot be written: {whose} belongs to another user"))
                .hint(format!(
                    "run barman as root or as who owns {}; or {}",
                    existing.display(),
                    self.elsewhere
                )));
        }
        Ok(())
    }
}

impl Layout {
    /// The layout that is asked for.
    ///
    /// # Errors
    /// If anything would be written over, or into what is a server's.
    pub fn new(snapshot: &Snapshot, request: &Request, host: &dyn Destination) -> Result<Self> {
        let part = |what: String, path: &Path, elsewhere: String| -> Result<Part> {
            Ok(Part::new(what, host.look(path)?, elsewhere))
        };
        let destination = std::path::absolute(&request.destination)
            .map_err(|e| cannot_write(&request.destination, e))?;
        let wanted = wanted_tablespaces(snapshot, request)?;
        let elsewhere = "use an empty directory, or one that does not exist".to_owned();
        let mut parts = vec![part("the data directory".to_owned(), &destination, elsewhere)?];
        let mut tablespaces = BTreeMap::new();
        for space in &snapshot.tablespaces {
            let original = || PathBuf::from(component(&space.location));
            let path = wanted.get(space.name.as_str()).map_or_else(original, |path| path.into());
            let elsewhere = format!(
                "put the tablespace elsewhere: --tablespace {}:/a/new/directory",
                space.name
            );
            let mut part = part(format!("tablespace {}", space.name), &path, elsewhere)?;
            part.is_shared = true;
            parts.push(part);
            tablespaces.insert(space.oid, path);
        }
        if let Some(path) = &request.wal_directory {
            let elsewhere = "name another directory with --waldir, or leave it out".to_owned();
            parts.push(part("pg_wal".to_owned(), path, elsewhere)?);
        }
        if let Some(path) = &request.config_dir {
            let elsewhere = "name another directory with --config-dir, or leave it out".to_owned();
            let mut part = part("the directory for configuration".to_owned(), path, elsewhere)?;
            part.is_shared = true;
            parts.push(part);
        }
        let marker = Marker::of(snapshot, request, &destination, &tablespaces);
        let claim = match parts.first() {
            Some(part) => Claim::on(&part.place, request.onto, snapshot, &marker, host)?,
            None => Claim::default(),
        };
        let content = parts.first().map(|part| &part.place.content);
        let is_restored = matches!(content, Some(Content::DataDirectory { .. }));
        if request.config_only {
            // What it would overlap is there, and stays as it is.
            refuse_overlap(&parts)?;
            parts.drain(..parts.len() - 1);
            tablespaces.clear();
        }
        parts.iter().try_for_each(|part| part.check(&claim))?;
        refuse_overlap(&parts)?;
        let wal = request.wal_directory.clone();
        Ok(Layout { destination, tablespaces, wal, parts, is_restored, claim, marker })
    }

    /// The part that a path is in.
    pub fn part_of(&mut self, path: &Path) -> Option<&mut Part> {
        self.parts.iter_mut().rev().find(|part| path.starts_with(&part.place.path))
    }

    /// Refuses where there is no room for what the parts were counted to get.
    pub fn check_space(&self) -> Result<()> {
        let mut devices: BTreeMap<u64, Vec<&Part>> = BTreeMap::new();
        for part in &self.parts {
            devices.entry(part.place.device).or_default().push(part);
        }
        for parts in devices.values() {
            let Some(Part { place, .. }) = parts.first() else { continue };
            // Each file and directory takes a block more than its bytes, at most.
            let bytes: u64 = parts.iter().map(|part| part.bytes + part.files * BLOCK).sum();
            let has: u64 = parts.iter().map(|part| part.has_bytes + part.has_files * BLOCK).sum();
            let bytes = bytes.saturating_sub(has);
            let files: u64 = parts.iter().map(|part| part.files).sum();
            let files = files.saturating_sub(parts.iter().map(|part| part.has_files).sum());
            let what = parts.iter().map(|part| part.what.as_str()).collect::<Vec<_>>().join(", ");
            let more = if has > 0 { " more than what is there" } else { "" };
            let refuse = |free: String, needs: String| {
                let existing = place.existing.display();
                Err(Error::new(
                    Kind::Refused,
                    format!(
                        "the file system of {existing} has {free} free, and {what} needs {needs}{more}"
                    ),
                )
                .hint("free some space there, or restore to another file system"))
            };
            if place.free_bytes < bytes {
                let mebibytes = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
                return refuse(format!("{} MiB", place.free_bytes >> 20), mebibytes(bytes));
            }
            if let Some(free) = place.free_files.filter(|free| *free < files) {
                return refuse(format!("place for {free} files"), format!("{files}"));
            }
        }
        Ok(())
    }
}

/// The blocks of most file systems, in bytes.
const BLOCK: u64 = 4096;

/// Where the user wants tablespaces, by name.
fn wanted_tablespaces<'r>(
    snapshot: &Snapshot,
    request: &'r Request,
) -> Result<BTreeMap<&'r str, &'r Path>> {
    let mut wanted: BTreeMap<&str, &Path> = BTreeMap::new();
    for (name, path) in &request.tablespaces {
        if !snapshot.tablespaces.iter().any(|space| space.name == *name) {
            let known: Vec<&str> =
                snapshot.tablespaces.iter().map(|space| space.name.as_str()).collect();
            let error = Error::new(
                Kind::Usage,
                format!("backup {} has no tablespace {name:?}", snapshot.backup_id),
            );
            return Err(error.hint(match known.as_slice() {
                [] => "it has none outside the data directory".to_owned(),
                known => format!("it has: {}", known.join(", ")),
            }));
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
    Ok(wanted)
}

/// Refuses parts that are the same directory, or one in the other.
fn refuse_overlap(parts: &[Part]) -> Result<()> {
    for (at, one) in parts.iter().enumerate() {
        for other in parts.iter().skip(at + 1) {
            let why = if one.place.real == other.place.real {
                format!("would be {} too", one.what)
            } else if other.place.real.starts_with(&one.place.real) {
                format!("would be inside {}", one.what)
            } else if one.place.real.starts_with(&other.place.real) {
                format!("would have {} inside it", one.what)
            } else {
                continue;
            };
            return Err(Error::new(Kind::Refused, format!("{} {why}", other.what))
                .hint(other.elsewhere.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(what: &str, path: &Path, bytes: u64) -> Part {
        let (place, elsewhere) = (Place::look(path).unwrap(), "elsewhere".to_owned());
        Part { bytes, ..Part::new(what.into(), place, elsewhere) }
    }

    #[test]
    fn parts_that_overlap_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        for (one, other) in [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("real/x", "link/x")] {
            let parts = [part("one", &root.join(one), 0), part("other", &root.join(other), 0)];
            assert!(refuse_overlap(&parts).is_err(), "{one} {other}");
        }
        let parts = [part("one", &root.join("a"), 0), part("other", &root.join("ab"), 0)];
        assert!(refuse_overlap(&parts).is_ok());
    }

    #[test]
    fn what_shares_a_file_system_shares_its_space() {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = vec![];
        for name in ["data", "space"] {
            let mut part = part(name, &directory.path().join(name), 600);
            part.place.free_bytes = 1000;
            parts.push(part);
        }
        let (destination, tablespaces) = (directory.path().to_owned(), BTreeMap::new());
        let mut layout = Layout {
            destination,
            tablespaces,
            wal: None,
            parts,
            is_restored: false,
            claim: Claim::default(),
            marker: Marker::default(),
        };
        let error = layout.check_space().unwrap_err().to_string();
        assert!(error.contains("data, space"), "{error}");
        layout.parts[1].place.device += 1;
        layout.check_space().unwrap();
        layout.parts[1].place.free_files = Some(3);
        layout.parts[1].place.free_bytes = 1 << 30;
        layout.parts[1].files = 4;
        let error = layout.check_space().unwrap_err().to_string();
        assert!(error.contains("3 files"), "{error}");
        // What is there counts.
        layout.parts[1].has_files = 1;
        layout.check_space().unwrap();
        layout.parts[1].bytes = 2 << 30;
        let error = layout.check_space().unwrap_err().to_string();
        assert!(error.contains("more than what is there"), "{error}");
        layout.parts[1].has_bytes = 3 << 30;
        layout.check_space().unwrap();
    }
}
