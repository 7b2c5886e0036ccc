//! Identifiers: one type for each, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};

/// A text that is not the lower-case hexadecimal form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} lower-case hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    digits: usize,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
        )]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The length of the identifier in bytes.
            pub const LEN: usize = $bytes;

            /// The identifier that these bytes are.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                $name(bytes)
            }

            /// The bytes of the identifier.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $bytes];
                decode_hex(text, &mut bytes)?;
                Ok($name(bytes))
            }
        }
    };
}

id_type! {
    /// The identity of a chunk: a keyed hash of its content.
    ChunkId, 32
}
id_type! {
    /// The keyed hash of one leaf: at most 8 KiB of content.
    LeafHash, 32
}
id_type! {
    /// The keyed hash of a whole file, the same however the file is cut into chunks.
    Digest, 32
}
id_type! {
    /// The name of a pack: BLAKE3 of its bytes.
    PackId, 32
}
id_type! {
    /// The name of an index run: BLAKE3 of its bytes.
    IndexId, 32
}
id_type! {
    /// The hash of a snapshot's record, by which the next one of the same server names it.
    SnapshotHash, 32
}
id_type! {
    /// Which key sealed something.
    KeyId, 16
}
id_type! {
    /// The identity of a repository and all its mirrors, random.
    RepositoryId, 16
}
id_type! {
    /// The name of a key slot, random.
    SlotId, 16
}
id_type! {
    /// The name of a session, random.
    SessionId, 16
}

/// How many bytes of a chunk's identity an index run keeps.
pub const SHORT_ID: usize = 20;

impl ChunkId {
    /// The first bytes of the identity, as index runs keep them.
    pub fn short(&self) -> [u8; SHORT_ID] {
        *self.0.first_chunk().expect("an identity is longer than its short form")
    }
}

fn decode_hex(text: &str, out: &mut [u8]) -> Result<(), ParseIdError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let error = || ParseIdError { text: text.chars().take(80).collect(), digits: out.len() * 2 };
    if text.len() != out.len() * 2 {
        return Err(error());
    }
    let decoded: Option<Vec<u8>> = text
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.last()?)?))
        .collect();
    out.copy_from_slice(&decoded.ok_or_else(error)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_back_and_anything_else_is_refused() {
        let id = KeyId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "00", &id.to_string().to_uppercase(), &format!("{id}0"), &"é".repeat(16)]
        {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
