//! A backup that the server streams: `BASE_BACKUP` on one side, [`super::copy`] on the other.

use tokio::sync::mpsc;

use super::copy::{Copied, copy};
use super::{Request, ServerFacts};
use crate::error::{Error, Kind, Result};
use crate::postgres::base_backup::{BaseBackup, BaseBackupOptions, WalPosition};
use crate::postgres::replication::ReplicationConnection;
use crate::progress::Progress;
use crate::repository::writer::Writer;

/// Frames between the connection and the copy; the server sends them in 32 KiB.
const QUEUE: usize = 64;

/// A backup whose files are stored, or on their way.
pub struct Streamed {
    /// What the backup was found to be.
    pub copied: Copied,
    /// What still has to be finished.
    pub writer: Writer,
    /// Where the backup begins.
    pub start: WalPosition,
    /// Where the backup is consistent.
    pub stop: WalPosition,
    /// The permission bits of the data directory.
    pub directory_mode: u32,
    /// When the checkpoint was done and the server began to send.
    pub copy_began: std::time::Instant,
}

/// Takes a base backup over `replication`.
pub async fn stream(
    request: &Request,
    facts: &ServerFacts,
    mut replication: ReplicationConnection,
    mut writer: Writer,
    progress: &Progress,
) -> Result<Streamed> {
    let mode = replication.show("data_directory_mode").await?;
    let directory_mode = u32::from_str_radix(&mode, 8).unwrap_or(0o700);
    let options = BaseBackupOptions {
        label: format!("barman backup of {}", request.server),
        fast_checkpoint: request.fast_checkpoint,
        max_rate: request.max_rate.map(|rate| rate.clamp(32, 1 << 20)),
        tablespace_map: !facts.has_tablespaces_in_place,
        ..BaseBackupOptions::default()
    };
    progress.phase("waiting for a checkpoint", None);
    let mut backup = BaseBackup::start(replication, &options).await?;
    let copy_began = std::time::Instant::now();
    let start = backup.start_position();
    let total = backup.tablespaces().iter().filter_map(|space| space.size_kib).sum::<u64>() * 1024;
    progress.phase("copying", Some(total));
    let (frames, received) = mpsc::channel(QUEUE);
    let copying = {
        let (progress, checksums) = (progress.clone(), facts.checksums);
        let repository = writer.repository().clone();
        tokio::task::spawn_blocking(move || {
            let copied =
                copy(received, &repository, &mut writer, checksums, directory_mode, &progress)?;
            Ok::<_, Error>((copied, writer))
        })
    };
    let forwarded = async {
        while let Some(frame) = backup.next().await? {
            // If the copy has failed, it says so itself.
            if frames.send(frame).await.is_err() {
                return Ok(None);
            }
        }
        Ok::<_, Error>(Some(backup.finish().await?.0))
    }
    .await;
    drop(frames);
    let copied = copying.await.unwrap_or_else(|p| std::panic::resume_unwind(p.into_panic()));
    // When the server failed, what arrived is cut short for that reason.
    let stop = forwarded?;
    let (copied, writer) = copied?;
    let stop = stop.ok_or_else(|| Error::new(Kind::Postgres, "the base backup ended early"))?;
    if start.timeline != stop.timeline {
        return Err(Error::new(
            Kind::Postgres,
            format!(
                "the server went from timeline {} to {} during the backup",
                start.timeline, stop.timeline
            ),
        )
        .hint("it was promoted: run the backup again"));
    }
    Ok(Streamed { copied, writer, start, stop, directory_mode, copy_began })
}
