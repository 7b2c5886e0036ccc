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
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, BufReader, Read};

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
        let mut files = vec![];
        let manifest = BackupManifest::read(file, |file| files.push(file))?;
        Ok(BackupManifest { files, ..manifest })
    }

    /// As [`BackupManifest::parse`], of a manifest that is as long as the cluster has files: each goes to
    /// `take`, and none is held. What was taken counts only if this succeeds.
    pub fn read(from: impl Read, take: impl FnMut(ManifestFile)) -> FormatResult<BackupManifest> {
        let mut lines = SummedLines::new(from);
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(&mut lines));
        let invalid = |error: serde_json::Error| FormatError::invalid(WHAT, error.to_string());
        let read = RawManifest { take }.deserialize(&mut json).map_err(invalid)?;
        json.end().map_err(invalid)?;
        drop(json);
        let (version, system_id, wal_ranges, checksum) = read?;
        if !(1..=2).contains(&version) {
            return Err(FormatError::Unsupported {
                what: "version of backup_manifest",
                found: version.to_string(),
            });
        }
        let expected = lines.sum()?;
        if !checksum.eq_ignore_ascii_case(&expected) {
            return Err(FormatError::mismatch("checksum of backup_manifest", checksum, expected));
        }
        if version == 2 && system_id.is_none() {
            return Err(FormatError::invalid(WHAT, "version 2 without a system identifier"));
        }
        let wal_ranges = wal_ranges.into_iter().map(RawRange::check);
        Ok(BackupManifest {
            version,
            system_id: system_id.map(SystemId),
            files: vec![],
            wal_ranges: wal_ranges.collect::<FormatResult<_>>()?,
        })
    }
}

/// No line of a manifest is longer: it holds one path, in hexadecimal digits at most.
const MAX_LINE: usize = 64 * 1024;

/// Sums up what is read, but for its last line.
struct SummedLines<R> {
    from: R,
    sum: Sha256,
    /// The line that may be the last one, with its end if that has come.
    line: Vec<u8>,
}

impl<R: Read> SummedLines<R> {
    fn new(from: R) -> Self {
        SummedLines { from, sum: Sha256::new(), line: vec![] }
    }

    /// The sum, in hexadecimal digits, when everything is read.
    fn sum(self) -> FormatResult<String> {
        if !self.line.starts_with(b"\"Manifest-Checksum\"") {
            return Err(FormatError::invalid(WHAT, "its last line holds no checksum: cut short?"));
        }
        Ok(hex(&self.sum.finalize()))
    }
}

impl<R: Read> Read for SummedLines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(out)?;
        for part in out.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            if self.line.ends_with(b"\n") {
                self.sum.update(&self.line);
                self.line.clear();
            }
            if self.line.len() + part.len() > MAX_LINE {
                return Err(io::Error::other("a line is too long"));
            }
            self.line.extend_from_slice(part);
        }
        Ok(length)
    }
}

/// Version, system identifier, WAL, and the checksum that the manifest says it has.
type Head = (u32, Option<u64>, Vec<RawRange>, String);

/// Reads a manifest and gives its files away one by one.
struct RawManifest<T> {
    take: T,
}

impl<'de, T: FnMut(ManifestFile)> DeserializeSeed<'de> for RawManifest<T> {
    type Value = FormatResult<Head>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, T: FnMut(ManifestFile)> Visitor<'de> for RawManifest<T> {
    type Value = FormatResult<Head>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup manifest")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Self::Value, M::Error> {
        let (mut version, mut system_id, mut ranges, mut checksum) = (None, None, None, None);
        let mut files = None;
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "PostgreSQL-Backup-Manifest-Version" => {
                    version.replace(map.next_value()?).is_some()
                }
                "System-Identifier" => system_id.replace(map.next_value()?).is_some(),
                "Files" => {
                    let seed = RawFiles { take: &mut self.take };
                    files.replace(map.next_value_seed(seed)?).is_some()
                }
                "WAL-Ranges" => ranges.replace(map.next_value()?).is_some(),
                "Manifest-Checksum" => checksum.replace(map.next_value()?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if twice {
                return Err(M::Error::custom(format!("{key} comes twice")));
            }
        }
        let missing = M::Error::missing_field;
        let files = files.ok_or_else(|| missing("Files"))?;
        let head = (
            version.ok_or_else(|| missing("PostgreSQL-Backup-Manifest-Version"))?,
            system_id,
            ranges.ok_or_else(|| missing("WAL-Ranges"))?,
            checksum.ok_or_else(|| missing("Manifest-Checksum"))?,
        );
        Ok(files.map(|()| head))
    }
}

/// The list of files.
struct RawFiles<'t, T> {
    take: &'t mut T,
}

impl<'de, T: FnMut(ManifestFile)> DeserializeSeed<'de> for RawFiles<'_, T> {
    type Value = FormatResult<()>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, T: FnMut(ManifestFile)> Visitor<'de> for RawFiles<'_, T> {
    type Value = FormatResult<()>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the files of a backup manifest")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        let mut outcome = Ok(());
        while let Some(file) = list.next_element::<RawFile>()? {
            match file.check() {
                Ok(file) => (self.take)(file),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        Ok(outcome)
    }
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
