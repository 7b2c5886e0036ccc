//! Records: small objects that are sealed whole, with their full name as part of the seal, so that
//! none opens under another name.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{self, DecodeError, Result, within};
use crate::envelope::{self, ObjectKind};
use crate::keys::KeyRing;
use crate::limits::MAX_RECORD;
use crate::names::ObjectName;
use crate::seal::Domain;

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// What should be sealed breaks a rule of the format, so that it could not be read again.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// The system has no random numbers.
    #[error("no random numbers for a nonce: {0}")]
    Random(#[from] getrandom::Error),
}

/// A record: what it must be, where it may lie, and how it becomes an object of the store.
///
/// Encoding and decoding make the same checks, so that nothing is written that cannot be read.
pub trait Record: BorshSerialize + BorshDeserialize {
    /// What its object is.
    const KIND: ObjectKind;

    /// The domain of its seal.
    const DOMAIN: Domain;

    /// The most bytes of its encoded form.
    const LIMIT: usize = MAX_RECORD;

    /// Refuses values that the format does not have.
    fn validate(&self) -> Result<()>;

    /// Whether an object of this name can hold the record.
    fn fits(&self, name: &ObjectName) -> bool;

    /// The encoded record.
    fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let record = codec::encode(self);
        within(Self::KIND.name(), record.len() as u64, Self::LIMIT as u64)?;
        Ok(record)
    }

    /// Decodes and validates a record.
    fn decode(record: &[u8]) -> Result<Self> {
        let decoded: Self = codec::decode(Self::KIND.name(), record, Self::LIMIT)?;
        decoded.validate()?;
        Ok(decoded)
    }

    /// The sealed object for the store to keep under `name`.
    fn seal(&self, keys: &KeyRing, name: &ObjectName) -> std::result::Result<Vec<u8>, SealError> {
        check_name(self, name)?;
        let record = self.encode()?;
        let mut object = envelope::prefix(Self::KIND).to_vec();
        let name = name.to_string();
        let metadata = keys.metadata();
        metadata.seal(&mut object, Self::DOMAIN, keys.repository(), name.as_bytes(), &record)?;
        envelope::finish(&mut object);
        Ok(object)
    }

    /// Opens the object that the store has under `name`.
    fn open(keys: &KeyRing, name: &ObjectName, object: &[u8]) -> Result<Self> {
        let sealed = envelope::unwrap(Self::KIND, object)?;
        let record = keys.open(Self::DOMAIN, name.to_string().as_bytes(), sealed)?;
        let decoded = Self::decode(&record)?;
        check_name(&decoded, name)?;
        Ok(decoded)
    }
}

fn check_name<R: Record>(record: &R, name: &ObjectName) -> Result<()> {
    // A name that does not read back (a zero number, a server name that is too long) names nothing.
    let text = name.to_string();
    if record.fits(name) && ObjectName::parse(&text).as_ref() == Some(name) {
        Ok(())
    } else {
        let detail = format!("{text:?} is not its name");
        Err(DecodeError::malformed(R::KIND.name(), detail))
    }
}
