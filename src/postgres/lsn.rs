//! Positions and identities: LSN, timeline, system identifier.

use super::error::{FormatError, FormatResult};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log. Written `X/X`, as PostgreSQL does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which is no valid position.
    pub const INVALID: Lsn = Lsn(0);

    /// Whether this is a position at all.
    pub fn is_valid(self) -> bool {
        self != Lsn::INVALID
    }

    /// The position `bytes` further on, if there is one.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// Bytes from `earlier` to here; 0 if `earlier` is later.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = FormatError;

    fn from_str(text: &str) -> FormatResult<Lsn> {
        let half = |digits: &str| {
            let hex = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if hex { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| FormatError::syntax("LSN", text))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A timeline: one history of the cluster; a new one begins with every promotion.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The eight hexadecimal digits WAL file names begin with.
    pub fn to_hex(self) -> String {
        format!("{:08X}", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TimelineId {
    type Err = FormatError;

    fn from_str(text: &str) -> FormatResult<TimelineId> {
        match text.parse() {
            Ok(id) if id > 0 => Ok(TimelineId(id)),
            _ => Err(FormatError::syntax("timeline", text)),
        }
    }
}

/// The identifier `initdb` gave a cluster; its standbys and restores share it. Serialised as a
/// string, since JSON numbers lose digits in many readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SystemId {
    type Err = FormatError;

    fn from_str(text: &str) -> FormatResult<SystemId> {
        text.parse().map(SystemId).map_err(|_| FormatError::syntax("system identifier", text))
    }
}

impl Serialize for SystemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_round_trips_through_text() {
        for (text, value) in [("0/0", 0), ("0/16B3748", 0x16B_3748), ("A/FF", 0xA_0000_00FF)] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        assert_eq!("ffffffff/FFFFFFFF".parse::<Lsn>().unwrap(), Lsn(u64::MAX));
    }

    #[test]
    fn lsn_refuses_what_is_not_one() {
        for text in ["", "/", "1", "1/", "/1", "+1/2", "1/123456789", "0x1/2", "1/2/3", " 1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn identifiers_serialise_without_loss() {
        let id = SystemId(7_400_000_000_000_000_001);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"7400000000000000001\"");
        assert_eq!(serde_json::from_str::<Lsn>("\"1/2\"").unwrap(), Lsn(0x1_0000_0002));
        assert_eq!(TimelineId(31).to_hex(), "0000001F");
        assert!("0".parse::<TimelineId>().is_err());
    }
}
