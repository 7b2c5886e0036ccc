//! Bytes under names: the few calls that a repository needs of the place it lives in.
//!
//! Objects are created whole or not at all, never overwritten, and durable when the call returns.

pub mod faulty;
pub mod local;
pub mod location;
pub mod patient;
pub mod reserve;
pub mod sharing;
pub mod spending;

use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Kind;

/// The result of a storage call.
pub type Result<T> = std::result::Result<T, Error>;

/// A place that keeps objects.
#[async_trait]
pub trait Storage: Send + Sync + std::fmt::Debug {
    /// The place, as a person would name it.
    fn location(&self) -> String;

    /// Makes the place ready for a repository; one that is ready stays as it is. Where it has users, all of `group`
    /// may use it.
    async fn prepare(&self, group: Option<u32>) -> Result<()>;

    /// The group whose users share the place, if one does.
    async fn group(&self) -> Result<Option<u32>> {
        Ok(None)
    }

    /// Creates an object. It is durable, and whole to every reader, when this returns.
    ///
    /// # Errors
    /// [`Cause::AlreadyExists`] if there is an object of this name, whatever its bytes.
    async fn put(&self, name: &str, bytes: Bytes) -> Result<()>;

    /// The bytes of an object.
    ///
    /// # Errors
    /// [`Cause::NotFound`] only if the place answered that there is no such object.
    async fn get(&self, name: &str) -> Result<Bytes>;

    /// The bytes of an object that somebody else put, perhaps without living to see it durable: it is when
    /// this returns.
    async fn get_durable(&self, name: &str) -> Result<Bytes>;

    /// Some bytes of an object; an error if the object is shorter.
    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes>;

    /// The objects whose names begin with `prefix`, which may end within a part of a name, in no order.
    async fn list(&self, prefix: &str) -> Result<Vec<Object>>;

    /// Deletes an object; it is no error if there is none.
    async fn delete(&self, name: &str) -> Result<()>;

    /// The time by the clock of the place, which objects that are put now get. Asking takes the right to write.
    async fn now(&self) -> Result<SystemTime>;

    /// Removes what writers that died have left behind and no listing shows, if it was not touched for
    /// `age`. Says how many files.
    async fn remove_unfinished(&self, age: Duration) -> Result<usize>;

    /// How much space there is; nothing where the place has no such limit.
    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Sets space aside with which a full place can be emptied: so many bytes, or what is usual; 0 is none. Does nothing
    /// while there is too little room, and where a full place can be emptied anyway.
    async fn ensure_reserve(&self, _bytes: Option<u64>) -> Result<()> {
        Ok(())
    }

    /// Gives free what was set aside; whether there was anything. For what makes room, and nothing else.
    async fn release_reserve(&self) -> Result<bool> {
        Ok(false)
    }
}

/// The space of a place, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What can be written to, without the reserve.
    pub available: u64,
    /// What is set aside.
    pub reserve: u64,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was created, by the clock of the place.
    pub modified: SystemTime,
}

/// What went wrong with an object, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", what(name, location))]
pub struct Error {
    /// What was tried: `read`, `write`, `list`, `delete`.
    pub operation: &'static str,
    /// The object's name, or the prefix; empty for the place itself.
    pub name: String,
    /// The place.
    pub location: String,
    /// Why it failed.
    #[source]
    pub cause: Cause,
}

fn what(name: &str, location: &str) -> String {
    if name.is_empty() { location.to_owned() } else { format!("{name:?} in {location}") }
}

/// Why a storage call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// The place itself is not there, or is not one that holds a repository.
    #[error("{0}")]
    Absent(String),
    /// There is such an object already.
    #[error("it exists already")]
    AlreadyExists,
    /// No space is left.
    #[error("no space is left there")]
    Full(#[source] std::io::Error),
    /// The place does not let this user do it.
    #[error("permission denied")]
    Permission(#[source] std::io::Error),
    /// The file system is mounted read-only.
    #[error("its file system is read-only")]
    ReadOnly(#[source] std::io::Error),
    /// The object has fewer bytes than were asked for.
    #[error("it has only {length} bytes, and {wanted} were needed: it is cut short")]
    Short {
        /// The object's length in bytes.
        length: u64,
        /// Where the wanted range ends.
        wanted: u64,
    },
    /// The object has more bytes than anything of its kind may have.
    #[error("it has {length} bytes, and such objects have at most {limit}")]
    Long {
        /// The object's length in bytes.
        length: u64,
        /// The most that it may have.
        limit: u64,
    },
    /// Anything else.
    #[error(transparent)]
    Io(std::io::Error),
}

impl Error {
    /// Whether the place answered that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::NotFound)
    }

    /// Whether the place itself is not there.
    pub fn is_no_place(&self) -> bool {
        matches!(self.cause, Cause::Absent(_))
    }

    /// Whether the medium cannot give back the bytes of this object.
    pub fn is_unreadable(&self) -> bool {
        let eio = rustix::io::Errno::IO.raw_os_error();
        matches!(&self.cause, Cause::Io(error) if error.raw_os_error() == Some(eio))
    }

    /// Whether no space was left.
    pub fn is_full(&self) -> bool {
        matches!(self.cause, Cause::Full(_))
    }

    /// Whether it may pass by itself, or by what somebody does to the place meanwhile.
    pub fn may_pass(&self) -> bool {
        matches!(self.cause, Cause::Absent(_) | Cause::Full(_) | Cause::ReadOnly(_) | Cause::Io(_))
    }

    /// Whether something is wrong with this object alone: it has a length that it cannot have, or the medium
    /// does not give it back.
    pub fn is_damage(&self) -> bool {
        matches!(self.cause, Cause::Short { .. } | Cause::Long { .. }) || self.is_unreadable()
    }

    /// Whether the object exists already.
    pub fn already_exists(&self) -> bool {
        matches!(self.cause, Cause::AlreadyExists)
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        let (kind, hint) = match &error.cause {
            Cause::NotFound => (Kind::NotFound, None),
            Cause::Absent(_) => (
                Kind::Storage,
                Some(
                    "see that its file system is mounted; a new repository is made by: barman repo init",
                ),
            ),
            Cause::ReadOnly(_) => {
                (Kind::Storage, Some("see why in the log of the kernel, and mount it writable"))
            }
            Cause::Full(_) => (
                Kind::Storage,
                Some(
                    "free some space or give the repository more; nothing that was stored is lost",
                ),
            ),
            Cause::Permission(_) => (
                Kind::Storage,
                Some("run barman as the user that owns the repository, or mend its permissions"),
            ),
            Cause::Short { .. } | Cause::Long { .. } => {
                (Kind::Damaged, Some("run: barman repo check"))
            }
            _ => (Kind::Storage, None),
        };
        let error = crate::error::Error::new(kind, error.to_string()).because(error.cause);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
