//! Archives one WAL file: what `archive_command` calls.
//!
//! The object is complete in itself, so that neither an index nor a session is needed. The same file
//! again is success; a file of the same name with other content is an error, is kept apart for
//! inspection, and leaves the stored one untouched.

use std::sync::Arc;

use bytes::Bytes;
use repo_format::blob::{self, BlobHeader, ChunkSpan, Encoder, SealedBlob};
use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, Run};
use repo_format::keys::KeyRing;
use repo_format::limits::{LEAF, MAX_CHUNK, MAX_RUNS};
use repo_format::names::{ObjectName, WalObjectName};
use repo_format::wal::{self as format, WalHeader};

use super::arrival::Arrival;
use super::inventory::system_ids;
use crate::chunking::stream::StreamCutter;
use crate::error::{Error, Kind, Result};
use crate::postgres::control_file::CONTROL_FILE;
use crate::postgres::lsn::SystemId;
use crate::postgres::wal_name::WalName;
use crate::repository::{self, Repository, host, now_micros, servers};

/// Small chunks of a WAL file share a blob of about this size.
const BLOB: usize = 1024 * 1024;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    /// It was stored, in so many bytes.
    Stored(u64),
    /// It was there already, with the same content.
    AlreadyThere,
}

/// Archives a WAL file for `server`.
///
/// # Errors
/// If it is of another cluster than the one that the server stands for, if the archive has other content
/// under its name, if nobody can tell which cluster it is of, or if it could not be made durable.
pub async fn archive(
    repository: &Arc<Repository>,
    server: &str,
    arrival: Arrival,
) -> Result<Archived> {
    let system_id = match arrival.system_id {
        Some(id) => id,
        None => archiving_system(repository, server, &arrival.origin).await?,
    };
    let Arrival { name, file, content, .. } = arrival;
    servers::require_system(repository, server, system_id.0, &file).await?;
    store(repository, server, system_id, name, &file, Arc::new(content)).await
}

/// Stores the checked content of a WAL file.
async fn store(
    repository: &Arc<Repository>,
    server: &str,
    system_id: SystemId,
    name: WalName,
    file: &str,
    content: Arc<Vec<u8>>,
) -> Result<Archived> {
    let digest = repository.keys().naming().digest_of(&content);
    let object_name = WalObjectName {
        server: servers::stored_name(repository, server).await?,
        system_id: system_id.0,
        timeline: name.timeline().0,
        file: file.to_owned(),
        part: None,
        digest: WalObjectName::short_digest(&digest),
    };
    if let Some(stored) = stored_as(repository, &object_name).await? {
        if stored != object_name || is_sound(repository, &object_name).await? {
            return settle(repository, &object_name, &stored, content).await;
        }
        // What is there does not open, and the server still has it.
        let damaged = ObjectName::Wal(object_name.clone()).to_string();
        tracing::warn!("{damaged} is damaged, and archived anew");
        repository.storage().delete(&damaged).await?;
    }
    let name = ObjectName::Wal(object_name.clone());
    let object = seal(repository, &name, file, content.clone()).await?;
    let size = object.len() as u64;
    match repository.storage().put(&name.to_string(), object).await {
        Err(error) if error.already_exists() => return Ok(Archived::AlreadyThere),
        put => put?,
    }
    // Whoever archives other content under this name at the same time does the same: put, then look.
    // One of the two sees the other. Both objects stay, because a repetition of either may have been told
    // already that it is safe.
    match stored_as(repository, &object_name).await? {
        Some(stored) if stored != object_name => {
            settle(repository, &object_name, &stored, content).await
        }
        _ => Ok(Archived::Stored(size)),
    }
}

/// The object that holds this file already, if it is another one than `name` or `name` itself was
/// there before: whole files only.
async fn stored_as(repository: &Repository, name: &WalObjectName) -> Result<Option<WalObjectName>> {
    let WalObjectName { server, system_id, timeline, file, .. } = name;
    let stored = repository::wal::of_file(repository, server, *system_id, *timeline, file).await?;
    let mut same_file = stored.into_iter().map(|stored| stored.name);
    let first = same_file.next();
    Ok(same_file.find(|other| other != name).or(first))
}

/// Whether an object that is there already can be relied on: it opens, and it is durable.
async fn is_sound(repository: &Arc<Repository>, name: &WalObjectName) -> Result<bool> {
    let name = ObjectName::Wal(name.clone());
    let object = match repository.storage().get_durable(&name.to_string()).await {
        Err(error) if error.is_unreadable() => return Ok(false),
        object => object?,
    };
    let owned = repository.clone();
    let verified =
        tokio::task::spawn_blocking(move || repository::wal::verify(&owned, &name, &object)).await;
    match verified.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The file is in the archive: with the same content that is success; other content is kept apart.
async fn settle(
    repository: &Arc<Repository>,
    name: &WalObjectName,
    stored: &WalObjectName,
    content: Arc<Vec<u8>>,
) -> Result<Archived> {
    if stored == name {
        return Ok(Archived::AlreadyThere);
    }
    let conflict = ObjectName::Conflict(name.clone());
    let object = seal(repository, &conflict, &name.file, content).await?;
    match repository.storage().put(&conflict.to_string(), object).await {
        Err(error) if error.already_exists() => {}
        put => put?,
    }
    Err(Error::new(
        Kind::Refused,
        format!(
            "{} of server {} is in the archive with other content; the new content was kept as {conflict}",
            name.file, name.server
        ),
    )
    .hint(
        "two servers archive into one place (a restored copy? a failed-over primary?): stop one, \
         or give it a server name of its own",
    ))
}

/// Cuts, compresses and seals a file into the object called `name`.
async fn seal(
    repository: &Arc<Repository>,
    name: &ObjectName,
    file: &str,
    content: Arc<Vec<u8>>,
) -> Result<Bytes> {
    let (repository, name, file) = (repository.clone(), name.clone(), file.to_owned());
    let sealed = tokio::task::spawn_blocking(move || {
        let keys = repository.keys();
        let used = content.get(..used_length(&content)).unwrap_or_default();
        let mut blobs =
            Blobs { keys, encoder: Encoder::new(3)?, pending: vec![], spans: vec![], done: vec![] };
        let mut cutter = StreamCutter::new(keys.naming(), &repository.config().chunking);
        let (mut runs, mut failure) = (vec![], None);
        let mut take = |chunk: Vec<u8>| match blobs.add(&chunk) {
            Ok(run) => runs.push(run),
            Err(error) => failure = Some(error),
        };
        cutter.bytes(used, &mut take);
        cutter.end(&mut take);
        // One for the zeros behind them.
        if runs.len() >= MAX_RUNS {
            blobs = Blobs { pending: vec![], spans: vec![], done: vec![], ..blobs };
            runs =
                used.chunks(MAX_CHUNK).map(|chunk| blobs.add(chunk)).collect::<Result<_, _>>()?;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let used = used.len();
        let blobs = blobs.finish()?;
        if used < content.len() {
            runs.push(Run::Zero { length: (content.len() - used) as u64 });
        }
        let header = WalHeader {
            file,
            size: content.len() as u64,
            digest: keys.naming().digest_of(&content),
            archived_at: now_micros(),
            host: host::name(),
            content: Content::Runs(runs),
            blobs: vec![],
        };
        let object = format::seal(keys, &name, header, &blobs).map_err(repository::Error::from)?;
        drop(blobs);
        // What is acknowledged is gone from the server: it must open again.
        repository::wal::verify(&repository, &name, &object)?;
        Ok::<_, repository::Error>(Bytes::from(object))
    });
    Ok(sealed.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
}

/// Makes blobs of the chunks of one file, each chunk once.
struct Blobs<'k> {
    keys: &'k KeyRing,
    encoder: Encoder,
    pending: Vec<u8>,
    spans: Vec<ChunkSpan>,
    done: Vec<SealedBlob>,
}

impl Blobs<'_> {
    /// Adds a chunk, and says what refers to it.
    fn add(&mut self, chunk: &[u8]) -> repository::Result<Run> {
        let id = self.keys.naming().chunk_id_of(ChunkKind::Wal, chunk);
        let length = u32::try_from(chunk.len()).expect("a chunk is not over 1 MiB");
        let done = self.done.iter().flat_map(|blob| &blob.header.chunks);
        if !done.chain(&self.spans).any(|span| span.id == id) {
            self.spans.push(ChunkSpan { id, length });
            self.pending.extend_from_slice(chunk);
            if self.pending.len() >= BLOB {
                self.flush()?;
            }
        }
        Ok(Run::Chunk { id, offset: 0, length })
    }

    fn flush(&mut self) -> repository::Result<()> {
        if !self.spans.is_empty() {
            let chunks = std::mem::take(&mut self.spans);
            let header = BlobHeader { kind: ChunkKind::Wal, chunks };
            let body = self.encoder.encode(&self.pending)?;
            self.done.push(blob::seal(self.keys, header, &body)?);
            self.pending.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> repository::Result<Vec<SealedBlob>> {
        self.flush()?;
        Ok(self.done)
    }
}

/// The length of the content without its tail of zeros, in whole leaves.
fn used_length(content: &[u8]) -> usize {
    let last = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    last.next_multiple_of(LEAF).min(content.len())
}

/// The cluster that a small file is taken to be of which does not come from its data directory: the one that
/// the server stands for, or else the one whose WAL came last, since a server sends a history file between
/// segments of its own.
async fn archiving_system(repository: &Repository, server: &str, origin: &str) -> Result<SystemId> {
    if let [accepted] = servers::systems(repository, server).await?.as_slice() {
        return Ok(SystemId(*accepted));
    }
    let mut newest = None;
    for system in system_ids(repository, server).await? {
        let stored = repository::wal::of_system(repository, server, system).await?;
        let last = stored.iter().map(|wal| wal.archived_at).max();
        newest = newest.max(last.map(|last| (last, system)));
    }
    let Some((_, system)) = newest else {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "cannot tell which cluster {origin} belongs to: there is no {CONTROL_FILE} beside its \
                 directory, and no other WAL of server {server} in the archive"
            ),
        )
        .hint("archive a WAL segment first, or from within the data directory, as archive_command does"));
    };
    Ok(SystemId(system))
}
