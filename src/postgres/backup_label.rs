//! `backup_label`, backup history files and `tablespace_map`.
//!
//! The first two share a syntax of `KEYWORD: value` lines and are read by keyword. Times stay text:
//! they are in the server's `log_timezone`, whose abbreviation does not name a zone for certain.

use super::error::{FormatError, FormatResult};
use super::lsn::{Lsn, TimelineId};
use super::wal_name::SegmentName;

/// Where a backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupFrom {
    /// A primary server.
    Primary,
    /// A standby.
    Standby,
}

/// What `backup_label` tells recovery, and the first part of a backup history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery begins: all WAL from here on is needed.
    pub start: Lsn,
    /// The segment that holds `start`.
    pub start_segment: SegmentName,
    /// The checkpoint record the backup began with.
    pub checkpoint: Lsn,
    /// `streamed` (PostgreSQL 15 and later write nothing else).
    pub method: String,
    /// Primary or standby.
    pub from: BackupFrom,
    /// In the server's `log_timezone`.
    pub start_time: String,
    /// The name given to the backup.
    pub label: String,
    /// The timeline it began on.
    pub start_timeline: TimelineId,
    /// For an incremental backup: start of the backup it builds on.
    pub incremental_from: Option<(Lsn, TimelineId)>,
}

impl BackupLabel {
    /// Reads the file.
    pub fn parse(file: &[u8]) -> FormatResult<BackupLabel> {
        Lines::new("backup_label", file).label()
    }
}

/// A backup history file (`….backup` in the archive).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHistory {
    /// How the backup began.
    pub label: BackupLabel,
    /// The position to which WAL is needed for consistency.
    pub stop: Lsn,
    /// The segment named with it.
    pub stop_segment: SegmentName,
    /// In the server's `log_timezone`.
    pub stop_time: String,
    /// The timeline the backup ended on.
    pub stop_timeline: TimelineId,
}

impl BackupHistory {
    /// Reads the file.
    pub fn parse(file: &[u8]) -> FormatResult<BackupHistory> {
        let lines = Lines::new("backup history file", file);
        let (stop, stop_segment) = lines.location("STOP WAL LOCATION")?;
        Ok(BackupHistory {
            label: lines.label()?,
            stop,
            stop_segment,
            stop_time: lines.need("STOP TIME")?.to_owned(),
            stop_timeline: lines.need("STOP TIMELINE")?.parse()?,
        })
    }
}

/// The label of an incremental backup without what it says of its parent: a server refuses to start on one with it.
pub fn without_parent(file: &[u8]) -> Vec<u8> {
    let lines = file.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"INCREMENTAL FROM ")).flatten().copied().collect()
}

/// A tablespace of a backup, as `tablespace_map` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedTablespace {
    /// OID of the tablespace: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lies; any bytes but NUL.
    pub location: Vec<u8>,
}

/// Reads a `tablespace_map`.
pub fn parse_tablespace_map(file: &[u8]) -> FormatResult<Vec<MappedTablespace>> {
    let mut tablespaces = Vec::new();
    for line in unescaped_lines(file) {
        let bad = || FormatError::syntax("line of tablespace_map", &String::from_utf8_lossy(&line));
        let space = line.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let (oid, location) = line.split_at(space);
        let oid = std::str::from_utf8(oid).ok().and_then(|text| text.parse().ok());
        let location = location.get(1..).unwrap_or_default();
        if location.is_empty() || location.contains(&0) {
            return Err(bad());
        }
        tablespaces
            .push(MappedTablespace { oid: oid.ok_or_else(bad)?, location: location.to_vec() });
    }
    Ok(tablespaces)
}

/// Writes a `tablespace_map`.
pub fn format_tablespace_map(tablespaces: &[MappedTablespace]) -> Vec<u8> {
    let mut file = Vec::new();
    for MappedTablespace { oid, location } in tablespaces {
        file.extend_from_slice(oid.to_string().as_bytes());
        file.push(b' ');
        for byte in location {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                file.push(b'\\');
            }
            file.push(*byte);
        }
        file.push(b'\n');
    }
    file
}

/// Splits at line ends without a backslash before them, and removes the backslashes.
fn unescaped_lines(file: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for byte in file {
        match byte {
            b'\\' if !escaped => {
                escaped = true;
                continue;
            }
            b'\n' | b'\r' if !escaped => {
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
            }
            _ => line.push(*byte),
        }
        escaped = false;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

struct Lines<'a> {
    what: &'static str,
    text: std::borrow::Cow<'a, str>,
}

impl<'a> Lines<'a> {
    fn new(what: &'static str, file: &'a [u8]) -> Self {
        Lines { what, text: String::from_utf8_lossy(file) }
    }

    fn find(&self, keyword: &str) -> Option<&str> {
        let value = |line: &'_ str| -> Option<usize> {
            line.strip_prefix(keyword)?.strip_prefix(':').map(str::len)
        };
        self.text
            .lines()
            .find_map(|line| value(line).and_then(|len| line.get(line.len() - len..)))
            .map(str::trim)
    }

    fn need(&self, keyword: &'static str) -> FormatResult<&str> {
        self.find(keyword)
            .ok_or_else(|| FormatError::invalid(self.what, format!("no line {keyword:?}")))
    }

    /// `0/2000028 (file 000000010000000000000002)`.
    fn location(&self, keyword: &'static str) -> FormatResult<(Lsn, SegmentName)> {
        let value = self.need(keyword)?;
        let (lsn, file) = value
            .strip_suffix(')')
            .and_then(|value| value.split_once(" (file "))
            .ok_or_else(|| FormatError::syntax("WAL location", value))?;
        Ok((lsn.parse()?, file.parse()?))
    }

    fn label(&self) -> FormatResult<BackupLabel> {
        let (start, start_segment) = self.location("START WAL LOCATION")?;
        let from = match self.need("BACKUP FROM")? {
            "primary" => BackupFrom::Primary,
            "standby" => BackupFrom::Standby,
            other => return Err(FormatError::syntax("BACKUP FROM", other)),
        };
        let incremental_from = match self.find("INCREMENTAL FROM LSN") {
            None => None,
            Some(lsn) => Some((lsn.parse()?, self.need("INCREMENTAL FROM TLI")?.parse()?)),
        };
        Ok(BackupLabel {
            start,
            start_segment,
            checkpoint: self.need("CHECKPOINT LOCATION")?.parse()?,
            method: self.need("BACKUP METHOD")?.to_owned(),
            from,
            start_time: self.need("START TIME")?.to_owned(),
            label: self.need("LABEL")?.to_owned(),
            start_timeline: self.need("START TIMELINE")?.parse()?,
            incremental_from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000080\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-08-01 00:00:00 UTC\nLABEL: a: b\nSTART TIMELINE: 1\n";

    #[test]
    fn labels_are_read_by_keyword() {
        let label = BackupLabel::parse(LABEL.as_bytes()).unwrap();
        assert_eq!(label.start, Lsn(0x200_0028));
        assert_eq!(label.start_segment.to_string(), "000000010000000000000002");
        assert_eq!(label.label, "a: b");
        assert_eq!(label.incremental_from, None);
        let mut lines: Vec<&str> = LABEL.lines().collect();
        lines.reverse();
        lines.push("INCREMENTAL FROM LSN: 0/1000028");
        lines.push("INCREMENTAL FROM TLI: 1");
        let label = BackupLabel::parse(lines.join("\n").as_bytes()).unwrap();
        assert_eq!(label.incremental_from, Some((Lsn(0x100_0028), TimelineId(1))));
    }

    #[test]
    fn a_missing_line_is_named() {
        for keyword in ["START WAL LOCATION", "LABEL", "START TIMELINE", "BACKUP FROM"] {
            let without: Vec<&str> =
                LABEL.lines().filter(|line| !line.starts_with(&format!("{keyword}:"))).collect();
            let error = BackupLabel::parse(without.join("\n").as_bytes()).unwrap_err();
            assert!(error.to_string().contains(keyword), "{error}");
        }
        assert!(BackupLabel::parse(b"").is_err());
        assert!(BackupLabel::parse(&[0xFF; 40]).is_err());
    }

    #[test]
    fn history_files() {
        let file = format!(
            "{LABEL}STOP WAL LOCATION: 0/2000100 (file 000000010000000000000002)\n\
             STOP TIME: 2026-08-01 00:00:01 UTC\nSTOP TIMELINE: 1\n"
        );
        let history = BackupHistory::parse(file.as_bytes()).unwrap();
        assert_eq!(history.stop, Lsn(0x200_0100));
        assert_eq!(history.label, BackupLabel::parse(LABEL.as_bytes()).unwrap());
        assert!(BackupHistory::parse(LABEL.as_bytes()).is_err());
    }

    #[test]
    fn maps_round_trip() {
        let map = vec![
            MappedTablespace { oid: 16400, location: b"/srv/a b".to_vec() },
            MappedTablespace { oid: 16401, location: b"/srv/\n\\odd\r\xFF".to_vec() },
        ];
        let file = format_tablespace_map(&map);
        assert!(file.starts_with(b"16400 /srv/a b\n16401 /srv/\\\n\\\\odd\\\r"));
        assert_eq!(parse_tablespace_map(&file).unwrap(), map);
        for bad in [&b"16400"[..], b"16400 ", b"x /srv", b" /srv", b"1 a\0b"] {
            assert!(parse_tablespace_map(bad).is_err());
        }
        assert_eq!(parse_tablespace_map(b"").unwrap(), []);
    }
}
