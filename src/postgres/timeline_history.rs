//! Timeline history files, and questions about descent.
//!
//! A `.history` file lists the ancestors of a timeline, oldest first, each with the LSN at which its
//! successor left it.

use super::error::{FormatError, FormatResult};
use super::lsn::{Lsn, TimelineId};
use super::wal_name::{SegmentName, SegmentNo, SegmentSize};
use std::fmt::Write;

/// An ancestor of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: TimelineId,
    /// Where the next timeline of the list leaves it.
    pub switch: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

/// A timeline and its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    ancestors: Vec<Ancestor>,
}

/// The part of a history that lies on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSpan {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it begins (`0/0` for the first).
    pub from: Lsn,
    /// Where the next one leaves it; `None` for the last.
    pub to: Option<Lsn>,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors, usually 1. It has no file.
    pub fn root(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory { timeline, ancestors: Vec::new() }
    }

    /// Reads the file that belongs to `timeline`.
    pub fn parse(timeline: TimelineId, file: &[u8]) -> FormatResult<TimelineHistory> {
        let text = String::from_utf8_lossy(file);
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for line in text.lines().map(str::trim_start) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let ancestor = parse_line(line)?;
            let last = ancestors.last();
            // Where they are left may fall: recovery that follows a timeline and stops before its beginning
            // makes a descendant that leaves it there.
            if last.is_some_and(|last| ancestor.timeline <= last.timeline) {
                return Err(FormatError::invalid(
                    "timeline history",
                    format!("timeline {} is out of order", ancestor.timeline),
                ));
            }
            ancestors.push(ancestor);
        }
        if ancestors.last().is_some_and(|last| last.timeline >= timeline) {
            return Err(FormatError::invalid(
                "timeline history",
                format!("an ancestor of timeline {timeline} is not older than it"),
            ));
        }
        Ok(TimelineHistory { timeline, ancestors })
    }

    /// The file's content.
    pub fn format(&self) -> String {
        let mut file = String::new();
        for Ancestor { timeline, switch, reason } in &self.ancestors {
            // Writing to a string cannot fail.
            let _ = writeln!(file, "{timeline}\t{switch}\t{reason}");
        }
        file
    }

    /// The timeline whose history this is.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Its ancestors, oldest first.
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// Where the path to this timeline leaves `ancestor`, if it is one.
    pub fn switch_from(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.ancestors.iter().find(|a| a.timeline == ancestor).map(|a| a.switch)
    }

    /// The whole path, oldest first, without ancestors of which nothing is on it.
    pub fn spans(&self) -> Vec<TimelineSpan> {
        // Nothing of an ancestor counts from where any later one was left.
        let mut left = Lsn(u64::MAX);
        let backwards = self.ancestors.iter().rev().map(|ancestor| {
            left = left.min(ancestor.switch);
            (ancestor.timeline, left)
        });
        let ends: Vec<(TimelineId, Lsn)> = backwards.collect();
        let mut from = Lsn::INVALID;
        let mut spans = Vec::with_capacity(self.ancestors.len() + 1);
        for (timeline, to) in ends.into_iter().rev().filter(|(_, to)| *to > Lsn::INVALID) {
            if from < to {
                spans.push(TimelineSpan { timeline, from, to: Some(to) });
                from = to;
            }
        }
        spans.push(TimelineSpan { timeline: self.timeline, from, to: None });
        spans
    }

    /// Whether a cluster that stands at `lsn` on `timeline` can go on to this timeline: a backup
    /// that ended there can be recovered along it.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.spans().iter().any(|span| {
            span.timeline == timeline && span.from <= lsn && span.to.is_none_or(|to| lsn <= to)
        })
    }

    /// The timeline of the byte at `lsn`.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let spans = self.spans();
        let holds = spans.iter().find(|span| span.to.is_none_or(|to| lsn < to));
        holds.map_or(self.timeline, |span| span.timeline)
    }

    /// The file that holds segment `number` on this path. A segment in which a switch happens
    /// exists under both timelines; the newer one's begins with a copy of the older one's, so
    /// it alone is needed.
    pub fn segment(&self, number: SegmentNo, size: SegmentSize) -> SegmentName {
        let timeline = self
            .spans()
            .iter()
            .rev()
            .find(|span| SegmentNo::containing(span.from, size) <= number)
            .map_or(self.timeline, |span| span.timeline);
        SegmentName::new(timeline, number, size)
    }
}

fn parse_line(line: &str) -> FormatResult<Ancestor> {
    let bad = || FormatError::syntax("timeline history line", line);
    let mut words = line.splitn(2, char::is_whitespace);
    let timeline = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
    let rest = words.next().map(str::trim_start).ok_or_else(bad)?;
    let (switch, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let switch = switch.parse().map_err(|_| bad())?;
    Ok(Ancestor { timeline, switch, reason: reason.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# comment\n1\t0/3000060\tno recovery target specified\n\n\
        2\t0/5000000\tbefore 2026-08-01 00:00:00+00\n";

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn history() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(4), FILE).unwrap()
    }

    #[test]
    fn files_round_trip() {
        let file = history().format();
        assert_eq!(TimelineHistory::parse(TimelineId(4), file.as_bytes()).unwrap(), history());
        assert_eq!(file.lines().next(), Some("1\t0/3000060\tno recovery target specified"));
    }

    #[test]
    fn nonsense_is_refused() {
        for file in ["x", "1", "1\tzzz\tr", "2\t0/2\ta\n1\t0/3\tb", "4\t0/1\t"] {
            assert!(TimelineHistory::parse(TimelineId(4), file.as_bytes()).is_err(), "{file:?}");
        }
        assert!(TimelineHistory::parse(TimelineId(1), b"").unwrap().ancestors().is_empty());
    }

    #[test]
    fn a_timeline_may_be_left_before_it_began() {
        let file = b"1\t0/B00068\tbefore x\n\n2\t0/A021D8\tbefore y\n";
        let history = TimelineHistory::parse(TimelineId(3), file).unwrap();
        let spans: Vec<_> = history.spans().iter().map(|s| (s.timeline.0, s.from, s.to)).collect();
        let fork = lsn("0/A021D8");
        assert_eq!(spans, [(1, Lsn::INVALID, Some(fork)), (3, fork, None)]);
        assert!(!history.contains(TimelineId(1), lsn("0/A021D9")));
        assert!(!history.contains(TimelineId(2), lsn("0/A021D8")));
    }

    #[test]
    fn descent() {
        let history = history();
        assert_eq!(history.switch_from(TimelineId(2)), Some(lsn("0/5000000")));
        assert_eq!(history.switch_from(TimelineId(3)), None);
        assert!(history.contains(TimelineId(1), lsn("0/3000060")));
        assert!(!history.contains(TimelineId(1), lsn("0/3000061")));
        assert!(!history.contains(TimelineId(3), lsn("0/1000000")));
        assert!(history.contains(TimelineId(4), lsn("9/0")));
        assert!(!history.contains(TimelineId(4), lsn("0/4FFFFFF")));
        assert_eq!(history.timeline_at(lsn("0/300005F")), TimelineId(1));
        assert_eq!(history.timeline_at(lsn("0/3000060")), TimelineId(2));
        assert_eq!(history.timeline_at(lsn("0/5000000")), TimelineId(4));
    }

    #[test]
    fn the_newer_timeline_holds_the_segment_of_a_switch() {
        let size = SegmentSize::DEFAULT;
        let names = |n| history().segment(SegmentNo(n), size).timeline.0;
        assert_eq!([names(2), names(3), names(4), names(5), names(6)], [1, 2, 2, 4, 4]);
    }
}
