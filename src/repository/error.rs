//! What can go wrong with a repository.

use repo_format::DecodeError;
use repo_format::blob::EncodeError;
use repo_format::ids::ChunkId;
use repo_format::record::SealError;

use crate::error::Kind;
use crate::storage;

/// The result of a repository operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a repository operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// There is a repository where one should be created.
    #[error("there is a repository in {location} already")]
    Exists {
        /// The place.
        location: String,
    },
    /// There is no repository.
    #[error("there is no repository in {location}")]
    NotARepository {
        /// The place.
        location: String,
    },
    /// No key slot opens.
    #[error("the repository in {location} does not open with this {credential}")]
    Locked {
        /// The place.
        location: String,
        /// What was tried: `password` or `key file`.
        credential: &'static str,
    },
    /// The configuration belongs to another repository than the keys.
    #[error("the configuration in {location} belongs to another repository than its keys")]
    OtherRepository {
        /// The place.
        location: String,
    },
    /// A newer program changed the repository in a way that this one does not know.
    #[error("to {operation} the repository in {location} needs {}", features.join(", "))]
    Features {
        /// `read`, `write to` or `prune`.
        operation: &'static str,
        /// The place.
        location: String,
        /// The features that are not known.
        features: Vec<String>,
    },
    /// The place is a mirror, and only a copy of its primary may change it.
    #[error("the repository in {location} is a mirror")]
    Mirror {
        /// The place.
        location: String,
    },
    /// An object is not what it must be.
    #[error("{object} is damaged")]
    Damaged {
        /// The object's name.
        object: String,
        /// How it shows.
        #[source]
        error: DecodeError,
    },
    /// A chunk that something refers to is nowhere.
    #[error("chunk {0} is missing from the repository")]
    MissingChunk(ChunkId),
    /// Nobody can tell what a backup needs.
    #[error("backup {backup} is damaged, so that nobody can tell what it needs")]
    NeededByBackup {
        /// The backup, as `server/backup id`.
        backup: String,
        /// How it shows.
        #[source]
        error: Box<Error>,
    },
    /// A temporary file of this host failed.
    #[error("a temporary file in {} failed", super::host::scratch_directory().display())]
    Scratch(#[source] std::io::Error),
    /// Content could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A record could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Another session does the same.
    #[error("{what} is running already: process {process} on {host} since {since}")]
    Busy {
        /// What is running.
        what: String,
        /// Its host.
        host: String,
        /// Its process id.
        process: u32,
        /// When it began.
        since: String,
    },
    /// Somebody else is at work where one must be alone.
    #[error(
        "nothing can be pruned while {what} is running: process {process} on {host} since {since}"
    )]
    NotAlone {
        /// What is running.
        what: String,
        /// Whether it is a backup.
        is_backup: bool,
        /// Its host.
        host: String,
        /// Its process id.
        process: u32,
        /// When it began.
        since: String,
    },
    /// This session was taken for dead, and what it wrote may have been deleted.
    #[error("this session was taken for dead after a silence of {silence}")]
    Fenced {
        /// How long no heartbeat came through.
        silence: String,
    },
    /// Something is of another cluster than the one that its server stands for.
    #[error(
        "server {server} stands for the cluster with system identifier {accepted}, and {what} is of \
         the one with {found}"
    )]
    OtherSystem {
        /// The server.
        server: String,
        /// The system identifier that was accepted.
        accepted: u64,
        /// What came.
        what: String,
        /// Its system identifier.
        found: u64,
    },
    /// A server that should be renamed has no history.
    #[error("there is nothing of server {server} in the repository")]
    NoHistory {
        /// The server.
        server: String,
    },
    /// A server cannot get a name that stands for something already.
    #[error("server {server} has a history of its own")]
    HasHistory {
        /// The name.
        server: String,
    },
    /// A name that no server can have.
    #[error("{name:?} cannot be the name of a server: it is empty or too long")]
    ServerName {
        /// The name.
        name: String,
    },
    /// Somebody else changed what is known of a server at the same time.
    #[error("somebody else changed what is known of server {server} at this moment")]
    Changed {
        /// The server.
        server: String,
    },
    /// A slot that should be removed is the last, or the one in use.
    #[error("key {0} cannot be removed: {1}")]
    SlotInUse(repo_format::ids::SlotId, &'static str),
    /// A slot that was named does not exist.
    #[error("there is no key {0}")]
    NoSuchSlot(String),
    /// A key file cannot be used.
    #[error("key file {path}: {reason}")]
    KeyFile {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A command was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Damage to the object named `object`.
    pub fn damaged(object: impl Into<String>, error: DecodeError) -> Self {
        Error::Damaged { object: object.into(), error }
    }

    /// Whether something in the repository is missing or not what it must be, so that another copy of it
    /// may help.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { .. } | Error::MissingChunk(_) => true,
            Error::Storage(error) => error.is_not_found() || error.is_damage(),
            _ => false,
        }
    }

    /// Whether the store answered that an object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Storage(error) if error.is_not_found())
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        let (kind, hint) = match &error {
            Error::Storage(_) => {
                let Error::Storage(error) = error else { unreachable!("matched above") };
                return error.into();
            }
            Error::OtherSystem { server, .. } => {
                let hint = format!(
                    "after pg_upgrade or a new initdb: barman repo server-accept {server}; otherwise \
                     another server uses this name: give it one of its own"
                );
                return crate::error::Error::new(Kind::Refused, error.to_string()).hint(hint);
            }
            Error::NoHistory { .. } | Error::ServerName { .. } => (Kind::NotFound, None),
            Error::HasHistory { .. } => (Kind::Refused, Some("choose another name")),
            Error::Changed { .. } => (Kind::Refused, Some("try again")),
            Error::Exists { .. } => {
                (Kind::Refused, Some("choose an empty place, or use the repository that is there"))
            }
            Error::NotARepository { .. } => (
                Kind::NotFound,
                Some(
                    "check that its disk is mounted; a new repository is made by: barman repo init",
                ),
            ),
            Error::Locked { .. } => (
                Kind::Key,
                Some("check repository_key_file, or the password; barman repo key list"),
            ),
            Error::Mirror { .. } => (Kind::Refused, Some("write to its primary")),
            Error::Damaged { error: DecodeError::Version { .. }, .. } | Error::Features { .. } => {
                (Kind::Refused, Some("a newer barman wrote this repository: install that version"))
            }
            Error::OtherRepository { .. } | Error::Damaged { .. } | Error::MissingChunk(_) => (
                Kind::Damaged,
                Some("run: barman repo check --read-data, which lists the backups it touches"),
            ),
            Error::NeededByBackup { .. } => (
                Kind::Damaged,
                Some(
                    "mend it (barman repo check tells how), or give it up with barman delete; \
                     until then nothing is deleted",
                ),
            ),
            Error::Scratch(_) => {
                (Kind::Io, Some("give it space, or name another directory in TMPDIR"))
            }
            Error::Encode(_) | Error::Seal(_) | Error::Random(_) => (Kind::Storage, None),
            Error::Busy { .. } => {
                (Kind::Refused, Some("wait for it to end, or end it, and try again"))
            }
            Error::NotAlone { is_backup: true, host, process, .. } => {
                let hint = format!(
                    "wait for it to end; one that waits for space is ended on {host} by: kill {process}. \
                     It can be run again, and what it has stored is found then"
                );
                return crate::error::Error::new(Kind::Refused, error.to_string()).hint(hint);
            }
            Error::NotAlone { .. } => {
                (Kind::Refused, Some("wait for it to end, or end it, and try again"))
            }
            Error::Fenced { .. } => (Kind::Refused, Some("run the backup again")),
            Error::SlotInUse(..) => {
                (Kind::Refused, Some("add another key first: barman repo key add"))
            }
            Error::NoSuchSlot(_) => (Kind::NotFound, Some("see: barman repo key list")),
            Error::KeyFile { .. } => (Kind::Key, None),
            Error::Interrupted => (Kind::Interrupted, None),
        };
        let base = crate::error::Error::new(kind, error.to_string());
        let base = match error {
            Error::Damaged { error, .. } => base.because(error),
            Error::Scratch(error) => base.because(error),
            Error::NeededByBackup { error, .. } => base.because(error.to_string()),
            _ => base,
        };
        match hint {
            Some(hint) => base.hint(hint),
            None => base,
        }
    }
}
