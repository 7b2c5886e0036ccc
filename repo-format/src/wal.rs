//! WAL objects: one archived WAL file each, complete in itself.
//!
//! ```text
//! magic [8]  version u16  header length u32  sealed header  blob frames …  BLAKE3 [32]
//! ```
//!
//! The chunks of the file are blobs inside the object, in the frames that packs have, so that they can
//! move into packs later. Nothing outside is referred to: archiving reads no index, and restoring
//! needs nothing but the keys.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::blob::SealedBlob;
use crate::codec::{self, DecodeError, Reader, Result, within};
use crate::content::Content;
use crate::envelope::{self, ObjectKind, PREFIX};
use crate::ids::Digest;
use crate::keys::KeyRing;
use crate::limits::{MAX_WAL_FILE, MAX_WAL_HEADER};
use crate::pack::{PackEntry, validate_entries};
use crate::record::SealError;
use crate::seal::Domain;

/// What a WAL object says of its file.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WalHeader {
    /// The file's name, as PostgreSQL gave it.
    pub file: String,
    /// The length of the file in bytes.
    pub size: u64,
    /// The keyed hash of its bytes.
    pub digest: Digest,
    /// When it was archived, in microseconds since 1970-01-01 UTC.
    pub archived_at: i64,
    /// The host that archived it.
    pub host: String,
    /// What gives its bytes; the chunks are in this object's blobs.
    pub content: Content,
    /// The blobs of this object, with offsets from the end of the sealed header.
    pub blobs: Vec<PackEntry>,
}

impl WalHeader {
    fn validate(&self, blobs_length: u64) -> Result<()> {
        let what = "WAL header";
        within("WAL file", self.size, MAX_WAL_FILE)?;
        if self.content.validate()? != self.size {
            return Err(DecodeError::malformed(
                what,
                "its content has another length than the file",
            ));
        }
        if matches!(self.content, Content::Map(_)) {
            return Err(DecodeError::malformed(what, "its content has a map"));
        }
        validate_entries(&self.blobs, 0, blobs_length)
    }
}

/// An opened WAL object: its header, and its blobs still sealed.
#[derive(Debug, Clone)]
pub struct WalObject<'a> {
    /// What it says of its file.
    pub header: WalHeader,
    frames: &'a [u8],
}

impl<'a> WalObject<'a> {
    /// Opens the object that the store has under `name`.
    pub fn open(keys: &KeyRing, name: &str, object: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new("WAL object", envelope::unwrap(ObjectKind::Wal, object)?);
        let length = reader.u32()?;
        within("WAL header", u64::from(length), MAX_WAL_HEADER as u64)?;
        let sealed = reader.take(length as usize)?;
        let header = keys.open(Domain::Wal, name.as_bytes(), sealed)?;
        let header: WalHeader = codec::decode("WAL header", &header, MAX_WAL_HEADER)?;
        header.validate(reader.rest().len() as u64)?;
        Ok(WalObject { header, frames: reader.rest() })
    }

    /// The frame of one of the object's blobs.
    pub fn frame(&self, entry: &PackEntry) -> Result<&'a [u8]> {
        let range = entry.offset as usize..entry.end() as usize;
        self.frames.get(range).ok_or(DecodeError::Truncated { what: "WAL object" })
    }
}

/// Seals a WAL file into an object. `header.blobs` is filled in from `blobs`.
pub fn seal(
    keys: &KeyRing,
    name: &str,
    mut header: WalHeader,
    blobs: &[SealedBlob],
) -> std::result::Result<Vec<u8>, SealError> {
    let mut offset = 0;
    header.blobs.clear();
    for blob in blobs {
        let entry = PackEntry::new(offset, blob)?;
        offset = entry.end();
        header.blobs.push(entry);
    }
    header.validate(offset)?;
    let header = codec::encode(&header);
    within("WAL header", header.len() as u64, (MAX_WAL_HEADER - crate::seal::OVERHEAD) as u64)?;
    let mut object = envelope::prefix(ObjectKind::Wal).to_vec();
    object.extend_from_slice(&[0; 4]);
    keys.metadata().seal(&mut object, Domain::Wal, keys.repository(), name.as_bytes(), &header)?;
    let length = u32::try_from(object.len() - PREFIX - 4).expect("a WAL header is not over 16 MiB");
    if let Some(slot) = object.get_mut(PREFIX..PREFIX + 4) {
        slot.copy_from_slice(&length.to_le_bytes());
    }
    for blob in blobs {
        object.extend_from_slice(&blob.frame);
    }
    envelope::finish(&mut object);
    Ok(object)
}
