//! Strict decoding: no trailing bytes, no second form of the same value, no unbounded allocation.

use borsh::{BorshDeserialize, BorshSerialize};

/// The result of decoding.
pub type Result<T> = std::result::Result<T, DecodeError>;

/// Why bytes are not the object they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The object ends before its content does.
    #[error("{what} is cut short")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The object does not start with the magic of its kind.
    #[error("this is not a {expected} (wrong magic number)")]
    Magic {
        /// The kind of object that was expected.
        expected: &'static str,
    },
    /// The object was written by a newer program.
    #[error("{what} has format version {version}, and this program knows versions up to {known}")]
    Version {
        /// What was being read.
        what: &'static str,
        /// The version found.
        version: u16,
        /// The highest version known.
        known: u16,
    },
    /// A length or count is over its limit.
    #[error("{what} of {actual} is over the limit of {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The value found.
        actual: u64,
        /// The limit it breaks.
        limit: u64,
    },
    /// A value is malformed, or not in its canonical form.
    #[error("{what} is malformed: {detail}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The checksum at the end of an object does not match its bytes.
    #[error("the checksum of this {what} does not match its bytes")]
    Checksum {
        /// What was being read.
        what: &'static str,
    },
    /// No key at hand has the id that sealed these bytes.
    #[error("{what} is sealed with key {key}, which is not among the keys at hand")]
    UnknownKey {
        /// What was being read.
        what: &'static str,
        /// The id of the missing key.
        key: crate::ids::KeyId,
    },
    /// The seal is broken: these bytes were changed, belong elsewhere, or the key is another one.
    #[error(
        "{what} does not authenticate: it was changed, or belongs to another place or repository"
    )]
    Seal {
        /// What was being read.
        what: &'static str,
    },
}

impl DecodeError {
    /// A value that is malformed.
    pub fn malformed(what: &'static str, detail: impl Into<String>) -> Self {
        DecodeError::Malformed { what, detail: detail.into() }
    }
}

/// Refuses `actual` over `limit`.
pub fn within(what: &'static str, actual: u64, limit: u64) -> Result<()> {
    if actual > limit { Err(DecodeError::Limit { what, actual, limit }) } else { Ok(()) }
}

/// Encodes a record. Records are plain data, so that this cannot fail.
pub fn encode<T: BorshSerialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.serialize(&mut out).expect("writing to a vector does not fail, and lengths are bounded");
    out
}

/// Decodes a record that must fill `bytes` exactly.
pub fn decode<T: BorshDeserialize>(what: &'static str, bytes: &[u8], limit: usize) -> Result<T> {
    within(what, bytes.len() as u64, limit as u64)?;
    let mut rest = bytes;
    let value =
        T::deserialize(&mut rest).map_err(|e| DecodeError::malformed(what, e.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::malformed(what, format!("{} bytes follow its end", rest.len())))
    }
}

/// Reads fixed layouts from a slice, front to back.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`; `what` names them in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Reader { what, rest: bytes }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) =
            self.rest.split_at_checked(n).ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes, as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) =
            self.rest.split_first_chunk().ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = tail;
        Ok(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses anything that has not been read.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            let detail = format!("{} bytes follow its end", self.rest.len());
            Err(DecodeError::malformed(self.what, detail))
        }
    }
}

/// Refuses a list whose items are not in strictly ascending order.
pub fn strictly_ascending<T: Ord>(
    what: &'static str,
    items: impl Iterator<Item = T>,
) -> Result<()> {
    let mut last: Option<T> = None;
    for item in items {
        if last.as_ref().is_some_and(|last| *last >= item) {
            return Err(DecodeError::malformed(
                what,
                "its entries are not in strictly ascending order",
            ));
        }
        last = Some(item);
    }
    Ok(())
}
