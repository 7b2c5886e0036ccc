//! Recovery targets: the moment that a restored server shall reach.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::{AmbiguousOffset, Disambiguation, TimeZone};

use crate::catalog::resolve::Reach;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, TimelineId};

/// Which moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Moment {
    /// As far as the archive goes.
    #[default]
    Latest,
    /// A time.
    Time(Timestamp),
    /// A position in the WAL.
    Lsn(Lsn),
    /// The end of a transaction.
    Xid(u32),
    /// A restore point that was made with `pg_create_restore_point`.
    Name(String),
    /// As soon as the server is consistent.
    Immediate,
}

/// Along which timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetTimeline {
    /// The newest one that the archive knows.
    #[default]
    Latest,
    /// That of the backup.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What the server does when it has reached the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Waits, readable, for `pg_wal_replay_resume()`.
    Pause,
    /// Becomes a primary.
    Promote,
    /// Shuts down.
    Shutdown,
}

/// A recovery target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Which moment.
    pub moment: Moment,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// Whether what happened exactly at the moment is left out.
    pub exclusive: bool,
    /// What the server does then.
    pub action: Option<Action>,
}

impl Target {
    /// What a backup must reach for this target.
    pub fn reach(&self) -> Result<Reach> {
        let mut reach = Reach::default();
        match &self.moment {
            Moment::Latest => {}
            Moment::Time(time) => reach.time = Some(time.as_microsecond()),
            Moment::Lsn(lsn) => reach.lsn = Some(*lsn),
            Moment::Xid(_) | Moment::Name(_) | Moment::Immediate => {
                return Err(Error::new(
                    Kind::Usage,
                    "'auto' chooses a backup for a time, an LSN, a timeline or no target only",
                )
                .hint("name the backup, or 'latest'"));
            }
        }
        match self.timeline {
            TargetTimeline::Latest => {}
            TargetTimeline::Current => reach.stays = true,
            TargetTimeline::Number(timeline) => reach.timeline = Some(timeline),
        }
        Ok(reach)
    }

    /// What the server does at the target.
    pub fn action(&self) -> Action {
        match self.action {
            Some(action) => action,
            // Without a target there is nothing to pause at.
            None if self.moment == Moment::Latest => Action::Promote,
            None => Action::Pause,
        }
    }

    /// The settings that make PostgreSQL stop there. Every target is set, all but one to nothing, so
    /// that one that a configuration file still has from an earlier recovery does not count. The one
    /// that counts comes last: PostgreSQL refuses to set any other after it, even to nothing.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let (wanted, value) = match &self.moment {
            Moment::Latest => ("recovery_target", String::new()),
            Moment::Immediate => ("recovery_target", "immediate".to_owned()),
            Moment::Time(time) => {
                ("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string())
            }
            Moment::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            Moment::Xid(xid) => ("recovery_target_xid", xid.to_string()),
            Moment::Name(name) => ("recovery_target_name", name.clone()),
        };
        const TARGETS: [&str; 5] = [
            "recovery_target",
            "recovery_target_time",
            "recovery_target_lsn",
            "recovery_target_xid",
            "recovery_target_name",
        ];
        let others = TARGETS.into_iter().filter(|name| *name != wanted);
        let mut settings: Vec<_> = others.map(|name| (name, String::new())).collect();
        settings.push((wanted, value));
        settings.push((
            "recovery_target_timeline",
            match self.timeline {
                TargetTimeline::Latest => "latest".to_owned(),
                TargetTimeline::Current => "current".to_owned(),
                TargetTimeline::Number(timeline) => timeline.to_string(),
            },
        ));
        let inclusive = if self.exclusive { "off" } else { "on" };
        settings.push(("recovery_target_inclusive", inclusive.to_owned()));
        let action = match self.action() {
            Action::Pause => "pause",
            Action::Promote => "promote",
            Action::Shutdown => "shutdown",
        };
        settings.push(("recovery_target_action", action.to_owned()));
        settings
    }
}

/// The time that a user means: with an offset, or else in the zone of this host.
///
/// # Errors
/// If it is no time, or one that the zone has twice or never (around a change of its offset).
pub fn parse_time(text: &str) -> Result<Timestamp> {
    parse_time_in(text, &TimeZone::system())
}

fn parse_time_in(text: &str, zone: &TimeZone) -> Result<Timestamp> {
    /// A time in a named zone must say which of two it means, as one without a zone must.
    static PARSER: DateTimeParser = DateTimeParser::new().disambiguation(Disambiguation::Reject);
    let text = text.trim();
    let wrong = |why: String| {
        Error::new(Kind::Usage, format!("{text:?} is not a time that can be a target: {why}"))
    };
    let form = "write a date and a time, as '2026-01-31 23:59', '2026-01-31 23:59:59.5+01:00' or \
                '2026-01-31T22:59:59Z'; without an offset it is of this host's time zone";
    // It begins with its hour.
    if text.find(':').is_some_and(|at| at <= 2) {
        return Err(wrong("it has no date".to_owned()).hint(form));
    }
    // PostgreSQL writes offsets as +01, which RFC 9557 does not know.
    let spelled = match text.char_indices().rev().nth(2) {
        Some((at, '+' | '-')) if text.contains(':') => format!("{}{}:00", &text[..at], &text[at..]),
        _ => text.to_owned(),
    };
    if spelled.contains('[') {
        let zoned = PARSER.parse_zoned(&spelled);
        return zoned.map(|zoned| zoned.timestamp()).map_err(|e| wrong(e.to_string()).hint(form));
    }
    if let Ok(time) = spelled.parse::<Timestamp>() {
        return Ok(time);
    }
    let civil: DateTime =
        spelled.parse().map_err(|e: jiff::Error| wrong(e.to_string()).hint(form))?;
    let name = zone.iana_name().unwrap_or("of this host");
    let (how, before, after) = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => {
            let time = offset.to_timestamp(civil);
            return time.map_err(|e| wrong(e.to_string()).hint(form));
        }
        AmbiguousOffset::Fold { before, after } => ("has it twice", before, after),
        AmbiguousOffset::Gap { before, after } => {
            ("does not have it: clocks were put forward over it", before, after)
        }
    };
    let civil = civil.strftime("%Y-%m-%d %H:%M:%S%.f");
    Err(wrong(format!("the time zone {name} {how}"))
        .hint(format!("say which moment it is: '{civil}{before}' or '{civil}{after}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_an_offset_mean_one_moment() {
        let expected: Timestamp = "2026-01-31T22:59:59.5Z".parse().unwrap();
        for text in [
            "2026-01-31 23:59:59.5+01:00",
            "2026-01-31 23:59:59.5+01",
            "2026-01-31T22:59:59.5Z",
            "2026-01-31 17:59:59.500000-05",
        ] {
            assert_eq!(parse_time(text).unwrap(), expected, "{text}");
        }
        for text in ["", "yesterday", "2026-13-01 00:00", "2026-01-31 25:00:00+01"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        for text in ["14:30", "9:30:59.5", "14:30+01"] {
            let error = parse_time(text).unwrap_err();
            assert!(error.to_string().ends_with("it has no date"), "{error}");
            assert!(error.hint_text().unwrap().contains("'2026-01-31 23:59'"), "{error}");
        }
    }

    #[test]
    fn times_without_an_offset_are_of_the_zone_and_must_be_one_moment() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let parsed = |text: &str| parse_time_in(text, &berlin);
        for (text, expected) in [
            ("2026-03-29 01:59:59", "2026-03-29T00:59:59Z"),
            ("2026-03-29 03:00", "2026-03-29T01:00:00Z"),
            ("2026-10-25 01:59:59.25", "2026-10-24T23:59:59.25Z"),
            ("2026-10-25 03:00:00", "2026-10-25T02:00:00Z"),
            ("2026-10-25 02:30:00+02", "2026-10-25T00:30:00Z"),
            ("2026-10-25 02:30:00+01", "2026-10-25T01:30:00Z"),
            ("2026-03-29 02:30:00+01", "2026-03-29T01:30:00Z"),
            ("2026-10-25T08:00:00[America/New_York]", "2026-10-25T12:00:00Z"),
        ] {
            assert_eq!(parsed(text).unwrap(), expected.parse().unwrap(), "{text}");
        }
        for (text, how) in [
            ("2026-10-25 02:30:00", "Europe/Berlin has it twice"),
            ("2026-03-29 02:30:00", "Europe/Berlin does not have it"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.to_string().contains(how), "{error}");
            let hint = error.hint_text().unwrap();
            for offset in ["+01", "+02"] {
                let suggested = format!("{text}{offset}");
                assert!(hint.contains(&format!("'{suggested}'")), "{hint}");
                assert!(parsed(&suggested).is_ok(), "{suggested}");
            }
        }
        assert!(parsed("2026-11-01T01:30:00[America/New_York]").is_err(), "twice there");
        assert!(parsed("2026-10-25 02:30:00 CET").is_err(), "an abbreviation says too little");
    }

    #[test]
    fn exactly_one_target_is_set() {
        for moment in [
            Moment::Latest,
            Moment::Immediate,
            Moment::Xid(7),
            Moment::Name("here".into()),
            Moment::Lsn(Lsn(1)),
            Moment::Time(Timestamp::UNIX_EPOCH),
        ] {
            let target = Target { moment: moment.clone(), ..Target::default() };
            let settings = target.settings();
            assert!(settings[..4].iter().all(|(_, value)| value.is_empty()));
            assert_eq!(settings[4].1.is_empty(), moment == Moment::Latest);
        }
    }
}
