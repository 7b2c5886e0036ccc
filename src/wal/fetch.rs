//! Gets WAL files out of the archive: what `restore_command` calls.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::postgres::wal_name::WalName;
use crate::repository::wal::StoredWal;
use crate::repository::{self, Repository, snapshots};
use crate::storage::local::{durable_rename, sync_directory};
use crate::wal::inventory::ambiguous;

/// The content of a WAL file; nothing if the archive answered that it has no such file.
///
/// A server may have had several clusters (after pg_upgrade, or a new initdb); `system_id` says which
/// one is meant. Without it the file must be of one cluster only, or else of the one that was backed
/// up last.
pub async fn fetch(
    repository: &Repository,
    server: &str,
    name: &WalName,
    system_id: Option<u64>,
) -> Result<Option<Vec<u8>>> {
    let Some(stored) = find(repository, server, name, system_id).await? else { return Ok(None) };
    Ok(Some(repository::wal::read(repository, &stored.name).await?))
}

async fn find(
    repository: &Repository,
    server: &str,
    name: &WalName,
    system_id: Option<u64>,
) -> Result<Option<StoredWal>> {
    let systems = match system_id {
        Some(id) => vec![id],
        None => repository::wal::systems(repository, server).await?,
    };
    let mut found = vec![];
    for id in systems {
        let timeline = name.timeline().0;
        let file = name.to_string();
        found.extend(repository::wal::of_file(repository, server, id, timeline, &file).await?);
    }
    if found.iter().any(|wal| Some(wal.name.system_id) != found.first().map(|f| f.name.system_id)) {
        let newest = snapshots::of_server(repository, server).await?;
        let current = newest.last().map(|snapshot| snapshot.system_id);
        // Where none of them is the current one, all stay: nobody may be told that there is no such file.
        if found.iter().any(|wal| Some(wal.name.system_id) == current) {
            found.retain(|wal| Some(wal.name.system_id) == current);
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => Err(ambiguous(name, several.iter().map(|wal| &wal.name))),
    }
}

/// Writes a file whole and durable: under another name first, so that nobody takes a part for all.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let error = |error: std::io::Error| {
        Error::new(Kind::Io, format!("cannot write {}", path.display())).because(error)
    };
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{file_name}.{}.tmp", std::process::id()));
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        durable_rename(&temporary, path)?;
        sync_directory(directory)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        error(e)
    })
}
