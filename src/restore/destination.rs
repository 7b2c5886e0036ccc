//! Where a restore writes to: this host, or another one ([`super::agent`]). What is planned, checked and
//! verified is the same for both.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};

use super::environment::Machine;
use super::owner::Owner;
use super::place::{Entry, Place};
use super::programs::{self, Programs};
use crate::error::{Error, Kind, Result};
use crate::storage::local::{create_directories, sync_directory};
use crate::wal::fetch::write_whole;

/// A host that is restored to. Its calls block.
pub trait Destination: Send + Sync + Debug {
    /// The host, if it is another one.
    fn host(&self) -> Option<String>;

    /// What is at a path.
    fn look(&self, path: &Path) -> Result<Place>;

    /// Chooses who will own everything that is made from now on, as [`Owner::of`], and returns the name
    /// if it is not the user who writes.
    fn choose_owner(&self, destination: &Path, wanted: Option<&str>) -> Result<Option<String>>;

    /// The PostgreSQL versions that are installed.
    fn installed(&self) -> Result<Vec<Programs>>;

    /// What its machine is like.
    fn machine(&self) -> Result<Machine>;

    /// Those of some libraries that are not there, as [`Programs::missing_libraries`].
    fn missing_libraries(
        &self,
        programs: &Programs,
        names: &[String],
        search_path: Option<&str>,
    ) -> Result<Vec<String>>;

    /// Makes a directory above those that are restored. The server must be able to go through it.
    fn make_parent(&self, path: &Path) -> Result<()>;

    /// Makes a directory, where there is none, with exactly these permissions.
    fn make_directory(&self, path: &Path, mode: u32) -> Result<()>;

    /// Makes a symbolic link.
    fn make_link(&self, path: &Path, target: &Path) -> Result<()>;

    /// Makes a file that is all zeros.
    fn create(&self, path: &Path, mode: u32, size: u64) -> Result<Box<dyn Output>>;

    /// Writes a small file, durably.
    fn put(&self, path: &Path, content: &[u8], mode: Option<u32>) -> Result<()>;

    /// Makes the entries of directories durable.
    fn sync_directories(&self, paths: &[PathBuf]) -> Result<()>;

    /// Puts the marker of a restore, as [`Destination::put`], and holds it for as long as this lives.
    ///
    /// # Errors
    /// If another process holds it.
    fn begin(&self, marker: &Path, content: &[u8]) -> Result<()>;

    /// The content of a file; nothing if there is no such file, or a longer one.
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>>;

    /// What is in a directory, in the order of the names.
    fn list(&self, directory: &Path) -> Result<Vec<Entry>>;

    /// Removes files, links and empty directories, one after the other. What is gone already is.
    fn remove(&self, paths: &[PathBuf]) -> Result<()>;

    /// Opens a file that is there, to be corrected, and gives it a size: what it had up to there stays.
    fn reopen(&self, path: &Path, mode: u32, size: u64) -> Result<Box<dyn Output>>;
}

/// A file that is being written, in parts that may come from several threads.
pub trait Output: Send + Sync {
    /// Writes bytes of a part; within a part they come in their order.
    fn write(&self, part: usize, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Reads bytes that the file has.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Gives the file its time, in seconds since 1970-01-01 UTC, and its owner. What was written is what
    /// [`Output::write`] was given, or this is an error.
    fn finish(&self, mtime: i64) -> Result<()>;

    /// Makes what was written so far durable.
    fn sync(&self) -> Result<()>;
}

/// The error for a file that cannot be written.
pub fn cannot_write(path: &Path, error: io::Error) -> Error {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let failed = Error::new(Kind::Io, format!("cannot write {}", path.display())).because(error);
    if full { failed.hint("free some space there") } else { failed }
}

/// The error for what cannot be read at the destination.
pub fn cannot_read(path: &Path, error: io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot read {}", path.display())).because(error)
}

/// This host.
#[derive(Debug, Default)]
pub struct ThisHost {
    owner: OnceLock<Option<Owner>>,
    /// The marker of the restore that is going on, locked.
    marker: Mutex<Option<File>>,
}

impl ThisHost {
    fn give(&self, path: &Path) -> io::Result<()> {
        self.owner.get().copied().flatten().map_or(Ok(()), |owner| owner.give(path))
    }
}

impl Destination for ThisHost {
    fn host(&self) -> Option<String> {
        None
    }

    fn look(&self, path: &Path) -> Result<Place> {
        Place::look(path).map_err(|error| {
            Error::new(Kind::Io, format!("cannot look at {}", path.display())).because(error)
        })
    }

    fn choose_owner(&self, destination: &Path, wanted: Option<&str>) -> Result<Option<String>> {
        let owner = Owner::of(destination, wanted)?;
        let chosen = self.owner.get_or_init(|| owner);
        if *chosen != owner {
            return Err(Error::new(Kind::Internal, "another owner has been chosen already"));
        }
        Ok(owner.map(Owner::name))
    }

    fn installed(&self) -> Result<Vec<Programs>> {
        Ok(programs::installed(std::env::var_os("PATH").as_deref()))
    }

    fn machine(&self) -> Result<Machine> {
        Ok(Machine::this())
    }

    fn missing_libraries(
        &self,
        programs: &Programs,
        names: &[String],
        search_path: Option<&str>,
    ) -> Result<Vec<String>> {
        Ok(programs.missing_libraries(names, search_path))
    }

    fn make_parent(&self, path: &Path) -> Result<()> {
        create_directories(path)
            .and_then(|()| self.give(path))
            .map_err(|error| cannot_write(path, error))
    }

    fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        let make = || -> io::Result<()> {
            match fs::DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            self.give(path)
        };
        make().map_err(|error| cannot_write(path, error))
    }

    fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        symlink(target, path).map_err(|error| cannot_write(path, error))
    }

    fn create(&self, path: &Path, mode: u32, size: u64) -> Result<Box<dyn Output>> {
        let open = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            let mode = mode | 0o600;
            let file = options.write(true).create_new(true).mode(mode).open(path)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            // Runs of zeros are left as holes.
            file.set_len(size)?;
            self.give(path)?;
            Ok(file)
        };
        let file = open().map_err(|error| cannot_write(path, error))?;
        Ok(Box::new(LocalFile { file, path: path.to_owned() }))
    }

    fn put(&self, path: &Path, content: &[u8], mode: Option<u32>) -> Result<()> {
        write_whole(path, content)?;
        let permit = || -> io::Result<()> {
            if let Some(mode) = mode {
                fs::set_permissions(path, Permissions::from_mode(mode | 0o600))?;
            }
            self.give(path)
        };
        permit().map_err(|error| cannot_write(path, error))
    }

    fn sync_directories(&self, paths: &[PathBuf]) -> Result<()> {
        let sync = |path: &PathBuf| sync_directory(path).map_err(|e| cannot_write(path, e));
        paths.iter().try_for_each(sync)
    }

    fn begin(&self, marker: &Path, content: &[u8]) -> Result<()> {
        let lock = || -> Result<Option<File>> {
            let file = match File::open(marker) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened.map_err(|error| cannot_read(marker, error))?,
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another restore writes beside {} now", marker.display());
                    Err(Error::new(Kind::Refused, message).hint("wait for its end, or stop it"))
                }
                // Not every file system has locks.
                Err(TryLockError::Error(_)) | Ok(()) => Ok(Some(file)),
            }
        };
        let _former = lock()?;
        self.put(marker, content, None)?;
        *self.marker.lock().unwrap_or_else(PoisonError::into_inner) = lock()?;
        Ok(())
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let read = || -> io::Result<Option<Vec<u8>>> {
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            let found = file.metadata()?;
            if !found.is_file() || found.len() > limit {
                return Ok(None);
            }
            let mut content = vec![];
            file.take(limit).read_to_end(&mut content)?;
            Ok(Some(content))
        };
        read().map_err(|error| cannot_read(path, error))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = vec![];
        loop {
            let after = entries.last().map(|entry| entry.name.as_slice());
            let (more, is_all) =
                Entry::list(directory, after).map_err(|error| cannot_read(directory, error))?;
            entries.extend(more);
            if is_all {
                return Ok(entries);
            }
        }
    }

    fn remove(&self, paths: &[PathBuf]) -> Result<()> {
        let remove = |path: &PathBuf| {
            let removed = fs::symlink_metadata(path).and_then(|found| match found.is_dir() {
                true => fs::remove_dir(path),
                false => fs::remove_file(path),
            });
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let message = format!("cannot remove {}", path.display());
                    Err(Error::new(Kind::Io, message).because(error))
                }
                _ => Ok(()),
            }
        };
        paths.iter().try_for_each(remove)
    }

    fn reopen(&self, path: &Path, mode: u32, size: u64) -> Result<Box<dyn Output>> {
        let open = || -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
            file.set_permissions(Permissions::from_mode(mode | 0o600))?;
            if file.metadata()?.len() != size {
                file.set_len(size)?;
            }
            self.give(path)?;
            Ok(file)
        };
        let file = open().map_err(|error| cannot_write(path, error))?;
        Ok(Box::new(LocalFile { file, path: path.to_owned() }))
    }
}

struct LocalFile {
    file: File,
    path: PathBuf,
}

impl Output for LocalFile {
    fn write(&self, _: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| cannot_write(&self.path, e))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| cannot_read(&self.path, e))
    }

    fn finish(&self, mtime: i64) -> Result<()> {
        let Ok(mtime) = u64::try_from(mtime) else { return Ok(()) };
        let time = UNIX_EPOCH + Duration::from_secs(mtime);
        self.file.set_modified(time).map_err(|e| cannot_write(&self.path, e))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| cannot_write(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_restore_at_a_time_writes_into_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("marker");
        let first = ThisHost::default();
        first.begin(&marker, b"first").unwrap();
        let refused = ThisHost::default().begin(&marker, b"second").unwrap_err();
        assert!(refused.to_string().contains("another restore writes"), "{refused}");
        assert_eq!(fs::read(&marker).unwrap(), b"first");
        drop(first);
        ThisHost::default().begin(&marker, b"second").unwrap();
        assert_eq!(fs::read(&marker).unwrap(), b"second");
    }

    #[test]
    fn links_are_not_followed_by_what_corrects_and_removes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("outside")).unwrap();
        fs::write(path("file"), "x").unwrap();
        symlink(path("file"), path("to file")).unwrap();
        symlink(path("outside"), path("to outside")).unwrap();
        let host = ThisHost::default();
        assert!(host.reopen(&path("to file"), 0o600, 0).is_err());
        host.remove(&["to file", "to outside", "none"].map(path)).unwrap();
        assert!(path("file").exists() && path("outside").exists());
        assert_eq!(host.read(&path("none"), 9).unwrap(), None);
        assert_eq!(host.list(directory.path()).unwrap().len(), 2);
    }
}
