//! WAL objects in the store: listing and reading them.

use std::time::SystemTime;

use repo_format::DecodeError;
use repo_format::content::{Content, Run};
use repo_format::ids::ChunkId;
use repo_format::names::{ObjectName, WalObjectName, escape};
use repo_format::wal::{WalHeader, WalObject};

use super::Repository;
use super::error::{Error, Result};

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
    list(repository, &format!("wal/{}/", escape(server))).await
}

/// Everything archived of one system of a server.
pub async fn of_system(
    repository: &Repository,
    server: &str,
    system_id: u64,
) -> Result<Vec<StoredWal>> {
    list(repository, &format!("wal/{}/{system_id}/", escape(server))).await
}

/// Everything archived under one file's name: one object, or several where contents differ.
pub async fn of_file(
    repository: &Repository,
    server: &str,
    system_id: u64,
    timeline: u32,
    file: &str,
) -> Result<Vec<StoredWal>> {
    let prefix = WalObjectName::timeline_prefix(server, system_id, timeline);
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
    list(repository, &format!("conflicts/{}/{system_id}/", escape(server))).await
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
    let name = ObjectName::Wal(name.clone());
    let object = repository.storage().get(&name.to_string()).await?;
    Ok(open(repository, &name, &object)?.1)
}

/// Opens the WAL object that the store has under `name`: its header and its content, checked.
pub fn open(
    repository: &Repository,
    name: &ObjectName,
    object: &[u8],
) -> Result<(WalHeader, Vec<u8>)> {
    let damaged = |e: DecodeError| Error::damaged(name.to_string(), e);
    let keys = repository.keys();
    let opened = WalObject::open(keys, name, object).map_err(damaged)?;
    let mut chunks: Vec<(ChunkId, Vec<u8>)> = vec![];
    for entry in &opened.header.blobs {
        let frame = opened.frame(entry).map_err(damaged)?;
        let header = frame.open_header(keys).map_err(damaged)?;
        let body = frame.open_body(keys, &header).map_err(damaged)?;
        let content = body.content(header.content_length(), &[]).map_err(damaged)?;
        let mut rest = content.as_slice();
        for chunk in header.chunks {
            let (bytes, after) = rest.split_at_checked(chunk.length as usize).unwrap_or_default();
            chunks.push((chunk.id, bytes.to_vec()));
            rest = after;
        }
    }
    let mut content = Vec::with_capacity(usize::try_from(opened.header.size).unwrap_or_default());
    let Content::Runs(runs) = &opened.header.content else {
        return Err(damaged(DecodeError::malformed("WAL header", "its content has a map")));
    };
    for run in runs {
        match run {
            Run::Zero { length } => content.resize(content.len() + *length as usize, 0),
            Run::Chunk { id, offset, length } => {
                let (_, bytes) =
                    chunks.iter().find(|(found, _)| found == id).ok_or(Error::MissingChunk(*id))?;
                content.extend_from_slice(super::reader::run_bytes(bytes, id, *offset, *length)?);
            }
        }
    }
    if keys.naming().digest_of(&content) != opened.header.digest {
        return Err(damaged(DecodeError::malformed(
            "WAL object",
            "its content has another digest",
        )));
    }
    Ok((opened.header, content))
}
