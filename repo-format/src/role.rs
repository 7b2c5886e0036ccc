//! The role of a place: whether programs may write there, or only copy into it.
//!
//! A repository and its mirrors have the same identity and keys, so that nothing in the objects tells
//! them apart. This one object does; it belongs to the place, is never copied to another, and is the
//! only one that is ever replaced.

use crate::codec::{DecodeError, Reader, Result};
use crate::envelope::{self, ObjectKind};

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceRole {
    /// Backups and WAL are written here.
    Primary,
    /// A copy of another place; only copying writes here.
    Mirror,
}

impl PlaceRole {
    /// The object.
    pub fn encode(self) -> Vec<u8> {
        let number = match self {
            PlaceRole::Primary => 0,
            PlaceRole::Mirror => 1,
        };
        envelope::wrap(ObjectKind::Role, &[number])
    }

    /// Reads the object.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let what = ObjectKind::Role.name();
        let mut reader = Reader::new(what, envelope::unwrap(ObjectKind::Role, object)?);
        let role = match reader.u8()? {
            0 => PlaceRole::Primary,
            1 => PlaceRole::Mirror,
            number => return Err(DecodeError::malformed(what, format!("unknown role {number}"))),
        };
        reader.end()?;
        Ok(role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_back_and_others_refused() {
        for role in [PlaceRole::Primary, PlaceRole::Mirror] {
            assert_eq!(PlaceRole::decode(&role.encode()), Ok(role));
        }
        for body in [&[2][..], &[], &[0, 0]] {
            assert!(PlaceRole::decode(&envelope::wrap(ObjectKind::Role, body)).is_err());
        }
    }
}
