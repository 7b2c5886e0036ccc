//! WAL objects: one archived WAL file each, complete in itself.
//!
//! ```text
//! magic [8]  version u16  header length u32  sealed header  blob frames …  BLAKE3 [32]
//! ```
//!
//! The chunks of the file are blobs inside the object, in the frames that packs have, so that they can
//! move into packs later. Nothing outside is referred to: archiving reads no index, and restoring
//! needs nothing but the keys.

use std::collections::HashMap;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::blob::{Encoding, Frame, SealedBlob};
use crate::chunk::ChunkKind;
use crate::codec::{self, DecodeError, Reader, Result, within};
use crate::content::{Content, Run};
use crate::envelope::{self, ObjectKind, PREFIX};
use crate::ids::{ChunkId, Digest};
use crate::keys::KeyRing;
use crate::limits::{MAX_WAL_FILE, MAX_WAL_HEADER};
use crate::names::{ObjectName, WalObjectName};
use crate::pack::{PackEntry, validate_entries};
use crate::record::SealError;
use crate::seal::{Domain, OVERHEAD};

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
    /// The encoded header.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let header = codec::encode(self);
        within("WAL header", header.len() as u64, (MAX_WAL_HEADER - OVERHEAD) as u64)?;
        Ok(header)
    }

    /// Decodes and validates the plaintext of a header.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let header: WalHeader = codec::decode("WAL header", bytes, MAX_WAL_HEADER - OVERHEAD)?;
        header.validate()?;
        Ok(header)
    }

    /// The length of the object's blobs in bytes.
    fn blobs_length(&self) -> u64 {
        self.blobs.last().map_or(0, PackEntry::end)
    }

    fn validate(&self) -> Result<()> {
        let malformed = |detail: &str| Err(DecodeError::malformed("WAL header", detail));
        within("WAL file", self.size, MAX_WAL_FILE)?;
        if self.content.validate()? != self.size {
            return malformed("its content has another length than the file");
        }
        validate_entries(&self.blobs, 0, self.blobs_length())?;
        let plain_wal =
            |blob: &PackEntry| blob.kind == ChunkKind::Wal && blob.encoding != Encoding::Delta;
        if !self.blobs.iter().all(plain_wal) {
            return malformed("a blob is not plain WAL");
        }
        let Content::Runs(runs) = &self.content else {
            return malformed("its content has a map");
        };
        let chunks = self.blobs.iter().flat_map(|blob| &blob.chunks);
        let lengths: HashMap<&ChunkId, u32> = chunks.map(|span| (&span.id, span.length)).collect();
        for run in runs {
            if let Run::Chunk { id, offset, length } = run
                && lengths.get(id).is_none_or(|all| offset.saturating_add(*length) > *all)
            {
                return malformed("its content is not in its blobs");
            }
        }
        Ok(())
    }

    /// Refuses a header of another file, part or content than the object's name says.
    fn check_name(&self, name: &ObjectName) -> Result<()> {
        let (ObjectName::Wal(file) | ObjectName::Conflict(file)) = name else {
            return Err(DecodeError::malformed("WAL header", "its name is not that of a WAL file"));
        };
        let part_length = |(from, to): (u32, u32)| u64::from(to.saturating_sub(from));
        if file.file == self.file
            && file.digest == WalObjectName::short_digest(&self.digest)
            && file.part.is_none_or(|part| part_length(part) == self.size)
            && ObjectName::parse(&name.to_string()).as_ref() == Some(name)
        {
            Ok(())
        } else {
            let detail = format!("it is not what its name {name} says");
            Err(DecodeError::malformed("WAL header", detail))
        }
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
    pub fn open(keys: &KeyRing, name: &ObjectName, object: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new("WAL object", envelope::unwrap(ObjectKind::Wal, object)?);
        let length = reader.u32()?;
        within("WAL header", u64::from(length), MAX_WAL_HEADER as u64)?;
        let sealed = reader.take(length as usize)?;
        let header = keys.open(Domain::Wal, name.to_string().as_bytes(), sealed)?;
        let header = WalHeader::decode(&header)?;
        header.check_name(name)?;
        if header.blobs_length() != reader.rest().len() as u64 {
            return Err(DecodeError::malformed("WAL object", "its blobs have another length"));
        }
        Ok(WalObject { header, frames: reader.rest() })
    }

    /// The frame of one of the object's blobs.
    pub fn frame(&self, entry: &PackEntry) -> Result<Frame<'a>> {
        let range = entry.offset as usize..entry.end() as usize;
        entry.frame(self.frames.get(range).ok_or(DecodeError::Truncated { what: "WAL object" })?)
    }
}

/// Seals a WAL file into an object. `header.blobs` is filled in from `blobs`.
pub fn seal(
    keys: &KeyRing,
    name: &ObjectName,
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
    header.check_name(name)?;
    let header = header.encode()?;
    let name = name.to_string();
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
