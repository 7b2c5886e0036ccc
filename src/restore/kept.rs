//! The configuration files that a backup keeps beside the data directory: what of them comes back, and
//! where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, Node};

use super::Request;
use super::configuration::{Files, NewFile, Rewritten};
use super::places::Places;
use super::programs::shell_word;
use super::tree::{PlannedFiles, is_own, read_small};
use crate::error::{Error, Kind, Result};
use crate::postgres::authentication_file;
use crate::postgres::configuration_file::{Reference, resolve};
use crate::repository::reader::Reader;

/// So many files and directories are kept at most.
const MAX_FILES: usize = 50_000;

/// What a server without a readable `pg_hba.conf` starts with.
const CLOSED_HBA: &str = "# Made by barman: the server's own file could not be read when it was backed up.\n\
     # Users of this host may connect as the role of their name.\nlocal all all peer\n";

/// The configuration that the data directory did not have, by the paths that it had on the server.
#[derive(Default)]
pub struct Kept {
    files: BTreeMap<String, Stored>,
    directories: BTreeSet<String>,
    unread: Vec<String>,
}

struct Stored {
    content: Vec<u8>,
    mode: u32,
}

impl Kept {
    /// Reads it.
    pub fn read(reader: &Reader, snapshot: &Snapshot) -> Result<Kept> {
        let mut kept = Kept::default();
        if let Some(configuration) = &snapshot.configuration {
            kept.unread = configuration.unread.clone();
            kept.walk(reader, &configuration.files, "")?;
        }
        Ok(kept)
    }

    fn walk(&mut self, reader: &Reader, directory: &DirectoryRef, above: &str) -> Result<()> {
        for entry in reader.entries(directory)? {
            let entry = entry?;
            let path = format!("{above}/{}", String::from_utf8_lossy(&entry.name));
            match entry.node {
                Node::Directory { entries, .. } => {
                    self.walk(reader, &entries, &path)?;
                    self.directories.insert(path);
                }
                Node::File(file) => {
                    let content = read_small(reader, &path, &file)?;
                    self.files.insert(path, Stored { content, mode: file.mode });
                }
                Node::Symlink { .. } => {}
            }
            if self.files.len() + self.directories.len() > MAX_FILES {
                let message = format!("the backup has more than {MAX_FILES} configuration files");
                return Err(Error::new(Kind::Damaged, message));
            }
        }
        Ok(())
    }

    /// Adds what is not among the `rewritten` files already, and tells of all of it. Returns the
    /// directories that it needs, outer ones first.
    pub fn add_to(
        &self,
        rewritten: &mut Rewritten,
        files: &ServerFiles<'_>,
        request: &Request,
        snapshot: &Snapshot,
    ) -> Result<Vec<PathBuf>> {
        let places = files.places;
        let mut directories = BTreeSet::new();
        for path in self.directories.iter().filter(|path| self.is_empty_directory(path)) {
            directories.extend(places.path(path));
        }
        for path in self.files.keys() {
            let (Some(name), Some(stored)) = (places.name(path), files.kept(path)) else {
                continue;
            };
            if places.is_outside(path) {
                rewritten.changes.push(match *path == name {
                    true => format!("{path} is restored"),
                    false => format!("{path} is in {name}"),
                });
            }
            directories
                .extend(places.path(path).as_deref().and_then(Path::parent).map(Path::to_owned));
            if !rewritten.files.iter().any(|file| file.name == name) {
                let (content, mode) = (stored.content.clone(), Some(stored.mode));
                rewritten.files.push(NewFile { name, content, mode });
            }
        }
        self.warn_of_names(files, rewritten)?;
        self.close(files, rewritten)?;
        let outside = rewritten.files.iter().filter(|file| file.name.starts_with('/'));
        directories
            .extend(outside.filter_map(|file| Path::new(&file.name).parent()).map(Path::to_owned));
        self.warn_of_rest(places, rewritten, request, snapshot);
        // Those above them too, up to the two that are made anyway.
        let tops = [Some(&request.destination), request.config_dir.as_ref()];
        let mut all = BTreeSet::new();
        for directory in &directories {
            for top in tops.into_iter().flatten().filter(|top| directory.starts_with(top)) {
                let above = directory.ancestors().take_while(|above| above != top);
                all.extend(above.map(Path::to_owned));
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Whether there is any that was outside the data directory.
    pub fn has_outside(&self, places: &Places) -> bool {
        self.files.keys().any(|path| places.is_outside(path))
    }

    /// Whether a directory holds nothing: it is there because something includes it.
    fn is_empty_directory(&self, directory: &str) -> bool {
        let inside = format!("{directory}/");
        let begins = |path: &String| path.starts_with(&inside);
        !self.files.keys().any(begins) && !self.directories.iter().any(begins)
    }

    /// Points to files that authentication rules name by paths which have changed.
    fn warn_of_names(&self, files: &ServerFiles<'_>, rewritten: &mut Rewritten) -> Result<()> {
        let places = files.places;
        let mut waiting = vec![places.known.hba.clone(), places.known.ident.clone()];
        let mut seen = BTreeSet::new();
        while let Some(path) = waiting.pop() {
            let Some(place) = places.path(&path).filter(|_| seen.insert(path.clone())) else {
                continue;
            };
            let Some(content) = files.read(&path)? else { continue };
            for reference in authentication_file::references(&content) {
                let (Reference::File(named) | Reference::Directory(named)) = &reference;
                let was = resolve(&path, named);
                let is = places.path(&was);
                let read = resolve(&place.to_string_lossy(), named);
                if is.as_deref() != Some(Path::new(&read)) {
                    let is =
                        is.map_or("not restored".into(), |is| format!("now in {}", is.display()));
                    let place = place.display();
                    let warning = format!(
                        "{place} names {named}, which is {is}: correct it before the start"
                    );
                    rewritten.warnings.push(warning);
                }
                if matches!(reference, Reference::File(_)) && seen.len() < MAX_FILES {
                    waiting.push(was);
                }
            }
        }
        Ok(())
    }

    /// A server without a `pg_hba.conf` does not start.
    fn close(&self, files: &ServerFiles<'_>, rewritten: &mut Rewritten) -> Result<()> {
        let hba = &files.places.known.hba;
        let Some(name) = files.places.name(hba) else { return Ok(()) };
        if self.unread.contains(hba) && files.read(hba)?.is_none() {
            rewritten.warnings.push(format!(
                "{name} could not be read when it was backed up: the one that is written lets only users \
                 of this host in, as the roles of their names"
            ));
            let content = CLOSED_HBA.as_bytes().to_vec();
            rewritten.files.push(NewFile { name, content, mode: Some(0o600) });
        }
        Ok(())
    }

    /// Tells what is not restored, and what is not as it was.
    fn warn_of_rest(
        &self,
        places: &Places,
        rewritten: &mut Rewritten,
        request: &Request,
        snapshot: &Snapshot,
    ) {
        let outside: Vec<&str> =
            self.files.keys().map(String::as_str).filter(|path| places.is_outside(path)).collect();
        if request.config_dir.is_some() {
            if outside.is_empty() {
                rewritten.warnings.push(
                    "the backup has no configuration from outside the data directory: --config-dir gets \
                     nothing"
                        .to_owned(),
                );
            }
        } else if !outside.is_empty() {
            let as_now = [
                (request.standby, " --standby-mode"),
                (request.keep_archiving, " --keep-archiving"),
            ];
            let as_now: String =
                as_now.into_iter().filter_map(|(is_on, option)| is_on.then_some(option)).collect();
            rewritten.warnings.push(format!(
                "configuration was outside the data directory, and is not restored: {}. Add --config-dir \
                 DIRECTORY, or write it afterwards: barman restore {} {} {} --config-dir DIRECTORY \
                 --config-only{as_now}",
                outside.join(", "),
                shell_word(Path::new(&snapshot.server)),
                snapshot.backup_id,
                shell_word(&request.destination)
            ));
        }
        if !self.unread.is_empty() {
            rewritten.warnings.push(format!(
                "barman could not read these files when they were backed up; what is there of them was made \
                 of what the server showed, look through it before the start: {}",
                self.unread.join(", ")
            ));
        }
    }
}

/// The files of a server, by the paths that they had there.
pub struct ServerFiles<'a> {
    /// Where they are now.
    pub places: &'a Places,
    /// Those of the data directory.
    pub planned: &'a PlannedFiles<'a>,
    /// Those that it did not have.
    pub kept: &'a Kept,
}

impl ServerFiles<'_> {
    /// A file that is kept. What the data directory has itself, or a restore makes, is never replaced by one.
    fn kept(&self, path: &str) -> Option<&Stored> {
        let is_taken = |name: &str| self.planned.has(name) || is_own(name);
        let stored = self.kept.files.get(path);
        stored.filter(|_| !self.places.inside(path).is_some_and(is_taken))
    }
}

impl Files for ServerFiles<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        if let Some(stored) = self.kept(path) {
            return Ok(Some(stored.content.clone()));
        }
        self.places.inside(path).map_or(Ok(None), |name| self.planned.read(name))
    }

    fn list(&self, directory: &str) -> Option<Vec<String>> {
        let planned = self.places.inside(directory).and_then(|name| self.planned.list(name));
        let is_kept = self.kept.directories.contains(directory);
        let inside = format!("{directory}/");
        let kept = self.kept.files.keys().filter_map(|path| path.strip_prefix(&inside));
        let kept = kept.filter(|name| !name.contains('/')).map(str::to_owned);
        let is_there = is_kept || planned.is_some();
        let all: BTreeSet<String> = planned.into_iter().flatten().chain(kept).collect();
        is_there.then(|| all.into_iter().collect())
    }

    fn mode(&self, path: &str) -> Option<u32> {
        let kept = self.kept(path).map(|stored| stored.mode);
        kept.or_else(|| self.planned.mode(self.places.inside(path)?))
    }
}
