//! The frame around every stored object: a magic number and the format's version in front, and, for
//! objects that are not named by their hash, BLAKE3 of all that at the end.

use crate::FORMAT_VERSION;
use crate::codec::{DecodeError, Reader, Result};

/// What an object in the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `config/<n>`
    Config,
    /// `role`
    Role,
    /// `keys/<id>`
    KeySlot,
    /// `packs/<xx>/<id>`
    Pack,
    /// `index/<id>`
    Index,
    /// `snapshots/…`
    Snapshot,
    /// `notes/…`
    Note,
    /// `servers/<server>/<n>`
    Server,
    /// `wal/…`, and `conflicts/…`
    Wal,
    /// `sessions/<id>/<beat>`
    Session,
    /// `maintenance/<epoch>`
    Maintenance,
}

impl ObjectKind {
    /// What a person calls such an object.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Config => "repository configuration",
            ObjectKind::Role => "repository role",
            ObjectKind::KeySlot => "key slot",
            ObjectKind::Pack => "pack",
            ObjectKind::Index => "index run",
            ObjectKind::Snapshot => "snapshot",
            ObjectKind::Note => "note",
            ObjectKind::Server => "server record",
            ObjectKind::Wal => "WAL object",
            ObjectKind::Session => "session",
            ObjectKind::Maintenance => "maintenance record",
        }
    }

    fn magic(self) -> &'static [u8; 8] {
        match self {
            ObjectKind::Config => b"BARMANCF",
            ObjectKind::Role => b"BARMANRO",
            ObjectKind::KeySlot => b"BARMANKS",
            ObjectKind::Pack => b"BARMANPK",
            ObjectKind::Index => b"BARMANIX",
            ObjectKind::Snapshot => b"BARMANSN",
            ObjectKind::Note => b"BARMANNT",
            ObjectKind::Server => b"BARMANSV",
            ObjectKind::Wal => b"BARMANWL",
            ObjectKind::Session => b"BARMANSE",
            ObjectKind::Maintenance => b"BARMANMT",
        }
    }

    /// Whether the object's name is the hash of its bytes, so that it needs no checksum inside.
    pub fn named_by_hash(self) -> bool {
        matches!(self, ObjectKind::Pack | ObjectKind::Index)
    }
}

/// The length of magic number and version.
pub const PREFIX: usize = 10;

/// The length of the checksum at the end of objects that are not named by their hash.
pub const CHECKSUM: usize = 32;

/// The first bytes of an object.
pub fn prefix(kind: ObjectKind) -> [u8; PREFIX] {
    let mut out = [0; PREFIX];
    let (magic, version) = out.split_at_mut(8);
    magic.copy_from_slice(kind.magic());
    version.copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out
}

/// Checks the first bytes of an object and returns what follows them.
pub fn strip_prefix(kind: ObjectKind, bytes: &[u8]) -> Result<&[u8]> {
    let what = kind.name();
    let mut reader = Reader::new(what, bytes);
    if reader.take(8)? != kind.magic() {
        return Err(DecodeError::Magic { expected: what });
    }
    match reader.u16()? {
        0 => Err(DecodeError::malformed(what, "its format version is 0")),
        version if version > FORMAT_VERSION => {
            Err(DecodeError::Version { what, version, known: FORMAT_VERSION })
        }
        _ => Ok(reader.rest()),
    }
}

/// Puts `body` into an object that ends with its checksum.
pub fn wrap(kind: ObjectKind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX + body.len() + CHECKSUM);
    out.extend_from_slice(&prefix(kind));
    out.extend_from_slice(body);
    finish(&mut out);
    out
}

/// Appends the checksum of all that is in `object`.
pub fn finish(object: &mut Vec<u8>) {
    let checksum = blake3::hash(object);
    object.extend_from_slice(checksum.as_bytes());
}

/// Verifies the checksum of an object, which needs no key, and returns its body.
pub fn unwrap(kind: ObjectKind, object: &[u8]) -> Result<&[u8]> {
    let what = kind.name();
    // The magic number comes first, so that another object is called that rather than damaged; the version
    // comes last, so that a flipped bit is not taken for a newer program's work.
    match strip_prefix(kind, object) {
        Ok(_) | Err(DecodeError::Version { .. }) => {}
        Err(error) => return Err(error),
    }
    let (all, checksum) =
        object.split_last_chunk::<CHECKSUM>().ok_or(DecodeError::Truncated { what })?;
    if blake3::hash(all) != *checksum {
        return Err(DecodeError::Checksum { what });
    }
    strip_prefix(kind, all)
}
