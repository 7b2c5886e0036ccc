//! Records: small objects that are sealed whole, with their full name as part of the seal, so that
//! none opens under another name.

use crate::codec::{DecodeError, Result};
use crate::envelope::{self, ObjectKind};
use crate::keys::KeyRing;
use crate::seal::Domain;

/// Why a record could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The record breaks a limit.
    #[error(transparent)]
    Limit(#[from] DecodeError),
    /// The system has no random numbers.
    #[error("no random numbers for a nonce: {0}")]
    Random(#[from] getrandom::Error),
}

/// Seals the record of an object whose full name is part of the seal.
pub fn seal_record(
    keys: &KeyRing,
    kind: ObjectKind,
    domain: Domain,
    name: &str,
    record: &[u8],
) -> std::result::Result<Vec<u8>, getrandom::Error> {
    let mut object = envelope::prefix(kind).to_vec();
    keys.metadata().seal(&mut object, domain, keys.repository(), name.as_bytes(), record)?;
    envelope::finish(&mut object);
    Ok(object)
}

/// Opens what [`seal_record`] sealed under the same name.
pub fn open_record(
    keys: &KeyRing,
    kind: ObjectKind,
    domain: Domain,
    name: &str,
    object: &[u8],
) -> Result<Vec<u8>> {
    keys.open(domain, name.as_bytes(), envelope::unwrap(kind, object)?)
}
