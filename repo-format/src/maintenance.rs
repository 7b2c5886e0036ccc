//! Maintenance records: what a pruner is about to delete. Writers read them after they have put their
//! snapshot, and the pruner lists the snapshots after it has put its record: one of the two always
//! sees the other. The record with the highest number tells how things stand.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, Result, strictly_ascending};
use crate::envelope::ObjectKind;
use crate::ids::{IndexId, PackId};
use crate::limits::MAX_MAINTENANCE;
use crate::names::ObjectName;
use crate::record::Record;
use crate::seal::Domain;

/// How far a pruner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Phase {
    /// What is listed may be deleted by a later record. Under this one nothing is.
    Intent = 1,
    /// What is listed is being deleted, except what was found to be needed after all.
    Deleting = 2,
    /// Nothing is pending; the record keeps its number from serving twice.
    Done = 3,
}

/// What one maintenance run says before it acts.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Maintenance {
    /// How far the pruner is.
    pub phase: Phase,
    /// When the run began, in microseconds since 1970-01-01 UTC by the host's clock.
    pub begun_at: i64,
    /// The host it runs on.
    pub host: String,
    /// The process id.
    pub process: u32,
    /// The packs that go, in ascending order.
    pub packs: Vec<PackId>,
    /// The index runs that go, in ascending order.
    pub indexes: Vec<IndexId>,
    /// The full names of other objects that go, in ascending order: snapshots and WAL
    /// that expired, conflicts that were settled, and notes about what is gone.
    pub objects: Vec<String>,
}

impl Record for Maintenance {
    const KIND: ObjectKind = ObjectKind::Maintenance;
    const DOMAIN: Domain = Domain::Maintenance;
    const LIMIT: usize = MAX_MAINTENANCE;

    fn validate(&self) -> Result<()> {
        let what = Self::KIND.name();
        strictly_ascending(what, self.packs.iter())?;
        strictly_ascending(what, self.indexes.iter())?;
        strictly_ascending(what, self.objects.iter())?;
        let lists_nothing =
            self.packs.is_empty() && self.indexes.is_empty() && self.objects.is_empty();
        if self.phase == Phase::Done && !lists_nothing {
            return Err(DecodeError::malformed(what, "it is done and yet lists something"));
        }
        for name in &self.objects {
            match ObjectName::parse(name) {
                Some(
                    ObjectName::Snapshot(_)
                    | ObjectName::Note { .. }
                    | ObjectName::Wal(_)
                    | ObjectName::Conflict(_),
                ) => {}
                _ => {
                    let detail = format!("{name:?} names nothing that expires");
                    return Err(DecodeError::malformed(what, detail));
                }
            }
        }
        Ok(())
    }

    fn fits(&self, name: &ObjectName) -> bool {
        matches!(name, ObjectName::Maintenance(_))
    }
}
