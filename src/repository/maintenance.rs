//! What pruning announces in the store, and what a writer may therefore rely on.

use std::collections::BTreeSet;

use repo_format::ids::PackId;
use repo_format::maintenance::{Maintenance, Phase};
use repo_format::names::ObjectName;
use repo_format::record::Record;

use super::Repository;
use super::error::{Error, Result};
use super::index::{Index, packs_in_store};

/// The packs that a pruner has announced it will delete.
pub async fn doomed_packs(repository: &Repository) -> Result<BTreeSet<PackId>> {
    let mut doomed = BTreeSet::new();
    for object in repository.storage().list("maintenance/").await? {
        let Some(name @ ObjectName::Maintenance(_)) = ObjectName::parse(&object.name) else {
            continue;
        };
        let record = match repository.storage().get(&object.name).await {
            Err(error) if error.is_not_found() => continue,
            record => record?,
        };
        let record = Maintenance::open(repository.keys(), &name, &record)
            .map_err(|e| Error::damaged(object.name, e))?;
        if record.phase != Phase::Done {
            doomed.extend(record.packs);
        }
    }
    Ok(doomed)
}

/// The index of what a writer may rely on: what is in packs that are in the store, whole by their
/// length, and not about to be deleted. What is nowhere else is stored again.
pub async fn usable_index(repository: &Repository, doomed: &BTreeSet<PackId>) -> Result<Index> {
    let index = Index::load(repository).await?;
    let mut packs = packs_in_store(repository.storage().as_ref()).await?;
    packs.retain(|id, _| !doomed.contains(id));
    Ok(index.within(&packs))
}
