//! What single records say.

use crate::postgres::error::FormatResult;
use crate::postgres::fields::Fields;
use crate::postgres::lsn::{Lsn, TimelineId};
use jiff::Timestamp;
use std::fmt;

/// The part of PostgreSQL that wrote a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceManager(pub u8);

impl ResourceManager {
    /// WAL itself: checkpoints, switches, restore points.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Transactions.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
}

impl fmt::Display for ResourceManager {
    /// The name `pg_waldump` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 22] = [
            "XLOG",
            "Transaction",
            "Storage",
            "CLOG",
            "Database",
            "Tablespace",
            "MultiXact",
            "RelMap",
            "Standby",
            "Heap2",
            "Heap",
            "Btree",
            "Hash",
            "Gin",
            "Gist",
            "Sequence",
            "SPGist",
            "BRIN",
            "CommitTs",
            "ReplicationOrigin",
            "Generic",
            "LogicalMessage",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}

/// What a record says, as far as recovery targets and timelines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A transaction committed.
    Commit {
        /// The transaction; for `COMMIT PREPARED` the prepared one.
        xid: u32,
        /// When.
        time: Timestamp,
        /// Whether it had been prepared (two-phase commit).
        prepared: bool,
    },
    /// A transaction was rolled back.
    Abort {
        /// The transaction; for `ROLLBACK PREPARED` the prepared one.
        xid: u32,
        /// When.
        time: Timestamp,
        /// Whether it had been prepared (two-phase commit).
        prepared: bool,
    },
    /// A named restore point.
    RestorePoint {
        /// Its name.
        name: String,
        /// When it was made.
        time: Timestamp,
    },
    /// The rest of the segment is empty.
    Switch,
    /// A checkpoint.
    Checkpoint {
        /// Where recovery from it begins.
        redo: Lsn,
        /// Its timeline.
        timeline: TimelineId,
        /// The timeline before, if it is the first on a new one.
        previous: TimelineId,
        /// Whether the server shut down, or came up from recovery, with it.
        shutdown: bool,
        /// When it began, in whole seconds.
        time: Timestamp,
    },
    /// Recovery ended, and a new timeline began.
    EndOfRecovery {
        /// When.
        time: Timestamp,
        /// The new timeline.
        timeline: TimelineId,
        /// The one it left.
        previous: TimelineId,
    },
    /// A backup taken from a primary is consistent from here.
    BackupEnd {
        /// Where that backup started.
        start: Lsn,
    },
    /// Anything else.
    Other,
}

/// Interprets a record's main data.
pub(super) fn read(
    resource_manager: ResourceManager,
    info: u8,
    xid: u32,
    data: &[u8],
    version: u32,
) -> FormatResult<RecordKind> {
    match resource_manager {
        ResourceManager::XLOG => xlog(info & 0xF0, data),
        ResourceManager::TRANSACTION => transaction(info, xid, data, version),
        _ => Ok(RecordKind::Other),
    }
}

fn xlog(info: u8, data: &[u8]) -> FormatResult<RecordKind> {
    let fields = Fields::new("WAL record", data);
    Ok(match info {
        0x00 | 0x10 => RecordKind::Checkpoint {
            redo: Lsn(fields.u64(0)?),
            timeline: TimelineId(fields.u32(8)?),
            previous: TimelineId(fields.u32(12)?),
            shutdown: info == 0x00,
            time: Timestamp::from_second(fields.i64(64)?).unwrap_or(Timestamp::MAX),
        },
        0x40 => RecordKind::Switch,
        0x50 => RecordKind::BackupEnd { start: Lsn(fields.u64(0)?) },
        0x70 => {
            let name = fields.array::<64>(8)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            RecordKind::RestorePoint {
                name: String::from_utf8_lossy(name).into_owned(),
                time: timestamp(fields.i64(0)?),
            }
        }
        0x90 => RecordKind::EndOfRecovery {
            time: timestamp(fields.i64(0)?),
            timeline: TimelineId(fields.u32(8)?),
            previous: TimelineId(fields.u32(12)?),
        },
        _ => RecordKind::Other,
    })
}

fn transaction(info: u8, xid: u32, data: &[u8], version: u32) -> FormatResult<RecordKind> {
    let has_details = info & 0x80 != 0;
    let operation = info & 0x70;
    let fields = Fields::new("transaction record", data);
    Ok(match operation {
        0x00 => RecordKind::Commit { xid, time: timestamp(fields.i64(0)?), prepared: false },
        0x20 => RecordKind::Abort { xid, time: timestamp(fields.i64(0)?), prepared: false },
        0x30 | 0x40 => {
            let commit = operation == 0x30;
            let xid = if has_details { prepared_xid(&fields, commit, version)? } else { None };
            let xid = xid.unwrap_or_default();
            let time = timestamp(fields.i64(0)?);
            if commit {
                RecordKind::Commit { xid, time, prepared: true }
            } else {
                RecordKind::Abort { xid, time, prepared: true }
            }
        }
        _ => RecordKind::Other,
    })
}

/// The transaction a two-phase commit or rollback ends: it stands behind lists to be stepped over.
fn prepared_xid(fields: &Fields<'_>, commit: bool, version: u32) -> FormatResult<Option<u32>> {
    const HAS_DATABASE: u32 = 1 << 0;
    const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
    const HAS_RELATIONS: u32 = 1 << 2;
    const HAS_INVALIDATIONS: u32 = 1 << 3;
    const HAS_TWO_PHASE: u32 = 1 << 4;
    const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

    let details = fields.u32(8)?;
    if details & HAS_TWO_PHASE == 0 {
        return Ok(None);
    }
    let mut at = 12_usize;
    if details & HAS_DATABASE != 0 {
        at += 8;
    }
    let statistics_item = if version >= 18 { 16 } else { 12 };
    for (flag, item) in [
        (HAS_SUBTRANSACTIONS, 4),
        (HAS_RELATIONS, 12),
        (HAS_DROPPED_STATISTICS, statistics_item),
        (HAS_INVALIDATIONS, 16),
    ] {
        if details & flag != 0 && (commit || flag != HAS_INVALIDATIONS) {
            let count = fields.u32(at)? as usize;
            at = at.saturating_add(4).saturating_add(count.saturating_mul(item));
        }
    }
    fields.u32(at).map(Some)
}

/// Microseconds since 2000 to a moment; what lies beyond the calendar becomes its end.
fn timestamp(microseconds: i64) -> Timestamp {
    const Y2000: i64 = 946_684_800_000_000;
    let limit = if microseconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    microseconds
        .checked_add(Y2000)
        .and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok())
        .unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_calendar_do_not_panic() {
        assert_eq!(timestamp(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(timestamp(i64::MAX), Timestamp::MAX);
        assert_eq!(timestamp(i64::MIN), Timestamp::MIN);
    }

    #[test]
    fn the_prepared_transaction_is_found_behind_the_lists() {
        for (version, item) in [(17, 12), (18, 16)] {
            let mut data = vec![0; 8];
            let all = 1 | 2 | 4 | 8 | 16 | 256_u32;
            data.extend(all.to_le_bytes());
            data.extend([0; 8]);
            for (count, item) in [(2_u32, 4), (1, 12), (1, item), (3, 16)] {
                data.extend(count.to_le_bytes());
                data.extend(vec![9; count as usize * item]);
            }
            data.extend(777_u32.to_le_bytes());
            let kind = read(ResourceManager::TRANSACTION, 0xB0, 1, &data, version).unwrap();
            assert!(matches!(kind, RecordKind::Commit { xid: 777, prepared: true, .. }));
            for length in 0..data.len() {
                let cut = read(ResourceManager::TRANSACTION, 0xB0, 1, &data[..length], version);
                assert!(cut.is_err());
            }
        }
    }
}
