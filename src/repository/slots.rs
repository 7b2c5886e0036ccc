//! Key slots: who can open the repository.

use bytes::Bytes;
use repo_format::ids::SlotId;
use repo_format::names::ObjectName;
use repo_format::slot::{self, Argon2id, Credential, SlotHeader, SlotSecrets, Unlock};

use super::error::{Error, Result};
use super::{Repository, now_micros};
use crate::storage::Storage;

/// A slot that is to be made.
#[derive(Debug)]
pub struct NewSlot {
    /// What will open it.
    pub credential: Credential,
    /// What the user calls it.
    pub label: String,
    /// What a password costs to try; unused for key files.
    pub cost: PasswordCost,
}

/// How much memory and time Argon2id takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl Default for PasswordCost {
    /// About a second on one core.
    fn default() -> Self {
        PasswordCost { memory_kib: 256 * 1024, passes: 3 }
    }
}

/// A slot in the store, as anyone can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// The slot's name.
    pub id: SlotId,
    /// Its clear part.
    pub header: SlotHeader,
}

/// Makes a slot in the store.
pub async fn put(storage: &dyn Storage, new: &NewSlot, secrets: &SlotSecrets) -> Result<SlotId> {
    let mut id = [0; SlotId::LEN];
    getrandom::fill(&mut id)?;
    let id = SlotId::from_bytes(id);
    let unlock = match &new.credential {
        Credential::KeyFile(_) => Unlock::KeyFile,
        Credential::Password(_) => {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt)?;
            let PasswordCost { memory_kib, passes } = new.cost;
            Unlock::Password(Argon2id { memory_kib, passes, lanes: 1, salt })
        }
    };
    let header = SlotHeader { unlock, label: new.label.clone(), created_at: now_micros() };
    let object = slot::seal(&id, &header, secrets, &new.credential)?;
    storage.put(&ObjectName::KeySlot(id).to_string(), Bytes::from(object)).await?;
    Ok(id)
}

/// The slots in the store, oldest first. A slot that is damaged is left out, with a warning.
pub async fn list(storage: &dyn Storage) -> Result<Vec<SlotInfo>> {
    let mut slots = vec![];
    for (id, object) in objects(storage).await? {
        let damaged = |e| Error::damaged(ObjectName::KeySlot(id).to_string(), e);
        match object.and_then(|object| slot::header(&object).map_err(damaged)) {
            Ok(header) => slots.push(SlotInfo { id, header }),
            Err(error) => tracing::warn!("{}", crate::error::Error::from(error)),
        }
    }
    slots.sort_by_key(|slot| (slot.header.created_at, slot.id));
    Ok(slots)
}

/// Opens the slot that `credential` is for.
pub async fn unlock(
    storage: &dyn Storage,
    credential: &Credential,
) -> Result<(SlotId, SlotSecrets)> {
    let objects = objects(storage).await?;
    if objects.is_empty() {
        return Err(Error::NotARepository { location: storage.location() });
    }
    let mut damage = None;
    for (id, object) in objects {
        let damaged = |e| Error::damaged(ObjectName::KeySlot(id).to_string(), e);
        match object.and_then(|object| slot::open(&id, &object, credential).map_err(damaged)) {
            Ok(Some(secrets)) => return Ok((id, secrets)),
            Ok(None) => {}
            Err(error) => damage = Some(error),
        }
    }
    let credential = match credential {
        Credential::Password(_) => "password",
        Credential::KeyFile(_) => "key file",
    };
    Err(damage.unwrap_or(Error::Locked { location: storage.location(), credential }))
}

/// Removes a slot. Whoever still knows the password and has a copy of the slot can use that copy.
///
/// # Errors
/// If it is the last slot, or the one that opened the repository.
pub async fn remove(repository: &Repository, id: SlotId) -> Result<()> {
    let slots = list(repository.storage().as_ref()).await?;
    if !slots.iter().any(|slot| slot.id == id) {
        return Err(Error::NoSuchSlot(id.to_string()));
    }
    if slots.len() == 1 {
        return Err(Error::SlotInUse(id, "it is the last one"));
    }
    if repository.slot() == id {
        return Err(Error::SlotInUse(id, "it is the one that opened the repository"));
    }
    let name = ObjectName::KeySlot(id).to_string();
    let (storage, own) = (repository.storage(), repository.slot());
    let object = storage.get(&name).await?;
    storage.delete(&name).await?;
    // Two who remove each other's slot at the same moment would leave none.
    if !list(storage.as_ref()).await?.iter().any(|slot| slot.id == own) {
        storage.put(&name, object).await?;
        return Err(Error::SlotInUse(id, "the one that opened the repository was just removed"));
    }
    Ok(())
}

/// The slots in the store. One that cannot be read does not keep the others from opening.
async fn objects(storage: &dyn Storage) -> Result<Vec<(SlotId, Result<Bytes>)>> {
    let mut found = vec![];
    for object in storage.list("keys/").await? {
        let Some(ObjectName::KeySlot(id)) = ObjectName::parse(&object.name) else { continue };
        found.push((id, storage.get(&object.name).await.map_err(Error::from)));
    }
    Ok(found)
}
