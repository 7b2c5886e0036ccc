//! Restores backups: files, WAL, and the settings with which PostgreSQL recovers to a moment.
//!
//! Everything that can be known is checked before the first byte is written: the destination, the
//! tablespaces, the space, and whether the archive reaches the target. `pg_control` comes last, when
//! all else is durable: without it nothing can be taken for a server.

pub mod files;
mod finish;
mod layout;
pub mod owner;
pub mod reach;
pub mod settings;
pub mod target;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use repo_format::snapshot::Snapshot;

use crate::error::Result;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::index::Index;
use crate::repository::reader::Reader;
use finish::{Rest, control_file};
use layout::Layout;
use owner::Owner;
use settings::WalSource;
use target::Target;

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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
