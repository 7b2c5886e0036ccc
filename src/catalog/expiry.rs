//! Which WAL no backup of a server needs any more.
//!
//! A backup needs all WAL from its start on, along its timeline and those that leave it later; one that is
//! kept standalone needs only what makes it consistent. What came after the newest backup stays in any case.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use repo_format::names::ObjectName;
use repo_format::snapshot::Snapshot;

use super::{Backup, Catalog, Status, segment_size};
use crate::error::Result;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::timeline_history::TimelineHistory;
use crate::postgres::wal_name::{SegmentNo, SegmentSize, WalName};
use crate::repository::Repository;
use crate::repository::wal;
use crate::wal::inventory::Inventory;

/// A WAL file that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredWal {
    /// Its object.
    pub object: ObjectName,
    /// What PostgreSQL calls it.
    pub file: WalName,
    /// The length of its object in bytes.
    pub stored_size: u64,
}

/// The WAL of a server that none of its backups needs.
///
/// While a backup is being made, or a backup is there that nobody can read, nothing expires: what they need
/// is not known.
pub async fn expired_wal(repository: &Repository, catalog: &Catalog) -> Result<Vec<ExpiredWal>> {
    let is_unknown = |backup: &Backup| backup.status() == Status::Started || backup.is_unreadable;
    if catalog.backups.iter().any(is_unknown) {
        return Ok(vec![]);
    }
    let mut expired = vec![];
    for (system_id, inventory) in &catalog.wal {
        let conflicts = wal::conflicts(repository, &catalog.server, *system_id).await?;
        let archived = inventory.objects().map(|wal| (ObjectName::Wal(wal.name.clone()), wal));
        let conflicts = conflicts.iter().map(|wal| (ObjectName::Conflict(wal.name.clone()), wal));
        let stored = archived.chain(conflicts);
        let of_system = |(_, snapshot): &(&Backup, &Snapshot)| snapshot.system_id == *system_id;
        let remaining: Vec<_> = catalog.usable().filter(of_system).collect();
        let needs = if remaining.is_empty() {
            Needs::of_former_system(catalog, inventory)
        } else {
            Needs::of(&remaining, inventory.histories().clone())?
        };
        for (object, wal) in stored {
            let Ok(file) = wal.name.file.parse::<WalName>() else { continue };
            if needs.expires(&file, wal.archived_at) {
                expired.push(ExpiredWal { object, file, stored_size: wal.stored_size });
            }
        }
    }
    Ok(expired)
}

/// What the backups of one cluster need.
enum Needs {
    /// Backups that remain.
    Backups {
        of_each: Vec<Need>,
        histories: BTreeMap<TimelineId, TimelineHistory>,
        size: SegmentSize,
        /// When the newest of them was made.
        newest: SystemTime,
    },
    /// Nothing: there is no backup any more, and the server is another cluster now.
    Nothing,
    /// All of it: who knows what comes.
    Everything,
}

/// What one backup needs.
struct Need {
    timeline: TimelineId,
    first: SegmentNo,
    /// The last segment that makes it consistent.
    last: SegmentNo,
    stop: Lsn,
    /// Whether it needs no more than that.
    standalone: bool,
}

impl Needs {
    fn of(
        remaining: &[(&Backup, &Snapshot)],
        histories: BTreeMap<TimelineId, TimelineHistory>,
    ) -> Result<Self> {
        let Some((_, last)) = remaining.last() else { return Ok(Needs::Everything) };
        let size = segment_size(last)?;
        let need = |(backup, snapshot): &(&Backup, &Snapshot)| {
            let (start, stop) = (Lsn(snapshot.wal.start_lsn), Lsn(snapshot.wal.stop_lsn));
            Need {
                timeline: TimelineId(snapshot.wal.stop_timeline),
                first: SegmentNo::containing(start, size),
                last: SegmentNo::before(stop, size),
                stop,
                standalone: backup.is_standalone(),
            }
        };
        let newest = remaining.iter().map(|(_, snapshot)| ended(snapshot)).max();
        let newest = newest.unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Needs::Backups {
            of_each: remaining.iter().map(need).collect(),
            histories,
            size,
            newest,
        })
    }

    /// A cluster without backups is a former one if there is a backup of another that was made after
    /// its last WAL.
    fn of_former_system(catalog: &Catalog, inventory: &Inventory) -> Self {
        let last_wal = inventory.objects().map(|wal| wal.archived_at).max();
        let last_wal = last_wal.unwrap_or(SystemTime::UNIX_EPOCH);
        match catalog.usable().any(|(_, snapshot)| ended(snapshot) > last_wal) {
            true => Needs::Nothing,
            false => Needs::Everything,
        }
    }

    fn expires(&self, file: &WalName, archived_at: SystemTime) -> bool {
        let (of_each, histories, size, newest) = match self {
            Needs::Nothing => return true,
            Needs::Everything => return false,
            Needs::Backups { of_each, histories, size, newest } => {
                (of_each, histories, *size, *newest)
            }
        };
        let (WalName::Segment(segment)
        | WalName::Partial(segment)
        | WalName::BackupHistory { segment, .. }) = file
        else {
            return false;
        };
        let Ok(number) = segment.number(size) else { return false };
        let timeline = segment.timeline;
        if of_each.iter().any(|need| need.needs(timeline, number, histories)) {
            return false;
        }
        // Before everything that a backup can be recovered by; or on a branch that none of them follows, but
        // not the one on which the server may be now.
        let mut firsts = of_each.iter().filter(|need| !need.standalone).map(|need| need.first);
        match firsts.next() {
            Some(first) => firsts.fold(first, Ord::min) > number || archived_at < newest,
            // Only standalone ones are left: the next backup tells what may go after the last of them.
            None => of_each.iter().map(|need| need.first).max().is_some_and(|last| number < last),
        }
    }
}

impl Need {
    fn needs(
        &self,
        timeline: TimelineId,
        number: SegmentNo,
        histories: &BTreeMap<TimelineId, TimelineHistory>,
    ) -> bool {
        if self.standalone {
            return timeline == self.timeline && (self.first..=self.last).contains(&number);
        }
        number >= self.first && self.leads_to(timeline, histories)
    }

    /// Whether recovery from the backup can follow `timeline`. One without a known history may descend from
    /// any before it.
    fn leads_to(
        &self,
        timeline: TimelineId,
        histories: &BTreeMap<TimelineId, TimelineHistory>,
    ) -> bool {
        timeline == self.timeline
            || timeline > self.timeline
                && histories
                    .get(&timeline)
                    .is_none_or(|history| history.contains(self.timeline, self.stop))
    }
}

/// When a backup ended, by the clock of the host that made it.
fn ended(snapshot: &Snapshot) -> SystemTime {
    let micros = u64::try_from(snapshot.ended_at).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn size() -> SegmentSize {
        SegmentSize::new(16 * MIB).unwrap()
    }

    fn lsn(segment: u64) -> Lsn {
        Lsn(segment * 16 * MIB + 40)
    }

    fn need(timeline: u32, first: u64, last: u64, standalone: bool) -> Need {
        let (first_lsn, stop) = (lsn(first), lsn(last));
        Need {
            timeline: TimelineId(timeline),
            first: SegmentNo::containing(first_lsn, size()),
            last: SegmentNo::before(stop, size()),
            stop,
            standalone,
        }
    }

    /// Timeline 2 leaves 1 in segment 20, timeline 3 leaves 1 in segment 30.
    fn histories() -> BTreeMap<TimelineId, TimelineHistory> {
        let left = |timeline: u32, segment: u64| {
            let line = format!("1\t{}\tno reason\n", lsn(segment));
            let timeline = TimelineId(timeline);
            (timeline, TimelineHistory::parse(timeline, line.as_bytes()).unwrap())
        };
        let root = TimelineHistory::root(TimelineId(1));
        BTreeMap::from([(TimelineId(1), root), left(2, 20), left(3, 30)])
    }

    /// The time at which the newest backup was made is 1000 s.
    fn needs(of_each: Vec<Need>) -> Needs {
        let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        Needs::Backups { of_each, histories: histories(), size: size(), newest }
    }

    fn expires(needs: &Needs, name: &str, archived_at: u64) -> bool {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(archived_at);
        needs.expires(&name.parse().unwrap(), at)
    }

    fn segment(timeline: u32, number: u64) -> String {
        format!("{timeline:08X}00000000{number:08X}")
    }

    #[test]
    fn what_is_older_than_the_oldest_backup_expires() {
        let needs = needs(vec![need(1, 5, 6, false), need(1, 9, 9, false)]);
        for (number, expected) in [(4, true), (5, false), (7, false), (200, false)] {
            assert_eq!(expires(&needs, &segment(1, number), 10), expected, "{number}");
        }
        assert!(expires(&needs, &format!("{}.00000028.backup", segment(1, 4)), 10));
        assert!(!expires(&needs, &format!("{}.00000028.backup", segment(1, 5)), 10));
        assert!(expires(&needs, &format!("{}.partial", segment(1, 4)), 10));
        assert!(!expires(&needs, "00000002.history", 10));
    }

    #[test]
    fn branches_that_no_backup_follows_expire() {
        // Both timelines leave 1 behind the backup; all of them are needed.
        let both = needs(vec![need(1, 5, 6, false)]);
        for timeline in 1..=3 {
            assert!(!expires(&both, &segment(timeline, 25), 10), "{timeline}");
        }
        // From a backup on timeline 2 neither 1 nor 3 can be reached.
        let on_two = needs(vec![need(2, 22, 22, false)]);
        assert!(!expires(&on_two, &segment(2, 25), 10));
        assert!(expires(&on_two, &segment(1, 25), 10));
        assert!(expires(&on_two, &segment(3, 35), 10));
        // What came after the newest backup stays: the server may be there.
        assert!(!expires(&on_two, &segment(3, 35), 1001));
        assert!(expires(&on_two, &segment(3, 21), 1001));
        // A timeline of which nothing is known may be a child of 2.
        assert!(!expires(&on_two, &segment(4, 35), 10));
        // From a backup behind the place where timeline 2 left, it cannot be reached.
        let later = needs(vec![need(1, 24, 25, false)]);
        assert!(expires(&later, &segment(2, 26), 10));
        assert!(!expires(&later, &segment(3, 35), 10));
    }

    #[test]
    fn standalone_backups_hold_their_own_wal_alone() {
        let needs_ = needs(vec![need(1, 5, 7, true), need(1, 20, 21, false)]);
        for (number, expected) in [(4, true), (5, false), (6, false), (8, true), (20, false)] {
            assert_eq!(expires(&needs_, &segment(1, number), 10), expected, "{number}");
        }
        let alone = needs(vec![need(1, 5, 6, true), need(1, 9, 10, true)]);
        for (number, expected) in [(4, true), (5, false), (8, true), (9, false), (11, false)] {
            assert_eq!(expires(&alone, &segment(1, number), 10), expected, "{number}");
        }
    }
}
