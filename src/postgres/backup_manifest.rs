//! `backup_manifest`: reading, checking and writing.
//!
//! A manifest is JSON whose last line holds the SHA-256 of all lines before it. Reading one checks
//! that first. [`ManifestWriter`] writes manifests `pg_verifybackup` accepts.

mod checksum;
mod writer;

pub use checksum::{ChecksumAlgorithm, FileChecksum, FileHasher};
pub use writer::ManifestWriter;

use super::error::{FormatError, FormatResult};
use super::lsn::{Lsn, SystemId, TimelineId};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A backup's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupManifest {
    /// 1, or 2 from PostgreSQL 17 on.
    pub version: u32,
    /// The cluster; version 2 only.
    pub system_id: Option<SystemId>,
    /// All files but WAL, in the order they were sent.
    pub files: Vec<ManifestFile>,
    /// The WAL needed, one range a timeline.
    pub wal_ranges: Vec<WalRange>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// The path within the data directory; any bytes.
    pub path: Vec<u8>,
    /// Its length in bytes.
    pub size: u64,
    /// When it was modified, as `YYYY-MM-DD HH:MM:SS GMT`.
    pub last_modified: String,
    /// Its checksum, if one was asked for.
    pub checksum: Option<FileChecksum>,
}

/// WAL on one timeline that a backup needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte needed.
    pub start: Lsn,
    /// The end, exclusive.
    pub end: Lsn,
}

impl BackupManifest {
    /// Checks the manifest's own checksum and reads it.
    pub fn parse(file: &[u8]) -> FormatResult<BackupManifest> {
        let body = checked_part(file)?;
        let raw: RawManifest = serde_json::from_slice(file)
            .map_err(|error| FormatError::invalid(WHAT, error.to_string()))?;
        let version = raw.version;
        if !(1..=2).contains(&version) {
            return Err(FormatError::Unsupported {
                what: "version of backup_manifest",
                found: version.to_string(),
            });
        }
        let expected = hex(&Sha256::digest(body));
        if !raw.manifest_checksum.eq_ignore_ascii_case(&expected) {
            return Err(FormatError::mismatch(
                "checksum of backup_manifest",
                raw.manifest_checksum,
                expected,
            ));
        }
        if version == 2 && raw.system_id.is_none() {
            return Err(FormatError::invalid(WHAT, "version 2 without a system identifier"));
        }
        Ok(BackupManifest {
            version,
            system_id: raw.system_id.map(SystemId),
            files: raw.files.into_iter().map(RawFile::check).collect::<FormatResult<_>>()?,
            wal_ranges: raw
                .wal_ranges
                .into_iter()
                .map(RawRange::check)
                .collect::<FormatResult<_>>()?,
        })
    }
}

/// Everything before the last line.
fn checked_part(file: &[u8]) -> FormatResult<&[u8]> {
    let trimmed = file.strip_suffix(b"\n").unwrap_or(file);
    let line_end = trimmed.iter().rposition(|byte| *byte == b'\n');
    line_end
        .and_then(|at| Some((file.get(..=at)?, file.get(at + 1..)?)))
        .filter(|(_, last)| last.starts_with(b"\"Manifest-Checksum\""))
        .map(|(body, _)| body)
        .ok_or_else(|| FormatError::invalid(WHAT, "its last line holds no checksum: cut short?"))
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RawRange>,
    #[serde(rename = "Manifest-Checksum")]
    manifest_checksum: String,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified", default)]
    last_modified: String,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

impl RawFile {
    fn check(self) -> FormatResult<ManifestFile> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(encoded)) => {
                unhex(&encoded).ok_or_else(|| FormatError::syntax("Encoded-Path", &encoded))?
            }
            _ => {
                return Err(FormatError::invalid(
                    WHAT,
                    "a file has not exactly one of Path and Encoded-Path",
                ));
            }
        };
        let checksum = match (self.algorithm, self.checksum) {
            (None, None) => None,
            (Some(algorithm), Some(text)) => {
                let value = unhex(&text).ok_or_else(|| FormatError::syntax("checksum", &text))?;
                Some(FileChecksum { algorithm: ChecksumAlgorithm::from_name(&algorithm), value })
            }
            _ => {
                return Err(FormatError::invalid(
                    WHAT,
                    "a file has only one of Checksum and Checksum-Algorithm",
                ));
            }
        };
        Ok(ManifestFile { path, size: self.size, last_modified: self.last_modified, checksum })
    }
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl RawRange {
    fn check(self) -> FormatResult<WalRange> {
        Ok(WalRange {
            timeline: TimelineId(self.timeline),
            start: self.start.parse()?,
            end: self.end.parse()?,
        })
    }
}

const WHAT: &str = "backup_manifest";

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(body: &str) -> Vec<u8> {
        let sum = hex(&Sha256::digest(body));
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    const BODY: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 7400000000000000001,
"Files": [
{ "Path": "backup_label", "Size": 224, "Last-Modified": "2026-08-01 00:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "1f2e3d4c" },
{ "Encoded-Path": "ff2f61", "Size": 0, "Last-Modified": "2026-08-01 00:00:00 GMT" },
{ "Path": "x", "Size": 1, "Last-Modified": "", "Checksum-Algorithm": "BLAKE9", "Checksum": "00" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
"#;

    #[test]
    fn manifests_are_read() {
        let manifest = BackupManifest::parse(&sealed(BODY)).unwrap();
        assert_eq!(manifest.version, 2);
        assert_eq!(manifest.system_id, Some(SystemId(7_400_000_000_000_000_001)));
        assert_eq!(manifest.files[1].path, b"\xFF/a");
        assert_eq!(manifest.files[1].checksum, None);
        let checksum = manifest.files[0].checksum.as_ref().unwrap();
        assert_eq!(checksum.value, [0x1F, 0x2E, 0x3D, 0x4C]);
        let unknown = manifest.files[2].checksum.as_ref().unwrap();
        assert_eq!(unknown.algorithm, ChecksumAlgorithm::Other("BLAKE9".into()));
        assert_eq!(manifest.wal_ranges[0].end, Lsn(0x200_0100));
    }

    #[test]
    fn changed_or_cut_manifests_are_refused() {
        let good = sealed(BODY);
        let text = String::from_utf8(good.clone()).unwrap();
        let changed = text.replace("\"Size\": 224", "\"Size\": 225");
        let error = BackupManifest::parse(changed.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("checksum of backup_manifest"), "{error}");
        for length in [0, 1, 100, good.len() - 30] {
            assert!(BackupManifest::parse(&good[..length]).is_err());
        }
        let newer = BODY.replace("Version\": 2", "Version\": 3");
        assert!(matches!(
            BackupManifest::parse(&sealed(&newer)),
            Err(FormatError::Unsupported { .. })
        ));
        let both = BODY.replace("\"Path\": \"x\"", "\"Path\": \"x\", \"Encoded-Path\": \"00\"");
        assert!(BackupManifest::parse(&sealed(&both)).is_err());
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let body = format!("{}\n", "[".repeat(1 << 20));
        assert!(BackupManifest::parse(&sealed(&body)).is_err());
    }
}
