//! Sessions: who writes to the repository now. Each heartbeat is a new object of the session, whose
//! time in the store is the time of the beat; older beats are removed after it.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, Result, strictly_ascending};
use crate::envelope::ObjectKind;
use crate::names::{BackupName, ObjectName, is_backup_id, is_server_name};
use crate::record::Record;
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
        /// The backups whose content it may refer to without reading the index again, in ascending
        /// order.
        parents: Vec<BackupName>,
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
        /// The backups that are read, in ascending order.
        backups: Vec<BackupName>,
    } = 3,
    /// Copies into this repository from another place.
    Receive {
        /// From where, for people.
        origin: String,
    } = 4,
}

impl Record for Session {
    const KIND: ObjectKind = ObjectKind::Session;
    const DOMAIN: Domain = Domain::Session;

    fn validate(&self) -> Result<()> {
        let what = Self::KIND.name();
        let valid = match &self.activity {
            Activity::Backup { server, backup_id, parents, .. } => {
                strictly_ascending(what, parents.iter())?;
                is_server_name(server)
                    && is_backup_id(backup_id)
                    && parents.iter().all(BackupName::is_valid)
            }
            Activity::EncodeWal { server } => is_server_name(server),
            Activity::Read { backups, .. } => {
                strictly_ascending(what, backups.iter())?;
                backups.iter().all(BackupName::is_valid)
            }
            Activity::Receive { .. } => true,
        };
        if valid {
            Ok(())
        } else {
            Err(DecodeError::malformed(what, "it names an impossible server or backup"))
        }
    }

    fn fits(&self, name: &ObjectName) -> bool {
        matches!(name, ObjectName::Session { .. })
    }
}
