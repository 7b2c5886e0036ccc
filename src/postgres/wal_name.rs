//! The names of WAL files, and the arithmetic between them and LSNs.
//!
//! A segment's name is 24 hexadecimal digits: timeline, then the segment's number split in two parts
//! whose sizes depend on the segment size. Names are kept as they are written ([`SegmentName`]);
//! only turning one into a position needs the [`SegmentSize`].

use super::error::{FormatError, FormatResult};
use super::lsn::{Lsn, TimelineId};
use std::fmt;
use std::str::FromStr;

/// The size of the cluster's WAL segments: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// 16 MiB, what `initdb` chooses.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// Checks `bytes`.
    pub fn new(bytes: u64) -> FormatResult<SegmentSize> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => {
                Ok(SegmentSize(size))
            }
            _ => Err(FormatError::invalid(
                "WAL segment size",
                format!("{bytes} is not a power of two between 1 MiB and 1 GiB"),
            )),
        }
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments share the middle eight digits of their name.
    pub fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// Where `lsn` lies within its segment.
    pub fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    /// The start of the segment that holds `lsn`.
    pub fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - self.offset(lsn))
    }
}

/// The number of a segment, counted from the beginning of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// The segment that holds the byte at `lsn`.
    pub fn containing(lsn: Lsn, size: SegmentSize) -> SegmentNo {
        SegmentNo(lsn.0 / size.bytes())
    }

    /// The segment that holds the byte before `lsn`: the last one needed to reach `lsn`.
    pub fn before(lsn: Lsn, size: SegmentSize) -> SegmentNo {
        SegmentNo(lsn.0.saturating_sub(1) / size.bytes())
    }

    /// The position of its first byte (saturating at the end of the address space).
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.0.saturating_mul(size.bytes()))
    }

    /// The segment after this one.
    pub fn next(self) -> SegmentNo {
        SegmentNo(self.0.saturating_add(1))
    }
}

/// The 24 digits that name a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The first eight digits.
    pub timeline: TimelineId,
    /// The middle eight digits.
    pub log: u32,
    /// The last eight digits.
    pub segment: u32,
}

impl SegmentName {
    /// The name of segment `number` on `timeline`.
    pub fn new(timeline: TimelineId, number: SegmentNo, size: SegmentSize) -> SegmentName {
        let per_log = size.segments_per_log();
        SegmentName {
            timeline,
            log: u32::try_from(number.0 / per_log).unwrap_or(u32::MAX),
            segment: (number.0 % per_log) as u32,
        }
    }

    /// The name of the segment that holds the byte at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> SegmentName {
        SegmentName::new(timeline, SegmentNo::containing(lsn, size), size)
    }

    /// The segment's number; an error if its last part does not fit the segment size.
    pub fn number(self, size: SegmentSize) -> FormatResult<SegmentNo> {
        let per_log = size.segments_per_log();
        if u64::from(self.segment) >= per_log {
            return Err(FormatError::invalid(
                "WAL file name",
                format!("{self} does not fit a segment size of {} MiB", size.bytes() >> 20),
            ));
        }
        Ok(SegmentNo(u64::from(self.log) * per_log + u64::from(self.segment)))
    }

    /// The position of the segment's first byte.
    pub fn start(self, size: SegmentSize) -> FormatResult<Lsn> {
        Ok(self.number(size)?.start(size))
    }

    /// The next segment on the same timeline.
    pub fn next(self, size: SegmentSize) -> FormatResult<SegmentName> {
        Ok(SegmentName::new(self.timeline, self.number(size)?.next(), size))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SegmentName {
    type Err = FormatError;

    fn from_str(name: &str) -> FormatResult<SegmentName> {
        segment_name(name).ok_or_else(|| FormatError::syntax("WAL segment name", name))
    }
}

/// The segments of `timeline` that hold the bytes from `from` up to, not including, `to`.
pub fn segments_between(
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
    size: SegmentSize,
) -> impl Iterator<Item = SegmentName> {
    let first = SegmentNo::containing(from, size).0;
    let end = if to > from { SegmentNo::before(to, size).0 + 1 } else { first };
    (first..end).map(move |number| SegmentName::new(timeline, SegmentNo(number), size))
}

/// A file of `pg_wal`, as PostgreSQL archives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// A complete segment.
    Segment(SegmentName),
    /// The last segment of a timeline that was left in its middle (`.partial`).
    Partial(SegmentName),
    /// The history of a timeline (`.history`).
    History(TimelineId),
    /// The record of a base backup (`.backup`).
    BackupHistory {
        /// The segment the backup starts in.
        segment: SegmentName,
        /// Where in that segment it starts.
        offset: u32,
    },
}

impl WalName {
    /// The timeline the name begins with.
    pub fn timeline(&self) -> TimelineId {
        match *self {
            WalName::Segment(segment) | WalName::Partial(segment) => segment.timeline,
            WalName::BackupHistory { segment, .. } => segment.timeline,
            WalName::History(timeline) => timeline,
        }
    }

    /// The segment named, whole or partial.
    pub fn segment(&self) -> Option<SegmentName> {
        match *self {
            WalName::Segment(segment) | WalName::Partial(segment) => Some(segment),
            _ => None,
        }
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalName::Segment(segment) => write!(f, "{segment}"),
            WalName::Partial(segment) => write!(f, "{segment}.partial"),
            WalName::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            WalName::BackupHistory { segment, offset } => {
                write!(f, "{segment}.{offset:08X}.backup")
            }
        }
    }
}

impl FromStr for WalName {
    type Err = FormatError;

    fn from_str(name: &str) -> FormatResult<WalName> {
        parse(name).ok_or_else(|| FormatError::syntax("WAL file name", name))
    }
}

fn parse(name: &str) -> Option<WalName> {
    let (stem, rest) = name.split_once('.').unwrap_or((name, ""));
    Some(match rest {
        "history" => WalName::History(TimelineId(hex8(stem)?)),
        "partial" => WalName::Partial(segment_name(stem)?),
        "" if stem.len() == name.len() => WalName::Segment(segment_name(stem)?),
        _ => WalName::BackupHistory {
            segment: segment_name(stem)?,
            offset: hex8(rest.strip_suffix(".backup")?)?,
        },
    })
}

fn segment_name(digits: &str) -> Option<SegmentName> {
    if digits.len() != 24 {
        return None;
    }
    Some(SegmentName {
        timeline: TimelineId(hex8(digits.get(..8)?)?),
        log: hex8(digits.get(8..16)?)?,
        segment: hex8(digits.get(16..)?)?,
    })
}

/// Exactly eight digits; upper case only, as PostgreSQL writes and expects them.
fn hex8(digits: &str) -> Option<u32> {
    let upper = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if upper { u32::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "000000010000000A000000FF",
            "000000010000000A000000FF.partial",
            "0000001F.history",
            "000000010000000A000000FF.00000028.backup",
        ] {
            assert_eq!(name.parse::<WalName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            ".",
            "000000010000000A000000FF.",
            "000000010000000a000000ff",
            "000000010000000A000000F",
            "000000010000000A000000FF.gz",
            "000000010000000A000000FF.28.backup",
            "1.history",
            "00000001.partial",
            "0000000é0000000A00000FF",
            "archive_status",
        ] {
            assert!(name.parse::<WalName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn positions_and_names_agree() {
        let size = SegmentSize::DEFAULT;
        let name: SegmentName = "000000020000000100000003".parse().unwrap();
        assert_eq!(name.start(size).unwrap(), "1/3000000".parse().unwrap());
        assert_eq!(
            SegmentName::containing(TimelineId(2), "1/3FFFFFF".parse().unwrap(), size),
            name
        );
        let last: SegmentName = "0000000100000000000000FF".parse().unwrap();
        assert_eq!(last.next(size).unwrap().to_string(), "000000010000000100000000");
        assert!(last.start(SegmentSize::new(1 << 30).unwrap()).is_err());
        for bytes in [0, 1, 1 << 19, 3 << 20, 1 << 31, u64::MAX] {
            assert!(SegmentSize::new(bytes).is_err());
        }
    }

    #[test]
    fn ranges_end_before_their_end() {
        let size = SegmentSize::DEFAULT;
        let names = |from: &str, to: &str| {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            segments_between(TimelineId(1), from, to, size).map(|n| n.segment).collect::<Vec<_>>()
        };
        assert_eq!(names("0/1000028", "0/3000000"), [1, 2]);
        assert_eq!(names("0/1000028", "0/3000001"), [1, 2, 3]);
        assert_eq!(names("0/1000028", "0/1000028"), [0_u32; 0]);
        assert_eq!(names("0/2000000", "0/1000028"), [0_u32; 0]);
    }
}
