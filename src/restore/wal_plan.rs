//! The WAL that a restore writes: what makes the backup consistent goes into `pg_wal`, so that the
//! directory is complete in itself; and, if no command will fetch it, all WAL on the way to the target
//! goes beside it.

use repo_format::names::WalObjectName;
use repo_format::snapshot::Snapshot;

use super::Request;
use super::layout::Layout;
use super::reach;
use super::settings::{COPIED_WAL, WalSource};
use super::target::Moment;
use crate::error::Result;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::wal_name::{SegmentNo, WalName};

/// WAL to be written.
#[derive(Debug, Clone, Default)]
pub struct WalPlan {
    /// The files, in the order of recovery.
    pub files: Vec<PlannedWal>,
    /// The bytes that they take.
    pub bytes: u64,
}

/// A WAL file to be written.
#[derive(Debug, Clone)]
pub struct PlannedWal {
    /// The object that holds it.
    pub object: WalObjectName,
    /// Whether it goes into `pg_wal`.
    pub is_needed: bool,
    /// Whether it goes where recovery fetches it from.
    pub is_copied: bool,
}

impl PlannedWal {
    /// Its paths within the data directory.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let file = &self.object.file;
        let needed = self.is_needed.then(|| format!("pg_wal/{file}"));
        needed.into_iter().chain(self.is_copied.then(|| format!("{COPIED_WAL}/{file}")))
    }
}

impl WalPlan {
    /// What to write for a recovery along `path`; counts it in `layout`.
    pub fn along(
        path: &reach::Path,
        snapshot: &Snapshot,
        request: &Request,
        layout: &mut Layout,
    ) -> Result<WalPlan> {
        let last = SegmentNo::before(Lsn(snapshot.wal.stop_lsn), path.size);
        let copies = request.wal == WalSource::Copied;
        let last_copied = (request.target.moment == Moment::Immediate).then_some(last);
        let (in_wal, beside) =
            (layout.destination.join("pg_wal"), layout.destination.join(COPIED_WAL));
        let in_wal = layout.wal.clone().unwrap_or(in_wal);
        let mut plan = WalPlan::default();
        for segment in &path.segments {
            let number = segment.number(path.size)?;
            let is_needed = number <= last;
            let is_copied = copies && last_copied.is_none_or(|last| number <= last);
            if !is_needed && !is_copied {
                break;
            }
            let Some(stored) = path.inventory.find(&WalName::Segment(*segment))? else { break };
            for (_, directory) in [(is_needed, &in_wal), (is_copied, &beside)]
                .iter()
                .filter(|(is_written, _)| *is_written)
            {
                plan.bytes += path.size.bytes();
                if let Some(part) = layout.part_of(directory) {
                    part.count(path.size.bytes());
                }
            }
            plan.files.push(PlannedWal { object: stored.name.clone(), is_needed, is_copied });
        }
        if copies {
            // All of them, since PostgreSQL finds the newest timeline by trying one number after the other.
            for timeline in (2..=path.history.timeline().0).map(TimelineId) {
                if let Some(stored) = path.inventory.find(&WalName::History(timeline))? {
                    let object = stored.name.clone();
                    plan.files.push(PlannedWal { object, is_needed: false, is_copied: true });
                }
            }
        }
        Ok(plan)
    }

    /// How many segments there are.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        let names = self.files.iter().map(|wal| wal.object.file.as_str());
        names.filter(|name| !name.ends_with(".history"))
    }
}
