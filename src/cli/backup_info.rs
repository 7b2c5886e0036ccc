//! A backup in the words of Barman's `backup.info`, for JSON.

use jiff::Timestamp;
use repo_format::snapshot::Snapshot;
use serde_json::{Map, Value, json};

use super::human;
use crate::catalog::{Backup, segment_size};
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::wal_name::{SegmentName, SegmentNo, SegmentSize};
use crate::repository::notes::Rehearsal;

/// Barman's letter for a complete backup in `list-backups`; every backup here is one.
pub const LETTER: &str = "F";

/// Barman's word for the same.
pub const TYPE: &str = "full";

/// How the last rehearsal of a backup ended, for which Barman has no words.
pub fn rehearsal(rehearsal: &Rehearsal) -> Value {
    let time = Timestamp::try_from(rehearsal.at).unwrap_or_default();
    json!({
        "time": human::time(time),
        "time_timestamp": human::epoch(time),
        "good": rehearsal.good,
        "report": rehearsal.report,
        "host": rehearsal.host,
    })
}

/// All fields of `backup.info` of a backup that has one of Barman's states.
pub fn fields(server: &str, backup: &Backup) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    set("backup_id", json!(backup.id));
    set("backup_name", json!(backup.name()));
    set("backup_type", json!(TYPE));
    set("server_name", json!(server));
    set("status", json!(backup.status().name()));
    set("mode", json!("postgres"));
    set("error", json!(backup.failure.as_ref().map(|failure| &failure.reason)));
    if let Some(failure) = &backup.failure {
        set("begin_time", json!(shown_time(failure.begun_at)));
        set("begin_time_timestamp", json!(human::epoch(time(failure.begun_at))));
        set("systemid", json!(failure.system_id.map(|id| id.to_string())));
    }
    let Some(snapshot) = &backup.snapshot else { return fields };
    let awaited = backup.needed.gaps.first().map(|gap| gap.first);
    set("awaited_wal", json!(awaited.map(|segment| segment.to_string())));
    set("awaited_timeline", json!(awaited.map(|segment| segment.timeline)));
    let (cluster, statistics) = (&snapshot.cluster, &snapshot.statistics);
    let range = WalRange::of(snapshot);
    set("begin_time", json!(shown_time(snapshot.begun_at)));
    set("begin_time_timestamp", json!(human::epoch(time(snapshot.begun_at))));
    set("end_time", json!(shown_time(snapshot.ended_at)));
    set("end_time_timestamp", json!(human::epoch(time(snapshot.ended_at))));
    set("begin_wal", json!(range.begin.to_string()));
    set("end_wal", json!(range.end.to_string()));
    set("begin_xlog", json!(Lsn(snapshot.wal.start_lsn).to_string()));
    set("end_xlog", json!(Lsn(snapshot.wal.stop_lsn).to_string()));
    set("begin_offset", json!(range.begin_offset));
    set("end_offset", json!(range.end_offset));
    set("timeline", json!(snapshot.wal.stop_timeline));
    set("cluster_size", json!(cluster.size));
    set("size", json!(statistics.bytes));
    set("deduplicated_size", json!(statistics.stored_bytes));
    set("compression", json!("zstd"));
    set("copy_stats", json!({ "copy_time": copy_seconds(snapshot) }));
    set("data_checksums", json!(on_off(cluster.data_checksums != 0)));
    set("summarize_wal", json!(cluster.summarize_wal.map(on_off)));
    let files = cluster.config_files.as_ref();
    set("config_file", json!(files.map(|files| &files.config)));
    set("hba_file", json!(files.map(|files| &files.hba)));
    set("ident_file", json!(files.map(|files| &files.ident)));
    set("included_files", json!(files.map(|files| &files.included)));
    set("pgdata", json!(cluster.data_directory));
    set("systemid", json!(snapshot.system_id.to_string()));
    set("tablespaces", json!(tablespaces(snapshot)));
    set("version", json!(cluster.version));
    set("xlog_segment_size", json!(cluster.wal_segment_size));
    fields
}

/// The segments that a backup begins and ends in, and where in them.
#[derive(Debug, Clone, Copy)]
pub struct WalRange {
    /// The first segment.
    pub begin: SegmentName,
    /// Where in it, in bytes.
    pub begin_offset: u64,
    /// The last segment.
    pub end: SegmentName,
    /// Where in it.
    pub end_offset: u64,
}

impl WalRange {
    /// The range of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let size = segment_size(snapshot).unwrap_or(SegmentSize::DEFAULT);
        let wal = &snapshot.wal;
        let (start, stop) = (Lsn(wal.start_lsn), Lsn(wal.stop_lsn));
        WalRange {
            begin: SegmentName::containing(TimelineId(wal.start_timeline), start, size),
            begin_offset: size.offset(start),
            end: SegmentName::new(
                TimelineId(wal.stop_timeline),
                SegmentNo::before(stop, size),
                size,
            ),
            end_offset: size.offset(stop),
        }
    }
}

/// The tablespaces outside the data directory.
pub fn tablespaces(snapshot: &Snapshot) -> Vec<Value> {
    let shown = |space: &repo_format::snapshot::Tablespace| {
        let location = String::from_utf8_lossy(&space.location);
        json!({ "name": space.name, "oid": space.oid, "location": location })
    };
    snapshot.tablespaces.iter().map(shown).collect()
}

/// A time of the repository.
pub fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

/// How long the copy took, in seconds.
pub fn copy_seconds(snapshot: &Snapshot) -> f64 {
    snapshot.statistics.copy_micros as f64 / 1e6
}

/// How much of the content the repository had already, in per cent. Zeros are no content.
pub fn deduplicated_percent(snapshot: &Snapshot) -> f64 {
    let statistics = &snapshot.statistics;
    let content = statistics.bytes.saturating_sub(statistics.zero_bytes);
    if content == 0 {
        return 0.0;
    }
    100.0 * content.saturating_sub(statistics.new_bytes) as f64 / content as f64
}

/// PostgreSQL's words.
pub fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// A time in the form of Barman, which has no offset: a `_timestamp` goes with each.
fn shown_time(micros: i64) -> String {
    human::time(time(micros))
}
