//! What a file of a data directory is, told from its path.

use std::fmt;

/// Blocks in one segment file of a relation (1 GiB of 8 KiB pages) in a default build.
pub const DEFAULT_SEGMENT_BLOCKS: u32 = 131_072;

/// OID of the tablespace `base/` is.
pub const PG_DEFAULT: u32 = 1663;
/// OID of the tablespace `global/` is.
pub const PG_GLOBAL: u32 = 1664;

/// The kind of a file in a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A segment of a fork of a relation: made of pages with checksums.
    Relation(RelationFile),
    /// A segment of an SLRU (transaction status and the like): 8 KiB pages without checksums.
    Slru(Slru),
    /// `global/pg_control`.
    ControlFile,
    /// Everything else.
    Other,
}

/// Which relation, fork and segment a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database, 0 for shared relations.
    pub database: u32,
    /// The file number (`relfilenode`).
    pub relation: u32,
    /// The fork.
    pub fork: Fork,
    /// The number of the segment file, 0 for the first.
    pub segment: u32,
}

impl RelationFile {
    /// The number, within the relation, of this file's first block; `None` past the last possible.
    pub fn first_block(&self, segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(segment_blocks)
    }
}

/// A part of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// Free space map. Its pages change without their LSN moving.
    FreeSpaceMap,
    /// Visibility map. Its pages change without their LSN moving.
    VisibilityMap,
    /// The empty form of an unlogged relation.
    Init,
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fork::Main => "main",
            Fork::FreeSpaceMap => "fsm",
            Fork::VisibilityMap => "vm",
            Fork::Init => "init",
        })
    }
}

/// The areas PostgreSQL keeps in small pages of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is named like its directory")]
pub enum Slru {
    Xact,
    CommitTs,
    Subtrans,
    MultixactOffsets,
    MultixactMembers,
    Notify,
    Serial,
}

/// Classifies `path`, relative to the data directory and with `/` between its parts. Files in
/// tablespaces are expected as `pg_tblspc/<oid>/PG_<version>/<database>/<file>`.
pub fn classify(path: &str) -> FileKind {
    let mut parts = [""; 5];
    let mut count = 0;
    for part in path.split('/') {
        let Some(place) = parts.get_mut(count) else { return FileKind::Other };
        *place = part;
        count += 1;
    }
    let kind = match (count, parts) {
        (2, ["global", "pg_control", ..]) => Some(FileKind::ControlFile),
        (2, ["global", file, ..]) => relation(PG_GLOBAL, Some(0), file),
        (3, ["base", database, file, ..]) => relation(PG_DEFAULT, oid(database), file),
        (5, ["pg_tblspc", tablespace, version, database, file]) if version.starts_with("PG_") => {
            oid(tablespace).and_then(|tablespace| relation(tablespace, oid(database), file))
        }
        (3, ["pg_multixact", "offsets", file, ..]) => slru(Slru::MultixactOffsets, file),
        (3, ["pg_multixact", "members", file, ..]) => slru(Slru::MultixactMembers, file),
        (2, [directory, file, ..]) => match directory {
            "pg_xact" => slru(Slru::Xact, file),
            "pg_commit_ts" => slru(Slru::CommitTs, file),
            "pg_subtrans" => slru(Slru::Subtrans, file),
            "pg_notify" => slru(Slru::Notify, file),
            "pg_serial" => slru(Slru::Serial, file),
            _ => None,
        },
        _ => None,
    };
    kind.unwrap_or(FileKind::Other)
}

/// `<relation>[_<fork>][.<segment>]`.
fn relation(tablespace: u32, database: Option<u32>, file: &str) -> Option<FileKind> {
    let (stem, segment) = match file.split_once('.') {
        Some((stem, segment)) => (stem, oid(segment)?),
        None => (file, 0),
    };
    let (number, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((number, "fsm")) => (number, Fork::FreeSpaceMap),
        Some((number, "vm")) => (number, Fork::VisibilityMap),
        Some((number, "init")) => (number, Fork::Init),
        Some(_) => return None,
    };
    let (database, relation) = (database?, oid(number)?);
    Some(FileKind::Relation(RelationFile { tablespace, database, relation, fork, segment }))
}

/// A positive number as PostgreSQL writes it: no sign, no leading zero.
fn oid(digits: &str) -> Option<u32> {
    let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// Four to six hexadecimal digits, or fifteen for the long names of newer versions.
fn slru(slru: Slru, file: &str) -> Option<FileKind> {
    let length = matches!(file.len(), 4..=6 | 15);
    let hex = file.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    (length && hex).then_some(FileKind::Slru(slru))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tablespace: u32, database: u32, relation: u32, fork: Fork, segment: u32) -> FileKind {
        FileKind::Relation(RelationFile { tablespace, database, relation, fork, segment })
    }

    #[test]
    fn relations() {
        assert_eq!(classify("base/5/1259"), file(1663, 5, 1259, Fork::Main, 0));
        assert_eq!(classify("base/5/1259_vm.3"), file(1663, 5, 1259, Fork::VisibilityMap, 3));
        assert_eq!(classify("global/1262_fsm"), file(1664, 0, 1262, Fork::FreeSpaceMap, 0));
        assert_eq!(
            classify("pg_tblspc/16400/PG_17_202406281/5/16401_init"),
            file(16400, 5, 16401, Fork::Init, 0)
        );
        let RelationFile { segment, .. } =
            RelationFile { tablespace: 1, database: 1, relation: 1, fork: Fork::Main, segment: 2 };
        assert_eq!(segment, 2);
    }

    #[test]
    fn everything_else() {
        for path in [
            "",
            "/",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/t3_1234",
            "base/05/1",
            "base/5/1259_x",
            "base/5/1259.0",
            "base/5/99999999999",
            "base/5/1259/2",
            "base//1",
            "global/pg_internal.init",
            "postgresql.conf",
            "pg_wal/000000010000000000000001",
            "pg_tblspc/16400/x/5/1",
            "pg_xact/000",
            "pg_xact/000g",
            "a/b/c/d/e/f",
            "base/5/_vm",
        ] {
            assert_eq!(classify(path), FileKind::Other, "{path:?}");
        }
        assert_eq!(classify("global/pg_control"), FileKind::ControlFile);
        assert_eq!(classify("pg_xact/0000"), FileKind::Slru(Slru::Xact));
        assert_eq!(classify("pg_multixact/members/00A1"), FileKind::Slru(Slru::MultixactMembers));
    }

    #[test]
    fn first_blocks() {
        let FileKind::Relation(file) = classify("base/5/1259.3") else { panic!() };
        assert_eq!(file.first_block(DEFAULT_SEGMENT_BLOCKS), Some(3 * 131_072));
        assert_eq!(RelationFile { segment: u32::MAX, ..file }.first_block(131_072), None);
    }
}
