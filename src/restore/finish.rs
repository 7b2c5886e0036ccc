//! What makes restored files a server: WAL, tablespaces, settings, the manifest, and at the very end
//! the control file.

use std::fs;
use std::sync::Arc;

use jiff::Timestamp;
use repo_format::chunk::ChunkKind;
use repo_format::snapshot::Snapshot;
use repo_format::tree::Node;

use super::files::{self, WrittenFile, cannot_write};
use super::layout::Layout;
use super::owner::Owner;
use super::settings::{self, COPIED_WAL, WalSource};
use super::target::Moment;
use super::{Request, Restored, reach};
use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::{MappedTablespace, format_tablespace_map};
use crate::postgres::backup_manifest::{FileChecksum, ManifestWriter, WalRange};
use crate::postgres::control_file::CONTROL_FILE;
use crate::postgres::lsn::{Lsn, SystemId, TimelineId};
use crate::postgres::wal_name::{SegmentNo, WalName};
use crate::progress::Progress;
use crate::repository::reader::Reader;
use crate::repository::{self, Repository};
use crate::wal::fetch::write_whole;

/// What is left to do when the files are written.
pub struct Rest<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// What is restored.
    pub snapshot: &'a Snapshot,
    /// How.
    pub request: &'a Request,
    /// Who owns the files.
    pub owner: Option<Owner>,
    /// The files that are in the manifest.
    pub written: Vec<WrittenFile>,
    /// What the user is told.
    pub restored: Restored,
}

impl Rest<'_> {
    /// Puts the WAL that makes the backup consistent into `pg_wal`, so that the directory is complete
    /// in itself; and, if no command will fetch it, all WAL on the way to the target beside it.
    pub async fn wal(&mut self, path: &reach::Path, progress: &Progress) -> Result<()> {
        let wal = &self.snapshot.wal;
        let last = SegmentNo::before(Lsn(wal.stop_lsn), path.size);
        let copied = self.request.wal == WalSource::Copied;
        let last_copied = (self.request.target.moment == Moment::Immediate).then_some(last);
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
    pub fn tablespace_map(&mut self, layout: &Layout) -> Result<()> {
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
    pub fn settings(&mut self) -> Result<()> {
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
    pub fn manifest(&mut self, control: &Control) -> Result<()> {
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
    pub fn control_file(&self, control: &Control) -> Result<()> {
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

/// The control file of a snapshot: its bytes, checked, and what is known of it.
#[derive(Debug)]
pub struct Control {
    bytes: Vec<u8>,
    mtime: i64,
}

/// Reads the control file of a snapshot.
pub fn control_file(reader: &Reader, snapshot: &Snapshot) -> Result<Control> {
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
