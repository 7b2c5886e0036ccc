//! Snapshots: one immutable object for each backup, complete in itself.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Result, within};
use crate::envelope::ObjectKind;
use crate::ids::SnapshotHash;
use crate::keys::KeyRing;
use crate::limits::MAX_RECORD;
use crate::names::{BackupName, ObjectName};
use crate::record::{SealError, open_record, seal_record};
use crate::seal::Domain;
use crate::tree::DirectoryRef;

/// A backup: the root of a Merkle tree of directories and files.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Snapshot {
    /// The server's name, as the configuration had it.
    pub server: String,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The backup's id: when it began, as `YYYYMMDDTHHMMSS` in UTC.
    pub backup_id: String,
    /// The backup's place in the order of the server's backups, from 1.
    pub sequence: u64,
    /// The hashes of the server's newest snapshots when this one was made: one, or none for the
    /// first, or several where two were made at once.
    pub previous: Vec<SnapshotHash>,
    /// The name that the user gave the backup.
    pub name: Option<String>,
    /// When the backup began, in microseconds since 1970-01-01 UTC.
    pub begun_at: i64,
    /// When the backup ended.
    pub ended_at: i64,
    /// The host that made the backup.
    pub host: String,
    /// The program that made the backup, with its version.
    pub program: String,
    /// How the backup was read.
    pub method: Method,
    /// What is known of the PostgreSQL cluster.
    pub cluster: Cluster,
    /// From where to where recovery needs WAL.
    pub wal: WalNeeded,
    /// The data directory.
    pub root: DirectoryRef,
    /// The permission bits of the data directory.
    pub root_mode: u32,
    /// The tablespaces outside the data directory; their files are below `pg_tblspc/<oid>`.
    pub tablespaces: Vec<Tablespace>,
    /// Pages whose checksum does not match and that no WAL of the backup repairs.
    pub bad_pages: BadPages,
    /// Whether everything was read, or left out by a rule that is known to be safe. A tainted
    /// snapshot must not be the parent of one that reads less.
    pub trusted: bool,
    /// The backup that this one was compared with.
    pub parent: Option<String>,
    /// Sizes and counts, for people.
    pub statistics: Statistics,
    /// A signature over the hash of this record without it; reserved.
    pub signature: Option<Vec<u8>>,
}

/// How a backup was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Method {
    /// Streamed by the server (`BASE_BACKUP`).
    Stream = 1,
    /// Read from the data directory on the server's host.
    Local = 2,
    /// Read by an agent on the server's host.
    Agent = 3,
    /// Brought in from another format.
    Import = 4,
}

/// What is known of the PostgreSQL cluster that was backed up.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Cluster {
    /// `server_version_num`.
    pub version: u32,
    /// The catalogue version of the control file.
    pub catalog_version: u32,
    /// The page size in bytes.
    pub block_size: u32,
    /// The size of a WAL segment in bytes.
    pub wal_segment_size: u32,
    /// `data_checksum_version`: 0 means that pages have no checksums.
    pub data_checksums: u32,
    /// Whether the server was a standby.
    pub from_standby: bool,
    /// `summarize_wal`, where the server has it.
    pub summarize_wal: Option<bool>,
    /// `data_directory`, if the role could see it.
    pub data_directory: Option<String>,
    /// `config_file`, `hba_file` and `ident_file`, if the role could see them.
    pub config_files: Vec<String>,
    /// The sum of the sizes of all tablespaces in bytes, as the server estimated it.
    pub size: u64,
}

/// From where to where recovery to a consistent state needs WAL.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WalNeeded {
    /// Where the backup begins.
    pub start_lsn: u64,
    /// The timeline of the start.
    pub start_timeline: u32,
    /// Where the backup is consistent.
    pub stop_lsn: u64,
    /// The timeline of the stop.
    pub stop_timeline: u32,
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Tablespace {
    /// Its object id, which names its place in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// The directory where it was: bytes, as the file system had them.
    pub location: Vec<u8>,
}

/// Pages with wrong checksums.
#[derive(Debug, Clone, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct BadPages {
    /// How many pages.
    pub count: u64,
    /// The first of them.
    pub first: Vec<BadPage>,
}

/// A page with a wrong checksum.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BadPage {
    /// The file, from the data directory.
    pub path: String,
    /// The number of the page in the relation.
    pub block: u32,
}

/// How many bad pages a snapshot names.
pub const MAX_BAD_PAGES: usize = 1000;

/// Sizes and counts of a backup, for people; nothing depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Statistics {
    /// Regular files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of runs of zeros, which are stored nowhere.
    pub zero_bytes: u64,
    /// Bytes of content that the repository did not have.
    pub new_bytes: u64,
    /// Bytes that were added to the repository.
    pub stored_bytes: u64,
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// How long the copy took, in microseconds.
    pub copy_micros: u64,
}

impl Snapshot {
    /// The name of the snapshot's object.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::Snapshot(BackupName {
            server: self.server.clone(),
            system_id: self.system_id,
            backup_id: self.backup_id.clone(),
        })
    }

    /// The hash by which the next snapshot names this one (BLAKE3 of the encoded record).
    pub fn hash(&self) -> SnapshotHash {
        SnapshotHash::from_bytes(*blake3::hash(&codec::encode(self)).as_bytes())
    }

    /// The encoded record, which is also what a copy in a metadata pack holds.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let record = codec::encode(self);
        within("snapshot", record.len() as u64, MAX_RECORD as u64)?;
        Ok(record)
    }

    /// Decodes and validates a record.
    pub fn decode(record: &[u8]) -> Result<Self> {
        let snapshot: Snapshot = codec::decode("snapshot", record, MAX_RECORD)?;
        snapshot.root.validate()?;
        within(
            "number of bad pages named",
            snapshot.bad_pages.first.len() as u64,
            MAX_BAD_PAGES as u64,
        )?;
        Ok(snapshot)
    }

    /// The sealed object.
    pub fn seal(&self, keys: &KeyRing) -> std::result::Result<Vec<u8>, SealError> {
        let record = self.encode()?;
        let name = self.object_name().to_string();
        Ok(seal_record(keys, ObjectKind::Snapshot, Domain::Snapshot, &name, &record)?)
    }

    /// Opens the object that the store has under `name`.
    pub fn open(keys: &KeyRing, name: &BackupName, object: &[u8]) -> Result<Self> {
        let path = ObjectName::Snapshot(name.clone()).to_string();
        let record = open_record(keys, ObjectKind::Snapshot, Domain::Snapshot, &path, object)?;
        let snapshot = Snapshot::decode(&record)?;
        if snapshot.object_name().to_string() != path {
            return Err(DecodeError::malformed(
                "snapshot",
                "it names another backup than its name",
            ));
        }
        Ok(snapshot)
    }
}
