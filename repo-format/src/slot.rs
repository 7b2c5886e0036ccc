//! Key slots: the master secrets, wrapped for one password, key file or public key.
//!
//! ```text
//! magic [8]  version u16  header length u32  header  sealed secrets  BLAKE3 [32]
//! ```
//!
//! The header is clear, because it says how to get the key that opens the rest; together with the
//! slot's name it is the associated data of the sealed part.

use argon2::{Algorithm, Argon2, Params, Version};
use borsh::{BorshDeserialize, BorshSerialize};
use zeroize::Zeroizing;

use crate::codec::{self, DecodeError, Reader, Result, within};
use crate::config::Config;
use crate::envelope::{self, ObjectKind};
use crate::ids::{KeyId, SlotId};
use crate::keys::{MasterSecrets, NamingKeys, Secret};
use crate::limits::{MAX_ARGON2_MEMORY_KIB, MAX_ARGON2_PASSES, MAX_LABEL, MAX_RECORD};
use crate::names::ObjectName;
use crate::record::SealError;
use crate::seal::{self, Domain, Nonces, SealingKey};

/// How the key that opens a slot is obtained.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Unlock {
    /// From a password, by Argon2id version 1.3.
    Password(Argon2id) = 1,
    /// From the 256 random bits of a key file, without a key derivation function.
    KeyFile = 2,
    /// From a private X25519 key; reserved for hosts that can add and read nothing.
    PublicKey {
        /// The public key that the sender made for this slot.
        ephemeral: [u8; 32],
    } = 3,
}

/// The parameters of Argon2id.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Argon2id {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// The salt, random for each slot.
    pub salt: [u8; 16],
}

impl Argon2id {
    /// The parameters, if they are such as anyone should spend memory and time on.
    fn params(&self) -> Result<Params> {
        within("Argon2id memory in KiB", u64::from(self.memory_kib), MAX_ARGON2_MEMORY_KIB.into())?;
        within("Argon2id passes", u64::from(self.passes), MAX_ARGON2_PASSES.into())?;
        within("Argon2id lanes", u64::from(self.lanes), MAX_ARGON2_PASSES.into())?;
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|e| DecodeError::malformed("key slot", format!("Argon2id: {e}")))
    }

    /// The key that `password` gives.
    fn key(&self, password: &[u8]) -> Result<Secret> {
        let params = self.params()?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &self.salt, key.as_mut_slice())
            .map_err(|e| DecodeError::malformed("key slot", format!("Argon2id: {e}")))?;
        Ok(Secret::from_bytes(*key).derive("barman v1 password slot"))
    }
}

/// The clear part of a slot.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotHeader {
    /// How the key that opens the slot is obtained.
    pub unlock: Unlock,
    /// What the user calls the slot, or the host and time of its making.
    pub label: String,
    /// When the slot was made, in microseconds since 1970-01-01 UTC.
    pub created_at: i64,
}

/// What a slot protects.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotSecrets {
    /// What the holder of the slot may do.
    pub rights: Rights,
    /// The master secrets.
    pub secrets: MasterSecrets,
    /// A copy of the newest configuration object when the slot was made.
    pub config: Vec<u8>,
    /// The number of that configuration.
    pub config_number: u64,
}

impl SlotSecrets {
    /// The configuration that the slot has a copy of, authenticated.
    pub fn config(&self) -> Result<Config> {
        let naming = NamingKeys::new(&self.secrets.identity);
        let config = Config::open(&naming, self.config_number, &self.config)?;
        if config.repository != self.secrets.repository {
            let detail = "its configuration is that of another repository";
            return Err(DecodeError::malformed("key slot", detail));
        }
        Ok(config)
    }

    /// The encoded secrets, wiped when dropped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        self.secrets.validate()?;
        // The whole capacity at once: growing would leave copies of the secrets behind.
        let length = borsh::object_length(self)
            .map_err(|e| DecodeError::malformed("key slot", e.to_string()))?;
        within("key slot", length as u64, MAX_RECORD as u64 / 2)?;
        let mut record = Zeroizing::new(Vec::with_capacity(length));
        borsh::to_writer(&mut *record, self)
            .map_err(|e| DecodeError::malformed("key slot", e.to_string()))?;
        Ok(record)
    }

    /// Decodes and validates what [`SlotSecrets::encode`] made.
    pub fn decode(record: &[u8]) -> Result<Self> {
        let secrets: SlotSecrets = codec::decode("key slot", record, MAX_RECORD / 2)?;
        secrets.secrets.validate()?;
        Ok(secrets)
    }
}

/// What the holder of a slot may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Rights {
    /// Everything.
    Full = 1,
}

/// What the user has to open a slot.
pub enum Credential {
    /// A password.
    Password(Zeroizing<Vec<u8>>),
    /// The secret of a key file.
    KeyFile(Secret),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Password(_) => "Password(redacted)",
            Credential::KeyFile(_) => "KeyFile(redacted)",
        })
    }
}

impl Credential {
    /// The sealing key for a slot with this header; nothing if the slot is of another kind.
    fn key(&self, unlock: &Unlock) -> Result<Option<SealingKey>> {
        Ok(match (self, unlock) {
            (Credential::Password(password), Unlock::Password(argon2)) => {
                Some(SealingKey::new(argon2.key(password)?))
            }
            (Credential::KeyFile(secret), Unlock::KeyFile) => {
                Some(SealingKey::new(secret.derive("barman v1 key file slot")))
            }
            _ => None,
        })
    }
}

impl SlotHeader {
    /// The encoded header.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        Ok(codec::encode(self))
    }

    /// Decodes and validates a header.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let header: SlotHeader = codec::decode("key slot", bytes, MAX_RECORD / 2)?;
        header.validate()?;
        Ok(header)
    }

    fn validate(&self) -> Result<()> {
        within("label of a key slot", self.label.len() as u64, MAX_LABEL as u64)?;
        match &self.unlock {
            Unlock::Password(argon2) => argon2.params().map(|_| ()),
            Unlock::KeyFile | Unlock::PublicKey { .. } => Ok(()),
        }
    }
}

/// Makes the object of a slot.
///
/// # Errors
/// When the credential is of another kind than the header says, the secrets do not belong together,
/// or there are no random numbers.
pub fn seal(
    id: &SlotId,
    header: &SlotHeader,
    secrets: &SlotSecrets,
    credential: &Credential,
) -> std::result::Result<Vec<u8>, SealError> {
    seal_with_nonces(id, header, secrets, credential, &Nonces::System)
}

/// [`seal`] with a choice of nonces, for test vectors.
#[doc(hidden)]
pub fn seal_with_nonces(
    id: &SlotId,
    header: &SlotHeader,
    secrets: &SlotSecrets,
    credential: &Credential,
    nonces: &Nonces,
) -> std::result::Result<Vec<u8>, SealError> {
    let encoded = header.encode()?;
    secrets.config()?;
    let record = secrets.encode()?;
    let mut key = credential.key(&header.unlock)?.ok_or_else(|| {
        DecodeError::malformed("key slot", "the credential is of another kind than the slot")
    })?;
    key.set_nonces(nonces);
    let length = u32::try_from(encoded.len()).expect("a slot's header is not over 1 MiB");
    let mut object = envelope::prefix(ObjectKind::KeySlot).to_vec();
    object.extend_from_slice(&length.to_le_bytes());
    object.extend_from_slice(&encoded);
    let context = context(id, &encoded);
    key.seal(&mut object, Domain::KeySlot, &NO_REPOSITORY, &context, &record)?;
    envelope::finish(&mut object);
    Ok(object)
}

/// The clear part of a slot's object.
pub fn header(object: &[u8]) -> Result<SlotHeader> {
    Ok(split(object)?.0)
}

/// Opens a slot. `None`: the slot is for something else than this credential, or for another
/// password or key file.
pub fn open(id: &SlotId, object: &[u8], credential: &Credential) -> Result<Option<SlotSecrets>> {
    let (header, encoded_header, sealed) = split(object)?;
    let Some(key) = credential.key(&header.unlock)? else { return Ok(None) };
    if seal::key_id("key slot", sealed)? != *key.id() {
        return Ok(None);
    }
    let context = context(id, encoded_header);
    let record = Zeroizing::new(key.open(Domain::KeySlot, &NO_REPOSITORY, &context, sealed)?);
    Ok(Some(SlotSecrets::decode(&record)?))
}

/// The id of the key that opens a slot: the same for all slots of one key file.
pub fn key_id(object: &[u8]) -> Result<KeyId> {
    seal::key_id("key slot", split(object)?.2)
}

/// Which repository a slot belongs to is known only when it is open.
const NO_REPOSITORY: crate::ids::RepositoryId = crate::ids::RepositoryId::from_bytes([0; 16]);

fn split(object: &[u8]) -> Result<(SlotHeader, &[u8], &[u8])> {
    within("key slot", object.len() as u64, MAX_RECORD as u64)?;
    let mut reader = Reader::new("key slot", envelope::unwrap(ObjectKind::KeySlot, object)?);
    let length = reader.u32()?;
    let encoded = reader.take(length as usize)?;
    Ok((SlotHeader::decode(encoded)?, encoded, reader.rest()))
}

fn context(id: &SlotId, header: &[u8]) -> Vec<u8> {
    let mut context = ObjectName::KeySlot(*id).to_string().into_bytes();
    context.push(0);
    context.extend_from_slice(header);
    context
}
