//! Restores backups: files, WAL, and the settings with which PostgreSQL recovers to a moment.
//!
//! Everything that can be known is found out before the first byte is written ([`prepared`]): the
//! destination, the tablespaces, the space, the owner, the version of PostgreSQL, the settings, and
//! whether the archive reaches the target. `pg_control` comes last, when all else is durable: without it
//! nothing can be taken for a server. Where a data directory, or a part of a restore, is there already
//! ([`claim`]), it is compared ([`survey`]), `pg_control` goes first, and what is right stays (`correct`).

pub mod agent;
pub mod claim;
pub mod configuration;
mod correct;
pub mod destination;
pub mod environment;
pub mod files;
mod finish;
mod hashing;
pub mod hold;
pub mod host;
pub mod kept;
pub mod layout;
pub mod marker;
mod only;
pub mod owner;
pub mod place;
pub mod places;
pub mod prepared;
pub mod programs;
pub mod reach;
pub mod settings;
pub mod survey;
pub mod target;
pub mod tree;
pub mod wal_plan;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use repo_format::snapshot::Snapshot;

use crate::error::Result;
use crate::progress::Progress;
use crate::repository::Repository;
pub use claim::Onto;
use destination::{Destination, ThisHost};
pub use prepared::Prepared;
use settings::WalSource;
use target::Target;

/// A restore that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory that becomes the data directory.
    pub destination: PathBuf,
    /// What may be there.
    pub onto: Onto,
    /// Where tablespaces go, by name; others go where they were.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// Where WAL goes, if not into the data directory: `pg_wal` becomes a link to it.
    pub wal_directory: Option<PathBuf>,
    /// The user who shall own the files; only root has the choice.
    pub owner: Option<String>,
    /// The moment.
    pub target: Target,
    /// Whether the server becomes a standby.
    pub standby: bool,
    /// Whether it goes on writing into the archive of the server that was backed up.
    pub keep_archiving: bool,
    /// Where recovery gets WAL from.
    pub wal: WalSource,
    /// The file that gets the settings, within the data directory.
    pub settings_file: String,
    /// The directory that gets configuration files which were outside the data directory: empty, or not
    /// there.
    pub config_dir: Option<PathBuf>,
    /// Whether nothing else is written: the data directory is restored already.
    pub config_only: bool,
    /// The databases whose data is restored, beside those that every cluster has; all if there is none.
    pub only_databases: Vec<String>,
    /// Whether a host without the right version of PostgreSQL will do.
    pub any_version: bool,
    /// Threads that decompress.
    pub threads: usize,
}

impl Request {
    /// A restore of all that the archive has.
    pub fn to(destination: impl Into<PathBuf>) -> Request {
        Request {
            destination: destination.into(),
            onto: Onto::Nothing,
            tablespaces: vec![],
            wal_directory: None,
            owner: None,
            target: Target::default(),
            standby: false,
            keep_archiving: false,
            wal: WalSource::Copied,
            settings_file: settings::AUTO.to_owned(),
            config_dir: None,
            config_only: false,
            only_databases: vec![],
            any_version: false,
            threads: 1,
        }
    }
}

/// What a restore did.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were written; the others were there already.
    pub written: u64,
    /// Copied WAL segments.
    pub wal_files: u64,
}

/// Restores `snapshot` on this host as `request` says.
pub async fn restore(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    request: &Request,
    progress: &Progress,
) -> Result<Restored> {
    let here: Arc<dyn Destination> = Arc::new(ThisHost::default());
    let prepared = Prepared::new(repository, snapshot, request, &here, progress).await?;
    prepared.write(progress).await
}

/// A moment, as this host's clock shows it; it can be given as a target so.
pub fn zoned(time: Timestamp) -> String {
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S%.f%:z").to_string()
}

/// A moment, as this host's clock shows it and in UTC.
pub fn local(time: Timestamp) -> String {
    let local = zoned(time);
    if time.to_zoned(jiff::tz::TimeZone::system()).offset() == jiff::tz::Offset::UTC {
        local
    } else {
        format!("{local} ({})", time.strftime("%Y-%m-%d %H:%M:%S%.f UTC"))
    }
}
