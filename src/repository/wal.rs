//! WAL objects in the store: listing and reading them.

use std::collections::HashMap;
use std::time::SystemTime;

use repo_format::DecodeError;
use repo_format::blob::Frame;
use repo_format::chunk::DigestBuilder;
use repo_format::content::{Content, Run};
use repo_format::ids::ChunkId;
use repo_format::limits::{LEAF, MAX_WAL_FILE};
use repo_format::names::{ObjectName, WalObjectName, escape};
use repo_format::pack::{self, PackEntry};
use repo_format::wal::{WalHeader, WalObject};

use super::error::{Error, Result};
use super::{Repository, servers};

/// A WAL file in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWal {
    /// Its name.
    pub name: WalObjectName,
    /// The length of its object in bytes.
    pub stored_size: u64,
    /// When it was archived, by the store's clock.
    pub archived_at: SystemTime,
}

/// The systems of which there is WAL of a server.
pub async fn systems(repository: &Repository, server: &str) -> Result<Vec<u64>> {
    let mut systems: Vec<u64> =
        of_server(repository, server).await?.iter().map(|wal| wal.name.system_id).collect();
    systems.sort_unstable();
    systems.dedup();
    Ok(systems)
}

/// Everything archived of a server, in the order of system, timeline and name.
pub async fn of_server(repository: &Repository, server: &str) -> Result<Vec<StoredWal>> {
    let server = servers::stored_name(repository, server).await?;
    list(repository, &format!("wal/{}/", escape(&server))).await
}

/// Everything archived of one system of a server.
pub async fn of_system(
    repository: &Repository,
    server: &str,
    system_id: u64,
) -> Result<Vec<StoredWal>> {
    let server = servers::stored_name(repository, server).await?;
    list(repository, &format!("wal/{}/{system_id}/", escape(&server))).await
}

/// Everything archived under one file's name: one object, or several where contents differ.
pub async fn of_file(
    repository: &Repository,
    server: &str,
    system_id: u64,
    timeline: u32,
    file: &str,
) -> Result<Vec<StoredWal>> {
    let server = servers::stored_name(repository, server).await?;
    let prefix = WalObjectName::timeline_prefix(&server, system_id, timeline);
    let mut found = list(repository, &format!("{prefix}{file}-")).await?;
    found.retain(|stored| stored.name.file == file && stored.name.part.is_none());
    Ok(found)
}

/// The files of one system of a server that came with other content than what is archived.
pub async fn conflicts(
    repository: &Repository,
    server: &str,
    system_id: u64,
) -> Result<Vec<StoredWal>> {
    let server = servers::stored_name(repository, server).await?;
    list(repository, &format!("conflicts/{}/{system_id}/", escape(&server))).await
}

async fn list(repository: &Repository, prefix: &str) -> Result<Vec<StoredWal>> {
    let mut found: Vec<StoredWal> = repository
        .storage()
        .list(prefix)
        .await?
        .into_iter()
        .filter_map(|object| match ObjectName::parse(&object.name)? {
            ObjectName::Wal(name) | ObjectName::Conflict(name) => {
                Some(StoredWal { name, stored_size: object.size, archived_at: object.modified })
            }
            _ => None,
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The content of a WAL file, checked against its digest.
pub async fn read(repository: &Repository, name: &WalObjectName) -> Result<Vec<u8>> {
    let object_name = ObjectName::Wal(name.clone());
    let object = repository.storage().get(&object_name.to_string()).await?;
    match open(repository, &object_name, &object) {
        Ok((_, content)) => Ok(content),
        Err(error) => match salvage(repository, name, &object) {
            Some(content) => {
                tracing::warn!("{object_name} is damaged, and its content was found all the same");
                Ok(content)
            }
            None => Err(error),
        },
    }
}

/// The content of a WAL object whose header is damaged: its chunks in the order in which they lie there, and zeros
/// behind them, if that is what the digest in the name says (`SPEC.md` 15.7, step 6).
fn salvage(repository: &Repository, name: &WalObjectName, object: &[u8]) -> Option<Vec<u8>> {
    let keys = repository.keys();
    let mut content = vec![];
    for entry in pack::scan(keys, object) {
        let bytes = object.get(entry.offset as usize..entry.end() as usize)?;
        let (frame, _) = Frame::split(bytes).ok()?;
        let header = frame.open_header(keys).ok()?;
        let body = frame.open_body(keys, &header).ok()?;
        content.extend(body.content(header.content_length(), &[]).ok()?);
    }
    let sizes = (SMALLEST_SEGMENT..=MAX_WAL_FILE.ilog2()).map(|bits| 1usize << bits);
    let longer = sizes.filter(|size| *size > content.len());
    for length in std::iter::once(content.len()).chain(longer.collect::<Vec<_>>()) {
        content.resize(length, 0);
        let digest = keys.naming().digest_of(&content);
        if WalObjectName::short_digest(&digest) == name.digest {
            return Some(content);
        }
    }
    None
}

/// The size of the smallest WAL segments, as a power of two.
const SMALLEST_SEGMENT: u32 = 20;

/// Opens the WAL object that the store has under `name`: its header and its content, checked.
pub fn open(
    repository: &Repository,
    name: &ObjectName,
    object: &[u8],
) -> Result<(WalHeader, Vec<u8>)> {
    let mut content = vec![];
    let header = read_runs(repository, name, object, |piece| match piece {
        Piece::Bytes(bytes) => content.extend_from_slice(bytes),
        Piece::Zeros(length) => content.resize(content.len() + length, 0),
    })?;
    if repository.keys().naming().digest_of(&content) != header.digest {
        return Err(other_digest(name));
    }
    Ok((header, content))
}

/// Checks the WAL object that is to be, or is, in the store under `name`, without holding its content.
pub fn verify(repository: &Repository, name: &ObjectName, object: &[u8]) -> Result<()> {
    let naming = repository.keys().naming();
    let mut digest = DigestBuilder::new(naming);
    let (mut leaf, mut length) = (Vec::with_capacity(LEAF), 0u64);
    let mut take = |mut bytes: &[u8]| {
        length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (some, rest) = bytes.split_at(bytes.len().min(LEAF - leaf.len()));
            leaf.extend_from_slice(some);
            bytes = rest;
            if leaf.len() == LEAF {
                digest.leaves(&[naming.leaf(&leaf)]);
                leaf.clear();
            }
        }
    };
    let header = read_runs(repository, name, object, |piece| match piece {
        Piece::Bytes(bytes) => take(bytes),
        Piece::Zeros(mut zeros) => {
            while zeros > 0 {
                let some = zeros.min(LEAF);
                take([0; LEAF].get(..some).unwrap_or_default());
                zeros -= some;
            }
        }
    })?;
    if !leaf.is_empty() {
        digest.leaves(&[naming.leaf(&leaf)]);
    }
    if digest.finish(length) != header.digest {
        return Err(other_digest(name));
    }
    Ok(())
}

fn other_digest(name: &ObjectName) -> Error {
    let error = DecodeError::malformed("WAL object", "its content has another digest");
    Error::damaged(name.to_string(), error)
}

/// A part of a WAL file.
enum Piece<'a> {
    Bytes(&'a [u8]),
    Zeros(usize),
}

/// Gives the content of a WAL object, piece by piece; one decoded blob is held at a time.
fn read_runs(
    repository: &Repository,
    name: &ObjectName,
    object: &[u8],
    mut take: impl FnMut(Piece<'_>),
) -> Result<WalHeader> {
    let damaged = |e: DecodeError| Error::damaged(name.to_string(), e);
    let keys = repository.keys();
    let opened = WalObject::open(keys, name, object).map_err(damaged)?;
    let decode = |entry: &PackEntry| -> Result<Vec<u8>> {
        let frame = opened.frame(entry).map_err(damaged)?;
        let header = frame.open_header(keys).map_err(damaged)?;
        if header.chunks != entry.chunks {
            return Err(damaged(DecodeError::malformed("WAL object", "a blob has other chunks")));
        }
        let body = frame.open_body(keys, &header).map_err(damaged)?;
        body.content(header.content_length(), &[]).map_err(damaged)
    };
    // Where each chunk is: its blob, and the offset there.
    let mut places: HashMap<ChunkId, (usize, usize, usize)> = HashMap::new();
    for (blob, entry) in opened.header.blobs.iter().enumerate() {
        let mut start = 0;
        for chunk in &entry.chunks {
            let length = chunk.length as usize;
            places.insert(chunk.id, (blob, start, length));
            start += length;
        }
    }
    let Content::Runs(runs) = &opened.header.content else {
        return Err(damaged(DecodeError::malformed("WAL header", "its content has a map")));
    };
    let mut decoded: Option<(usize, Vec<u8>)> = None;
    for run in runs {
        match run {
            Run::Zero { length } => take(Piece::Zeros(*length as usize)),
            Run::Chunk { id, offset, length } => {
                let (blob, start, size) = *places.get(id).ok_or(Error::MissingChunk(*id))?;
                let content = match decoded.take() {
                    Some((at, content)) if at == blob => content,
                    _ => match opened.header.blobs.get(blob) {
                        Some(entry) => decode(entry)?,
                        None => return Err(Error::MissingChunk(*id)),
                    },
                };
                let chunk = content.get(start..start + size).unwrap_or_default();
                take(Piece::Bytes(super::reader::run_bytes(chunk, id, *offset, *length)?));
                decoded = Some((blob, content));
            }
        }
    }
    Ok(opened.header)
}
