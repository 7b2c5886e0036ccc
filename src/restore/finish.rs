//! What makes restored files a server: WAL, settings, the manifest, and at the very end the control file.

use jiff::Timestamp;
use repo_format::limits::MAX_WAL_FILE;
use repo_format::names::WalObjectName;

use super::configuration::NewFile;
use super::destination::cannot_write;
use super::files::WrittenFile;
use super::marker::MARKER;
use super::prepared::Prepared;
use super::settings::{AUTO, COPIED_WAL};
use crate::error::Result;
use crate::postgres::backup_manifest::{FileChecksum, ManifestWriter, WalRange};
use crate::postgres::control_file::CONTROL_FILE;
use crate::postgres::lsn::{Lsn, SystemId, TimelineId};
use crate::progress::Progress;
use crate::repository;

/// What is left to do when the files are written.
pub struct Rest<'a> {
    /// The restore.
    pub prepared: &'a Prepared,
    /// The files that are in the manifest.
    pub written: Vec<WrittenFile>,
}

impl Rest<'_> {
    /// Writes the WAL that is planned.
    pub async fn wal(&mut self, progress: &Progress) -> Result<()> {
        progress.phase("copying WAL", None);
        for wal in &self.prepared.wal.files {
            let (mut content, mut missing) = (None, vec![]);
            for name in wal.names() {
                match self.wal_there(&name, &wal.object)? {
                    Some(there) => content = Some(there),
                    None => missing.push(name),
                }
            }
            let content = match content {
                Some(content) => content,
                None => repository::wal::read(&self.prepared.repository, &wal.object).await?,
            };
            progress.advance(content.len() as u64);
            for name in missing {
                self.put(&name, &content, None)?;
            }
            let file = &wal.object.file;
            if wal.is_needed {
                self.put(&format!("pg_wal/archive_status/{file}.done"), &[], None)?;
            }
            if wal.is_copied {
                self.list(&format!("{COPIED_WAL}/{file}"), &content);
            }
        }
        Ok(())
    }

    /// The content of a WAL file that is there already, and right.
    fn wal_there(&self, name: &str, object: &WalObjectName) -> Result<Option<Vec<u8>>> {
        let Prepared { layout, request, destination, repository, .. } = self.prepared;
        if !layout.claim.is_in_place() {
            return Ok(None);
        }
        let naming = repository.keys().naming();
        let is_right = |content: &Vec<u8>| {
            WalObjectName::short_digest(&naming.digest_of(content)) == object.digest
        };
        let there = destination.read(&request.destination.join(name), MAX_WAL_FILE)?;
        Ok(there.filter(is_right))
    }

    /// Writes the settings, and what else is not as it was in the backup.
    pub fn new_files(&mut self) -> Result<()> {
        let prepared = self.prepared;
        for NewFile { name, content, mode } in &prepared.new_files {
            self.put(name, content, *mode)?;
            // pg_verifybackup expects these to differ, and no others of the data directory.
            if !name.ends_with(".signal") && name != AUTO && !name.starts_with('/') {
                self.list(name, content);
            }
        }
        Ok(())
    }

    /// Writes a manifest of what is there now, by which pg_verifybackup can prove it.
    pub fn manifest(&mut self) -> Result<()> {
        let Prepared { snapshot, control, request, .. } = self.prepared;
        self.written.push(WrittenFile {
            name: CONTROL_FILE.as_bytes().to_vec(),
            size: control.bytes.len() as u64,
            mtime: control.mtime,
            crc: crc32c::crc32c(&control.bytes),
            written: control.bytes.len() as u64,
        });
        let make = || -> std::io::Result<Vec<u8>> {
            let major = super::host::major_version(snapshot);
            let mut manifest =
                ManifestWriter::new(Vec::new(), major, SystemId(snapshot.system_id))?;
            for file in &self.written {
                let modified = Timestamp::from_second(file.mtime).unwrap_or_default();
                let checksum = FileChecksum::crc32c(file.crc);
                manifest.file(&file.name, file.size, modified, Some(&checksum))?;
            }
            manifest.finish(&[WalRange {
                timeline: TimelineId(snapshot.wal.stop_timeline),
                start: Lsn(snapshot.wal.start_lsn),
                end: Lsn(snapshot.wal.stop_lsn),
            }])
        };
        let path = request.destination.join("backup_manifest");
        let manifest = make().map_err(|e| cannot_write(&path, e))?;
        self.put("backup_manifest", &manifest, None)
    }

    /// Writes the control file: the last thing, after which this is a server. Only then goes the marker,
    /// so that at any moment one of the two tells what this is.
    pub fn control_file(&self) -> Result<()> {
        self.put(CONTROL_FILE, &self.prepared.control.bytes, None)?;
        let Prepared { destination, request, .. } = self.prepared;
        destination.remove(&[request.destination.join(MARKER)])?;
        destination.sync_directories(std::slice::from_ref(&request.destination))
    }

    /// Writes a small file, durably. An absolute name is outside the data directory.
    fn put(&self, name: &str, content: &[u8], mode: Option<u32>) -> Result<()> {
        let path = self.prepared.request.destination.join(name);
        self.prepared.destination.put(&path, content, mode)
    }

    /// Takes a file into the manifest.
    fn list(&mut self, name: &str, content: &[u8]) {
        self.written.push(WrittenFile {
            name: name.as_bytes().to_vec(),
            size: content.len() as u64,
            mtime: Timestamp::now().as_second(),
            crc: crc32c::crc32c(content),
            written: content.len() as u64,
        });
    }
}
