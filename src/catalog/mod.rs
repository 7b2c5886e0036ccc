//! The catalogue: what is known of a server's backups, from snapshots, notes, sessions and WAL.

pub mod deletion;
pub mod expiry;
pub mod resolve;
pub mod retention;
pub mod servers;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use repo_format::names::BackupName;
use repo_format::note::{Failure, KeepTarget};
use repo_format::session::Session;
use repo_format::snapshot::Snapshot;

use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::wal_name::{SegmentName, SegmentNo, SegmentSize, segments_between};
use crate::repository::notes::{self, BackupNotes, Rehearsal};
use crate::repository::servers::stored_name;
use crate::repository::snapshots::DamagedSnapshot;
use crate::repository::wal::StoredWal;
use crate::repository::{self, Repository, sessions, snapshots};
use crate::wal::inventory::{Gap, Inventory};

/// Where a backup is in its life. It is derived from what is there, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made.
    Started,
    /// It is complete, and so is the WAL that it needs.
    Done,
    /// It is complete, and some of the WAL that it needs is not archived.
    WaitingForWals,
    /// It failed.
    Failed,
}

impl Status {
    /// Barman's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Started => "STARTED",
            Status::Done => "DONE",
            Status::WaitingForWals => "WAITING_FOR_WALS",
            Status::Failed => "FAILED",
        }
    }
}

/// All that is known of a server's backups.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The server.
    pub server: String,
    /// Its backups, oldest first; deleted ones are left out.
    pub backups: Vec<Backup>,
    /// The snapshots of backups that were deleted, as far as they are still there.
    pub deleted: Vec<BackupName>,
    /// The WAL of each cluster the server has had.
    pub wal: BTreeMap<u64, Inventory>,
}

/// A backup.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// Its snapshot, if it has one.
    pub snapshot: Option<Snapshot>,
    /// For what it is kept, if it is.
    pub keep: Option<KeepTarget>,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// How its last rehearsal ended, if it had any.
    pub rehearsal: Option<Rehearsal>,
    /// Whether there is a snapshot that cannot be read.
    pub is_unreadable: bool,
    /// Notes about it that are damaged; what they say is not known.
    pub unreadable_notes: Vec<String>,
    /// Who makes it now, if anyone does.
    pub running: Option<Session>,
    /// The WAL that it needs.
    pub needed: NeededWal,
    /// The WAL after it, until the next backup of the same cluster.
    pub following: FollowingWal,
}

/// The WAL that makes a backup consistent.
#[derive(Debug, Clone, Default)]
pub struct NeededWal {
    /// The segments, with those that are missing.
    pub segments: Vec<SegmentName>,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// What is there takes so many bytes in the archive.
    pub stored_bytes: u64,
}

/// WAL that was archived after a backup's end.
#[derive(Debug, Clone, Default)]
pub struct FollowingWal {
    /// How many segments.
    pub segments: u64,
    /// What they take in the archive, in bytes.
    pub stored_bytes: u64,
    /// Their names, in order.
    pub names: Vec<SegmentName>,
    /// The last of them.
    pub last: Option<SegmentName>,
    /// When the first and the last were archived.
    pub archived: Option<(SystemTime, SystemTime)>,
}

impl Backup {
    /// Where the backup is in its life.
    pub fn status(&self) -> Status {
        match (&self.snapshot, &self.running) {
            (_, Some(_)) => Status::Started,
            (Some(_), None) if self.failure.is_some() => Status::Failed,
            (Some(_), None) if self.needed.gaps.is_empty() => Status::Done,
            (Some(_), None) => Status::WaitingForWals,
            (None, None) => Status::Failed,
        }
    }

    /// The snapshot of a backup that can be used.
    ///
    /// # Errors
    /// If the backup failed, or is still being made.
    pub fn usable(&self) -> Result<&Snapshot> {
        match (self.status(), &self.snapshot) {
            (Status::Done | Status::WaitingForWals, Some(snapshot)) => Ok(snapshot),
            (status, _) => Err(Error::new(
                Kind::Refused,
                format!("backup {} has status {}", self.id, status.name()),
            )
            .hint("choose another one: barman list-backups")),
        }
    }

    /// Whether no moment after its end can be restored from it.
    pub fn is_standalone(&self) -> bool {
        self.keep == Some(KeepTarget::Standalone)
    }

    /// The name that the user gave the backup.
    pub fn name(&self) -> Option<&str> {
        let of_snapshot = self.snapshot.as_ref().and_then(|snapshot| snapshot.name.as_deref());
        of_snapshot.or(self.failure.as_ref().and_then(|failure| failure.name.as_deref()))
    }
}

impl Catalog {
    /// Reads the catalogue of a server.
    pub async fn load(repository: &Repository, server: &str) -> Result<Self> {
        // In this order: a backup that is committed meanwhile has a session, a snapshot, or both.
        let mut running = running_backups(repository, server).await?;
        let (snapshots, damaged) = snapshots::all(repository, Some(server)).await?;
        let mut notes = notes::of_server(repository, server).await?;
        let mut wal = BTreeMap::new();
        for system in crate::wal::inventory::system_ids(repository, server).await? {
            wal.insert(system, Inventory::load(repository, server, system).await?);
        }
        let (mut backups, mut deleted) = (vec![], vec![]);
        for (at, snapshot) in snapshots.iter().enumerate() {
            let notes = notes.remove(&snapshot.backup_id).unwrap_or_default();
            let next =
                snapshots.iter().skip(at + 1).find(|next| next.system_id == snapshot.system_id);
            if notes.deleted {
                deleted.push(snapshot.backup_name());
                continue;
            }
            let inventory = wal.entry(snapshot.system_id).or_default();
            let running = running.remove(&snapshot.backup_id);
            backups.push(with_snapshot(snapshot, next, notes, running, inventory)?);
        }
        for DamagedSnapshot { name, error } in damaged {
            let mut notes = notes.remove(&name.backup_id).unwrap_or_default();
            if notes.deleted {
                deleted.push(name);
                continue;
            }
            tracing::warn!("backup {} cannot be read: {error}", name.backup_id);
            notes.failure.get_or_insert(unreadable(&name, error));
            let backup = without_snapshot(name.backup_id, notes, None);
            backups.push(Backup { is_unreadable: true, ..backup });
        }
        let failed = notes.into_iter().filter(|(_, notes)| !notes.deleted);
        backups.extend(failed.map(|(id, notes)| without_snapshot(id, notes, None)));
        backups.extend(
            running
                .into_iter()
                .map(|(id, session)| without_snapshot(id, BackupNotes::default(), Some(session))),
        );
        let backups = in_order(backups);
        Ok(Catalog { server: server.to_owned(), backups, deleted, wal })
    }

    /// The catalogue as it will be when a backup is deleted.
    #[must_use]
    pub fn without(&self, id: &str) -> Self {
        let mut remaining = self.clone();
        remaining.backups.retain(|backup| backup.id != id);
        remaining
    }

    /// The backups that can be restored, oldest first.
    pub fn usable(&self) -> impl DoubleEndedIterator<Item = (&Backup, &Snapshot)> {
        self.backups.iter().filter_map(|backup| Some((backup, backup.usable().ok()?)))
    }

    /// The backups before and after one, of those that can be restored.
    pub fn neighbours(&self, id: &str) -> (Option<&Backup>, Option<&Backup>) {
        let usable: Vec<&Backup> = self.usable().map(|(backup, _)| backup).collect();
        let Some(at) = usable.iter().position(|backup| backup.id == id) else {
            return (None, None);
        };
        let before = at.checked_sub(1).and_then(|before| usable.get(before));
        (before.copied(), usable.get(at + 1).copied())
    }
}

async fn running_backups(
    repository: &Repository,
    server: &str,
) -> Result<BTreeMap<String, Session>> {
    let all = sessions::running_backups(repository).await?;
    let stored = stored_name(repository, server).await?;
    let of_server = all.into_iter().filter(|((of, _), _)| *of == stored);
    Ok(of_server.map(|((_, backup_id), session)| (backup_id, session)).collect())
}

/// Backups in their order: that of the sequence, which no clock changes. One that failed has no place in it: it
/// comes behind the newest backup with a lower id. What is being made now is the last.
fn in_order(backups: Vec<Backup>) -> Vec<Backup> {
    let (mut placed, rest): (Vec<Backup>, Vec<Backup>) =
        backups.into_iter().partition(|backup| backup.snapshot.is_some());
    placed.sort_by_key(|backup| backup.snapshot.as_ref().map(|snapshot| snapshot.sequence));
    let place = |backup: &Backup| match &backup.running {
        Some(_) => placed.len(),
        None => placed.iter().rposition(|other| other.id < backup.id).map_or(0, |at| at + 1),
    };
    let mut rest: Vec<(usize, bool, Backup)> =
        rest.into_iter().map(|it| (place(&it), it.running.is_some(), it)).collect();
    rest.sort_by(|a, b| (a.0, a.1, &a.2.id).cmp(&(b.0, b.1, &b.2.id)));
    // From the end, so that the places before stay what they are.
    for (place, _, backup) in rest.into_iter().rev() {
        placed.insert(place, backup);
    }
    placed
}

fn with_snapshot(
    snapshot: &Snapshot,
    next: Option<&Snapshot>,
    notes: BackupNotes,
    running: Option<Session>,
    inventory: &Inventory,
) -> Result<Backup> {
    let size = segment_size(snapshot)?;
    let wal = &snapshot.wal;
    let timeline = TimelineId(wal.stop_timeline);
    let (start, stop) = (Lsn(wal.start_lsn), Lsn(wal.stop_lsn));
    let segments: Vec<SegmentName> = segments_between(timeline, start, stop, size).collect();
    let wanted: BTreeSet<SegmentName> = segments.iter().copied().collect();
    let first = SegmentName::containing(timeline, start, size);
    let stored = |wal: &StoredWal| wal.stored_size;
    let mut needed =
        NeededWal { gaps: inventory.gaps(timeline, start, stop, size), segments, stored_bytes: 0 };
    let mut following = FollowingWal::default();
    let until = next.map(|next| Lsn(next.wal.start_lsn));
    let last_needed = SegmentNo::before(stop, size);
    for (name, file) in inventory.files() {
        let Some(segment) = name.segment().filter(|segment| segment.timeline >= timeline) else {
            continue;
        };
        if wanted.contains(&segment) {
            needed.stored_bytes += stored(file);
            continue;
        }
        let Ok(number) = segment.number(size) else { continue };
        let before_next = until.is_none_or(|until| number.start(size) < until);
        if segment >= first && number > last_needed && before_next {
            following.segments += 1;
            following.stored_bytes += stored(file);
            following.names.push(segment);
            following.last = Some(segment);
            let (oldest, newest) =
                following.archived.unwrap_or((file.archived_at, file.archived_at));
            following.archived = Some((oldest.min(file.archived_at), newest.max(file.archived_at)));
        }
    }
    Ok(Backup {
        id: snapshot.backup_id.clone(),
        snapshot: Some(snapshot.clone()),
        keep: notes.keep,
        failure: notes.failure,
        rehearsal: notes.rehearsal,
        is_unreadable: false,
        unreadable_notes: notes.unreadable,
        running,
        needed,
        following,
    })
}

fn without_snapshot(id: String, notes: BackupNotes, running: Option<Session>) -> Backup {
    Backup {
        id,
        snapshot: None,
        keep: notes.keep,
        failure: notes.failure,
        rehearsal: notes.rehearsal,
        is_unreadable: false,
        unreadable_notes: notes.unreadable,
        running,
        needed: NeededWal::default(),
        following: FollowingWal::default(),
    }
}

/// Why a backup whose snapshot is damaged cannot be used.
fn unreadable(name: &BackupName, error: repository::Error) -> Failure {
    let reason =
        format!("{}; it may come back with: barman repo repair snapshots", Error::from(error));
    let begun_at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", &name.backup_id)
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
        .map_or(0, |time| time.timestamp().as_microsecond());
    Failure { reason, begun_at, name: None, system_id: Some(name.system_id) }
}

/// The size of the WAL segments of a backup's cluster.
pub fn segment_size(snapshot: &Snapshot) -> Result<SegmentSize> {
    SegmentSize::new(u64::from(snapshot.cluster.wal_segment_size)).map_err(|error| {
        Error::new(Kind::Damaged, format!("backup {} makes no sense", snapshot.backup_id))
            .because(error)
    })
}
