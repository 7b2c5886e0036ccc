//! What is at the places that a restore would write to, found out before it does.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use rustix::fs::{Access, access};

use super::marker::MARKER;
use crate::postgres::control_file::CONTROL_FILE;

/// A place of the host that is restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path as it was asked for, absolute.
    pub path: PathBuf,
    /// The path without symbolic links, as far as it exists.
    pub real: PathBuf,
    /// What is there.
    pub content: Content,
    /// The data directory, or directory of a tablespace, that it lies in.
    pub inside: Option<PathBuf>,
    /// The directory at or above the path that exists.
    pub existing: PathBuf,
    /// Whether this process may write there.
    pub is_writable: bool,
    /// The file system that it is on.
    pub device: u64,
    /// The bytes that are free there.
    pub free_bytes: u64,
    /// The files that can still be made there, where there is a limit.
    pub free_files: Option<u64>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing, not even a directory.
    Missing,
    /// An empty directory.
    Empty,
    /// A directory with something in it.
    Something,
    /// A data directory.
    DataDirectory {
        /// The process of the server that runs on it.
        server: Option<u32>,
    },
    /// What a restore that did not come to its end has left.
    Unfinished,
    /// The directory of a tablespace of a server.
    Tablespace,
    /// No directory.
    Other,
}

impl Place {
    /// Looks at an absolute path.
    pub fn look(path: &Path) -> io::Result<Place> {
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
        let resolved = existing.canonicalize()?;
        let real = if rest.as_os_str().is_empty() { resolved.clone() } else { resolved.join(rest) };
        let content = content(&real)?;
        let space = rustix::fs::statvfs(&resolved)?;
        Ok(Place {
            path: path.to_owned(),
            inside: real
                .ancestors()
                .skip(1)
                .find(|above| belongs_to_server(above))
                .map(Path::to_owned),
            content,
            is_writable: resolved.is_dir()
                && access(&resolved, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            device: fs::metadata(&resolved)?.dev(),
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            free_files: (space.f_files > 0).then_some(space.f_favail),
            existing: resolved,
            real,
        })
    }
}

fn content(path: &Path) -> io::Result<Content> {
    let names = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Content::Missing),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Content::Other),
        entries => entries?,
    };
    let mut content = Content::Empty;
    for entry in names {
        let name = entry?.file_name();
        if is_tablespace_version(&name.to_string_lossy()) {
            content = Content::Tablespace;
        } else if content == Content::Empty {
            content = Content::Something;
        }
    }
    let has = |name: &str| path.join(name).exists();
    if ["PG_VERSION", "postmaster.pid", MARKER].into_iter().any(has) {
        let server = running_server(path);
        let is_unfinished = server.is_none() && has(MARKER) && !has(CONTROL_FILE);
        content =
            if is_unfinished { Content::Unfinished } else { Content::DataDirectory { server } };
    }
    Ok(content)
}

/// The process that runs on a data directory: the one in its `postmaster.pid`, if that lives, or one that a
/// server which was killed has left behind.
fn running_server(path: &Path) -> Option<u32> {
    let of_file = || -> Option<u32> {
        let file = fs::read_to_string(path.join("postmaster.pid")).ok()?;
        let process = file.lines().next()?.trim().trim_start_matches('-').parse().ok()?;
        Path::new("/proc").join(format!("{process}")).exists().then_some(process)
    };
    of_file().or_else(|| {
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let is_inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at == path);
            let name = is_inside.then(|| fs::read_to_string(entry.path().join("comm")).ok())??;
            matches!(name.trim_end(), "postgres" | "postmaster").then_some(process)
        })
    })
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// Its name: bytes, as file systems have them.
    pub name: Vec<u8>,
    /// What it is; links are not followed.
    pub kind: EntryKind,
    /// Whether this process may change everything about it.
    pub is_ours: bool,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The bytes that it takes on the disk.
        allocated: u64,
        /// Whether it has other names, perhaps elsewhere.
        is_shared: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it points: bytes, as file systems have them.
        target: Vec<u8>,
    },
    /// A socket, a pipe or a device.
    Other,
}

/// So many bytes of entries are listed at once.
const MAX_LISTED: usize = 1 << 20;

impl Entry {
    /// The entries of a directory after a name, in the order of their names, and whether these are all.
    pub fn list(directory: &Path, after: Option<&[u8]>) -> io::Result<(Vec<Entry>, bool)> {
        let mut names = vec![];
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            if after.is_none_or(|after| name.as_bytes() > after) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let own = rustix::process::geteuid();
        let (mut entries, mut listed) = (vec![], 0);
        for name in names {
            if listed > MAX_LISTED {
                return Ok((entries, false));
            }
            let entry = Entry::of(directory, name, own)?;
            listed += 64 + entry.name.len();
            if let EntryKind::Link { target } = &entry.kind {
                listed += target.len();
            }
            entries.push(entry);
        }
        Ok((entries, true))
    }

    fn of(directory: &Path, name: OsString, own: rustix::process::Uid) -> io::Result<Entry> {
        let path = directory.join(&name);
        let found = fs::symlink_metadata(&path)?;
        let kind = if found.is_dir() {
            EntryKind::Directory
        } else if found.is_file() {
            let allocated = found.blocks().saturating_mul(512);
            EntryKind::File { size: found.len(), allocated, is_shared: found.nlink() > 1 }
        } else if found.is_symlink() {
            EntryKind::Link { target: fs::read_link(&path)?.into_os_string().into_vec() }
        } else {
            EntryKind::Other
        };
        let is_ours = own.is_root() || own.as_raw() == found.uid();
        Ok(Entry { name: name.into_vec(), kind, is_ours })
    }

    /// Its name.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }
}

fn belongs_to_server(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    is_tablespace_version(&name)
        || directory.join("PG_VERSION").exists()
        || directory.join("global/pg_control").exists()
}

/// Whether a name is that of the directory which a server makes in each of its tablespaces, as
/// `PG_17_202406281`.
fn is_tablespace_version(name: &str) -> bool {
    let parts = name.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    parts.is_some_and(|(major, catalog)| is_number(major) && is_number(catalog))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let look = |name: &str| Place::look(&root.join(name)).unwrap();
        for name in ["empty", "full/x", "data/global", "space/PG_17_202406281/5"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("data/PG_VERSION"), "17").unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert_eq!(look("empty").content, Content::Empty);
        assert_eq!(look("full").content, Content::Something);
        assert_eq!(look("space").content, Content::Tablespace);
        assert_eq!(look("file").content, Content::Other);
        assert_eq!(look("none/of/it").content, Content::Missing);
        assert_eq!(look("none/of/it").existing, root);
        assert_eq!(look("data").content, Content::DataDirectory { server: None });
        let process = std::process::id();
        fs::write(root.join("data/postmaster.pid"), format!("{process}\n/data\n")).unwrap();
        assert_eq!(look("data").content, Content::DataDirectory { server: Some(process) });
        fs::write(root.join("data/postmaster.pid"), "4194305\n").unwrap();
        fs::write(root.join("data").join(MARKER), "{}").unwrap();
        assert_eq!(look("data").content, Content::Unfinished);
        fs::write(root.join("data").join(CONTROL_FILE), "").unwrap();
        assert_eq!(look("data").content, Content::DataDirectory { server: None });
        assert_eq!(look("data/x/y").inside, Some(root.join("data")));
        let inside = look("space/PG_17_202406281/5/x").inside;
        assert_eq!(inside, Some(root.join("space/PG_17_202406281")));
        std::os::unix::fs::symlink(root.join("full"), root.join("link")).unwrap();
        assert_eq!(look("link/new").real, root.join("full/new"));
        assert_eq!(look("full").inside, None);
    }

    #[test]
    fn directories_are_listed_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("b"), "12345").unwrap();
        fs::create_dir(root.join("c")).unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("a")).unwrap();
        let (entries, is_all) = Entry::list(root, None).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name().to_str().unwrap()).collect();
        assert_eq!((names.as_slice(), is_all), (&["a", "b", "c"][..], true));
        assert_eq!(entries[0].kind, EntryKind::Link { target: b"/nowhere".to_vec() });
        assert!(matches!(entries[1].kind, EntryKind::File { size: 5, is_shared: false, .. }));
        assert_eq!(entries[2].kind, EntryKind::Directory);
        assert!(entries.iter().all(|entry| entry.is_ours));
        let (rest, _) = Entry::list(root, Some(b"a")).unwrap();
        assert_eq!(rest, entries[1..]);
        for n in 0..5_000 {
            fs::write(root.join(format!("{n:0>250}")), "").unwrap();
        }
        let (first, is_all) = Entry::list(root, None).unwrap();
        assert!(!is_all);
        let last = first.last().unwrap();
        let (second, is_all) = Entry::list(root, Some(&last.name)).unwrap();
        assert!(is_all && first.len() + second.len() == 5_003);
        fs::hard_link(root.join("b"), root.join("d")).unwrap();
        let (all, _) = Entry::list(root, Some(b"a")).unwrap();
        assert!(matches!(all[0].kind, EntryKind::File { is_shared: true, .. }));
    }
}
