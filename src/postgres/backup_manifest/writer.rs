//! Writing a manifest as the server would.

use super::{FileChecksum, WalRange, hex};
use crate::postgres::lsn::SystemId;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// Writes a manifest: fed the files one by one, it keeps nothing of them.
pub struct ManifestWriter<W> {
    out: W,
    hasher: Sha256,
    files: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest for a server of `major_version`: format 1 up to 16, 2 with the system
    /// identifier from 17 on.
    pub fn new(out: W, major_version: u32, system_id: SystemId) -> io::Result<Self> {
        let mut writer = ManifestWriter { out, hasher: Sha256::new(), files: 0 };
        if major_version >= 17 {
            writer.put(&format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_id},\n"
            ))?;
        } else {
            writer.put("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n")?;
        }
        writer.put("\"Files\": [")?;
        Ok(writer)
    }

    /// Adds a file; `path` within the data directory.
    pub fn file(
        &mut self,
        path: &[u8],
        size: u64,
        modified: Timestamp,
        checksum: Option<&FileChecksum>,
    ) -> io::Result<()> {
        let separator = if self.files == 0 { "\n" } else { ",\n" };
        self.files += 1;
        let path = match std::str::from_utf8(path) {
            Ok(path) => format!("\"Path\": {}", serde_json::Value::from(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex(path)),
        };
        let modified = modified.strftime("%Y-%m-%d %H:%M:%S GMT");
        let checksum = checksum.map_or_else(String::new, |FileChecksum { algorithm, value }| {
            format!(
                ", \"Checksum-Algorithm\": {}, \"Checksum\": \"{}\"",
                serde_json::Value::from(algorithm.to_string()),
                hex(value)
            )
        });
        self.put(&format!(
            "{separator}{{ {path}, \"Size\": {size}, \"Last-Modified\": \"{modified}\"{checksum} }}"
        ))
    }

    /// Ends the manifest with the WAL the backup needs and the manifest's own checksum.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> io::Result<W> {
        self.put("\n],\n\"WAL-Ranges\": [")?;
        for (index, range) in wal_ranges.iter().enumerate() {
            let separator = if index == 0 { "\n" } else { ",\n" };
            let WalRange { timeline, start, end } = range;
            self.put(&format!(
                "{separator}{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \
                 \"End-LSN\": \"{end}\" }}"
            ))?;
        }
        self.put("\n],\n")?;
        let checksum = hex(&self.hasher.finalize());
        self.out.write_all(format!("\"Manifest-Checksum\": \"{checksum}\"}}\n").as_bytes())?;
        Ok(self.out)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.hasher.update(text);
        self.out.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BackupManifest, ChecksumAlgorithm, FileHasher};
    use super::*;
    use crate::postgres::lsn::{Lsn, TimelineId};

    #[test]
    fn what_is_written_is_read_back() {
        for (major, version) in [(15, 1), (16, 1), (17, 2), (18, 2)] {
            let mut writer = ManifestWriter::new(Vec::new(), major, SystemId(9)).unwrap();
            let mut hasher = FileHasher::new(&ChecksumAlgorithm::Crc32c).unwrap();
            hasher.update(b"123456789");
            let crc = hasher.finish();
            assert_eq!(crc.value, [0x83, 0x92, 0x06, 0xE3]);
            writer.file(b"a\"\n\\b", 9, Timestamp::UNIX_EPOCH, Some(&crc)).unwrap();
            writer.file(b"\xFFb", 0, Timestamp::UNIX_EPOCH, None).unwrap();
            let range = WalRange { timeline: TimelineId(1), start: Lsn(0x28), end: Lsn(0x100) };
            let file = writer.finish(&[range, range]).unwrap();
            let manifest = BackupManifest::parse(&file).unwrap();
            assert_eq!(manifest.version, version);
            assert_eq!(manifest.system_id, (version == 2).then_some(SystemId(9)));
            assert_eq!(manifest.files[0].path, b"a\"\n\\b");
            assert_eq!(manifest.files[0].checksum, Some(crc));
            assert_eq!(manifest.files[0].last_modified, "1970-01-01 00:00:00 GMT");
            assert_eq!(manifest.files[1].path, b"\xFFb");
            assert_eq!(manifest.wal_ranges, [range, range]);
        }
    }
}
