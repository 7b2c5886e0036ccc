//! Fixed-width fields at fixed places, read without panics.
//!
//! PostgreSQL writes its files in the byte order of its host; every platform supported here is
//! little-endian, and the magic numbers and version fields of each format catch a foreign one.

use super::error::{FormatError, FormatResult};

/// A named stretch of bytes to read little-endian fields from.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields of `bytes`; `what` names the structure in errors.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Fields { what, bytes }
    }

    /// `N` bytes from `at`.
    pub(super) fn array<const N: usize>(&self, at: usize) -> FormatResult<[u8; N]> {
        self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(
            FormatError::Truncated {
                what: self.what,
                needed: at.saturating_add(N),
                actual: self.bytes.len(),
            },
        )
    }

    /// One byte.
    pub(super) fn u8(&self, at: usize) -> FormatResult<u8> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    /// Two bytes.
    pub(super) fn u16(&self, at: usize) -> FormatResult<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub(super) fn u32(&self, at: usize) -> FormatResult<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub(super) fn u64(&self, at: usize) -> FormatResult<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// Eight bytes, signed.
    pub(super) fn i64(&self, at: usize) -> FormatResult<i64> {
        self.array(at).map(i64::from_le_bytes)
    }
}
