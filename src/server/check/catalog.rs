//! The checks of what the repository has of a server: its backups, their age and size and number, and the
//! WAL that joins them to now.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use repo_format::snapshot::Snapshot;

use super::report::Report;
use super::shelf::{Count, Shelf};
use crate::catalog::segment_size;
use crate::config::Server;
use crate::error::Result;
use crate::human;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::timeline_history::TimelineHistory;
use crate::repository::notes::Rehearsal;
use crate::wal::inventory::{Gap, Inventory};

/// How many gaps, or failed backups, are named.
const NAMED: usize = 3;

/// Adds the lines, in Barman's order; it is `now` by the store's clock. Returns the last backup, if there is one.
pub(super) async fn check(
    server: &Server,
    shelf: &mut Shelf<'_>,
    now: SystemTime,
    report: &mut Report,
) -> Result<Option<Snapshot>> {
    let last = shelf.last().await?;
    let age = |at: SystemTime| now.duration_since(at).unwrap_or_default();
    let arrival = last.as_ref().and_then(|last| shelf.arrival(&last.backup_id));
    check_last(server, last.as_ref(), arrival.map(age), report);
    check_wal(server, shelf, age, report);
    check_rehearsals(server, &shelf.rehearsals, age, report);
    report.must("compression settings", true, "");
    let minimum = usize::try_from(server.minimum_redundancy).unwrap_or(usize::MAX);
    let Count { complete, waiting } = shelf.count(minimum).await?;
    // Asked last: what was found damaged on the way counts too.
    report.should("failed backups", shelf.failed.is_empty(), describe_failed(server, shelf));
    let wait = match waiting {
        0 => String::new(),
        1 => "; 1 more waits for WAL".to_owned(),
        more => format!("; {more} more wait for WAL"),
    };
    let hint = format!("have {complete} backups, expected at least {minimum}{wait}");
    report.should("minimum redundancy requirements", complete >= minimum, hint);
    if let Some(last) = &last {
        check_configuration(server, last, report);
        let oldest = shelf.oldest_needed(last.system_id, server.retention_policy).await?;
        if let (Some(oldest), Some(wal)) = (oldest, shelf.wal.get(&last.system_id)) {
            let gaps = gaps_since(&oldest, wal)?;
            let hint = match gaps.is_empty() {
                true => format!("since backup {}", oldest.backup_id),
                false => describe(&gaps, &oldest),
            };
            report.should("WAL continuity", gaps.is_empty(), hint);
        }
    }
    Ok(last)
}

fn check_last(
    server: &Server,
    last: Option<&Snapshot>,
    age: Option<Duration>,
    report: &mut Report,
) {
    report.backup_bytes = last.map_or(0, |snapshot| snapshot.statistics.bytes);
    match server.last_backup_maximum_age {
        None => report.should("backup maximum age", true, "no last_backup_maximum_age provided"),
        Some(limit) => {
            let shown = age.map_or("No available backups".to_owned(), human::duration);
            let passed = age.is_some_and(|age| age <= limit.duration());
            let hint = format!("interval provided: {limit}, latest backup age: {shown}");
            report.should("backup maximum age", passed, hint);
        }
    }
    let minimum = server.last_backup_minimum_size;
    let passed = minimum.is_none_or(|minimum| report.backup_bytes >= minimum);
    let size = human::size(report.backup_bytes);
    let hint = match minimum {
        Some(minimum) if !passed => format!("{size} is below {}", human::size(minimum)),
        _ => size,
    };
    report.should("backup minimum size", passed, hint);
}

fn check_wal(
    server: &Server,
    shelf: &Shelf<'_>,
    age: impl Fn(SystemTime) -> Duration,
    report: &mut Report,
) {
    let files = shelf.wal.values().flat_map(Inventory::files);
    let (newest, bytes) = files.fold((None, 0), |(newest, bytes), (_, file)| {
        (newest.max(Some(file.archived_at)), bytes + file.stored_size)
    });
    report.wal_bytes = bytes;
    match server.last_wal_maximum_age {
        None => report.should("wal maximum age", true, "no last_wal_maximum_age provided"),
        Some(limit) => {
            let age = newest.map(age);
            let shown = age.map_or("No WAL files archived".to_owned(), human::duration);
            let passed = age.is_some_and(|age| age <= limit.duration());
            let hint = format!("interval provided: {limit}, latest wal age: {shown}");
            report.should("wal maximum age", passed, hint);
        }
    }
    report.should("wal size", true, human::size(bytes));
}

/// Tells of the newest backup that was rehearsed, and how long ago any was proved. Nothing where nobody rehearses.
fn check_rehearsals(
    server: &Server,
    rehearsals: &BTreeMap<String, Rehearsal>,
    age: impl Fn(SystemTime) -> Duration,
    report: &mut Report,
) {
    let limit = server.last_rehearsal_maximum_age;
    let ago = |rehearsal: &Rehearsal| human::duration(age(rehearsal.at));
    let good = rehearsals.iter().filter(|(_, rehearsal)| rehearsal.good);
    let proved = good.max_by_key(|(_, rehearsal)| rehearsal.at);
    if let Some((id, rehearsal)) = rehearsals.last_key_value().filter(|(_, newest)| !newest.good) {
        let (found, ago) = (&rehearsal.report, ago(rehearsal));
        let hint = format!("backup {id} was rehearsed {ago} ago, and failed: {found}");
        report.should("last rehearsal", false, hint);
        return;
    }
    let shown = match proved {
        Some((id, rehearsal)) => format!("backup {id} was proved {} ago", ago(rehearsal)),
        None => format!("no backup was proved; prove one: barman rehearse {} latest", server.name),
    };
    match limit {
        None if proved.is_none() => {}
        None => report.should("last rehearsal", true, shown),
        Some(limit) => {
            let age = proved.map(|(_, rehearsal)| age(rehearsal.at));
            let passed = age.is_some_and(|age| age <= limit.duration());
            report.should("last rehearsal", passed, format!("interval provided: {limit}, {shown}"));
        }
    }
}

/// Tells of configuration that the last backup has only as the server shows it: `backup` does not, when it is run
/// every night.
fn check_configuration(server: &Server, last: &Snapshot, report: &mut Report) {
    let Some(configuration) = last.configuration.as_ref().filter(|it| !it.unread.is_empty()) else {
        return;
    };
    let hint = format!(
        "the last backup has these as the server shows them, because the role may not read them: {}; what to \
         grant is said by: barman setup-sql {}",
        configuration.unread.join(", "),
        server.name
    );
    report.should("configuration files", true, hint);
}

/// Which backups failed, the newest of them by name.
fn describe_failed(server: &Server, shelf: &Shelf<'_>) -> String {
    let count = shelf.failed.len();
    let message = format!("there are {count} failed backups");
    if count == 0 {
        return message;
    }
    let mut named: Vec<&str> = shelf.failed.iter().rev().take(NAMED).map(String::as_str).collect();
    if count > NAMED {
        named.push("…");
    }
    let (named, name) = (named.join(", "), &server.name);
    format!(
        "{message}: {named}; why is told by: barman show-backup {name} ID; \
         to have one no longer: barman delete {name} ID"
    )
}

/// What is missing on the way from a backup to the newest WAL of the newest timeline that it leads to.
fn gaps_since(backup: &Snapshot, wal: &Inventory) -> Result<Vec<Gap>> {
    let size = segment_size(backup)?;
    let (timeline, stop) = (TimelineId(backup.wal.stop_timeline), Lsn(backup.wal.stop_lsn));
    let start = size.floor(Lsn(backup.wal.start_lsn));
    let own = TimelineHistory::root(timeline);
    let mut newer = wal.histories().iter().rev().filter(|(newer, _)| **newer > timeline);
    let history = newer.find(|(_, history)| history.contains(timeline, stop));
    let mut gaps = vec![];
    for span in history.map_or(&own, |(_, history)| history).spans() {
        let newest = wal.last_segment(span.timeline).and_then(|last| last.number(size).ok());
        let newest = newest.map(|number| number.next().start(size));
        // The segment in which a timeline ends is complete under the next one's name.
        let to = span.to.map(|to| size.floor(to)).or(newest).unwrap_or(Lsn::INVALID);
        let from = start.max(size.floor(span.from));
        if span.timeline >= timeline && from < to {
            gaps.extend(wal.gaps(span.timeline, from, to, size));
        }
    }
    Ok(gaps)
}

fn describe(gaps: &[Gap], backup: &Snapshot) -> String {
    let mut named: Vec<String> = gaps.iter().take(NAMED).map(Gap::to_string).collect();
    if gaps.len() > NAMED {
        named.push(format!("and {} more gaps", gaps.len() - NAMED));
    }
    format!(
        "missing since backup {}: {}; no moment after a gap can be restored from a backup before it",
        backup.backup_id,
        named.join(", ")
    )
}
