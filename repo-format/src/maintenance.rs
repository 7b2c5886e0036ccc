//! Maintenance records: what a pruner is about to delete. Writers read them after they have put their
//! snapshot, and so does the pruner list the snapshots after it has put its record: one of the two
//! always sees the other.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, Result, strictly_ascending};
use crate::envelope::ObjectKind;
use crate::ids::{IndexId, PackId};
use crate::limits::MAX_MAINTENANCE;
use crate::names::ObjectName;
use crate::record::Record;
use crate::seal::Domain;

/// The intent of one maintenance run.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Maintenance {
    /// When the run began, in microseconds since 1970-01-01 UTC by the host's clock.
    pub begun_at: i64,
    /// The host it runs on.
    pub host: String,
    /// The process id.
    pub process: u32,
    /// The packs that it will delete, in ascending order.
    pub packs: Vec<PackId>,
    /// The index runs that it will delete, in ascending order.
    pub indexes: Vec<IndexId>,
    /// The full names of other objects that it will delete, in ascending order: snapshots and WAL
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
