//! Proves that a repository is sound, and says exactly what is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use repo_format::codec::DecodeError;
use repo_format::ids::PackId;
use repo_format::names::ObjectName;
use repo_format::pack::{self, PackEntry};
use repo_format::snapshot::Snapshot;

use super::error::{Error, Result};
use super::index::Index;
use super::reader::Reader;
use super::references::References;
use super::{Repository, notes, snapshots, wal};
use crate::progress::Progress;

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Packs that were checked.
    pub packs: u64,
    /// WAL files that were checked.
    pub wal_files: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object, or what else is wrong.
    pub object: String,
    /// How it shows.
    pub detail: String,
    /// The backups that cannot be restored because of it, as `server/backup id`.
    pub backups: Vec<String>,
}

/// Checks the whole repository: that every snapshot is whole, that every pack is there with the length
/// it should have, and, with `read_data`, that every byte is what it should be.
///
/// # Errors
/// Only if the store fails; damage is reported.
pub async fn check(
    repository: &Arc<Repository>,
    read_data: bool,
    progress: &Progress,
) -> Result<Report> {
    let mut report = Report::default();
    let mut all = vec![];
    for name in snapshots::names(repository, None).await? {
        match snapshots::read(repository, &name).await {
            Ok(snapshot) => all.push(snapshot),
            Err(Error::Damaged { object, error }) => {
                let backups = vec![format!("{}/{}", name.server, name.backup_id)];
                report.problems.push(Problem { object, detail: error.to_string(), backups });
            }
            // Deleted since it was listed.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    // After the snapshots: what they refer to was there before them.
    let (mut index, damaged) = Index::load_sound(repository).await?;
    if !damaged.is_empty() {
        index = Index::rebuild(repository).await?;
        for (object, error) in damaged {
            report.problem(object, format!("{error}; the packs themselves were read instead"));
        }
    }
    let index = Arc::new(index);
    check_packs(repository, &index, read_data, progress, &mut report).await?;
    check_snapshots(repository, &index, all, progress, &mut report).await?;
    check_notes(repository, &mut report).await?;
    check_wal(repository, read_data, progress, &mut report).await?;
    Ok(report)
}

impl Report {
    fn problem(&mut self, object: impl Into<String>, detail: impl Into<String>) {
        self.problems.push(Problem {
            object: object.into(),
            detail: detail.into(),
            backups: vec![],
        });
    }
}

async fn check_snapshots(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    all: Vec<Snapshot>,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    progress.phase("snapshots", None);
    let damaged: HashMap<PackId, usize> = report
        .problems
        .iter()
        .enumerate()
        .filter_map(|(at, problem)| match ObjectName::parse(&problem.object)? {
            ObjectName::Pack(id) => Some((id, at)),
            _ => None,
        })
        .collect();
    for snapshot in all {
        report.snapshots += 1;
        let backup = format!("{}/{}", snapshot.server, snapshot.backup_id);
        let object = snapshot.object_name().to_string();
        let reader = Reader::new(repository.clone(), index.clone());
        let index = index.clone();
        let (result, packs) = blocking(move || {
            let mut walk = References::new(&reader, &index, None);
            (walk.follow(&snapshot), walk.packs)
        })
        .await;
        match result {
            Ok(()) => {}
            Err(error @ (Error::MissingChunk(_) | Error::Damaged { .. })) => {
                let detail = crate::error::Error::from(error).to_string();
                report.problems.push(Problem { object, detail, backups: vec![backup.clone()] });
            }
            Err(error) if error.is_not_found() => {
                let detail = crate::error::Error::from(error).to_string();
                report.problems.push(Problem { object, detail, backups: vec![backup.clone()] });
            }
            Err(error) => return Err(error),
        }
        for pack in packs {
            if let Some(problem) = damaged.get(&pack).and_then(|at| report.problems.get_mut(*at)) {
                problem.backups.push(backup.clone());
            }
        }
    }
    Ok(())
}

async fn check_packs(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    read_data: bool,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let listed: BTreeMap<PackId, u64> = repository
        .storage()
        .list("packs/")
        .await?
        .iter()
        .filter_map(|object| match ObjectName::parse(&object.name)? {
            ObjectName::Pack(id) => Some((id, object.size)),
            _ => None,
        })
        .collect();
    let known: BTreeMap<PackId, u64> = index.packs().collect();
    let total = read_data.then(|| listed.values().sum());
    progress.phase("packs", total);
    for (id, length) in &known {
        report.packs += 1;
        match listed.get(id) {
            None => report.problem(ObjectName::Pack(*id).to_string(), "it is missing"),
            Some(size) if size != length => report.problem(
                ObjectName::Pack(*id).to_string(),
                format!("it has {size} bytes instead of {length}"),
            ),
            Some(_) => {}
        }
    }
    if !read_data {
        return Ok(());
    }
    let reader = Arc::new(Reader::new(repository.clone(), index.clone()));
    for (id, size) in listed {
        let name = ObjectName::Pack(id).to_string();
        let bytes = match repository.storage().get(&name).await {
            Err(error) if error.is_not_found() => continue,
            bytes => bytes?,
        };
        report.bytes_read += size;
        let reader = reader.clone();
        let checked = blocking(move || check_pack(&reader, &id, &bytes)).await;
        if let Err(error) = checked {
            let already = report.problems.iter().any(|problem| problem.object == name);
            if !already {
                report.problem(name, crate::error::Error::from(error).to_string());
            }
        }
        progress.advance(size);
    }
    Ok(())
}

/// Reads every blob of a pack: its hash, its footer against the blobs, and each chunk's hash.
fn check_pack(reader: &Reader, id: &PackId, bytes: &[u8]) -> Result<()> {
    let damaged = |e: DecodeError| Error::damaged(ObjectName::Pack(*id).to_string(), e);
    let keys = reader.repository().keys();
    let entries: Vec<PackEntry> = pack::open(keys, id, bytes).map_err(damaged)?;
    for entry in &entries {
        let range = entry.offset as usize..entry.end() as usize;
        let frame =
            bytes.get(range).ok_or_else(|| damaged(DecodeError::Truncated { what: "pack" }))?;
        check_blob(reader, entry, frame).map_err(|error| match error {
            Error::Damaged { error, .. } => damaged(error),
            other => other,
        })?;
    }
    Ok(())
}

fn check_blob(reader: &Reader, entry: &PackEntry, frame: &[u8]) -> Result<()> {
    let damaged = |e: DecodeError| Error::damaged("blob", e);
    let keys = reader.repository().keys();
    let (frame, _) = repo_format::blob::Frame::split(frame).map_err(damaged)?;
    let header = frame.open_header(keys).map_err(damaged)?;
    if header.chunks != entry.chunks || header.kind != entry.kind {
        return Err(damaged(DecodeError::malformed("blob", "the footer describes another blob")));
    }
    let body = frame.open_body(keys, &header).map_err(damaged)?;
    let prefix = reader.prefix(&body)?;
    let content = body.content(header.content_length(), &prefix).map_err(damaged)?;
    let mut rest = content.as_slice();
    for chunk in &header.chunks {
        let (bytes, after) = rest.split_at_checked(chunk.length as usize).unwrap_or_default();
        if keys.naming().chunk_id_of(header.kind, bytes) != chunk.id {
            let detail = format!("the content of chunk {} has another hash", chunk.id);
            return Err(damaged(DecodeError::malformed("blob", detail)));
        }
        rest = after;
    }
    Ok(())
}

async fn check_notes(repository: &Repository, report: &mut Report) -> Result<()> {
    let mut servers: BTreeSet<String> = BTreeSet::new();
    for object in repository.storage().list("notes/").await? {
        if let Some(ObjectName::Note { server, .. }) = ObjectName::parse(&object.name) {
            servers.insert(server);
        }
    }
    for server in servers {
        if let Err(Error::Damaged { object, error }) = notes::of_server(repository, &server).await {
            report.problem(object, error.to_string());
        }
    }
    Ok(())
}

async fn check_wal(
    repository: &Arc<Repository>,
    read_data: bool,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let objects = repository.storage().list("wal/").await?;
    let total = read_data.then(|| objects.iter().map(|object| object.size).sum());
    progress.phase("WAL", total);
    let mut seen: HashMap<(String, u64, u32, String), String> = HashMap::new();
    for object in objects {
        let Some(ObjectName::Wal(name)) = ObjectName::parse(&object.name) else {
            report.problem(object.name, "it is not a name of a WAL object");
            continue;
        };
        let whole_name = ObjectName::Wal(name.clone());
        report.wal_files += 1;
        if name.part.is_none() {
            let file = (name.server, name.system_id, name.timeline, name.file);
            if let Some(other) = seen.insert(file, object.name.clone()) {
                report.problem(
                    &*object.name,
                    format!("there is other content of this file: {other}"),
                );
            }
        }
        if read_data {
            let bytes = match repository.storage().get(&object.name).await {
                Err(error) if error.is_not_found() => continue,
                bytes => bytes?,
            };
            report.bytes_read += object.size;
            let owned = repository.clone();
            let opened = blocking(move || wal::open(&owned, &whole_name, &bytes).map(|_| ())).await;
            if let Err(error) = opened {
                report.problem(object.name, crate::error::Error::from(error).to_string());
            }
            progress.advance(object.size);
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
