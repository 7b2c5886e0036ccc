//! What can go wrong between us and a PostgreSQL server, or with the files it wrote.

use crate::error::Kind;
use std::path::PathBuf;
use std::{fmt, io};

/// The result of reading one of PostgreSQL's formats.
pub type FormatResult<T> = std::result::Result<T, FormatError>;

/// Bytes that are not the PostgreSQL format they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Text that does not follow the syntax of `what`.
    #[error("invalid {what}: {text:?}")]
    Syntax {
        /// The name of the thing, for example `LSN`.
        what: &'static str,
        /// The text, cut to a readable length.
        text: String,
    },
    /// The bytes end before the structure does.
    #[error("{what} is too short: {actual} bytes, at least {needed} are needed")]
    Truncated {
        /// The name of the structure.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        actual: usize,
    },
    /// A field has another value than it must have.
    #[error("{what} is {actual}, expected {expected}")]
    Mismatch {
        /// The name of the field, and where it was found.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// Written by a version of PostgreSQL, or in a variant, that is not supported.
    #[error("{what} is not supported: {found}")]
    Unsupported {
        /// The name of the thing.
        what: &'static str,
        /// What was found.
        found: String,
    },
    /// The structure contradicts itself.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The name of the structure.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl FormatError {
    /// Text of the wrong syntax; long texts are cut.
    pub(super) fn syntax(what: &'static str, text: &str) -> Self {
        FormatError::Syntax { what, text: text.chars().take(120).collect() }
    }

    /// A self-contradicting structure.
    pub(super) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        FormatError::Invalid { what, reason: reason.into() }
    }

    /// A field with the wrong value.
    pub(super) fn mismatch(
        what: impl Into<String>,
        expected: impl fmt::Display,
        actual: impl fmt::Display,
    ) -> Self {
        FormatError::Mismatch {
            what: what.into(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }
}

impl From<FormatError> for crate::error::Error {
    fn from(error: FormatError) -> Self {
        crate::error::Error::new(Kind::Postgres, error.to_string())
    }
}

/// An error a PostgreSQL server reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`; of notices `WARNING` and the like.
    pub severity: String,
    /// The five characters of its SQLSTATE.
    pub code: String,
    /// What happened.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What PostgreSQL suggests.
    pub hint: Option<String>,
}

impl ServerError {
    /// SQLSTATE of a role that is not let in.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// SQLSTATE of a missing privilege.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// SQLSTATE of a file that is not there.
    pub const UNDEFINED_FILE: &str = "58P01";
    /// SQLSTATE of an object, a slot for example, that is not there.
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// SQLSTATE of something in the wrong state, for example a server in recovery.
    pub const WRONG_STATE: &str = "55000";
    /// SQLSTATE of a server that is starting, stopping or recovering.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";

    /// Whether the server refused who we are, or what we showed for it.
    pub fn is_authentication(&self) -> bool {
        self.code.starts_with("28")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

/// A failure between us and a PostgreSQL server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection parameters are wrong.
    #[error(transparent)]
    ConnInfo(#[from] super::conninfo::ConnInfoError),
    /// No connection could be made.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Where to.
        target: String,
        /// Why not.
        source: std::io::Error,
    },
    /// No connection could be made to a server's Unix socket.
    #[error("cannot connect to the socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Connecting took longer than `connect_timeout`.
    #[error("cannot connect to {target}: no answer within {seconds} s")]
    Timeout {
        /// Where to.
        target: String,
        /// The limit.
        seconds: u64,
    },
    /// None of several hosts would do.
    #[error("no connection could be made: {}", list(.0))]
    AllHosts(Vec<Error>),
    /// The server is not of the kind asked for.
    #[error("{target} is {found}, but target_session_attrs asks for {wanted}")]
    SessionAttributes {
        /// The server.
        target: String,
        /// What it is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// Logging in failed on our side: a missing password, a method not spoken.
    #[error("cannot log in to {target}: {reason}")]
    Authentication {
        /// The server.
        target: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// The server did not let us in.
    #[error("cannot log in to {target} user={user}: {source}")]
    Login {
        /// The server.
        target: String,
        /// The role.
        user: String,
        /// What it said.
        source: Box<ServerError>,
    },
    /// TLS could not be established, or its certificates do not verify.
    #[error("TLS with {target} failed: {reason}")]
    Tls {
        /// The server.
        target: String,
        /// Why.
        reason: String,
    },
    /// The server refused with an error.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The server says something it should not say here.
    #[error("protocol violation by the PostgreSQL server: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("connection to the PostgreSQL server was lost: {0}")]
    Lost(#[source] std::io::Error),
    /// The server closed the connection without a word.
    #[error("the PostgreSQL server closed the connection unexpectedly")]
    Closed,
    /// A request that cannot be made, found before it was sent.
    #[error("{0}")]
    Request(String),
    /// A value the server sent cannot be understood.
    #[error(transparent)]
    Format(#[from] FormatError),
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// The error the server reported, if it was one.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Error::Server(error) => Some(error),
            Error::Login { source, .. } => Some(source),
            Error::AllHosts(errors) => errors.iter().find_map(Error::server),
            _ => None,
        }
    }

    /// Whether the server reported this SQLSTATE.
    pub fn is_code(&self, code: &str) -> bool {
        self.server().is_some_and(|error| error.code == code)
    }

    /// Whether the same may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Socket { .. } | Error::Timeout { .. } => true,
            Error::Lost(_) | Error::Closed => true,
            Error::AllHosts(errors) => errors.iter().any(Error::is_transient),
            error => error.server().is_some_and(|ServerError { code, .. }| {
                ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
            }),
        }
    }

    /// What a DBA can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Connect { .. } | Error::Timeout { .. } => {
                "check that the server runs, and that listen_addresses, port and firewalls let this \
                 host in"
            }
            Error::Socket { path, source } if source.kind() == io::ErrorKind::NotFound => {
                return Some(format!(
                    "there is no socket {}: is the server started, and are port and directory (host) right?",
                    path.display()
                ));
            }
            Error::Socket { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "see that the user barman runs as may use this socket (unix_socket_permissions, and the \
                 directory)"
            }
            Error::Socket { .. } => "is the server started?",
            Error::AllHosts(errors) => return errors.iter().find_map(Error::hint),
            Error::Authentication { .. } => {
                "put the password into the password file (~/.pgpass, mode 0600) of the user barman \
                 runs as; for replication connections its database field is \"replication\""
            }
            Error::Tls { .. } => "compare sslmode and sslrootcert with the server's certificate",
            Error::Closed | Error::Lost(_) => {
                "see the server's log: it may have crashed, been restarted, or ended the session \
                 (wal_sender_timeout)"
            }
            Error::Login { user, source, .. } => {
                return login_hint(user, source).or_else(|| server_hint(source));
            }
            Error::Server(error) => return server_hint(error),
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// What helps when the server does not let `user` in.
fn login_hint(user: &str, error: &ServerError) -> Option<String> {
    if error.code != ServerError::INVALID_AUTHORIZATION {
        return None;
    }
    if error.message.starts_with("Peer authentication failed") {
        return Some(format!(
            "put \"local all,replication {user} scram-sha-256\" above the line of pg_hba.conf that matched, \
             and reload the server"
        ));
    }
    let is_missing = error.message.ends_with("does not exist");
    is_missing.then(|| {
        "what makes the roles that are needed is printed by: barman setup-sql SERVER".to_owned()
    })
}

fn server_hint(error: &ServerError) -> Option<String> {
    let text = match error.code.as_str() {
        "28000" if error.message.contains("pg_hba.conf") => {
            "add a line for this role, address and database to pg_hba.conf (streaming connections need \
             database \"replication\") and reload the server"
        }
        "28000" if error.message.contains("replication") => {
            "give the role the REPLICATION attribute: ALTER ROLE … REPLICATION"
        }
        "28P01" => {
            "check the password in the connection string or the password file, and that there is such a role \
             (barman setup-sql SERVER prints what makes it)"
        }
        "42501" if error.message.contains("replication") => {
            "give the role the REPLICATION attribute: ALTER ROLE … REPLICATION"
        }
        "42501" => "the role lacks a privilege: GRANT it the function or role named",
        "53300" => "raise max_connections or close unused sessions",
        "53400" => "raise max_wal_senders or max_replication_slots",
        _ => return error.hint.clone(),
    };
    Some(text.to_owned())
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::ConnInfo(_) => Kind::Config,
            _ => Kind::Postgres,
        };
        let hint = error.hint();
        let converted = crate::error::Error::new(kind, error.to_string());
        match hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}
