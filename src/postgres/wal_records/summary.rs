//! The answers a restore needs from the WAL it has read.

use super::{Record, RecordKind};
use crate::postgres::lsn::Lsn;
use jiff::Timestamp;

/// Where and when a transaction committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitAt {
    /// The transaction.
    pub xid: u32,
    /// When it committed.
    pub time: Timestamp,
    /// The end of the commit record: recovery to here includes it.
    pub end: Lsn,
}

/// A named restore point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name; names may repeat, and recovery stops at the first.
    pub name: String,
    /// When it was made.
    pub time: Timestamp,
    /// The end of its record.
    pub end: Lsn,
}

/// Gathers what recovery targets ask about. Feed it every record.
#[derive(Clone, Debug, Default)]
pub struct WalSummary {
    /// The commit with the latest time. Times need not rise along the WAL.
    pub latest_commit: Option<CommitAt>,
    /// The latest time at which a transaction ended, in whatever way: recovery to a time looks at all of them.
    pub latest_end: Option<Timestamp>,
    /// All restore points, in the order of the WAL.
    pub restore_points: Vec<RestorePoint>,
    /// The commit or rollback of the transaction asked for.
    pub transaction: Option<(CommitAt, bool)>,
    /// The beginning of the last record.
    pub last_start: Option<Lsn>,
    /// The end of the last record.
    pub reached: Option<Lsn>,
    wanted_xid: Option<u32>,
}

impl WalSummary {
    /// A summary that also looks for the end of transaction `xid`.
    pub fn looking_for(xid: u32) -> WalSummary {
        WalSummary { wanted_xid: Some(xid), ..WalSummary::default() }
    }

    /// Takes a record.
    pub fn add(&mut self, record: &Record) {
        self.last_start = Some(record.start);
        self.reached = Some(record.end);
        let end = record.end;
        match record.kind {
            RecordKind::Commit { xid, time, .. } => {
                self.latest_end = self.latest_end.max(Some(time));
                let commit = CommitAt { xid, time, end };
                if self.latest_commit.is_none_or(|latest| latest.time <= time) {
                    self.latest_commit = Some(commit);
                }
                self.ended(commit, true);
            }
            RecordKind::Abort { xid, time, .. } => {
                self.latest_end = self.latest_end.max(Some(time));
                self.ended(CommitAt { xid, time, end }, false);
            }
            RecordKind::RestorePoint { ref name, time } => {
                self.restore_points.push(RestorePoint { name: name.clone(), time, end });
            }
            _ => {}
        }
    }

    /// Whether the transaction asked for committed; `None` if its end was not seen.
    pub fn is_committed(&self) -> Option<bool> {
        self.transaction.map(|(_, committed)| committed)
    }

    /// The first restore point of that name, where recovery would stop.
    pub fn restore_point(&self, name: &str) -> Option<&RestorePoint> {
        self.restore_points.iter().find(|point| point.name == name)
    }

    fn ended(&mut self, at: CommitAt, committed: bool) {
        if self.wanted_xid == Some(at.xid) {
            self.transaction = Some((at, committed));
        }
    }
}
