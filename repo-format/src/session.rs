//! Sessions: who writes to the repository now. Each heartbeat is a new object of the session, whose
//! time in the store is the time of the beat; older beats are removed after it.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, Result, within};
use crate::envelope::ObjectKind;
use crate::ids::SessionId;
use crate::keys::KeyRing;
use crate::limits::MAX_RECORD;
use crate::names::ObjectName;
use crate::record::{SealError, open_record, seal_record};
use crate::seal::Domain;

/// What a session says of itself.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Session {
    /// What it does.
    pub activity: Activity,
    /// The host it runs on.
    pub host: String,
    /// What tells this boot of the host from others, so that a process id can be trusted.
    pub boot_id: String,
    /// The process id.
    pub process: u32,
    /// When the process started, in the host's own unit; with the process id it names one process.
    pub process_start: u64,
    /// When the session began, in microseconds since 1970-01-01 UTC by the host's clock.
    pub begun_at: i64,
    /// The user that runs it.
    pub user: String,
}

/// What a session does.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Activity {
    /// Makes a backup.
    Backup {
        /// The server.
        server: String,
        /// The backup's id.
        backup_id: String,
        /// The backups whose content it may refer to without reading the index again.
        parents: Vec<String>,
        /// Where the backup begins, once that is known: LSN and timeline.
        start: Option<(u64, u32)>,
    } = 1,
    /// Moves WAL into packs.
    EncodeWal {
        /// The server.
        server: String,
    } = 2,
    /// Reads what a pruner must leave alone until it is done.
    Read {
        /// What is read, for people.
        purpose: String,
        /// The backups that are read, as `server/backup id`.
        backups: Vec<String>,
    } = 3,
    /// Copies into this repository from another place.
    Receive {
        /// From where, for people.
        origin: String,
    } = 4,
}

impl Session {
    /// The sealed object of one beat.
    pub fn seal(
        &self,
        keys: &KeyRing,
        id: SessionId,
        beat: u64,
    ) -> std::result::Result<Vec<u8>, SealError> {
        let record = codec::encode(self);
        within("session", record.len() as u64, MAX_RECORD as u64)?;
        let name = ObjectName::Session { id, beat }.to_string();
        Ok(seal_record(keys, ObjectKind::Session, Domain::Session, &name, &record)?)
    }

    /// Opens the object of one beat.
    pub fn open(keys: &KeyRing, id: SessionId, beat: u64, object: &[u8]) -> Result<Self> {
        let name = ObjectName::Session { id, beat }.to_string();
        let record = open_record(keys, ObjectKind::Session, Domain::Session, &name, object)?;
        codec::decode("session", &record, MAX_RECORD)
    }
}
