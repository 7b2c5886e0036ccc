//! Reads a backup back and compares every file with its digest.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use repo_format::chunk::FileHasher;
use repo_format::content::Run;
use repo_format::ids::Digest;
use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, File, Node};

use super::Backup;
use crate::error::Result;
use crate::postgres::wal_name::WalName;
use crate::progress::Progress;
use crate::repository::index::Index;
use crate::repository::reader::{Reader, run_bytes};
use crate::repository::{self, Repository};
use crate::wal::inventory::Inventory;

/// What was read, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// WAL files that the backup needs and that are archived.
    pub wal_files: u64,
    /// Files that cannot be restored as they were.
    pub damaged: Vec<Damage>,
}

/// A file that cannot be restored as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its path within the data directory; absolute for configuration outside it.
    pub path: String,
    /// How it shows.
    pub reason: String,
}

/// Reads every file of `backup`, and the WAL that it needs, with so many threads.
///
/// # Errors
/// If the store fails; damage is reported.
pub async fn verify(
    repository: &Arc<Repository>,
    backup: &Backup,
    snapshot: &Snapshot,
    threads: usize,
    progress: &Progress,
) -> Result<Verified> {
    let index = Arc::new(Index::load(repository).await?);
    let reader = Reader::new(repository.clone(), index);
    progress.phase("reading directories", None);
    let (trees, total) = (snapshot.trees().cloned().collect(), snapshot.statistics.bytes);
    let copy = progress.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut verified = Verified::default();
        let mut files = vec![];
        let trees: Vec<DirectoryRef> = trees;
        for (tree, prefix) in trees.iter().zip(["", "/"]) {
            list(&reader, tree, prefix, &mut files, &mut verified.damaged)?;
        }
        verified.files = files.len() as u64;
        verified.bytes = files.iter().map(|(_, file)| file.size).sum();
        copy.phase("verifying", Some(total));
        verified.damaged.extend(read_files(&reader, &files, threads, &copy)?);
        Ok::<_, repository::Error>(verified)
    });
    let mut verified =
        read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let inventory = Inventory::load(repository, &snapshot.server, snapshot.system_id).await?;
    for segment in &backup.needed.segments {
        let Some(stored) = inventory.find(&WalName::Segment(*segment))? else { continue };
        verified.wal_files += 1;
        if let Err(error) = repository::wal::read(repository, &stored.name).await {
            verified
                .damaged
                .push(Damage { path: format!("pg_wal/{segment}"), reason: damage(error)? });
        }
    }
    Ok(verified)
}

/// The files below a directory; a directory that cannot be read is damage.
fn list(
    reader: &Reader,
    directory: &DirectoryRef,
    prefix: &str,
    files: &mut Vec<(String, File)>,
    damaged: &mut Vec<Damage>,
) -> repository::Result<()> {
    let entries =
        reader.entries(directory).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            damaged.push(Damage { path: prefix.to_owned(), reason: damage(error)? });
            return Ok(());
        }
    };
    for entry in entries {
        let path = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        match entry.node {
            Node::Directory { entries, .. } => {
                list(reader, &entries, &format!("{path}/"), files, damaged)?;
            }
            Node::File(file) => files.push((path, file)),
            Node::Symlink { .. } => {}
        }
    }
    Ok(())
}

fn read_files(
    reader: &Reader,
    files: &[(String, File)],
    threads: usize,
    progress: &Progress,
) -> repository::Result<Vec<Damage>> {
    let next = AtomicUsize::new(0);
    let damaged = Mutex::new(vec![]);
    let work = || -> repository::Result<()> {
        while let Some((path, file)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let reason = match digest(reader, file, progress) {
                Ok(digest) if digest == file.digest => continue,
                Ok(_) => "its content has another digest".to_owned(),
                Err(error) => damage(error)?,
            };
            let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.push(Damage { path: path.clone(), reason });
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.collect::<repository::Result<Vec<()>>>()
    })?;
    let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    damaged.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(damaged)
}

fn digest(reader: &Reader, file: &File, progress: &Progress) -> repository::Result<Digest> {
    /// A stretch of zeros is hashed in pieces of this size.
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut hasher = FileHasher::new(reader.repository().keys().naming());
    for run in reader.runs(&file.content)? {
        match run {
            Run::Zero { length } => {
                let mut left = length;
                while left > 0 {
                    let piece = left.min(ZEROS.len() as u64);
                    hasher.update(ZEROS.get(..piece as usize).unwrap_or(&ZEROS));
                    left -= piece;
                }
                progress.advance(length);
            }
            Run::Chunk { id, offset, length } => {
                hasher.update(run_bytes(&reader.chunk(&id)?, &id, offset, length)?);
                progress.advance(u64::from(length));
            }
        }
    }
    Ok(hasher.finish())
}

/// What is wrong, if the error is damage; a store that fails proves nothing.
fn damage(error: repository::Error) -> repository::Result<String> {
    use repository::Error::{Damaged, MissingChunk};
    if matches!(error, Damaged { .. } | MissingChunk(_)) || error.is_not_found() {
        return Ok(crate::error::Error::from(error).to_string());
    }
    Err(error)
}
