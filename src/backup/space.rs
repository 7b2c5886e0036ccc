//! Whether a backup will find room, by what earlier ones took.
//!
//! Nobody knows what is new before it was read. The estimate is low on purpose: a backup that would have fitted must not
//! be refused, and one that runs out of space waits for some and is not lost.

use repo_format::snapshot::Snapshot;

use crate::error::{Error, Kind, Result};
use crate::repository::{Repository, snapshots};
use crate::storage::reserve;

/// Of what nothing is known, compression is expected to leave this part.
const UNKNOWN_PART: u64 = 8;

const MIB: u64 = 1 << 20;

/// What an earlier backup tells, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Earlier {
    /// The size of the cluster, as its server said.
    pub size: u64,
    /// Content that the repository did not have.
    pub new: u64,
    /// What that took.
    pub stored: u64,
}

impl From<&Snapshot> for Earlier {
    fn from(snapshot: &Snapshot) -> Self {
        let statistics = &snapshot.statistics;
        let (new, stored) = (statistics.new_bytes, statistics.stored_bytes);
        Earlier { size: snapshot.cluster.size, new, stored }
    }
}

/// The backups that share most with one of this server: its own of the same cluster, or else those that other servers
/// have of it. In order.
pub async fn earlier(
    repository: &Repository,
    server: &str,
    system_id: u64,
) -> Result<Vec<Earlier>> {
    let mut names = snapshots::names(repository, None).await?;
    names.retain(|name| name.system_id == system_id);
    if names.iter().any(|name| name.server == server) {
        names.retain(|name| name.server == server);
    }
    let mut found = vec![];
    for name in names {
        // What is damaged, or was deleted just now, tells nothing.
        found.extend(snapshots::read(repository, &name).await.ok());
    }
    found.sort_by_key(|snapshot| (snapshot.sequence, snapshot.begun_at));
    Ok(found.iter().map(Earlier::from).collect())
}

/// How many bytes a backup of a cluster of `size` bytes is expected to add.
///
/// The first one stores all of it. A later one stores what the cluster has grown by, and as much as the smallest of
/// those before it but the first: of a single earlier one it is not known how much changes.
pub fn expected(size: u64, earlier: &[Earlier]) -> u64 {
    let (Some((_, later)), Some(last)) = (earlier.split_first(), earlier.last()) else {
        return size / UNKNOWN_PART;
    };
    let changed = later.iter().map(|backup| backup.new).min().unwrap_or(0);
    let new = size.saturating_sub(last.size).saturating_add(changed);
    let sum = |part: fn(&Earlier) -> u64| earlier.iter().map(part).fold(0, u64::saturating_add);
    match (sum(|backup| backup.new), sum(|backup| backup.stored)) {
        (0, _) => new / UNKNOWN_PART,
        (all, stored) => {
            let part = u128::from(new) * u128::from(stored.min(all)) / u128::from(all);
            u64::try_from(part).unwrap_or(u64::MAX)
        }
    }
}

/// Refuses a backup that does not fit. As much as the reserve is left to WAL besides.
pub async fn require(repository: &Repository, expected: u64, reserve: Option<u64>) -> Result<()> {
    let Some(space) = repository.storage().space().await? else { return Ok(()) };
    let left_to_wal = reserve.unwrap_or_else(|| reserve::usual(space.total));
    if expected.saturating_add(left_to_wal) <= space.available {
        return Ok(());
    }
    let message = format!(
        "about {} MiB are expected to be new, and {} has {} MiB free, of which {} MiB are left to WAL",
        expected.div_ceil(MIB),
        repository.location(),
        space.available / MIB,
        left_to_wal.div_ceil(MIB)
    );
    Err(Error::new(Kind::Refused, message).hint(
        "delete backups and free their space, or give the repository more; --no-space-check backs up all the same",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_second_backup_is_not_taken_for_a_first() {
        let backup =
            |size, new, stored| Earlier { size: size * GIB, new: new * GIB, stored: stored * GIB };
        let first = backup(100, 90, 30);
        assert_eq!(expected(100 * GIB, &[]), 100 * GIB / 8);
        assert_eq!(expected(100 * GIB, &[first]), 0);
        assert_eq!(expected(103 * GIB, &[first]), GIB);
        let later = [first, backup(103, 6, 2), backup(103, 9, 3)];
        assert_eq!(expected(103 * GIB, &later), 2 * GIB);
        assert_eq!(expected(u64::MAX, &[backup(0, 0, 0)]), u64::MAX / 8);
    }
}
