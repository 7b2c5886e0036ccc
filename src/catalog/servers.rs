//! The servers that a repository knows, whatever a configuration says.

use std::collections::BTreeSet;

use repo_format::names::ObjectName;

use crate::error::Result;
use crate::repository::{self, Repository, snapshots};

/// The names of the servers of which there are backups or WAL: those under which they are stored, and those that
/// servers got when they were renamed.
pub async fn known(repository: &Repository) -> Result<BTreeSet<String>> {
    let backups = snapshots::names(repository, None).await?;
    let mut servers: BTreeSet<String> = backups.into_iter().map(|name| name.server).collect();
    let wal = repository.storage().list("wal/").await?;
    servers.extend(wal.iter().filter_map(|object| match ObjectName::parse(&object.name)? {
        ObjectName::Wal(name) => Some(name.server),
        _ => None,
    }));
    servers.extend(repository::servers::renamed(repository).await?);
    Ok(servers)
}
