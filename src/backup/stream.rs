//! A backup that the server streams: `BASE_BACKUP` on one side, [`super::copy`] on the other.

use std::fs::File;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, Sender};
use tokio::task::{JoinError, JoinSet};

use super::copy::{self, copy};
use super::source::{self, Means, Read, Taken};
use super::{Request, ServerFacts};
use crate::error::{Error, Kind, Result};
use crate::postgres;
use crate::postgres::base_backup::{BaseBackup, BaseBackupOptions, Frame, WalPosition};
use crate::postgres::replication::ReplicationConnection;
use crate::progress::Progress;
use crate::repository::buffers::Buffers;

/// Frames between the connection and the copy.
const QUEUE: usize = 4;

/// The bytes of a frame of data there. The server sends frames of 32 KiB, and to wake somebody up for each would cost
/// as much as to hash it.
const GATHERED: usize = 256 * 1024;

/// What the server has sent is passed on when it is so old: one that sends slowly shall be seen to send.
const AGE: Duration = Duration::from_millis(200);

/// Takes a base backup.
pub async fn stream(
    request: &Request,
    facts: &ServerFacts,
    means: Means,
    progress: &Progress,
) -> Result<Taken> {
    let Means { mut replication, mut writer, known, manifest, mut wal } = means;
    let directory_mode = source::directory_mode(&mut replication).await?;
    let options = BaseBackupOptions {
        label: format!("barman backup of {}", request.server),
        fast_checkpoint: request.fast_checkpoint,
        max_rate: request.max_rate.map(|rate| rate.clamp(32, 1 << 20)),
        tablespace_map: !facts.has_tablespaces_in_place,
        ..BaseBackupOptions::default()
    };
    progress.phase("waiting for a checkpoint", None);
    let (backup, reading) = start(request, replication, options, manifest).await?;
    let copy_began = Instant::now();
    let start = backup.start_position();
    wal.begin_at(start);
    let total = backup.tablespaces().iter().filter_map(|space| space.size_kib).sum::<u64>() * 1024;
    progress.phase("copying", Some(total));
    let (frames, received) = mpsc::channel(QUEUE);
    let buffers = Buffers::new(QUEUE, GATHERED);
    let copying = {
        let progress = progress.clone();
        let options = copy::Options {
            incremental: reading == Read::Changed,
            verify_pages: facts.checksums,
            directory_mode,
        };
        let repository = writer.repository().clone();
        tokio::task::spawn_blocking(move || {
            let copied = copy(received, &repository, &mut writer, known, options, &progress)?;
            Ok::<_, Error>((copied, writer))
        })
    };
    // In a task of its own, which runs where the socket is polled. It ends when this is dropped.
    let mut forwarding = JoinSet::new();
    forwarding.spawn(forward(backup, frames, buffers));
    // Files without their WAL are of no use: their copy ends with the stream that failed.
    let forwarded = tokio::select! {
        joined = forwarding.join_next() => {
            joined.map_or(Ok(None), |joined| joined.unwrap_or_else(resume))
        }
        failure = wal.failure() => Err(failure),
    };
    drop(forwarding);
    let copied = copying.await.unwrap_or_else(resume);
    // When the server failed, what arrived is cut short for that reason.
    let stop = forwarded?;
    let (copied, writer) = copied?;
    let stop = stop.ok_or_else(|| Error::new(Kind::Postgres, "the base backup ended early"))?;
    source::require_one_timeline(start, stop)?;
    wal.end_at(stop.lsn);
    Ok(Taken { copied, writer, reading, start, stop, directory_mode, wal, copy_began })
}

/// Starts a base backup: of what changed since the backup of `manifest`, if the server does that.
async fn start(
    request: &Request,
    mut replication: ReplicationConnection,
    options: BaseBackupOptions,
    manifest: Option<File>,
) -> Result<(BaseBackup, Read)> {
    let Some(manifest) = manifest else {
        return Ok((BaseBackup::start(replication, &options).await?, Read::Full));
    };
    let host = replication.host().clone();
    let changed = BaseBackupOptions { incremental: true, ..options.clone() };
    let started = match replication.upload_manifest(manifest).await {
        Ok(()) => BaseBackup::start(replication, &changed).await,
        Err(error) => Err(error),
    };
    match started {
        Ok(backup) => Ok((backup, Read::Changed)),
        Err(error @ postgres::Error::Server(_)) => {
            let replication =
                ReplicationConnection::connect(&request.replication.at(&host)).await?;
            let backup = BaseBackup::start(replication, &options).await?;
            Ok((backup, Read::FullAfterRefusal(error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}

/// Passes everything that the server sends on to `frames`. Returns where the backup is consistent, or nothing when
/// nobody takes them any more.
async fn forward(
    mut backup: BaseBackup,
    frames: Sender<Frame>,
    buffers: Buffers,
) -> Result<Option<WalPosition>> {
    let (mut gathered, mut begun) = (buffers.take(), Instant::now());
    while let Some(frame) = backup.next().await? {
        let full = match &frame {
            Frame::Progress(_) => continue,
            Frame::Data(data) => {
                gathered.len() + data.len() > gathered.capacity() || begun.elapsed() >= AGE
            }
            Frame::Archive { .. } | Frame::Manifest => true,
        };
        if full && !gathered.is_empty() {
            let data = buffers.share(std::mem::replace(&mut gathered, buffers.take()));
            // If the copy has failed, it says so itself.
            if frames.send(Frame::Data(data)).await.is_err() {
                return Ok(None);
            }
            begun = Instant::now();
        }
        if let Frame::Data(data) = frame {
            gathered.extend_from_slice(&data);
        } else if frames.send(frame).await.is_err() {
            return Ok(None);
        }
    }
    if frames.send(Frame::Data(buffers.share(gathered))).await.is_err() {
        return Ok(None);
    }
    Ok(Some(backup.finish().await?.0))
}

/// A task that did not end as it should has panicked.
fn resume<T>(error: JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}
