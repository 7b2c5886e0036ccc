//! Restores backups: files, WAL, and the settings with which PostgreSQL recovers to a moment.
//!
//! Everything that can be known is checked before the first byte is written: the destination, the
//! tablespaces, the space, and whether the archive reaches the target. `pg_control` comes last, when
//! all else is durable: without it nothing can be taken for a server.

pub mod files;
pub mod owner;
pub mod reach;
pub mod settings;
pub mod target;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use repo_format::chunk::ChunkKind;
use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, Node};

use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::{MappedTablespace, format_tablespace_map};
use crate::postgres::backup_manifest::{FileChecksum, ManifestWriter, WalRange};
use crate::postgres::control_file::CONTROL_FILE;
use crate::postgres::lsn::{Lsn, SystemId, TimelineId};
use crate::postgres::wal_name::{SegmentNo, WalName};
use crate::progress::Progress;
use crate::repository::index::Index;
use crate::repository::reader::Reader;
use crate::repository::{self, Repository};
use crate::wal::fetch::write_whole;
use files::{Plan, PlannedFile, WrittenFile, cannot_write, component};
use owner::Owner;
use settings::{COPIED_WAL, WalSource};
use target::{Moment, Target};

/// A restore that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory that becomes the data directory: it must be empty, or not exist.
    pub destination: PathBuf,
    /// Where tablespaces go, by name; others go where they were.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// The moment.
    pub target: Target,
    /// Whether the server becomes a standby.
    pub standby: bool,
    /// Where recovery gets WAL from.
    pub wal: WalSource,
    /// The file that gets the settings, within the data directory.
    pub settings_file: String,
    /// Threads that decompress.
    pub threads: usize,
}

/// What a restore did.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copied WAL segments.
    pub wal_files: u64,
    /// What was changed against the backup, for people.
    pub changes: Vec<String>,
    /// What the user should look at.
    pub warnings: Vec<String>,
}

/// Restores `snapshot` as `request` says.
pub async fn restore(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    request: &Request,
    progress: &Progress,
) -> Result<Restored> {
    let layout = Layout::new(snapshot, request)?;
    layout.check(snapshot)?;
    let path = reach::path(repository, snapshot, &request.target, progress).await;
    let path = match path {
        // A standby goes on asking for WAL that comes later.
        Err(_) if request.standby && matches!(request.wal, WalSource::Command(_)) => None,
        path => Some(path?),
    };
    let owner = Owner::of(&request.destination);
    let index = Arc::new(Index::load(repository).await?);
    let reader = Arc::new(Reader::new(repository.clone(), index));
    let mut restored = Restored::default();
    let (written, directories) =
        layout.write_files(snapshot, reader.clone(), owner, request.threads, progress).await?;
    restored.files = written.len() as u64;
    restored.bytes = written.iter().map(|file| file.size).sum();
    let mut rest = Rest { repository, snapshot, request, owner, written, restored };
    if let Some(path) = &path {
        rest.wal(path, progress).await?;
    }
    rest.tablespace_map(&layout)?;
    rest.settings()?;
    let control = {
        let (reader, snapshot) = (reader.clone(), snapshot.clone());
        blocking(move || control_file(&reader, &snapshot)).await?
    };
    rest.manifest(&control)?;
    progress.phase("syncing", None);
    files::sync_directories(directories.iter().map(PathBuf::as_path))?;
    rest.control_file(&control)?;
    Ok(rest.restored)
}

/// Where everything goes.
#[derive(Debug)]
struct Layout {
    destination: PathBuf,
    /// The directories of tablespaces, by their object ids.
    tablespaces: BTreeMap<u32, PathBuf>,
}

impl Layout {
    fn new(snapshot: &Snapshot, request: &Request) -> Result<Self> {
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
    fn check(&self, snapshot: &Snapshot) -> Result<()> {
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
    async fn write_files(
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
            crate::storage::local::create_directories(path).map_err(|e| cannot_write(path, e))?;
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

/// The control file of a snapshot: its bytes, checked, and what is known of it.
#[derive(Debug)]
struct Control {
    bytes: Vec<u8>,
    mtime: i64,
}

fn control_file(reader: &Reader, snapshot: &Snapshot) -> Result<Control> {
    let missing = || {
        Error::new(Kind::Damaged, format!("backup {} has no {CONTROL_FILE}", snapshot.backup_id))
    };
    let mut directory = reader.directory(&snapshot.root)?;
    for part in CONTROL_FILE.split('/') {
        let entry = directory.entries.into_iter().find(|entry| entry.name == part.as_bytes());
        match entry.ok_or_else(missing)?.node {
            Node::Directory { entries, .. } => directory = reader.directory(&entries)?,
            Node::File(file) => {
                let bytes = reader.bytes(ChunkKind::Data, &file.content, 1 << 20)?;
                if reader.repository().keys().naming().digest_of(&bytes) != file.digest {
                    return Err(Error::new(
                        Kind::Damaged,
                        format!(
                            "{CONTROL_FILE} of backup {} is not what was backed up",
                            snapshot.backup_id
                        ),
                    ));
                }
                return Ok(Control { bytes, mtime: file.mtime });
            }
            Node::Symlink { .. } => break,
        }
    }
    Err(missing())
}

/// What is left to do when the files are written.
struct Rest<'a> {
    repository: &'a Arc<Repository>,
    snapshot: &'a Snapshot,
    request: &'a Request,
    owner: Option<Owner>,
    written: Vec<WrittenFile>,
    restored: Restored,
}

impl Rest<'_> {
    /// Puts the WAL that makes the backup consistent into `pg_wal`, so that the directory is complete
    /// in itself; and, if no command will fetch it, all WAL on the way to the target beside it.
    async fn wal(&mut self, path: &reach::Path, progress: &Progress) -> Result<()> {
        let wal = &self.snapshot.wal;
        let last = SegmentNo::before(Lsn(wal.stop_lsn), path.size);
        let copied = self.request.wal == WalSource::Copied;
        let last_copied = match self.request.target.moment {
            Moment::Lsn(lsn) => Some(SegmentNo::before(lsn, path.size).max(last)),
            Moment::Immediate => Some(last),
            _ => None,
        };
        progress.phase("copying WAL", None);
        if copied {
            let directory = self.request.destination.join(COPIED_WAL);
            files::make_directory(&directory, 0o700, self.owner)?;
        }
        for segment in &path.segments {
            let number = segment.number(path.size)?;
            let needed = number <= last;
            let wanted = copied && last_copied.is_none_or(|last| number <= last);
            if !needed && !wanted {
                break;
            }
            let name = WalName::Segment(*segment);
            let Some(stored) = path.inventory.find(&name)? else { break };
            let content = repository::wal::read(self.repository, &stored.name).await?;
            progress.advance(content.len() as u64);
            let file = segment.to_string();
            if needed {
                self.put(&format!("pg_wal/{file}"), &content, false)?;
                self.put(&format!("pg_wal/archive_status/{file}.done"), &[], false)?;
            }
            if wanted {
                self.put(&format!("{COPIED_WAL}/{file}"), &content, true)?;
            }
            self.restored.wal_files += 1;
        }
        if copied {
            for timeline in path.history.spans().iter().map(|span| span.timeline) {
                let name = WalName::History(timeline);
                if let Some(stored) = path.inventory.find(&name)? {
                    let content = repository::wal::read(self.repository, &stored.name).await?;
                    self.put(&format!("{COPIED_WAL}/{name}"), &content, true)?;
                }
            }
            let directory = self.request.destination.join(COPIED_WAL);
            files::sync_directories(std::iter::once(directory.as_path()))?;
        }
        Ok(())
    }

    /// Writes where the tablespaces are now; the server makes its links from this at its first start.
    fn tablespace_map(&mut self, layout: &Layout) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        if layout.tablespaces.is_empty() {
            return Ok(());
        }
        let mapped: Vec<MappedTablespace> = layout
            .tablespaces
            .iter()
            .map(|(oid, path)| MappedTablespace {
                oid: *oid,
                location: path.as_os_str().as_bytes().to_vec(),
            })
            .collect();
        for space in &self.snapshot.tablespaces {
            if let Some(path) = layout.tablespaces.get(&space.oid)
                && path.as_os_str().as_bytes() != space.location
            {
                let change = format!("tablespace {} is in {}", space.name, path.display());
                self.restored.changes.push(change);
            }
        }
        self.put("tablespace_map", &format_tablespace_map(&mapped), true)
    }

    /// Writes the recovery settings, and the signal file that makes PostgreSQL obey them.
    fn settings(&mut self) -> Result<()> {
        let Request { target, wal, standby, settings_file, .. } = self.request;
        let lines = settings::lines(target, wal, *standby);
        const AUTO: &str = "postgresql.auto.conf";
        for file in [AUTO, settings_file.as_str()] {
            let path = self.request.destination.join(file);
            let existing = match fs::read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(cannot_write(&path, error)),
            };
            let (mut text, found) = settings::without_recovery(&existing);
            for name in found {
                self.restored.changes.push(format!("{file}: {name} is commented out"));
            }
            if file == settings_file {
                text.push_str(&format!(
                    "# Added by barman restore of {}\n",
                    self.snapshot.backup_id
                ));
                for line in &lines {
                    text.push_str(line);
                    text.push('\n');
                    self.restored.changes.push(format!("{file}: {line}"));
                }
            } else if text == existing {
                continue;
            }
            self.written.retain(|written| written.name != file.as_bytes());
            // pg_verifybackup expects postgresql.auto.conf to differ, and it alone.
            self.put(file, text.as_bytes(), file != AUTO)?;
            if settings_file == AUTO {
                break;
            }
        }
        if settings_file != AUTO {
            self.restored.warnings.push(format!(
                "the recovery settings are in {settings_file}: include it from postgresql.conf"
            ));
        }
        let signal = if *standby { "standby.signal" } else { "recovery.signal" };
        self.put(signal, &[], false)?;
        self.warn_of_paths()
    }

    /// Points to settings that may lead to the server that was backed up.
    fn warn_of_paths(&mut self) -> Result<()> {
        let destination = &self.request.destination;
        if !destination.join("postgresql.conf").exists() {
            self.restored.warnings.push(
                "the backup has no postgresql.conf: it was outside the data directory, and must be \
                 brought back separately"
                    .to_owned(),
            );
        }
        for file in ["postgresql.conf", "postgresql.auto.conf"] {
            let Ok(bytes) = fs::read(destination.join(file)) else { continue };
            for (line, text) in settings::dangerous(&String::from_utf8_lossy(&bytes)) {
                let warning =
                    format!("{file}:{line} names files, check them before the start: {text}");
                self.restored.warnings.push(warning);
            }
        }
        Ok(())
    }

    /// Writes a manifest of what is there now, by which pg_verifybackup can prove it.
    fn manifest(&mut self, control: &Control) -> Result<()> {
        self.written.push(WrittenFile {
            name: CONTROL_FILE.as_bytes().to_vec(),
            size: control.bytes.len() as u64,
            mtime: control.mtime,
            crc: crc32c::crc32c(&control.bytes),
        });
        let system_id = SystemId(self.snapshot.system_id);
        let make = || -> std::io::Result<Vec<u8>> {
            let major = self.snapshot.cluster.version / 10_000;
            let mut manifest = ManifestWriter::new(Vec::new(), major, system_id)?;
            for file in &self.written {
                let modified = Timestamp::from_second(file.mtime).unwrap_or_default();
                let checksum = FileChecksum::crc32c(file.crc);
                manifest.file(&file.name, file.size, modified, Some(&checksum))?;
            }
            let wal = &self.snapshot.wal;
            manifest.finish(&[WalRange {
                timeline: TimelineId(wal.stop_timeline),
                start: Lsn(wal.start_lsn),
                end: Lsn(wal.stop_lsn),
            }])
        };
        let path = self.request.destination.join("backup_manifest");
        let manifest = make().map_err(|e| cannot_write(&path, e))?;
        self.put("backup_manifest", &manifest, false)
    }

    /// Writes the control file: the last thing, after which this is a server.
    fn control_file(&self, control: &Control) -> Result<()> {
        let path = self.request.destination.join(CONTROL_FILE);
        write_whole(&path, &control.bytes)?;
        self.owner.map_or(Ok(()), |owner| owner.give(&path)).map_err(|e| cannot_write(&path, e))
    }

    /// Writes a small file, durably; `listed` ones are in the manifest.
    fn put(&mut self, name: &str, content: &[u8], listed: bool) -> Result<()> {
        let path = self.request.destination.join(name);
        write_whole(&path, content)?;
        if let Some(owner) = self.owner {
            owner.give(&path).map_err(|e| cannot_write(&path, e))?;
        }
        if listed {
            self.written.push(WrittenFile {
                name: name.as_bytes().to_vec(),
                size: content.len() as u64,
                mtime: Timestamp::now().as_second(),
                crc: crc32c::crc32c(content),
            });
        }
        Ok(())
    }
}

/// A moment, as this host's clock shows it and in UTC.
pub fn local(time: Timestamp) -> String {
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let local = zoned.strftime("%Y-%m-%d %H:%M:%S%:z");
    if zoned.offset() == jiff::tz::Offset::UTC {
        local.to_string()
    } else {
        format!("{local} ({})", time.strftime("%Y-%m-%d %H:%M:%S UTC"))
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
