//! Master secrets, and the keys that are derived from them.
//!
//! Two secrets rule a repository. The *identity secret* gives the keys under which content is named;
//! it never changes, because another one would store everything again. Each *epoch secret* gives the
//! keys that seal; a new epoch begins with a rotation, and old epochs stay readable.

use borsh::{BorshDeserialize, BorshSerialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::codec::{DecodeError, Result, within};
use crate::ids::{KeyId, RepositoryId};
use crate::limits::MAX_EPOCHS;
use crate::seal::SealingKey;

/// 256 secret bits, wiped when dropped and never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, BorshSerialize, BorshDeserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret that these bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Secret(bytes)
    }

    /// A new secret from the system's random numbers.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    pub fn random() -> std::result::Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Secret(bytes))
    }

    /// The bytes of the secret.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one purpose that this secret gives (BLAKE3 `derive_key`).
    pub fn derive(&self, purpose: &str) -> Secret {
        Secret(blake3::derive_key(purpose, &self.0))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The secret of one sealing epoch.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Epoch {
    /// The number of the epoch, from 1; the highest seals what is new.
    pub number: u32,
    /// The secret of the epoch.
    pub secret: Secret,
}

/// What a key slot protects: everything needed to read and write a repository.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct MasterSecrets {
    /// The repository that these secrets belong to.
    pub repository: RepositoryId,
    /// The identity secret.
    pub identity: Secret,
    /// The sealing epochs, in ascending order of their numbers; never empty.
    pub epochs: Vec<Epoch>,
}

impl MasterSecrets {
    /// The secrets of a new repository.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    pub fn random() -> std::result::Result<Self, getrandom::Error> {
        let mut id = [0; RepositoryId::LEN];
        getrandom::fill(&mut id)?;
        Ok(MasterSecrets {
            repository: RepositoryId::from_bytes(id),
            identity: Secret::random()?,
            epochs: vec![Epoch { number: 1, secret: Secret::random()? }],
        })
    }

    /// Refuses secrets without epochs, or with epochs out of order.
    pub fn validate(&self) -> Result<()> {
        if self.epochs.is_empty() {
            return Err(DecodeError::malformed("key slot", "it holds no sealing epoch"));
        }
        if self.epochs.iter().any(|epoch| epoch.number == 0) {
            return Err(DecodeError::malformed("key slot", "a sealing epoch has number 0"));
        }
        within("number of sealing epochs", self.epochs.len() as u64, MAX_EPOCHS as u64)?;
        crate::codec::strictly_ascending("key slot", self.epochs.iter().map(|e| e.number))
    }
}

/// The keys under which content is named. They last as long as the repository.
#[derive(Debug, Clone)]
pub struct NamingKeys {
    /// Hashes leaves.
    pub leaf: Secret,
    /// Hashes leaf hashes into chunk ids.
    pub chunk: Secret,
    /// Hashes leaf hashes into file digests.
    pub digest: Secret,
    /// Authenticates the configuration, which must be readable before anything is unlocked.
    pub config: Secret,
    /// Seeds the gear table of content-defined chunking, so that chunk lengths say nothing about
    /// known files.
    pub gear_seed: u64,
}

impl NamingKeys {
    /// The keys that the identity secret gives.
    pub fn new(identity: &Secret) -> Self {
        let gear = identity.derive("barman v1 gear seed");
        NamingKeys {
            leaf: identity.derive("barman v1 leaf hash"),
            chunk: identity.derive("barman v1 chunk id"),
            digest: identity.derive("barman v1 file digest"),
            config: identity.derive("barman v1 config authentication"),
            gear_seed: u64::from_le_bytes(*gear.expose().first_chunk().expect("32 bytes hold 8")),
        }
    }
}

/// The two keys of a sealing epoch.
#[derive(Debug, Clone)]
struct EpochKeys {
    data: SealingKey,
    metadata: SealingKey,
}

/// All keys of an unlocked repository.
#[derive(Debug, Clone)]
pub struct KeyRing {
    repository: RepositoryId,
    naming: NamingKeys,
    epochs: Vec<EpochKeys>,
}

impl KeyRing {
    /// Derives every key from the master secrets.
    pub fn new(secrets: &MasterSecrets) -> Result<Self> {
        secrets.validate()?;
        let epochs = secrets
            .epochs
            .iter()
            .map(|epoch| EpochKeys {
                data: SealingKey::new(epoch.secret.derive("barman v1 data sealing")),
                metadata: SealingKey::new(epoch.secret.derive("barman v1 metadata sealing")),
            })
            .collect();
        Ok(KeyRing {
            repository: secrets.repository,
            naming: NamingKeys::new(&secrets.identity),
            epochs,
        })
    }

    /// The repository these keys belong to.
    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    /// The keys that name content.
    pub fn naming(&self) -> &NamingKeys {
        &self.naming
    }

    /// The key that seals new data: chunks of files and of WAL.
    pub fn data(&self) -> &SealingKey {
        &self.newest().data
    }

    /// The key that seals everything else that is new.
    pub fn metadata(&self) -> &SealingKey {
        &self.newest().metadata
    }

    /// The key with this id, of any epoch.
    pub fn find(&self, id: &KeyId) -> Option<&SealingKey> {
        self.epochs.iter().flat_map(|e| [&e.data, &e.metadata]).find(|key| key.id() == id)
    }

    /// The same keys, sealing with nonces from somewhere else than the system's random numbers.
    #[cfg(feature = "fixed-nonces")]
    #[must_use]
    pub fn with_nonces(mut self, nonces: &crate::seal::Nonces) -> Self {
        for epoch in &mut self.epochs {
            epoch.data.set_nonces(nonces);
            epoch.metadata.set_nonces(nonces);
        }
        self
    }

    fn newest(&self) -> &EpochKeys {
        self.epochs.last().expect("a key ring is made from at least one epoch")
    }
}
