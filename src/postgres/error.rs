//! What can go wrong between us and a PostgreSQL server, or with the files it wrote.

use crate::error::Kind;
use std::fmt;

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
