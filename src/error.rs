//! The error every command ends with: what failed, on what, why, and what to do.
//!
//! Each layer below has an error type of its own and converts into this one; the exit code is
//! decided here and nowhere else. Errors of the source (the PostgreSQL server, files being read) and
//! errors of the repository have different kinds, so that a full repository can never look like an
//! unreadable file to skip.

use std::fmt;

/// The result of everything a command calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault a failure is, as far as the program can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The command line makes no sense.
    Usage,
    /// A configuration file or environment variable is missing or wrong.
    Config,
    /// A server, backup, WAL file or key that was named does not exist.
    NotFound,
    /// The request is understood, and refused because it would do harm or cannot be met.
    Refused,
    /// The PostgreSQL server, or the connection to it.
    Postgres,
    /// The repository's store: unreachable, full, not permitted.
    Storage,
    /// The repository cannot be unlocked: wrong password or key file.
    Key,
    /// Bytes in the repository are not what they must be.
    Damaged,
    /// Local files outside the repository: a destination, a data directory.
    Io,
    /// What was to be done is done and stored, and something that it waits for has not come.
    Waiting,
    /// A signal ended the command.
    Interrupted,
    /// A bug in this program.
    Internal,
}

/// A failure with all a person needs to act on it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what failed, and on what.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// Adds the reason, as the layer below gave it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `what` in front of the message: the larger thing that failed.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the user can do about it, if that is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The error with its hint, in one line: for PostgreSQL's log, and for tables.
    pub fn in_one_line(&self) -> String {
        let text = match &self.hint {
            Some(hint) => format!("{self}; {hint}"),
            None => self.to_string(),
        };
        text.lines().collect::<Vec<_>>().join(" ")
    }

    /// The exit code of [`Kind::Waiting`], which is no failure of what was done.
    pub const WAITING: u8 = 3;

    /// The exit code of a command that ends with this error (Barman's: 1, and 2 for a command line
    /// that cannot be parsed).
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Waiting => Error::WAITING,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as _)
    }
}
