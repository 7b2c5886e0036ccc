//! From what a user calls a backup to the backup.

use repo_format::snapshot::Snapshot;

use super::{Backup, Catalog, Status};
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, TimelineId};

/// The shortcuts that are taken for a backup, wherever an id is.
const SHORTCUTS: &[&str] =
    &["first", "oldest", "last", "latest", "last-full", "latest-full", "last-failed", "auto"];

/// What a restore must reach, to choose a backup by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// A time, in microseconds since 1970-01-01 UTC.
    pub time: Option<i64>,
    /// A position in the WAL.
    pub lsn: Option<Lsn>,
    /// A timeline; nothing is the newest one that the archive knows.
    pub timeline: Option<TimelineId>,
    /// Whether each backup stays on its own timeline.
    pub stays: bool,
}

impl Reach {
    /// Whether a backup had ended by then.
    fn is_after(&self, snapshot: &Snapshot) -> bool {
        self.time.is_none_or(|time| snapshot.ended_at <= time)
            && self.lsn.is_none_or(|lsn| Lsn(snapshot.wal.stop_lsn) <= lsn)
    }
}

impl Catalog {
    /// The backup with this id, name or shortcut (`latest`, `oldest`, `last-full`, `last-failed` …).
    pub fn find(&self, wanted: &str) -> Result<&Backup> {
        let usable = || self.usable().map(|(backup, _)| backup);
        let found = match wanted {
            "first" | "oldest" => usable().next(),
            // Every backup is complete, so that the last one is the last full one.
            "last" | "latest" | "last-full" | "latest-full" => usable().next_back(),
            "last-failed" => self.backups.iter().rfind(|b| b.status() == Status::Failed),
            id => {
                let by_id = self.backups.iter().find(|backup| backup.id == id);
                by_id.or_else(|| self.backups.iter().rfind(|backup| backup.name() == Some(id)))
            }
        };
        found.ok_or_else(|| {
            let server = &self.server;
            let message = if SHORTCUTS.contains(&wanted) {
                format!("server {server} has no backup that {wanted:?} could mean")
            } else {
                format!("server {server} has no backup {wanted:?}")
            };
            Error::new(Kind::NotFound, message).hint(format!("see: barman list-backups {server}"))
        })
    }

    /// The newest backup from which `reach` can be reached.
    pub fn find_for(&self, reach: &Reach) -> Result<&Backup> {
        let leads = |snapshot: &Snapshot| {
            reach.stays || self.leads_to(snapshot, self.followed(snapshot, reach.timeline))
        };
        let found =
            self.usable().rfind(|(_, snapshot)| reach.is_after(snapshot) && leads(snapshot));
        found.map(|(backup, _)| backup).ok_or_else(|| {
            let message = format!("no backup of {} reaches back to this target", self.server);
            let oldest = self.usable().next().map(|(backup, snapshot)| {
                let end = crate::catalog::resolve::time(snapshot.ended_at);
                format!("the oldest, {}, can be restored from {end} on", backup.id)
            });
            let error = Error::new(Kind::Refused, message);
            match oldest {
                Some(oldest) => error.hint(oldest),
                None => error.hint("there is no backup that can be restored"),
            }
        })
    }

    /// The newest backup, if it was passed over for `chosen` only because its timeline does not lead to the one that
    /// recovery follows; that one, too.
    pub fn passed_over(&self, chosen: &Backup, reach: &Reach) -> Option<(&Backup, TimelineId)> {
        let (newest, snapshot) = self.usable().rfind(|(_, snapshot)| reach.is_after(snapshot))?;
        let followed = self.followed(snapshot, reach.timeline);
        (newest.id != chosen.id).then_some((newest, followed))
    }

    /// The timeline that recovery from a backup follows: the one that is wanted, or the newest. Which that is depends
    /// on the backup, from whose timeline on PostgreSQL tries one number after the other.
    fn followed(&self, snapshot: &Snapshot, wanted: Option<TimelineId>) -> TimelineId {
        let own = TimelineId(snapshot.wal.stop_timeline);
        let is_known = |timeline: &TimelineId| {
            let inventory = self.wal.get(&snapshot.system_id);
            *timeline == own
                || inventory.is_some_and(|known| known.histories().contains_key(timeline))
        };
        let newest = || (own.0..u32::MAX).map(TimelineId).take_while(is_known).last();
        wanted.or_else(newest).unwrap_or(own)
    }

    /// Whether a timeline goes on from a backup.
    fn leads_to(&self, snapshot: &Snapshot, timeline: TimelineId) -> bool {
        let own = TimelineId(snapshot.wal.stop_timeline);
        let Some(inventory) = self.wal.get(&snapshot.system_id) else { return true };
        timeline == own
            || inventory
                .histories()
                .get(&timeline)
                .is_some_and(|history| history.contains(own, Lsn(snapshot.wal.stop_lsn)))
    }

    /// Whether a name can be given to a new backup.
    pub fn check_new_name(&self, name: &str) -> Result<()> {
        let refuse = |reason: &str| {
            Err(Error::new(
                Kind::Refused,
                format!("{name:?} cannot be the name of a backup: {reason}"),
            ))
        };
        if name.is_empty() || name.len() > 255 || name.contains(char::is_control) {
            return refuse("it is empty, too long, or has control characters");
        }
        if SHORTCUTS.contains(&name) || repo_format::names::is_backup_id(name) {
            return refuse("it would be taken for an id");
        }
        if self.backups.iter().any(|backup| backup.name() == Some(name)) {
            return refuse("there is a backup of that name");
        }
        Ok(())
    }
}

/// A time in UTC, for messages.
pub(crate) fn time(micros: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
