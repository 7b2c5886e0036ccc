//! Whether the archive reaches a target, before anything is written.
//!
//! PostgreSQL finds out only at the end of a recovery that may take hours; we follow the same path
//! through the timelines and look at the same WAL records first.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use repo_format::snapshot::Snapshot;

use super::target::{Moment, Target, TargetTimeline};
use crate::catalog::segment_size;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, SystemId, TimelineId};
use crate::postgres::timeline_history::TimelineHistory;
use crate::postgres::wal_name::{SegmentName, SegmentNo, SegmentSize, WalName};
use crate::postgres::wal_records::{Record, RecordKind, WalReader, WalSummary};
use crate::progress::Progress;
use crate::repository::{self, Repository};
use crate::wal::inventory::{Gap, Inventory};

/// The WAL that a recovery will read.
#[derive(Debug, Clone)]
pub struct Path {
    /// The history of the timeline that it goes along.
    pub history: TimelineHistory,
    /// The segments, from the backup's start as far as the archive has them without a gap; for a
    /// target that is an LSN, up to the record that ends recovery.
    pub segments: Vec<SegmentName>,
    /// The last segment that the archive has without a gap, whatever the target.
    pub last: Option<SegmentName>,
    /// The size of a segment.
    pub size: SegmentSize,
    /// What the archive has.
    pub inventory: Inventory,
}

/// The path of recovery from `snapshot` to `target`.
///
/// # Errors
/// If the archive cannot reach the target; the message says what is missing, or how far it reaches.
pub async fn path(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    target: &Target,
    progress: &Progress,
) -> Result<Path> {
    let inventory = Inventory::load(repository, &snapshot.server, snapshot.system_id).await?;
    let size = segment_size(snapshot)?;
    let history = history(repository, snapshot, target, &inventory).await?;
    let (start, stop) = (Lsn(snapshot.wal.start_lsn), Lsn(snapshot.wal.stop_lsn));
    let mut segments = vec![];
    let mut number = SegmentNo::containing(start, size);
    while let Some(segment) = available(&history, &inventory, number, size) {
        segments.push(segment);
        number = number.next();
    }
    let last = segments.last().copied();
    // Where the timeline that recovery follows begins.
    let begins = history.spans().last().map_or(Lsn::INVALID, |span| span.from);
    let begins = SegmentNo::containing(begins, size);
    let mut path = Path { history, segments, last, size, inventory };
    let needed = match target.moment {
        Moment::Lsn(lsn) => lsn.max(stop),
        _ => stop,
    };
    let last_needed = SegmentNo::before(needed, size);
    if number.0 <= last_needed.0 {
        return Err(path.missing(snapshot, number, last_needed));
    }
    match &target.moment {
        Moment::Lsn(lsn) if *lsn < stop => Err(path.too_early(snapshot, &format!("LSN {lsn}"))),
        Moment::Lsn(_) | Moment::Time(_) | Moment::Xid(_) | Moment::Name(_) => {
            // What follows the record at which recovery stops is not needed.
            let last = search(repository, snapshot, target, &path, progress).await?;
            path.segments.truncate(last + 1);
            Ok(path)
        }
        // PostgreSQL would go on along the timeline before.
        Moment::Latest if number <= begins => Err(path.missing(snapshot, number, begins)),
        Moment::Latest | Moment::Immediate => Ok(path),
    }
}

/// The timeline that recovery will follow, with its ancestors, as PostgreSQL chooses it.
async fn history(
    repository: &Repository,
    snapshot: &Snapshot,
    target: &Target,
    inventory: &Inventory,
) -> Result<TimelineHistory> {
    let current = TimelineId(snapshot.wal.stop_timeline);
    let timeline = match target.timeline {
        TargetTimeline::Current => current,
        TargetTimeline::Number(timeline) => timeline,
        TargetTimeline::Latest => {
            // The newest one is found by trying the next number until there is no history.
            let mut newest = current;
            loop {
                let next = TimelineId(newest.0.saturating_add(1));
                if inventory.find(&WalName::History(next))?.is_none() {
                    break newest;
                }
                newest = next;
            }
        }
    };
    if timeline.0 > 1
        && timeline != current
        && inventory.find(&WalName::History(timeline))?.is_none()
    {
        return Err(Error::new(
            Kind::Refused,
            format!("the archive has no history of timeline {timeline}"),
        )
        .hint(format!("it has WAL of these timelines: {}", list(&inventory.timelines()))));
    }
    let history = inventory.history(repository, timeline).await?;
    if !history.contains(current, Lsn(snapshot.wal.stop_lsn)) {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "backup {} ended on timeline {current} at {}, and timeline {timeline} left that \
                 before",
                snapshot.backup_id,
                Lsn(snapshot.wal.stop_lsn)
            ),
        )
        .hint("choose an older backup, or another timeline with --target-tli (or 'current')"));
    }
    Ok(history)
}

/// The file that recovery must read for a segment. Where a timeline begins, that is its own: that of the one before
/// it goes on to where the path does not lead.
fn available(
    history: &TimelineHistory,
    inventory: &Inventory,
    number: SegmentNo,
    size: SegmentSize,
) -> Option<SegmentName> {
    Some(history.segment(number, size)).filter(|segment| inventory.has(*segment))
}

/// The moments that a recovery can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The timeline that it goes along.
    pub timeline: TimelineId,
    /// The first position: where the backup is consistent.
    pub from: Lsn,
    /// When the backup ended.
    pub from_time: Timestamp,
    /// The last segment that the archive has without a gap.
    pub last_segment: SegmentName,
    /// Where that ends.
    pub to: Lsn,
    /// When it was archived.
    pub archived_at: Timestamp,
}

impl Path {
    /// The moments that a recovery of `snapshot` can reach along this path.
    pub fn window(&self, snapshot: &Snapshot) -> Result<Option<Window>> {
        let Some(last_segment) = self.last else { return Ok(None) };
        let stored = self.inventory.find(&WalName::Segment(last_segment))?;
        let archived_at = stored.and_then(|stored| Timestamp::try_from(stored.archived_at).ok());
        let to = last_segment.number(self.size)?.next().start(self.size);
        Ok(Some(Window {
            timeline: self.history.timeline(),
            from: Lsn(snapshot.wal.stop_lsn),
            from_time: Timestamp::from_microsecond(snapshot.ended_at).unwrap_or_default(),
            last_segment,
            to,
            archived_at: archived_at.unwrap_or_default(),
        }))
    }

    /// What is missing between the WAL that recovery can read and the last that the archive has of the timeline.
    pub fn gap(&self) -> Result<Option<Gap>> {
        let (Some(reached), Some(last)) =
            (self.last, self.inventory.last_segment(self.history.timeline()))
        else {
            return Ok(None);
        };
        let (next, last) = (reached.number(self.size)?.next(), last.number(self.size)?);
        if next >= last {
            return Ok(None);
        }
        let (from, to) = (next.start(self.size), last.start(self.size));
        Ok(self.inventory.gaps(self.history.timeline(), from, to, self.size).into_iter().next())
    }

    fn missing(&self, snapshot: &Snapshot, first: SegmentNo, last: SegmentNo) -> Error {
        let gap = Gap {
            first: self.history.segment(first, self.size),
            last: self.history.segment(last, self.size),
            count: last.0 - first.0 + 1,
        };
        Error::new(
            Kind::NotFound,
            format!(
                "the archive cannot bring backup {} to this target: WAL is missing, from {} ({}) on: {gap}",
                snapshot.backup_id,
                first.start(self.size),
                gap.first,
            ),
        )
        .hint("archive what is missing, or choose an earlier target or a later backup")
    }

    /// The error for a target before the end of the backup, with what can be reached from it.
    fn too_early(&self, snapshot: &Snapshot, what: &str) -> Error {
        let last = self.window(snapshot).ok().flatten().map(|window| {
            let archived = super::local(window.archived_at);
            format!(", and the archive goes on to {} ({archived})", window.last_segment)
        });
        Error::new(
            Kind::Refused,
            format!(
                "{what} is before the end of backup {}, which is consistent from {} ({}) on{}",
                snapshot.backup_id,
                Lsn(snapshot.wal.stop_lsn),
                ended(snapshot),
                last.unwrap_or_default()
            ),
        )
        .hint("choose an earlier backup ('auto' finds one), or a later target")
    }
}

/// Looks for the target in the WAL, in the order of recovery. Returns the index of the segment that has
/// the end of the record by which PostgreSQL knows that it has arrived.
async fn search(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    target: &Target,
    path: &Path,
    progress: &Progress,
) -> Result<usize> {
    progress.phase("reading WAL", Some(path.segments.len() as u64 * path.size.bytes()));
    let mut summary = match target.moment {
        Moment::Xid(xid) => WalSummary::looking_for(xid),
        _ => WalSummary::default(),
    };
    let system = Some(SystemId(snapshot.system_id));
    let (start, stop) = (Lsn(snapshot.wal.start_lsn), Lsn(snapshot.wal.stop_lsn));
    let mut reader = WalReader::starting_at(start, path.size, system);
    let mut arrived = None;
    let mut backup = BackupTime::default();
    for (at, segment) in path.segments.iter().enumerate() {
        let Some(stored) = path.inventory.find(&WalName::Segment(*segment))? else { break };
        let content = repository::wal::read(repository, &stored.name).await?;
        progress.advance(content.len() as u64);
        let take = |record: &Record| {
            if record.end <= stop {
                backup.add(record);
            }
            summary.add(record);
            if arrived.is_none() && is_reached(target, &summary) {
                arrived = Some(record.end);
            }
        };
        reader.feed(*segment, &content, take).map_err(|error| {
            Error::new(Kind::Damaged, format!("{segment} in the archive is not sound"))
                .because(error)
        })?;
        if let Moment::Time(time) = target.moment
            && backup.lasted_beyond(time, target.exclusive, snapshot.ended_at)
        {
            return Err(path.too_early(snapshot, &super::local(time)));
        }
        match arrived {
            // PostgreSQL refuses to stop before it is consistent.
            Some(end) if end <= stop => {
                return Err(path.too_early(snapshot, &name_of(&target.moment)));
            }
            Some(_) => return Ok(at),
            None => {}
        }
        if reader.ended() {
            break;
        }
    }
    let what = name_of(&target.moment);
    let reached = reader.reached().unwrap_or(start);
    let last = summary.latest_commit.map_or_else(
        || "and no transaction committed in it".to_owned(),
        |commit| format!("and its last commit is of {}", super::local(commit.time)),
    );
    Err(Error::new(
        Kind::Refused,
        format!(
            "the archive does not reach {what}: from backup {}, which is consistent from {stop} ({}) on, \
             it goes to {reached} on timeline {}, {last}",
            snapshot.backup_id,
            ended(snapshot),
            path.history.timeline()
        ),
    )
    .hint(how_to_reach(&target.moment, &snapshot.server)))
}

/// What helps where the archive ends before a moment.
fn how_to_reach(moment: &Moment, server: &str) -> String {
    let earlier = "choose an earlier target, or none to go as far as the archive does";
    let lead = match moment {
        Moment::Time(time) if *time > Timestamp::now() => {
            return format!("there is no WAL of the future: {earlier}");
        }
        Moment::Time(_) => "it is after the newest WAL that was archived: ",
        _ => "",
    };
    format!(
        "{lead}if the server still runs, 'barman switch-wal --force --archive {server}' brings its \
         newest WAL; else {earlier}"
    )
}

/// A moment, for people.
fn name_of(moment: &Moment) -> String {
    match moment {
        Moment::Time(time) if *time > Timestamp::now() => {
            format!("{}, which is in the future by this host's clock", super::local(*time))
        }
        Moment::Time(time) => super::local(*time),
        Moment::Lsn(lsn) => format!("a record at LSN {lsn} or after it"),
        Moment::Xid(xid) => format!("the end of transaction {xid}"),
        Moment::Name(name) => format!("restore point {name:?}"),
        _ => "the target".to_owned(),
    }
}

/// Whether recovery would stop by now.
fn is_reached(target: &Target, summary: &WalSummary) -> bool {
    match &target.moment {
        // It stops before the first transaction that ended later (or, exclusively, then).
        Moment::Time(time) => summary
            .latest_end
            .is_some_and(|end| if target.exclusive { end >= *time } else { end > *time }),
        Moment::Xid(_) => summary.transaction.is_some(),
        Moment::Name(name) => summary.restore_point(name).is_some(),
        // Only a record that begins there, or later, tells that everything before it is done.
        Moment::Lsn(lsn) => summary.last_start.is_some_and(|start| start >= *lsn),
        Moment::Latest | Moment::Immediate => true,
    }
}

/// How far the server's own clock had got by the end of a backup, as the WAL of the backup tells. What this
/// host's clock said then is no measure: times in the WAL are the server's.
#[derive(Debug, Default)]
struct BackupTime {
    /// The latest end of a transaction in it: PostgreSQL looks at commits and rollbacks alike.
    transaction: Option<Timestamp>,
    /// The second in which the last of its checkpoints began: all that was committed before is in the backup,
    /// whether the backup's WAL has it or not.
    checkpoint: Option<Timestamp>,
}

impl BackupTime {
    /// Takes a record that comes before the end of the backup.
    fn add(&mut self, record: &Record) {
        match record.kind {
            RecordKind::Commit { time, .. } | RecordKind::Abort { time, .. } => {
                self.transaction = self.transaction.max(Some(time));
            }
            RecordKind::Checkpoint { time, .. } => {
                self.checkpoint = self.checkpoint.max(Some(time));
            }
            _ => {}
        }
    }

    /// Whether the backup may hold anything later than the target, so that it cannot be recovered to it.
    fn lasted_beyond(&self, time: Timestamp, exclusive: bool, ended_at: i64) -> bool {
        let is_before = |checkpoint: Timestamp| {
            let second = time.duration_since(checkpoint);
            // Within the second of the checkpoint only this host's clock can tell.
            second.is_negative()
                || (second < SignedDuration::from_secs(1) && time.as_microsecond() < ended_at)
        };
        self.checkpoint.is_some_and(is_before)
            || self.transaction.is_some_and(|end| time < end || (exclusive && time == end))
    }
}

/// When a backup ended, by the clock of the host that made it.
fn ended(snapshot: &Snapshot) -> String {
    super::local(Timestamp::from_microsecond(snapshot.ended_at).unwrap_or_default())
}

fn list(timelines: &[TimelineId]) -> String {
    timelines.iter().map(TimelineId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::wal_records::ResourceManager;

    fn record(kind: RecordKind) -> Record {
        let (start, end, resource_manager) = (Lsn(1), Lsn(2), ResourceManager::XLOG);
        Record { start, end, resource_manager, xid: 0, length: 1, kind }
    }

    fn at(second: &str) -> Timestamp {
        format!("2026-10-25T01:00:{second}Z").parse().unwrap()
    }

    #[test]
    fn the_servers_clock_tells_whether_a_backup_lasted_beyond_a_time() {
        let mut backup = BackupTime::default();
        let (redo, timeline) = (Lsn(1), TimelineId(1));
        backup.add(&record(RecordKind::Checkpoint {
            redo,
            timeline,
            previous: timeline,
            shutdown: false,
            time: at("10"),
        }));
        // Whatever the clock of the host says that made it: an hour before, or after.
        for ended_at in [at("00").as_microsecond() - 3_600_000_000, i64::MAX] {
            assert!(backup.lasted_beyond(at("09.999"), false, ended_at));
            assert!(!backup.lasted_beyond(at("11"), false, ended_at));
        }
        let ended_at = at("10.5").as_microsecond();
        assert!(backup.lasted_beyond(at("10.4"), false, ended_at));
        assert!(!backup.lasted_beyond(at("10.5"), false, ended_at));

        let commit = |second| RecordKind::Commit { xid: 7, time: at(second), prepared: false };
        backup.add(&record(commit("20")));
        backup.add(&record(commit("15")));
        assert!(backup.lasted_beyond(at("19"), false, ended_at));
        assert!(!backup.lasted_beyond(at("20"), false, ended_at));
        assert!(backup.lasted_beyond(at("20"), true, ended_at));
        assert!(!backup.lasted_beyond(at("20.000001"), true, ended_at));
    }
}
