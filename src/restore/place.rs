//! What is at the places that a restore would write to, found out before it does.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

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
    if path.join("PG_VERSION").exists() || path.join("postmaster.pid").exists() {
        content = Content::DataDirectory { server: running_server(path) };
    }
    Ok(content)
}

/// The process that runs on a data directory: the one in its `postmaster.pid`, if that lives.
fn running_server(path: &Path) -> Option<u32> {
    let file = fs::read_to_string(path.join("postmaster.pid")).ok()?;
    let process: u32 = file.lines().next()?.trim().trim_start_matches('-').parse().ok()?;
    Path::new("/proc").join(process.to_string()).exists().then_some(process)
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
        assert_eq!(look("data/x/y").inside, Some(root.join("data")));
        let inside = look("space/PG_17_202406281/5/x").inside;
        assert_eq!(inside, Some(root.join("space/PG_17_202406281")));
        std::os::unix::fs::symlink(root.join("full"), root.join("link")).unwrap();
        assert_eq!(look("link/new").real, root.join("full/new"));
        assert_eq!(look("full").inside, None);
    }
}
