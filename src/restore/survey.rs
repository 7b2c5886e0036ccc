//! Compares what is at the destination with what a restore will make there: what is kept, and what
//! must go. Nothing is changed by it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::destination::Destination;
use super::files::Plan;
use super::layout::Layout;
use super::place::{Content, Entry, EntryKind};
use crate::error::{Error, Kind, Result};

/// What is at the destination already.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// What the backup does not have, and what stands in its way, in the order in which it can be removed.
    pub extra: Vec<PathBuf>,
    /// The bytes that it takes.
    pub extra_bytes: u64,
    /// Files that are there already, of which is kept what is right.
    pub kept: u64,
    /// The bytes that they must have.
    pub kept_bytes: u64,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// What a path must be.
enum Wanted {
    Directory,
    /// The file of the plan with this number.
    File {
        at: usize,
        size: u64,
        is_hole: bool,
    },
    Link(PathBuf),
    /// A file that is replaced as a whole.
    Small,
}

/// What is all zeros, and takes so many bytes, is made anew: then it takes none.
const WORTH_A_HOLE: u64 = 1 << 20;

/// The name of what file systems put into their uppermost directories.
const OF_FILE_SYSTEM: &str = "lost+found";

impl Survey {
    /// Looks at all that is there. Marks in `plan` what is, and counts it in `layout`; `replaced` are the
    /// files that are written beside the plan.
    ///
    /// # Errors
    /// If anything is there that this process may not change.
    pub fn of(
        host: &dyn Destination,
        layout: &mut Layout,
        plan: &mut Plan,
        replaced: impl Iterator<Item = PathBuf>,
    ) -> Result<Survey> {
        let mut wanted: HashMap<PathBuf, Wanted> = HashMap::new();
        wanted.extend(replaced.map(|path| (path, Wanted::Small)));
        let directories = plan.directories.iter();
        wanted.extend(directories.map(|(path, _)| (path.clone(), Wanted::Directory)));
        let links = plan.symlinks.iter();
        wanted.extend(links.map(|(path, to)| (path.clone(), Wanted::Link(to.clone()))));
        let files = plan.files.iter().enumerate();
        wanted.extend(files.map(|(at, planned)| {
            let (size, is_hole) = (planned.file.size, planned.is_hole());
            (planned.path.clone(), Wanted::File { at, size, is_hole })
        }));
        let mut walk = Walk {
            host,
            layout,
            wanted,
            there: vec![],
            links: vec![],
            foreign: vec![],
            unarchived: vec![],
            survey: Survey::default(),
        };
        walk.parts()?;
        let Walk { there, links, mut survey, foreign, unarchived, .. } = walk;
        if let Some(first) = foreign.first() {
            let message = format!(
                "{} files and directories there belong to other users, such as {}",
                foreign.len(),
                first.display()
            );
            return Err(Error::new(Kind::Refused, message)
                .hint("run barman as root, or give them to the user who runs it"));
        }
        for at in there {
            if let Some(planned) = plan.files.get_mut(at) {
                planned.is_there = true;
                survey.kept += 1;
                survey.kept_bytes += planned.file.size;
            }
        }
        plan.symlinks.retain(|(path, _)| !links.contains(path));
        if let (Some(first), Some(last)) = (unarchived.first(), unarchived.last()) {
            survey.warnings.push(format!(
                "{} WAL files of the old pg_wal had not been archived, from {first} to {last}: what only they \
                 have is lost with them",
                unarchived.len()
            ));
        }
        Ok(survey)
    }
}

struct Walk<'a> {
    host: &'a dyn Destination,
    layout: &'a mut Layout,
    wanted: HashMap<PathBuf, Wanted>,
    /// The numbers of the planned files that are there.
    there: Vec<usize>,
    /// The planned links that are there.
    links: Vec<PathBuf>,
    /// What belongs to other users, and would have to be changed.
    foreign: Vec<PathBuf>,
    unarchived: Vec<String>,
    survey: Survey,
}

impl Walk<'_> {
    fn parts(&mut self) -> Result<()> {
        let owned: Vec<(PathBuf, bool)> = self
            .layout
            .parts
            .iter()
            .filter(|part| self.layout.claim.has(&part.place))
            .filter(|part| !matches!(part.place.content, Content::Missing | Content::Empty))
            .map(|part| (part.place.path.clone(), part.is_shared))
            .collect();
        for (path, is_shared) in owned {
            for entry in self.host.list(&path)? {
                let inner = path.join(entry.name());
                // What others have in the directory of a tablespace, or of configuration, is theirs.
                if entry.name() != OF_FILE_SYSTEM
                    && (!is_shared || self.wanted.contains_key(&inner))
                {
                    self.entry(inner, &entry)?;
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        for entry in self.host.list(path)? {
            self.entry(path.join(entry.name()), &entry)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, entry: &Entry) -> Result<()> {
        let (wanted, kind) = (self.wanted.get(&path), &entry.kind);
        match (wanted, kind) {
            (Some(Wanted::Directory), EntryKind::Directory) => {
                self.must_be_ours(&path, entry);
                self.directory(&path)?;
                self.credit(&path, 0);
            }
            // Another name of the same file would be changed with it: it is made anew.
            (
                Some(Wanted::File { at, size, is_hole }),
                EntryKind::File { allocated, is_shared: false, .. },
            ) if !is_hole || *allocated < WORTH_A_HOLE => {
                self.there.push(*at);
                let taken = *allocated.min(size);
                self.must_be_ours(&path, entry);
                self.credit(&path, taken);
            }
            (Some(Wanted::Small), EntryKind::File { allocated, .. }) => {
                self.credit(&path, *allocated);
            }
            (Some(Wanted::Link(to)), EntryKind::Link { target })
                if to.as_os_str().as_encoded_bytes() == target =>
            {
                self.links.push(path);
            }
            _ => self.doom(path, entry)?,
        }
        Ok(())
    }

    /// Adds what must go, its inner parts first.
    fn doom(&mut self, path: PathBuf, entry: &Entry) -> Result<()> {
        match &entry.kind {
            EntryKind::Directory => {
                let inner = self.host.list(&path)?;
                if !inner.is_empty() {
                    self.must_be_ours(&path, entry);
                }
                for entry in inner {
                    self.doom(path.join(entry.name()), &entry)?;
                }
                self.credit(&path, 0);
            }
            EntryKind::File { allocated, is_shared, .. } => {
                if !is_shared {
                    self.survey.extra_bytes += allocated;
                    self.credit(&path, *allocated);
                }
                let name = entry.name().to_string_lossy();
                if let Some(wal) = name.strip_suffix(".ready") {
                    self.unarchived.push(wal.to_owned());
                }
            }
            EntryKind::Link { target } => {
                let to = String::from_utf8_lossy(target);
                self.survey.warnings.push(format!(
                    "{} is a link to {to}: the link is removed, and what is in {to} stays",
                    path.display()
                ));
            }
            EntryKind::Other => {}
        }
        self.survey.extra.push(path);
        Ok(())
    }

    fn must_be_ours(&mut self, path: &Path, entry: &Entry) {
        if !entry.is_ours {
            self.foreign.push(path.to_owned());
        }
    }

    /// Counts space that is taken already by what stays, or free by then.
    fn credit(&mut self, path: &Path, bytes: u64) {
        if let Some(part) = self.layout.part_of(path) {
            part.has_files += 1;
            part.has_bytes += bytes;
        }
    }
}
