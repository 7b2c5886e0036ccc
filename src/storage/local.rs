//! Objects as files in a directory: a local disk, or a mounted NAS.
//!
//! An object is written under a temporary name that no listing returns, synced, given its name only
//! if nothing has it yet, and its directory is synced before the call returns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Cause, Error, Object, Result, Storage};

/// What the names of unfinished files begin with; no object's name has a part that does.
const TEMPORARY: &str = ".tmp-";

/// A directory that keeps objects as files.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    root: Arc<PathBuf>,
}

impl LocalStorage {
    /// The storage in directory `root`, which is made by the first write.
    pub fn new(root: PathBuf) -> Self {
        LocalStorage { root: Arc::new(root) }
    }

    /// Runs blocking file operations where they keep nobody waiting.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path(name);
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        let result = done.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        result.map_err(|error| self.error(operation, name, error))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn error(&self, operation: &'static str, name: &str, error: io::Error) -> Error {
        let cause = match error.downcast::<ShortObject>() {
            Ok(ShortObject { length, wanted }) => Cause::Short { length, wanted },
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Cause::NotFound,
                ErrorKind::AlreadyExists => Cause::AlreadyExists,
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::Full(error),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    Cause::Permission(error)
                }
                _ => Cause::Io(error),
            },
        };
        Error { operation, name: name.to_owned(), location: self.location(), cause }
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.run("write", name, move |path| create_file(path, &bytes, 0o640)).await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        let read = self.run("read", name, |path| fs::read(path).map(Bytes::from)).await;
        self.missing_is_proved("read", name, read)
    }

    async fn get_durable(&self, name: &str) -> Result<Bytes> {
        let root = self.root.clone();
        let read = self
            .run("read", name, move |path| {
                let bytes = fs::read(path)?;
                File::open(path)?.sync_all()?;
                let above = path.ancestors().skip(1).take_while(|above| above.starts_with(&*root));
                above.into_iter().try_for_each(sync_directory)?;
                Ok(Bytes::from(bytes))
            })
            .await;
        self.missing_is_proved("read", name, read)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let read = self.run("read", name, move |path| read_range(path, range)).await;
        self.missing_is_proved("read", name, read)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let (directory, start) = match prefix.rsplit_once('/') {
            Some((directory, start)) => (directory, start.to_owned()),
            None => ("", prefix.to_owned()),
        };
        let owned = directory.to_owned();
        let found = self
            .run("list", directory, move |path| {
                let mut found = vec![];
                list(path, &owned, &start, &mut found)?;
                Ok(found)
            })
            .await;
        match found {
            // A prefix without objects has no directory, but the root must be there: a disk that is
            // not mounted is not an empty repository.
            Err(error) if error.is_not_found() && self.root.is_dir() => Ok(vec![]),
            other => self.missing_is_proved("list", prefix, other),
        }
    }

    async fn now(&self) -> Result<SystemTime> {
        self.run("write", "", now_in).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<usize> {
        self.run("list", "", move |path| remove_unfinished(path, now_in(path)?, age)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let deleted = self
            .run("delete", name, |path| {
                fs::remove_file(path)?;
                sync_directory(parent(path)?)
            })
            .await;
        match deleted {
            Err(error) if error.is_not_found() && self.root.is_dir() => Ok(()),
            other => other,
        }
    }
}

/// The time that a file in `directory` gets now: on a NAS it is not this host's.
fn now_in(directory: &Path) -> io::Result<SystemTime> {
    let temporary = unused_name(directory)?;
    let now =
        write_synced(&temporary, &[], 0o600).and_then(|()| fs::metadata(&temporary)?.modified());
    let _ = fs::remove_file(&temporary);
    now
}

/// Removes the temporary files below `directory` that were not written to for `age`.
fn remove_unfinished(directory: &Path, now: SystemTime, age: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        let is_old = now.duration_since(metadata.modified()?).is_ok_and(|passed| passed >= age);
        if metadata.is_dir() {
            removed += remove_unfinished(&entry.path(), now, age)?;
        } else if is_old && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            // Its writer may have ended or removed it in this very moment.
            removed += usize::from(fs::remove_file(entry.path()).is_ok());
        }
    }
    Ok(removed)
}

impl LocalStorage {
    /// An object is proved absent only if its store is there: a NAS that is not mounted must not say
    /// that a WAL file does not exist.
    fn missing_is_proved<T>(
        &self,
        operation: &'static str,
        name: &str,
        result: Result<T>,
    ) -> Result<T> {
        match result {
            Err(error) if error.is_not_found() && !self.root.is_dir() => {
                let location = self.location();
                let cause = Cause::NoPlace(format!("the directory {location}"));
                Err(Error { operation, name: name.to_owned(), location, cause })
            }
            other => other,
        }
    }
}

/// Creates the file `path` with `bytes` and permission bits, whole and durable, in a directory that is
/// made where it is missing.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if there is a file of this name: none is ever overwritten.
pub fn create_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = parent(path)?;
    create_directories(directory)?;
    if path.try_exists()? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let temporary = unused_name(directory)?;
    let written =
        write_synced(&temporary, bytes, mode).and_then(|()| name_exclusively(&temporary, path));
    if written.is_err() {
        // What failed is reported; what is left of it has a name that nothing reads.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_directory(directory)
}

/// A name in `directory` that no listing returns.
fn unused_name(directory: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(directory.join(format!("{TEMPORARY}{:016x}", u64::from_le_bytes(random))))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Gives a finished file its name, unless the name is taken.
fn name_exclusively(temporary: &Path, path: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, temporary, cwd, path, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        // Not every file system (NFS, some FUSE) can rename without replacing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::hard_link(temporary, path) {
        Ok(()) => return fs::remove_file(temporary),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
        // Nor can every one (SMB, some FUSE) make hard links.
        Err(_) => {}
    }
    // Names of objects are unique or derived from their content, so that between the check and the
    // rename only the same bytes can come.
    if path.try_exists()? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    durable_rename(temporary, path)
}

/// Renames a file that is synced, and syncs the directory that it is renamed into.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes a rename durable")]
pub fn durable_rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(parent(to)?)
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and those above it, each durable in its parent.
pub fn create_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_directories(above)?;
    }
    match fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        None => Err(io::Error::other("an object's name is empty")),
        Some(here) if here.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(directory) => Ok(directory),
    }
}

/// A range that an object is too short for.
#[derive(Debug, thiserror::Error)]
#[error("{length} bytes instead of {wanted}")]
struct ShortObject {
    length: u64,
    wanted: u64,
}

fn read_range(path: &Path, range: Range<u64>) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if range.end > length || range.start > range.end {
        return Err(io::Error::other(ShortObject { length, wanted: range.end }));
    }
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

/// Collects the files below `directory`, whose name is `name`, that begin with `start` there.
fn list(directory: &Path, name: &str, start: &str, found: &mut Vec<Object>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        if file_name.starts_with(TEMPORARY) || !file_name.starts_with(start) {
            continue;
        }
        let name = if name.is_empty() { file_name } else { format!("{name}/{file_name}") };
        // An object that is deleted while it is listed is not there.
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_dir() {
            match list(&entry.path(), &name, "", found) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                listed => listed?,
            }
        } else {
            found.push(Object { name, size: metadata.len(), modified: metadata.modified()? });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_are_created_once_listed_read_and_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(directory.path().join("new"));
        storage.put("a/b/c", Bytes::from_static(b"12345")).await.unwrap();
        storage.put("a/d", Bytes::from_static(b"")).await.unwrap();
        assert!(storage.put("a/b/c", Bytes::new()).await.unwrap_err().already_exists());
        assert_eq!(storage.get("a/b/c").await.unwrap(), "12345");
        assert_eq!(storage.get_range("a/b/c", 1..3).await.unwrap(), "23");
        let short = storage.get_range("a/b/c", 3..9).await.unwrap_err();
        assert!(matches!(short.cause, Cause::Short { length: 5, wanted: 9 }));
        fs::write(directory.path().join("new/a/.tmp-1"), "unfinished").unwrap();
        let names = async |prefix: &str| {
            let mut names: Vec<_> =
                storage.list(prefix).await.unwrap().into_iter().map(|o| o.name).collect();
            names.sort();
            names
        };
        assert_eq!(names("").await, ["a/b/c", "a/d"]);
        assert_eq!(storage.remove_unfinished(Duration::from_secs(60)).await.unwrap(), 0);
        assert_eq!(storage.remove_unfinished(Duration::ZERO).await.unwrap(), 1);
        assert!(!directory.path().join("new/a/.tmp-1").exists());
        assert_eq!(names("a/b/").await, ["a/b/c"]);
        assert_eq!(names("a/").await, ["a/b/c", "a/d"]);
        assert_eq!(names("a/d").await, ["a/d"]);
        assert!(names("none/").await.is_empty());
        storage.delete("a/b/c").await.unwrap();
        storage.delete("a/b/c").await.unwrap();
        assert!(storage.get("a/b/c").await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn a_place_that_is_not_there_is_not_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(directory.path().join("unmounted"));
        assert!(!storage.get("wal/x").await.unwrap_err().is_not_found());
        assert!(storage.list("wal/").await.is_err());
    }
}
