//! Server records: which clusters a server's name stands for, and where its history is. The record with the
//! highest number tells how things stand.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, Result, within};
use crate::envelope::ObjectKind;
use crate::limits::MAX_SYSTEMS;
use crate::names::{ObjectName, is_server_name};
use crate::record::Record;
use crate::seal::Domain;

/// What is known of a server's name.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServerRecord {
    /// When this was put, in microseconds since 1970-01-01 UTC.
    pub at: i64,
    /// The host that put it.
    pub host: String,
    /// Where the history of the server of this name is.
    pub history: History,
}

/// Where the snapshots, notes and WAL of a server are.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum History {
    /// They are stored under this very name.
    Here {
        /// The clusters that were accepted, in this order; only the last one may add to the history.
        systems: Vec<AcceptedSystem>,
    } = 1,
    /// They are stored under another name, which the server had first.
    Elsewhere {
        /// That name.
        server: String,
    } = 2,
}

/// A cluster that a server's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AcceptedSystem {
    /// Its system identifier.
    pub system_id: u64,
    /// When it was accepted, in microseconds since 1970-01-01 UTC.
    pub at: i64,
}

impl Default for History {
    fn default() -> Self {
        History::Here { systems: vec![] }
    }
}

impl Record for ServerRecord {
    const KIND: ObjectKind = ObjectKind::Server;
    const DOMAIN: Domain = Domain::Server;

    fn validate(&self) -> Result<()> {
        let malformed = |detail: &str| Err(DecodeError::malformed(Self::KIND.name(), detail));
        match &self.history {
            History::Here { systems } => {
                within("accepted systems", systems.len() as u64, MAX_SYSTEMS as u64)?;
                let mut pairs = systems.iter().zip(systems.iter().skip(1));
                if pairs.any(|(one, next)| one.system_id == next.system_id) {
                    return malformed("it accepts one system twice in a row");
                }
            }
            History::Elsewhere { server } if !is_server_name(server) => {
                return malformed("it leads to an impossible server");
            }
            History::Elsewhere { .. } => {}
        }
        Ok(())
    }

    fn fits(&self, name: &ObjectName) -> bool {
        match (name, &self.history) {
            (ObjectName::Server { server, .. }, History::Elsewhere { server: other }) => {
                server != other
            }
            (ObjectName::Server { .. }, History::Here { .. }) => true,
            _ => false,
        }
    }
}
