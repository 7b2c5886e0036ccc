//! The types of option values, and how each is written in `barman.conf`.
//!
//! Every parser here returns the sentence that says what was expected; the caller adds the option,
//! the value and the place.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

/// What a value should have been.
pub type Expected = String;

/// A time span as an administrator writes it: `4 DAYS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// How many, at least 1.
    pub count: u32,
    /// Of what.
    pub unit: SpanUnit,
}

/// The units of a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanUnit {
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// 31 days, as in Barman: a month never turns out shorter than expected.
    Month,
}

impl Span {
    /// Its length.
    pub fn duration(self) -> Duration {
        const HOUR: u64 = 60 * 60;
        let unit = match self.unit {
            SpanUnit::Hour => HOUR,
            SpanUnit::Day => 24 * HOUR,
            SpanUnit::Week => 7 * 24 * HOUR,
            SpanUnit::Month => 31 * 24 * HOUR,
        };
        Duration::from_secs(u64::from(self.count) * unit)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            SpanUnit::Hour => "hour",
            SpanUnit::Day => "day",
            SpanUnit::Week => "week",
            SpanUnit::Month => "month",
        };
        write!(f, "{} {unit}{}", self.count, if self.count == 1 { "" } else { "s" })
    }
}

impl FromStr for Span {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let expected = || "expected 'n HOURS', 'n DAYS', 'n WEEKS' or 'n MONTHS'".to_owned();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let unit = match unit.trim().to_ascii_uppercase().as_str() {
            "HOUR" | "HOURS" => SpanUnit::Hour,
            "DAY" | "DAYS" => SpanUnit::Day,
            "WEEK" | "WEEKS" => SpanUnit::Week,
            "MONTH" | "MONTHS" => SpanUnit::Month,
            _ => return Err(expected()),
        };
        match count.parse() {
            Ok(count @ 1..) => Ok(Span { count, unit }),
            _ => Err(expected()),
        }
    }
}

/// Which backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPolicy {
    /// The newest so many.
    Redundancy(u32),
    /// All that are needed to restore any moment of the last so long.
    RecoveryWindow(Span),
}

impl fmt::Display for RetentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RetentionPolicy::Redundancy(count) => write!(f, "REDUNDANCY {count}"),
            RetentionPolicy::RecoveryWindow(Span { count, unit }) => {
                let unit = match unit {
                    SpanUnit::Hour => "HOURS",
                    SpanUnit::Day => "DAYS",
                    SpanUnit::Week => "WEEKS",
                    SpanUnit::Month => "MONTHS",
                };
                write!(f, "RECOVERY WINDOW OF {count} {unit}")
            }
        }
    }
}

impl FromStr for RetentionPolicy {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let expected = || {
            "expected 'REDUNDANCY n', or 'RECOVERY WINDOW OF n' with DAYS, WEEKS or MONTHS"
                .to_owned()
        };
        let upper = text.to_ascii_uppercase();
        let words: Vec<&str> = upper.split_whitespace().collect();
        match words[..] {
            ["REDUNDANCY", count] => match count.parse() {
                Ok(count @ 1..) => Ok(RetentionPolicy::Redundancy(count)),
                _ => Err(expected()),
            },
            ["RECOVERY", "WINDOW", "OF", count, unit] => {
                let span: Span = format!("{count} {unit}").parse().map_err(|_| expected())?;
                match span.unit {
                    SpanUnit::Hour => Err(expected()),
                    _ => Ok(RetentionPolicy::RecoveryWindow(span)),
                }
            }
            _ => Err(expected()),
        }
    }
}

/// A transfer rate, in Barman's kilobytes (1024 bytes) a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// kB/s, at least 1.
    pub kilobytes_per_second: u32,
}

impl Rate {
    /// Bytes a second.
    pub fn bytes_per_second(self) -> u64 {
        u64::from(self.kilobytes_per_second) * 1024
    }

    /// The rate of an option or argument in kB/s, where 0 means no limit.
    pub fn from_kilobytes(kilobytes_per_second: u32) -> Option<Rate> {
        (kilobytes_per_second > 0).then_some(Rate { kilobytes_per_second })
    }
}

/// `recovery_options`: what every restore does unless told otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoveryOptions {
    /// The restored server fetches its WAL itself, by `restore_command`.
    pub get_wal: bool,
    /// A restore may go on top of what is at the destination.
    pub delta_restore: bool,
}

impl FromStr for RecoveryOptions {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let mut options = RecoveryOptions::default();
        for word in list(text) {
            match word {
                "get-wal" => options.get_wal = true,
                "delta-restore" => options.delta_restore = true,
                _ => return Err("expected a list of 'get-wal' and 'delta-restore'".into()),
            }
        }
        Ok(options)
    }
}

/// `delta`: whether of pages that changed only the difference is stored, for which those before are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delta {
    /// Where reading them costs less than is saved: on every file system.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere: such pages are stored whole.
    Never,
}

impl Delta {
    /// Whether differences are stored in a repository on a file system.
    pub fn is_worthwhile(self) -> bool {
        self != Delta::Never
    }
}

impl FromStr for Delta {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "auto" => Ok(Delta::Auto),
            "always" => Ok(Delta::Always),
            "never" => Ok(Delta::Never),
            _ => Err("expected auto, always or never".into()),
        }
    }
}

/// `log_level`, in Python's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub LevelFilter);

impl FromStr for LogLevel {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        Ok(LogLevel(match text.to_ascii_uppercase().as_str() {
            "NOTSET" | "DEBUG" => LevelFilter::DEBUG,
            "INFO" => LevelFilter::INFO,
            "WARNING" | "WARN" => LevelFilter::WARN,
            "ERROR" | "CRITICAL" => LevelFilter::ERROR,
            _ => return Err("expected DEBUG, INFO, WARNING, ERROR or CRITICAL".into()),
        }))
    }
}

/// `true`, `on`, `yes`, `1` and their opposites.
pub fn boolean(text: &str) -> Result<bool, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "on" | "yes" | "y" => Ok(true),
        "false" | "f" | "0" | "off" | "no" | "n" => Ok(false),
        _ => Err("expected true or false (on/off, yes/no, 1/0)".into()),
    }
}

/// A whole number from `min` to `max`.
pub fn integer(text: &str, min: u32, max: u32) -> Result<u32, Expected> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ if max == u32::MAX => Err(format!("expected a whole number, {min} or more")),
        _ => Err(format!("expected a whole number from {min} to {max}")),
    }
}

/// A number of seconds.
pub fn seconds(text: &str) -> Result<Duration, Expected> {
    integer(text, 0, u32::MAX).map(|n| Duration::from_secs(n.into()))
}

/// A rate in kB/s; 0 means no limit.
pub fn rate(text: &str) -> Result<Option<Rate>, Expected> {
    integer(text, 0, u32::MAX).map(Rate::from_kilobytes)
}

/// A size in bytes: `10 Mi`, `3G` (the units with `i` count in 1024, the others in 1000).
pub fn size(text: &str) -> Result<u64, Expected> {
    let expected = || "expected a size: n, or n with k, Ki, M, Mi, G, Gi, T or Ti".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" => 1,
        "k" | "K" => 1000,
        "Ki" => 1 << 10,
        "M" => 1000_u64.pow(2),
        "Mi" => 1 << 20,
        "G" => 1000_u64.pow(3),
        "Gi" => 1 << 30,
        "T" => 1000_u64.pow(4),
        "Ti" => 1 << 40,
        _ => return Err(expected()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(expected)
}

/// An absolute path: `barman` runs from cron and from PostgreSQL, each in a directory of its own.
pub fn path(text: &str) -> Result<PathBuf, Expected> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".into()) }
}

/// The name of a replication slot.
pub fn slot_name(text: &str) -> Result<String, Expected> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=63).contains(&text.len()) && text.bytes().all(valid) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 63 of a-z, 0-9 and _".into())
    }
}

/// A name PostgreSQL shows for a connection.
pub fn application_name(text: &str) -> Result<String, Expected> {
    if text.len() < 64 && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        Ok(text.to_owned())
    } else {
        Err("expected at most 63 printable ASCII characters".into())
    }
}

/// The items of a comma separated list.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Whether `name` can be a server's: 1 to 128 bytes, no `/`, no control characters, and none of the
/// words that mean something else.
pub fn server_name(name: &str) -> Result<(), Expected> {
    let reason = if name.is_empty() || name.len() > 128 {
        "it must have 1 to 128 bytes"
    } else if name.contains('/') || name.chars().any(char::is_control) {
        "it must not contain '/' or control characters"
    } else if name.trim() != name {
        "it must not begin or end with a space"
    } else if matches!(name, "." | ".." | "all" | "barman") {
        "this word is reserved"
    } else {
        return Ok(());
    };
    Err(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for (text, value) in [("On", true), ("1", true), ("yes", true), ("OFF", false)] {
            assert_eq!(boolean(text), Ok(value), "{text}");
        }
        for text in ["", "maybe", "2"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans() {
        let span: Span = "4 DAYS".parse().unwrap();
        assert_eq!(span.duration(), Duration::from_secs(4 * 86_400));
        assert_eq!("1 week".parse::<Span>().unwrap().to_string(), "1 week");
        assert_eq!("2months".parse::<Span>().unwrap().duration().as_secs(), 62 * 86_400);
        assert_eq!("36 hours".parse::<Span>().unwrap().to_string(), "36 hours");
        for text in ["", "DAYS", "0 DAYS", "-1 DAYS", "4", "4 YEARS", "99999999999 DAYS", "٤ DAYS"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn retention_policies() {
        for (text, shown) in [
            ("redundancy 2", "REDUNDANCY 2"),
            ("RECOVERY  WINDOW OF 1 week", "RECOVERY WINDOW OF 1 WEEKS"),
            ("recovery window of 3 MONTHS", "RECOVERY WINDOW OF 3 MONTHS"),
        ] {
            assert_eq!(text.parse::<RetentionPolicy>().unwrap().to_string(), shown);
        }
        for text in ["", "REDUNDANCY", "REDUNDANCY 0", "RECOVERY WINDOW OF 3 HOURS", "2 DAYS"] {
            assert!(text.parse::<RetentionPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("10 k"), Ok(10_000));
        assert_eq!(size("10Ki"), Ok(10_240));
        assert_eq!(size("2 Ti"), Ok(2 << 40));
        for text in ["", "Gi", "1.5 Gi", "1 GB", "99999999999 T", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_seconds() {
        assert_eq!(rate("0"), Ok(None));
        assert_eq!(rate("100").unwrap().unwrap().bytes_per_second(), 102_400);
        assert_eq!(seconds("30"), Ok(Duration::from_secs(30)));
        assert!(rate("4 MB").is_err());
        assert!(seconds("30s").is_err());
    }

    #[test]
    fn recovery_options_are_a_list() {
        let both = RecoveryOptions { get_wal: true, delta_restore: true };
        assert_eq!("get-wal, delta-restore".parse(), Ok(both));
        assert_eq!("".parse(), Ok(RecoveryOptions::default()));
        assert!("get_wal".parse::<RecoveryOptions>().is_err());
    }

    #[test]
    fn names_and_paths() {
        assert_eq!(slot_name("barman_1"), Ok("barman_1".into()));
        assert!(slot_name("Barman").is_err());
        assert!(path("var/lib").is_err());
        assert!(application_name("caf\u{e9}").is_err());
        for name in ["pg", "main db", "ünï", "pg.17-a_b"] {
            assert_eq!(server_name(name), Ok(()), "{name}");
        }
        let long = "x".repeat(129);
        for name in ["", "all", "barman", "a/b", "a\tb", " a", "..", long.as_str()] {
            assert!(server_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn log_levels_are_pythons() {
        assert_eq!("Warning".parse(), Ok(LogLevel(LevelFilter::WARN)));
        assert_eq!("CRITICAL".parse(), Ok(LogLevel(LevelFilter::ERROR)));
        assert!("trace".parse::<LogLevel>().is_err());
    }
}
