//! `global/pg_control`: the cluster's identity, layout and last checkpoint.
//!
//! The layout is the C structure of each version on 64-bit little-endian platforms; a CRC-32C ends
//! it, at a place that moved once, in 18.

use super::error::{FormatError, FormatResult};
use super::fields::Fields;
use super::lsn::{Lsn, SystemId, TimelineId};
use super::wal_name::SegmentSize;

/// The path of the control file within a data directory.
pub const CONTROL_FILE: &str = "global/pg_control";

/// The state the cluster was in when the file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "PostgreSQL's own names")]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// The fields of `pg_control` that backup and restore use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_id: SystemId,
    /// Version of the file's layout.
    pub control_version: u32,
    /// Version of the system catalogue.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// The last checkpoint record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it.
    pub previous_timeline: TimelineId,
    /// How far recovery must go before the cluster is consistent.
    pub min_recovery_point: Lsn,
    /// The timeline of that point.
    pub min_recovery_timeline: TimelineId,
    /// Start of the backup being recovered from, if any.
    pub backup_start: Lsn,
    /// End of the backup being recovered from, if known.
    pub backup_end: Lsn,
    /// Whether the end of the backup must still be reached.
    pub backup_end_required: bool,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// Bytes in a page.
    pub block_size: u32,
    /// Pages in a segment of a relation.
    pub relation_segment_blocks: u32,
    /// Bytes in a WAL page.
    pub wal_block_size: u32,
    /// Bytes in a WAL segment.
    pub wal_segment_size: SegmentSize,
    /// Version of page checksums, 0 when they are off.
    pub checksum_version: u32,
}

impl ControlFile {
    /// Reads the file and checks its CRC.
    pub fn parse(file: &[u8]) -> FormatResult<ControlFile> {
        let fields = Fields::new("pg_control", file);
        let control_version = fields.u32(8)?;
        let crc_at = match control_version {
            1300 | 1700 => 288,
            1800 => 292,
            other => {
                return Err(FormatError::Unsupported {
                    what: "version of pg_control",
                    found: other.to_string(),
                });
            }
        };
        let stored = fields.u32(crc_at)?;
        let computed = crc32c::crc32c(file.get(..crc_at).unwrap_or_default());
        if stored != computed {
            return Err(FormatError::mismatch(
                "CRC of pg_control",
                format!("{stored:08X}"),
                format!("{computed:08X}"),
            ));
        }
        Ok(ControlFile {
            system_id: SystemId(fields.u64(0)?),
            control_version,
            catalog_version: fields.u32(12)?,
            state: state(fields.u32(16)?)?,
            checkpoint: Lsn(fields.u64(32)?),
            redo: Lsn(fields.u64(40)?),
            timeline: TimelineId(fields.u32(48)?),
            previous_timeline: TimelineId(fields.u32(52)?),
            min_recovery_point: Lsn(fields.u64(136)?),
            min_recovery_timeline: TimelineId(fields.u32(144)?),
            backup_start: Lsn(fields.u64(152)?),
            backup_end: Lsn(fields.u64(160)?),
            backup_end_required: fields.u8(168)? != 0,
            wal_level: fields.u32(172)?,
            wal_log_hints: fields.u8(176)? != 0,
            block_size: fields.u32(216)?,
            relation_segment_blocks: fields.u32(220)?,
            wal_block_size: fields.u32(224)?,
            wal_segment_size: SegmentSize::new(u64::from(fields.u32(228)?))?,
            checksum_version: fields.u32(252)?,
        })
    }

    /// The major version of PostgreSQL, from the catalogue's version; `None` for a version under
    /// development.
    pub fn major_version(&self) -> Option<u32> {
        match self.catalog_version {
            202_209_061 => Some(15),
            202_307_071 => Some(16),
            202_406_281 => Some(17),
            202_506_291 => Some(18),
            _ => None,
        }
    }
}

fn state(value: u32) -> FormatResult<ClusterState> {
    Ok(match value {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        other => return Err(FormatError::invalid("pg_control", format!("cluster state {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u32, crc_at: usize) -> Vec<u8> {
        let mut file = vec![0; 8192];
        let mut put = |at: usize, value: u32| {
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(0, 42);
        put(8, version);
        put(12, 202_406_281);
        put(16, 6);
        put(40, 0x200_0028);
        put(48, 3);
        put(216, 8192);
        put(228, 16 << 20);
        put(252, 1);
        let crc = crc32c::crc32c(&file[..crc_at]);
        file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        file
    }

    #[test]
    fn both_layouts_are_read() {
        for (version, crc_at) in [(1300, 288), (1700, 288), (1800, 292)] {
            let control = ControlFile::parse(&file(version, crc_at)).unwrap();
            assert_eq!(control.system_id, SystemId(42));
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.timeline, TimelineId(3));
            assert_eq!(control.redo, Lsn(0x200_0028));
            assert_eq!(control.major_version(), Some(17));
            assert_eq!(control.checksum_version, 1);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let good = file(1700, 288);
        for length in [0, 8, 100, 288, 291] {
            assert!(ControlFile::parse(&good[..length]).is_err());
        }
        let mut bad = good.clone();
        bad[60] ^= 1;
        assert!(ControlFile::parse(&bad).unwrap_err().to_string().contains("CRC"));
        assert!(matches!(
            ControlFile::parse(&file(1200, 288)),
            Err(FormatError::Unsupported { .. })
        ));
    }
}
