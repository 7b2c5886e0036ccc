//! What the host that is restored to must have so that the server runs there.

use repo_format::snapshot::Snapshot;

use super::destination::Destination;
use super::environment::{self, Machine};
use super::programs::{self, Programs};
use crate::error::{Error, Kind, Result};

/// A host that is restored to.
#[derive(Debug, Clone)]
pub struct Host {
    /// The PostgreSQL versions that are installed there.
    pub installed: Vec<Programs>,
    /// What its machine is like.
    pub machine: Machine,
}

impl Host {
    /// What is known of a host.
    pub fn of(destination: &dyn Destination) -> Result<Host> {
        Ok(Host { installed: destination.installed()?, machine: destination.machine()? })
    }

    /// The programs of the version that a backup is of.
    pub fn programs(&self, snapshot: &Snapshot) -> Option<&Programs> {
        programs::of_version(&self.installed, major_version(snapshot))
    }

    /// Compares the host where a backup was made with this one: everything of which the server depends
    /// and that a data directory does not contain. Returns what somebody should look at.
    ///
    /// # Errors
    /// If the server cannot run here, unless `any_version` lets it.
    pub fn compare(&self, snapshot: &Snapshot, any_version: bool) -> Result<Vec<String>> {
        let major = major_version(snapshot);
        let mut warnings = environment::warnings(snapshot, &self.machine);
        if self.programs(snapshot).is_some() {
            return Ok(warnings);
        }
        let mut others: Vec<u32> = self.installed.iter().map(|programs| programs.major).collect();
        others.dedup();
        if others.is_empty() || any_version {
            let warning = format!(
                "PostgreSQL {major} is not installed here: install it before the start, with the \
                 extensions of the server that was backed up"
            );
            warnings.insert(0, warning);
            return Ok(warnings);
        }
        let others: Vec<String> = others.iter().map(u32::to_string).collect();
        Err(Error::new(
            Kind::Refused,
            format!(
                "backup {} is of PostgreSQL {major}, and only {} is installed here",
                snapshot.backup_id,
                others.join(", ")
            ),
        )
        .hint(format!(
            "install PostgreSQL {major} or put its programs into PATH; \
             --any-version restores for another host"
        )))
    }
}

/// The major version of the server that was backed up.
pub fn major_version(snapshot: &Snapshot) -> u32 {
    snapshot.cluster.version / 10_000
}
