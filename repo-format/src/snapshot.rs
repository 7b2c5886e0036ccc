//! Snapshots: one immutable object for each backup, complete in itself.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Result, strictly_ascending, within};
use crate::envelope::ObjectKind;
use crate::environment::Environment;
use crate::ids::SnapshotHash;
use crate::limits::{MAX_BAD_PAGES, MAX_SIGNATURE, MAX_SYMLINK, MAX_UNREAD};
use crate::names::{BackupName, ObjectName};
use crate::record::Record;
use crate::seal::Domain;
use crate::tree::{DirectoryRef, validate_mode};

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
    /// The hashes of the server's newest snapshots when this one was made, in ascending order: one,
    /// or none for the first, or several where two were made at once.
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
    /// What the server ran on, if it told.
    pub environment: Option<Environment>,
    /// From where to where recovery needs WAL.
    pub wal: WalNeeded,
    /// The data directory.
    pub root: DirectoryRef,
    /// The permission bits of the data directory.
    pub root_mode: u32,
    /// The configuration files that the data directory does not have.
    pub configuration: Option<Configuration>,
    /// The tablespaces outside the data directory, in ascending order of their object ids; their
    /// files are below `pg_tblspc/<oid>`.
    pub tablespaces: Vec<Tablespace>,
    /// Pages whose checksum does not match and that no WAL of the backup repairs.
    pub bad_pages: BadPages,
    /// Whether everything was read, or left out by a rule that is known to be safe. A tainted
    /// snapshot must not be the parent of one that reads less.
    pub trusted: bool,
    /// The backup, of the same server and system identifier, that this one was compared with.
    pub parent: Option<String>,
    /// Sizes and counts, for people.
    pub statistics: Statistics,
    /// A signature over the hash of this record with `None` in this place; reserved.
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
    /// Where the server was that the backup was read from; a connection may name several hosts.
    pub endpoint: Option<Endpoint>,
    /// Whether the server was a standby.
    pub from_standby: bool,
    /// `summarize_wal`, where the server has it.
    pub summarize_wal: Option<bool>,
    /// `data_directory`, if the role could see it.
    pub data_directory: Option<String>,
    /// The configuration files, if the role could see them.
    pub config_files: Option<ConfigFiles>,
    /// The sum of the sizes of all tablespaces in bytes, as the server estimated it.
    pub size: u64,
}

/// Where a server listened.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Endpoint {
    /// The host as the configuration names it, or the directory of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Where the server's configuration files were.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ConfigFiles {
    /// `config_file`.
    pub config: String,
    /// `hba_file`.
    pub hba: String,
    /// `ident_file`.
    pub ident: String,
    /// Files that these include.
    pub included: Vec<String>,
}

/// Configuration files that lie outside the data directory, or that it only has links to.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Configuration {
    /// The directory below which each file has the absolute path that it had on the server.
    pub files: DirectoryRef,
    /// The paths of those that could not be read, in ascending order: they are missing, or were made
    /// from what the server showed of them.
    pub unread: Vec<String>,
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
    /// Which backup this is.
    pub fn backup_name(&self) -> BackupName {
        BackupName {
            server: self.server.clone(),
            system_id: self.system_id,
            backup_id: self.backup_id.clone(),
        }
    }

    /// The name of the snapshot's object.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::Snapshot(self.backup_name())
    }

    /// The roots of everything that this snapshot refers to.
    pub fn trees(&self) -> impl Iterator<Item = &DirectoryRef> {
        std::iter::once(&self.root).chain(self.configuration.iter().map(|it| &it.files))
    }

    /// The hash by which the next snapshot names this one (BLAKE3 of the encoded record).
    pub fn hash(&self) -> SnapshotHash {
        SnapshotHash::from_bytes(*blake3::hash(&codec::encode(self)).as_bytes())
    }
}

impl Record for Snapshot {
    const KIND: ObjectKind = ObjectKind::Snapshot;
    const DOMAIN: Domain = Domain::Snapshot;

    fn validate(&self) -> Result<()> {
        let malformed = |detail: &str| Err(DecodeError::malformed(Self::KIND.name(), detail));
        if !self.backup_name().is_valid() {
            return malformed("it names an impossible server or backup");
        }
        if let Some(parent) = &self.parent
            && !crate::names::is_backup_id(parent)
        {
            return malformed("it names an impossible parent");
        }
        if self.sequence == 0 {
            return malformed("its sequence number is 0");
        }
        strictly_ascending("previous snapshots", self.previous.iter())?;
        self.cluster.validate()?;
        self.environment.as_ref().map_or(Ok(()), Environment::validate)?;
        self.root.validate()?;
        self.configuration.as_ref().map_or(Ok(()), Configuration::validate)?;
        validate_mode(self.root_mode)?;
        strictly_ascending(
            "tablespaces",
            self.tablespaces.iter().map(|tablespace| tablespace.oid),
        )?;
        for Tablespace { location, .. } in &self.tablespaces {
            within("location of a tablespace", location.len() as u64, MAX_SYMLINK as u64)?;
            if location.is_empty() || location.contains(&0) {
                return malformed("a tablespace has no location");
            }
        }
        let named = self.bad_pages.first.len() as u64;
        within("number of bad pages named", named, MAX_BAD_PAGES as u64)?;
        if named > self.bad_pages.count {
            return malformed("it names more bad pages than it counts");
        }
        let signature = self.signature.as_ref().map_or(0, Vec::len);
        within("signature", signature as u64, MAX_SIGNATURE as u64)
    }

    fn fits(&self, name: &ObjectName) -> bool {
        *name == self.object_name()
    }
}

impl Configuration {
    fn validate(&self) -> Result<()> {
        self.files.validate()?;
        within("number of unread files", self.unread.len() as u64, MAX_UNREAD as u64)?;
        strictly_ascending("unread files", self.unread.iter())
    }
}

impl Cluster {
    /// Sizes that readers divide by must be those that PostgreSQL can have.
    fn validate(&self) -> Result<()> {
        let power_within = |size: u32, range: std::ops::RangeInclusive<u32>| {
            size.is_power_of_two() && range.contains(&size)
        };
        if power_within(self.block_size, 1 << 10..=1 << 15)
            && power_within(self.wal_segment_size, 1 << 20..=1 << 30)
        {
            Ok(())
        } else {
            let detail = "PostgreSQL has no such page or WAL segment size";
            Err(DecodeError::malformed("snapshot", detail))
        }
    }
}
