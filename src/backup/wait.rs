//! Waits for the WAL that a backup needs.

use std::time::Duration;

use repo_format::snapshot::Snapshot;

use crate::catalog::segment_size;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::repository::Repository;
use crate::wal::inventory::{Gap, Inventory};

/// How often the archive is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Waits until the WAL that a backup needs is archived.
///
/// # Errors
/// If it is not when `timeout` is over.
pub async fn wait_for_wal(
    repository: &Repository,
    snapshot: &Snapshot,
    timeout: Option<Duration>,
) -> Result<()> {
    let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
    loop {
        let missing = missing_wal(repository, snapshot).await?;
        let Some(gap) = missing.first() else { return Ok(()) };
        if deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline) {
            let hint = match snapshot.cluster.from_standby {
                true => {
                    "see that the primary archives; one without work is made to by primary_conninfo"
                }
                false => "see that archive_command works: barman check",
            };
            return Err(Error::new(
                Kind::Postgres,
                format!("backup {} still waits for WAL: {gap}", snapshot.backup_id),
            )
            .hint(hint));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The WAL that a backup needs and that is not archived.
pub async fn missing_wal(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<Gap>> {
    let inventory = Inventory::load(repository, &snapshot.server, snapshot.system_id).await?;
    let wal = &snapshot.wal;
    let timeline = TimelineId(wal.stop_timeline);
    Ok(inventory.gaps(timeline, Lsn(wal.start_lsn), Lsn(wal.stop_lsn), segment_size(snapshot)?))
}
