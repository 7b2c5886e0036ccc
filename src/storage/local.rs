//! Objects as files in a directory: a local disk, or a mounted NAS.
//!
//! An object is written under a temporary name that no listing returns, synced, given its name only
//! if nothing has it yet, and its directory is synced before the call returns. Names that begin with a dot
//! are no objects: ours, and those that file systems make (`.nfs…`, `.snapshot`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use repo_format::limits::{
    MAX_INDEX, MAX_MAINTENANCE, MAX_PACK, MAX_RECORD, MAX_WAL_FILE, MAX_WAL_HEADER,
};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::sharing::{Rights, Sharing, share};
use super::{Cause, Error, Object, Result, Space, Storage, reserve};

/// What the names of unfinished files begin with; no object's name has a part that does.
const TEMPORARY: &str = ".tmp-";

/// The directories by which a place that holds a repository is known. The mount point of a file system that
/// is not mounted has none of them.
const SIGNS: [&str; 2] = ["config", "keys"];

/// A directory that keeps objects as files.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    root: Arc<PathBuf>,
}

impl LocalStorage {
    /// The storage in directory `root`, which only [`Storage::prepare`] makes.
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
        let cause = match error.downcast::<WrongLength>() {
            Ok(WrongLength::Short { length, wanted }) => Cause::Short { length, wanted },
            Ok(WrongLength::Long { length, limit }) => Cause::Long { length, limit },
            Err(error) => cause(error),
        };
        Error { operation, name: name.to_owned(), location: self.location(), cause }
    }
}

/// What an error of the system says of the place.
fn cause(error: io::Error) -> Cause {
    let error = match error.downcast::<AbsentPlace>() {
        Ok(absent) => return Cause::Absent(absent.to_string()),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::NotFound => Cause::NotFound,
        ErrorKind::AlreadyExists => Cause::AlreadyExists,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::Full(error),
        ErrorKind::PermissionDenied => Cause::Permission(error),
        ErrorKind::ReadOnlyFilesystem => Cause::ReadOnly(error),
        _ => Cause::Io(error),
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    async fn prepare(&self, group: Option<u32>) -> Result<()> {
        self.run("create", "", move |root| {
            let above = Rights { group, ..Rights::DIRECTORY };
            make_directories(root, above)?;
            if let Some(group) = group {
                share(root, group)?;
            }
            let [sign, _] = SIGNS;
            make_directories(&root.join(sign), Sharing::of(root)?.directory())
        })
        .await
    }

    async fn group(&self) -> Result<Option<u32>> {
        self.run("read", "", |root| match Sharing::of(root)? {
            Sharing::Owner => Ok(None),
            Sharing::Group(group) => Ok(Some(group)),
        })
        .await
    }

    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let root = self.root.clone();
        self.run("write", name, move |path| {
            // A disk that is not mounted must not be written to in its mount point.
            require_place(&root)?;
            let sharing = Sharing::of(&root)?;
            create_file_in(path, &bytes, sharing.file(), sharing.directory())
        })
        .await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        let limit = limit_of(name);
        let read = self.run("read", name, move |path| read_whole(path, limit)).await;
        self.missing_is_proved("read", name, read).await
    }

    async fn get_durable(&self, name: &str) -> Result<Bytes> {
        let (root, limit) = (self.root.clone(), limit_of(name));
        let read = self
            .run("read", name, move |path| {
                let bytes = read_whole(path, limit)?;
                File::open(path)?.sync_all()?;
                let above = path.ancestors().skip(1).take_while(|above| above.starts_with(&*root));
                above.into_iter().try_for_each(sync_directory)?;
                Ok(bytes)
            })
            .await;
        self.missing_is_proved("read", name, read).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let read = self.run("read", name, move |path| read_range(path, range)).await;
        self.missing_is_proved("read", name, read).await
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
        match self.missing_is_proved("list", directory, found).await {
            // A prefix without objects has no directory.
            Err(error) if error.is_not_found() => Ok(vec![]),
            // A place without any may be one that is not mounted.
            Ok(found) if found.is_empty() => {
                let root = self.root.clone();
                self.run("list", directory, move |_| require_place(&root)).await.map(|()| vec![])
            }
            other => other,
        }
    }

    async fn now(&self) -> Result<SystemTime> {
        self.run("write", "", now_in).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<usize> {
        let remove = move |path: &Path| {
            // A place that is full must be emptied all the same.
            let now = now_in(path).unwrap_or_else(|_| SystemTime::now());
            remove_unfinished(path, now, age)
        };
        self.run("list", "", remove).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let root = self.root.clone();
        let deleted = self
            .run("delete", name, move |path| {
                fs::remove_file(path)?;
                let directory = parent(path)?;
                let above = parent(directory)?;
                // A directory that holds nothing any more goes too, below those that make up a
                // repository: each session and each backup's notes have one, which would become more
                // and more.
                let may_go = above != root.as_path() && above.starts_with(root.as_path());
                if may_go && fs::remove_dir(directory).is_ok() {
                    return sync_directory(above);
                }
                sync_directory(directory)
            })
            .await;
        match self.missing_is_proved("delete", name, deleted).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.run("read", "", |root| reserve::space(root).map(Some)).await
    }

    async fn ensure_reserve(&self, bytes: Option<u64>) -> Result<()> {
        self.run("set space aside in", "", move |root| {
            require_place(root)?;
            reserve::ensure(root, bytes, Sharing::of(root)?.changing_file()).map(|_| ())
        })
        .await
    }

    async fn release_reserve(&self) -> Result<bool> {
        self.run("free the reserve in", "", reserve::release).await
    }
}

/// An error unless `root` is a place that holds, or is about to hold, a repository.
fn require_place(root: &Path) -> io::Result<()> {
    if SIGNS.iter().any(|sign| root.join(sign).is_dir()) {
        return Ok(());
    }
    let exists = root.try_exists()?;
    Err(io::Error::other(AbsentPlace { root: root.to_owned(), exists }))
}

/// A directory without the signs of a repository, or none.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}",
    if *exists {
        format!("there is no repository in {}", root.display())
    } else {
        format!("the directory {} does not exist", root.display())
    }
)]
struct AbsentPlace {
    root: PathBuf,
    exists: bool,
}

/// The time that a file in `directory` gets now: on a NAS it is not this host's.
fn now_in(directory: &Path) -> io::Result<SystemTime> {
    require_place(directory)?;
    let temporary = temporary_in(directory)?;
    let now = write_synced(&temporary, &[], Sharing::of(directory)?.changing_file())
        .and_then(|()| fs::metadata(&temporary)?.modified());
    let _ = fs::remove_file(&temporary);
    now
}

/// Removes the temporary files below `directory` that were not written to for `age`.
fn remove_unfinished(directory: &Path, now: SystemTime, age: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (Ok(metadata), name) = (entry.metadata(), entry.file_name()) else { continue };
        let name = name.to_string_lossy();
        let is_old = now.duration_since(metadata.modified()?).is_ok_and(|passed| passed >= age);
        if name.starts_with(TEMPORARY) {
            // Its writer may have ended or removed it in this very moment.
            let remove = if metadata.is_dir() { fs::remove_dir } else { fs::remove_file };
            removed += usize::from(is_old && remove(&entry.path()).is_ok());
        } else if metadata.is_dir() && !name.starts_with('.') {
            removed += remove_unfinished(&entry.path(), now, age)?;
        }
    }
    Ok(removed)
}

impl LocalStorage {
    /// An object is proved absent only if its store is there: a NAS that is not mounted must not say
    /// that a WAL file does not exist.
    async fn missing_is_proved<T>(
        &self,
        operation: &'static str,
        name: &str,
        result: Result<T>,
    ) -> Result<T> {
        match result {
            Err(error) if error.is_not_found() => {
                let root = self.root.clone();
                self.run(operation, name, move |_| require_place(&root)).await?;
                Err(error)
            }
            other => other,
        }
    }
}

/// Creates the file `path` with `bytes`, whole and durable, in a directory that is made where it is missing.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if there is a file of this name: none is ever overwritten.
pub fn create_file(path: &Path, bytes: &[u8], rights: Rights) -> io::Result<()> {
    create_file_in(path, bytes, rights, Rights { group: rights.group, ..Rights::DIRECTORY })
}

/// As [`create_file`]; directories that are missing get rights of their own.
fn create_file_in(path: &Path, bytes: &[u8], rights: Rights, above: Rights) -> io::Result<()> {
    let directory = parent(path)?;
    if path.try_exists()? {
        // Who put it may not have lived to see it durable.
        sync_directory(directory)?;
        return Err(ErrorKind::AlreadyExists.into());
    }
    let temporary = temporary_in(directory)?;
    let written = write_below(&temporary, bytes, rights, above)
        .and_then(|()| name_exclusively(&temporary, path));
    if written.is_err() {
        // What failed is reported; what is left of it has a name that nothing reads.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_directory(directory)
}

/// A name in `directory` that nobody has, and that nothing takes for an object's.
fn temporary_in(directory: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(directory.join(format!("{TEMPORARY}{:032x}", u128::from_le_bytes(random))))
}

/// Writes a file into a directory that is made where it is missing. Whoever deletes the last file in it
/// removes the directory, which may be in this very moment.
fn write_below(path: &Path, bytes: &[u8], rights: Rights, above: Rights) -> io::Result<()> {
    let mut attempts = 0..10;
    loop {
        let written =
            make_directories(parent(path)?, above).and_then(|()| write_synced(path, bytes, rights));
        match written {
            Err(error) if error.kind() == ErrorKind::NotFound && attempts.next().is_some() => {}
            written => return written,
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8], rights: Rights) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(rights.bits).open(path)?;
    file.write_all(bytes)?;
    rights.give(&file)?;
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
    make_directories(path, Rights::DIRECTORY)
}

/// As [`create_directories`], for directories with these rights.
fn make_directories(path: &Path, rights: Rights) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path)?;
    if above != path && !above.is_dir() {
        make_directories(above, rights)?;
    }
    match make_directory(path, above, rights) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(above)
}

/// Makes a directory in `above`. One that a group shares has its rights before anybody can see it: others
/// write into it at once.
fn make_directory(path: &Path, above: &Path, rights: Rights) -> io::Result<()> {
    let make = |path: &Path| fs::DirBuilder::new().mode(rights.bits & 0o777).create(path);
    if rights.group.is_none() {
        return make(path);
    }
    let temporary = temporary_in(above)?;
    make(&temporary)?;
    let named = File::open(&temporary)
        .and_then(|made| rights.give(&made))
        // It takes the place of an empty one, which is as good.
        .and_then(|()| durable_rename(&temporary, path));
    if let Err(error) = named {
        let _ = fs::remove_dir(&temporary);
        return if path.is_dir() { Ok(()) } else { Err(error) };
    }
    Ok(())
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        None => Err(io::Error::other("an object's name is empty")),
        Some(here) if here.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(directory) => Ok(directory),
    }
}

/// An object of another length than it must have.
#[derive(Debug, thiserror::Error)]
enum WrongLength {
    #[error("{length} bytes instead of {wanted}")]
    Short { length: u64, wanted: u64 },
    #[error("{length} bytes, more than {limit}")]
    Long { length: u64, limit: u64 },
}

/// The most bytes that an object of this name can have: whoever can write files here must not be able to make us
/// read without end.
fn limit_of(name: &str) -> u64 {
    let kind = name.split('/').next().unwrap_or_default();
    let sealed = |limit: usize| limit as u64 + SMALL;
    match kind {
        "packs" => MAX_PACK,
        "index" => sealed(MAX_INDEX),
        // What zstd makes larger is stored as it is; the header comes on top.
        "wal" | "conflicts" => MAX_WAL_FILE + sealed(MAX_WAL_HEADER),
        "maintenance" => sealed(MAX_MAINTENANCE),
        _ => sealed(MAX_RECORD),
    }
}

/// More than an object has besides its record: prefix, seal, checksum.
const SMALL: u64 = 64 * 1024;

fn read_whole(path: &Path, limit: u64) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > limit {
        return Err(io::Error::other(WrongLength::Long { length, limit }));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    (&mut file).take(limit).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn read_range(path: &Path, range: Range<u64>) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if range.end > length || range.start > range.end {
        return Err(io::Error::other(WrongLength::Short { length, wanted: range.end }));
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
        if file_name.starts_with('.') || !file_name.starts_with(start) {
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
                // What file systems keep at their root is no object of ours.
                Err(error)
                    if error.kind() == ErrorKind::PermissionDenied && name == "lost+found" => {}
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
        assert!(storage.put("a/b/c", Bytes::new()).await.is_err());
        assert!(!directory.path().join("new").exists(), "only who creates a repository makes it");
        storage.prepare(None).await.unwrap();
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
        assert!(!directory.path().join("new/a/b").exists(), "an empty directory goes too");
        storage.delete("a/b/c").await.unwrap();
        assert!(storage.get("a/b/c").await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn a_place_that_is_not_there_is_not_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("mount-point");
        let storage = LocalStorage::new(root.clone());
        // Not there at all, and then a mount point with nothing mounted.
        for words in ["does not exist", "there is no repository in"] {
            let proves_nothing = |error: Error| {
                assert!(error.may_pass() && !error.is_not_found());
                assert!(error.cause.to_string().contains(words), "{error}: {}", error.cause);
            };
            proves_nothing(storage.get("wal/x").await.unwrap_err());
            proves_nothing(storage.list("wal/").await.unwrap_err());
            proves_nothing(storage.list("").await.unwrap_err());
            proves_nothing(storage.delete("wal/x").await.unwrap_err());
            proves_nothing(storage.put("wal/x", Bytes::new()).await.unwrap_err());
            proves_nothing(storage.ensure_reserve(Some(4096)).await.unwrap_err());
            fs::create_dir_all(&root).unwrap();
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        storage.prepare(None).await.unwrap();
        assert!(storage.list("wal/").await.unwrap().is_empty());
        assert!(storage.get("wal/x").await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn what_a_group_shares_is_for_all_of_it() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let directory = tempfile::tempdir().unwrap();
        let group = fs::metadata(directory.path()).unwrap().gid();
        let root = directory.path().join("shared");
        let storage = LocalStorage::new(root.clone());
        storage.prepare(None).await.unwrap();
        storage.put("keys/1", Bytes::new()).await.unwrap();
        storage.prepare(Some(group)).await.unwrap();
        LocalStorage::new(root.clone()).put("wal/a/b", Bytes::new()).await.unwrap();
        storage.ensure_reserve(Some(4096)).await.unwrap();
        let mode =
            |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
        for directory in ["", "config", "keys", "wal", "wal/a"] {
            assert_eq!(mode(directory), 0o2770, "{directory}");
        }
        assert_eq!([mode("keys/1"), mode("wal/a/b")], [0o440; 2]);
        assert_eq!(mode(reserve::RESERVE), 0o660);
    }
}
