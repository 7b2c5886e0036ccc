//! The repository: chunks, snapshots and WAL in a place that keeps objects.
//!
//! A [`Repository`] is an unlocked one. [`writer`] puts chunks into packs and packs into the store,
//! [`reader`] gets them back, [`index`] knows where they are; [`snapshots`] and [`notes`] are what
//! the catalogue is made of; [`sessions`] tell who writes; [`slots`] manages keys; [`check`] proves
//! that all of it is sound.

pub mod aftermath;
pub mod buffers;
pub mod check;
pub mod commit;
pub mod error;
pub mod host;
pub mod index;
pub mod key_file;
pub mod maintenance;
pub mod notes;
pub mod packer;
pub mod prune;
pub mod reader;
pub mod references;
pub mod repair;
pub mod rewrite;
pub mod servers;
pub mod sessions;
pub mod slots;
pub mod snapshots;
pub mod wal;
pub mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use repo_format::config::{Chunking, Config, Features, Packing};
use repo_format::ids::SlotId;
use repo_format::keys::{KeyRing, MasterSecrets};
use repo_format::names::ObjectName;
use repo_format::role::PlaceRole;
use repo_format::slot::{Credential, Rights, SlotSecrets};

pub use error::{Error, Result};

use crate::storage::Storage;

/// What a program wants to do with a repository; each needs the features of its kind to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and add.
    Write,
    /// Read, add, and delete what nothing needs.
    Prune,
}

/// The features that this program knows, of any kind. The first version has none beyond the format.
const KNOWN_FEATURES: &[&str] = &[];

/// An unlocked repository.
#[derive(Debug)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    keys: KeyRing,
    secrets: MasterSecrets,
    config: Config,
    slot: SlotId,
    /// The stored names of servers that were asked for; see [`servers`].
    servers: Mutex<BTreeMap<String, String>>,
}

impl Repository {
    /// Creates a repository in an empty place, with one key slot.
    ///
    /// The slot comes last: before it exists there is nothing that can be opened. What a creation that
    /// was interrupted has left, a configuration without any slot, is replaced.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a repository already.
    pub async fn create(
        storage: Arc<dyn Storage>,
        slot: &slots::NewSlot,
        chunking: Chunking,
        packing: Packing,
    ) -> Result<Self> {
        storage.prepare(None).await?;
        remove_unfinished(storage.as_ref()).await?;
        let secrets = MasterSecrets::random()?;
        let keys = KeyRing::new(&secrets).map_err(|e| Error::damaged("new keys", e))?;
        let config = Config {
            number: 1,
            repository: secrets.repository,
            created_at: now_micros(),
            features: Features::default(),
            chunking,
            packing,
        };
        let sealed =
            config.seal(keys.naming()).map_err(|e| Error::damaged("the new configuration", e))?;
        let name = ObjectName::Config(config.number).to_string();
        storage.put(&name, Bytes::from(sealed.clone())).await?;
        let slot_secrets = SlotSecrets {
            rights: Rights::Full,
            secrets: secrets.clone(),
            config: sealed,
            config_number: config.number,
        };
        let sealed = slot_secrets.config.clone();
        let slot = slots::put(storage.as_ref(), slot, &slot_secrets).await?;
        // Who found our configuration before the slot was there may have taken it for one that was left.
        let is_ours = match storage.get(&name).await {
            Err(error) if error.is_not_found() => false,
            config => config? == sealed,
        };
        if !is_ours {
            storage.delete(&ObjectName::KeySlot(slot).to_string()).await?;
            return Err(Error::Exists { location: storage.location() });
        }
        Ok(Repository { storage, keys, secrets, config, slot, servers: Mutex::default() })
    }

    /// Opens the repository in `storage` with a password or key file.
    ///
    /// # Errors
    /// [`Error::Locked`] if no slot opens with this credential, [`Error::NotARepository`] if there is
    /// nothing, and a refusal if the repository needs a newer program.
    pub async fn open(
        storage: Arc<dyn Storage>,
        credential: &Credential,
        access: Access,
    ) -> Result<Self> {
        let (slot, opened) = slots::unlock(storage.as_ref(), credential).await?;
        let keys = KeyRing::new(&opened.secrets)
            .map_err(|e| Error::damaged(ObjectName::KeySlot(slot).to_string(), e))?;
        let config = newest_config(storage.as_ref(), &keys, &opened, access).await?;
        if config.repository != opened.secrets.repository {
            return Err(Error::OtherRepository { location: storage.location() });
        }
        let (secrets, servers) = (opened.secrets, Mutex::default());
        let repository = Repository { storage, keys, secrets, config, slot, servers };
        repository.require_features(&repository.config.features, access)?;
        if access != Access::Read {
            repository.refuse_mirror().await?;
        }
        Ok(repository)
    }

    /// The same repository, reached through `storage`.
    #[must_use]
    pub fn through(&self, storage: Arc<dyn Storage>) -> Self {
        let Repository { keys, secrets, config, .. } = self;
        let (keys, secrets, config) = (keys.clone(), secrets.clone(), config.clone());
        let servers = Mutex::default();
        Repository { storage, keys, secrets, config, slot: self.slot, servers }
    }

    /// Where the repository is, as a person would name it.
    pub fn location(&self) -> String {
        self.storage.location()
    }

    /// The place that keeps the objects.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The keys.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The slot that opened the repository.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// The stored name of a server, if it was asked for before.
    fn known_server(&self, server: &str) -> Option<String> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned()
    }

    /// Remembers the stored name of a server for as long as this repository is open.
    fn know_server(&self, server: &str, stored: &str) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.insert(server.to_owned(), stored.to_owned());
    }

    /// Forgets the stored names, because one has changed.
    fn forget_servers(&self) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds a slot for another password or key file.
    pub async fn add_slot(&self, slot: &slots::NewSlot) -> Result<SlotId> {
        let secrets = SlotSecrets {
            rights: Rights::Full,
            secrets: self.secrets.clone(),
            config: self
                .config
                .seal(self.keys.naming())
                .map_err(|e| Error::damaged("the configuration", e))?,
            config_number: self.config.number,
        };
        slots::put(self.storage.as_ref(), slot, &secrets).await
    }

    /// Refuses to write into a mirror: only a copy of its primary may do that. A place that does not
    /// say what it is is a primary.
    pub async fn refuse_mirror(&self) -> Result<()> {
        let name = ObjectName::Role.to_string();
        let role = match self.storage.get(&name).await {
            Err(error) if error.is_not_found() => return Ok(()),
            role => role?,
        };
        match PlaceRole::decode(&role).map_err(|e| Error::damaged(name, e))? {
            PlaceRole::Primary => Ok(()),
            PlaceRole::Mirror => Err(Error::Mirror { location: self.location() }),
        }
    }

    /// Refuses what a configuration that came since this repository was opened does not allow.
    pub async fn require_newest(&self, access: Access) -> Result<()> {
        let newest = config_numbers(self.storage.as_ref()).await?.into_iter().max();
        let Some(number) = newest.filter(|number| *number > self.config.number) else {
            return Ok(());
        };
        let name = ObjectName::Config(number).to_string();
        let config = Config::open(self.keys.naming(), number, &self.storage.get(&name).await?)
            .map_err(|e| Error::damaged(name, e))?;
        self.require_features(&config.features, access)
    }

    /// Refuses what needs features that this program does not know.
    fn require_features(&self, features: &Features, access: Access) -> Result<()> {
        let mut needed = vec![("read", &features.read)];
        if access != Access::Read {
            needed.push(("write to", &features.write));
        }
        if access == Access::Prune {
            needed.push(("prune", &features.prune));
        }
        for (operation, names) in needed {
            let unknown: Vec<String> = names
                .iter()
                .filter(|name| !KNOWN_FEATURES.contains(&name.as_str()))
                .cloned()
                .collect();
            if !unknown.is_empty() {
                let location = self.location();
                return Err(Error::Features { operation, location, features: unknown });
            }
        }
        Ok(())
    }
}

/// Makes a place ready for a new repository: it is empty, or has only the configuration that an interrupted
/// creation left, which nobody can open.
///
/// # Errors
/// [`Error::Exists`] if there is more.
async fn remove_unfinished(storage: &dyn Storage) -> Result<()> {
    let objects = match storage.list("").await {
        // A place that is not there yet is made by the first write, which tells if it cannot be.
        Err(error) if error.is_no_place() => return Ok(()),
        objects => objects?,
    };
    let known: Vec<ObjectName> =
        objects.iter().filter_map(|object| ObjectName::parse(&object.name)).collect();
    match known.as_slice() {
        [] => Ok(()),
        [name @ ObjectName::Config(1)] => {
            let name = name.to_string();
            let config = storage.get(&name).await?;
            storage.delete(&name).await?;
            // Its creator may have been at work all the time.
            if !storage.list("keys/").await?.is_empty() {
                storage.put(&name, config).await?;
                return Err(Error::Exists { location: storage.location() });
            }
            Ok(())
        }
        _ => Err(Error::Exists { location: storage.location() }),
    }
}

/// The configuration with the highest number that authenticates; the slot's copy if that is newer,
/// or if none in the store is readable.
async fn newest_config(
    storage: &dyn Storage,
    keys: &KeyRing,
    slot: &SlotSecrets,
    access: Access,
) -> Result<Config> {
    let mut numbers = config_numbers(storage).await?;
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    for number in numbers.into_iter().take_while(|number| *number >= slot.config_number) {
        let name = ObjectName::Config(number).to_string();
        let object = match storage.get(&name).await {
            // The slot has the very same; and what a newer one allows matters only to who writes.
            Err(error)
                if number == slot.config_number
                    || (access == Access::Read && error.is_damage()) =>
            {
                tracing::warn!("{error}");
                continue;
            }
            object => object?,
        };
        match Config::open(keys.naming(), number, &object) {
            Ok(config) => return Ok(config),
            Err(error @ repo_format::DecodeError::Version { .. }) => {
                return Err(Error::damaged(name, error));
            }
            Err(error) => tracing::warn!("{name} does not count: {error}"),
        }
    }
    tracing::warn!("the repository's configuration is missing; using the copy in the key slot");
    Config::open(keys.naming(), slot.config_number, &slot.config)
        .map_err(|e| Error::damaged("the configuration in the key slot", e))
}

/// The numbers of the configurations in the store.
async fn config_numbers(storage: &dyn Storage) -> Result<Vec<u64>> {
    let number = |name: &str| match ObjectName::parse(name)? {
        ObjectName::Config(number) => Some(number),
        _ => None,
    };
    Ok(storage.list("config/").await?.iter().filter_map(|object| number(&object.name)).collect())
}

/// The time by this host's clock, in microseconds since 1970-01-01 UTC.
pub fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
