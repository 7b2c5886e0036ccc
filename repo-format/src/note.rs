//! Notes: facts about a backup that become known after it was made. The newest of its kind wins.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::Result;
use crate::envelope::ObjectKind;
use crate::names::ObjectName;
use crate::record::Record;
use crate::seal::Domain;

/// A fact about a backup.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Note {
    /// When it was noted, in microseconds since 1970-01-01 UTC.
    pub at: i64,
    /// The host that noted it.
    pub host: String,
    /// The fact.
    pub fact: Fact,
}

/// What can be noted.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Fact {
    /// The backup must not be deleted.
    Keep(KeepTarget) = 1,
    /// The backup need not be kept any longer.
    Release = 2,
    /// The backup failed; it may have no snapshot.
    Failed(Failure) = 3,
    /// The backup was restored as a trial.
    Rehearsed {
        /// Whether the restored server proved good.
        good: bool,
        /// What was found, for people.
        report: String,
    } = 4,
    /// The backup was deleted by the user or a rule; its space is freed later.
    Deleted {
        /// Why.
        reason: String,
    } = 5,
    /// The backup was brought back before its space was freed.
    Undeleted = 6,
}

/// For what a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum KeepTarget {
    /// With all later WAL: for recovery to any later moment.
    Full = 1,
    /// With the WAL that makes it consistent, and no more.
    Standalone = 2,
}

/// How a backup failed.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Failure {
    /// Why, for people.
    pub reason: String,
    /// When the backup began, in microseconds since 1970-01-01 UTC.
    pub begun_at: i64,
    /// The name that the user gave the backup.
    pub name: Option<String>,
    /// The cluster's system identifier, if it was known.
    pub system_id: Option<u64>,
}

impl Record for Note {
    const KIND: ObjectKind = ObjectKind::Note;
    const DOMAIN: Domain = Domain::Note;

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn fits(&self, name: &ObjectName) -> bool {
        matches!(name, ObjectName::Note { .. })
    }
}
