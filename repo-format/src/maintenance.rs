//! Maintenance records: what a pruner is about to delete. Writers read them after they have put their
//! snapshot, and so does the pruner list the snapshots after it has put its record: one of the two
//! always sees the other.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, Result, within};
use crate::envelope::ObjectKind;
use crate::ids::{IndexId, PackId};
use crate::keys::KeyRing;
use crate::limits::MAX_MAINTENANCE;
use crate::names::ObjectName;
use crate::record::{SealError, open_record, seal_record};
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
    /// The packs that it will delete.
    pub packs: Vec<PackId>,
    /// The index runs that it will delete.
    pub indexes: Vec<IndexId>,
    /// The full names of other objects that it will delete: snapshots and WAL that expired.
    pub objects: Vec<String>,
}

impl Maintenance {
    /// The sealed object of epoch `epoch`.
    pub fn seal(&self, keys: &KeyRing, epoch: u64) -> std::result::Result<Vec<u8>, SealError> {
        let record = codec::encode(self);
        within("maintenance record", record.len() as u64, MAX_MAINTENANCE as u64)?;
        let name = ObjectName::Maintenance(epoch).to_string();
        Ok(seal_record(keys, ObjectKind::Maintenance, Domain::Maintenance, &name, &record)?)
    }

    /// Opens the record of epoch `epoch`.
    pub fn open(keys: &KeyRing, epoch: u64, object: &[u8]) -> Result<Self> {
        let name = ObjectName::Maintenance(epoch).to_string();
        let domain = Domain::Maintenance;
        let record = open_record(keys, ObjectKind::Maintenance, domain, &name, object)?;
        codec::decode("maintenance record", &record, MAX_MAINTENANCE)
    }
}
