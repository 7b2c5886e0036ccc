//! What a source of a backup is given, and what it gives: [`super::stream`] takes what the server sends, and
//! [`super::local`] reads its files.

use std::fs::File;
use std::time::Instant;

use super::copy::Copied;
use super::held::HeldWal;
use super::parent::KnownPages;
use crate::error::{Error, Kind, Result};
use crate::postgres::base_backup::WalPosition;
use crate::postgres::replication::ReplicationConnection;
use crate::repository::writer::Writer;

/// What a backup is made with.
pub struct Means {
    /// The connection that it is streamed over, and that tells what SQL does not.
    pub replication: ReplicationConnection,
    /// Where its chunks go.
    pub writer: Writer,
    /// What is known of pages.
    pub known: KnownPages,
    /// The manifest of the parent, if only what changed since is to be read.
    pub manifest: Option<File>,
    /// The WAL that the backup will need: it is told where that begins and ends.
    pub wal: HeldWal,
}

/// A backup whose files are stored, or on their way.
pub struct Taken {
    /// What the backup was found to be.
    pub copied: Copied,
    /// What still has to be finished.
    pub writer: Writer,
    /// What was read.
    pub reading: Read,
    /// Where the backup begins.
    pub start: WalPosition,
    /// Where the backup is consistent.
    pub stop: WalPosition,
    /// The permission bits of the data directory.
    pub directory_mode: u32,
    /// The WAL that the backup needs.
    pub wal: HeldWal,
    /// When the checkpoint was done and the copy began.
    pub copy_began: Instant,
}

/// What was read of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Of relation files only the pages that changed.
    Changed,
    /// Everything, as was asked for.
    Full,
    /// Everything, because the server refused to send what changed only.
    FullAfterRefusal(String),
}

/// The permission bits of the server's data directory.
pub async fn directory_mode(replication: &mut ReplicationConnection) -> Result<u32> {
    let mode = replication.show("data_directory_mode").await?;
    Ok(u32::from_str_radix(&mode, 8).unwrap_or(0o700))
}

/// Refuses a backup during which the server went to another timeline.
pub fn require_one_timeline(start: WalPosition, stop: WalPosition) -> Result<()> {
    if start.timeline == stop.timeline {
        return Ok(());
    }
    let message = format!(
        "the server went from timeline {} to {} during the backup",
        start.timeline, stop.timeline
    );
    Err(Error::new(Kind::Postgres, message).hint("it was promoted: run the backup again"))
}
