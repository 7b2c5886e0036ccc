//! Waits for the WAL that a backup needs.

use std::time::Duration;

use repo_format::snapshot::Snapshot;
use tokio::time::Instant;

use crate::catalog::segment_size;
use crate::error::{Error, Kind, Result};
use crate::human;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::wal::inventory::{Gap, Inventory};

/// How long is waited unless told otherwise.
pub const LIMIT: Duration = Duration::from_secs(3600);

/// How often the archive is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Waits until the WAL that a backup needs is archived; what is missing first when `limit` is over. `progress` is
/// told which segment is awaited.
pub async fn wait_for_wal(
    repository: &Repository,
    snapshot: &Snapshot,
    limit: Duration,
    progress: &Progress,
) -> Result<Option<Gap>> {
    let deadline = Instant::now() + limit;
    let mut told = None;
    loop {
        let Some(gap) = missing_wal(repository, snapshot).await?.into_iter().next() else {
            return Ok(None);
        };
        if Instant::now() >= deadline {
            return Ok(Some(gap));
        }
        if told != Some(gap.first) {
            progress.phase(&format!("waiting for WAL file {}", gap.first), None);
            told = Some(gap.first);
        }
        tokio::time::sleep(POLL.min(deadline - Instant::now())).await;
    }
}

/// The WAL that a backup needs and that is not archived.
pub async fn missing_wal(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<Gap>> {
    let inventory = Inventory::load(repository, &snapshot.server, snapshot.system_id).await?;
    let wal = &snapshot.wal;
    let timeline = TimelineId(wal.stop_timeline);
    Ok(inventory.gaps(timeline, Lsn(wal.start_lsn), Lsn(wal.stop_lsn), segment_size(snapshot)?))
}

/// The error of a backup that is stored, and of which `gap` has not come in `limit`.
pub fn too_late(snapshot: &Snapshot, gap: &Gap, limit: Duration) -> Error {
    let hint = match snapshot.cluster.from_standby {
        true => "see that the primary archives; one without work is made to by primary_conninfo"
            .to_owned(),
        false => format!("see that archive_command works: barman check {}", snapshot.server),
    };
    let limit = human::duration(limit);
    Error::new(
        Kind::Waiting,
        format!("{}, which has not come in {limit}", waits_for(snapshot, gap)),
    )
    .hint(hint)
}

/// What is to be said of a backup that is stored, and of which `gap` is missing.
pub fn waits_for(snapshot: &Snapshot, gap: &Gap) -> String {
    let (first, timeline) = (gap.first, gap.first.timeline);
    let more = match gap.count {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let id = &snapshot.backup_id;
    format!("backup {id} is stored, and waits for the WAL file {first} (timeline {timeline}){more}")
}
