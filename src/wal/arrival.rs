//! A WAL file that is to be archived, from wherever it comes.

use std::fs;
use std::path::{Path, PathBuf};

use repo_format::limits::MAX_WAL_FILE;

use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::BackupHistory;
use crate::postgres::control_file::{CONTROL_FILE, ControlFile};
use crate::postgres::error::FormatError;
use crate::postgres::lsn::SystemId;
use crate::postgres::timeline_history::TimelineHistory;
use crate::postgres::wal_header::check_segment;
use crate::postgres::wal_name::WalName;

/// A WAL file, checked as far as it says itself what it is.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What its name says.
    pub name: WalName,
    /// Its name.
    pub file: String,
    /// Where it was found, for people.
    pub origin: String,
    /// The cluster it belongs to: segments say so themselves; small files do not, and only if they come
    /// from their data directory it is known.
    pub system_id: Option<SystemId>,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Arrival {
    /// The file `path`, as `archive_command` gets it.
    ///
    /// # Errors
    /// If it cannot be read, or is not what its name says.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let origin = path.display().to_string();
        let name = wal_name(file, &origin).map_err(|e| e.hint("archive_command must pass %p"))?;
        let mut arrival = Arrival::checked(name, file, origin, read(path)?)?;
        if arrival.system_id.is_none() {
            arrival.system_id = control_file_near(path).map(|control| control.system_id);
        }
        Ok(arrival)
    }

    /// As [`Arrival::read`], on a thread of its own, which may hang with the file system.
    pub async fn read_aside(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || Arrival::read(&path));
        read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// A file that came from another host.
    ///
    /// # Errors
    /// If it is not what its name says.
    pub fn received(file: &str, content: Vec<u8>) -> Result<Self> {
        Arrival::checked(wal_name(file, file)?, file, file.to_owned(), content)
    }

    fn checked(name: WalName, file: &str, origin: String, content: Vec<u8>) -> Result<Self> {
        let system_id = system_id(name, &content).map_err(|error| {
            Error::new(Kind::Refused, format!("{origin} is not a sound WAL file")).because(error)
        })?;
        Ok(Arrival { name, file: file.to_owned(), origin, system_id, content })
    }
}

/// Checks the content of a WAL file, and says which cluster it is of, if it knows.
fn system_id(name: WalName, content: &[u8]) -> Result<Option<SystemId>, FormatError> {
    match name {
        WalName::Segment(segment) => {
            Ok(Some(check_segment(content, segment, false, None)?.header.system_id))
        }
        WalName::Partial(segment) => {
            Ok(Some(check_segment(content, segment, true, None)?.header.system_id))
        }
        WalName::History(timeline) => TimelineHistory::parse(timeline, content).map(|_| None),
        WalName::BackupHistory { .. } => BackupHistory::parse(content).map(|_| None),
    }
}

fn wal_name(file: &str, origin: &str) -> Result<WalName> {
    file.parse().map_err(|error: FormatError| {
        Error::new(Kind::Usage, format!("{origin} is not a WAL file")).because(error)
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let too_large =
        fs::metadata(path).map(|metadata| metadata.len() > MAX_WAL_FILE).unwrap_or(false);
    if too_large {
        return Err(Error::new(Kind::Refused, format!("{} is over 1 GiB", path.display())));
    }
    fs::read(path).map_err(|error| {
        Error::new(Kind::Io, format!("cannot read {}", path.display())).because(error)
    })
}

/// The control file of the data directory that a file of `pg_wal` lies in.
fn control_file_near(path: &Path) -> Option<ControlFile> {
    let directory = path.parent()?;
    let mut candidates: Vec<PathBuf> = vec![];
    if directory.file_name().is_some_and(|name| name == "pg_wal") {
        // By name first: pg_wal may be a link to somewhere else.
        candidates.push(directory.parent()?.join(CONTROL_FILE));
    }
    candidates.push(PathBuf::from(CONTROL_FILE));
    candidates.iter().find_map(|file| ControlFile::parse(&fs::read(file).ok()?).ok())
}
