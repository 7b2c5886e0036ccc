//! Proves that a repository is sound, and says exactly what is not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use repo_format::blob::{BlobBody, BlobHeader, Frame};
use repo_format::codec::DecodeError;
use repo_format::config::Config;
use repo_format::ids::{PackId, SnapshotHash};
use repo_format::maintenance::Maintenance;
use repo_format::names::{BackupName, ObjectName};
use repo_format::note::Note;
use repo_format::pack::{self, PackEntry};
use repo_format::record::Record;
use repo_format::role::PlaceRole;
use repo_format::server::ServerRecord;
use repo_format::session::Session;
use repo_format::slot;
use repo_format::snapshot::Snapshot;

use super::error::{Error, Result};
use super::index::{Index, packs_in_store};
use super::reader::Reader;
use super::references::References;
use super::{Repository, notes, repair, snapshots, wal};
use crate::blocking::blocking;
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
    /// What is not wrong, and worth to be known.
    pub notices: Vec<String>,
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

/// Checks the whole repository: that every object is what its name says, that every snapshot is whole,
/// that every pack is there with the length it should have, and, with `read_data`, that every byte is
/// what it should be.
///
/// # Errors
/// Only if the store fails; damage is reported.
pub async fn check(
    repository: &Arc<Repository>,
    read_data: bool,
    progress: &Progress,
) -> Result<Report> {
    let mut report = Report::default();
    let (mut all, mut damaged) = snapshots::all(repository, None).await?;
    // What was deleted is nobody's backup, only not gone yet.
    let notes = notes::of_all(repository).await?;
    let exists = |name: BackupName| {
        !notes.get(&(name.server, name.backup_id)).is_some_and(|notes| notes.deleted)
    };
    let existing = all.clone();
    all.retain(|snapshot| exists(snapshot.backup_name()));
    damaged.retain(|snapshot| exists(snapshot.name.clone()));
    for snapshots::DamagedSnapshot { name, error } in damaged {
        let backups = vec![format!("{}/{}", name.server, name.backup_id)];
        let object = ObjectName::Snapshot(name).to_string();
        let detail = crate::error::Error::from(error).to_string();
        report.problems.push(Problem { object, detail, backups });
    }
    // After the snapshots: what they refer to was there before them.
    let mut index = Index::load(repository).await?;
    let damaged = index.damaged().to_vec();
    if !damaged.is_empty() {
        index = Index::rebuild(repository).await?;
        for (object, error) in damaged {
            let detail = format!("{error}; barman repo repair index makes it anew from the packs");
            report.problem(object, detail);
        }
    }
    let index = Arc::new(index);
    let missing = check_packs(repository, &index, read_data, progress, &mut report).await?;
    check_snapshots(repository, &index, &all, progress, &mut report).await?;
    check_lost_snapshots(repository, &index, &all, &mut report).await?;
    check_predecessors(&existing, &notes, &mut report);
    report.excuse(&missing);
    check_small_objects(repository, &mut report).await?;
    for kind in ["wal/", "conflicts/"] {
        check_wal(repository, kind, read_data, progress, &mut report).await?;
    }
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

    /// What was in these packs may have been stored again: where every snapshot is whole without them, they
    /// are missed by nobody.
    fn excuse(&mut self, missing: &BTreeSet<PackId>) {
        let name = |problem: &Problem| ObjectName::parse(&problem.object);
        if self.problems.iter().any(|p| matches!(name(p), Some(ObjectName::Snapshot(_)))) {
            return;
        }
        let is_missed = |problem: &Problem| match name(problem) {
            Some(ObjectName::Pack(id)) => !missing.contains(&id) || !problem.backups.is_empty(),
            _ => true,
        };
        for problem in self.problems.extract_if(.., |problem| !is_missed(problem)) {
            self.notices.push(format!("{} is missing, and no backup needs it", problem.object));
        }
    }
}

async fn check_snapshots(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    all: &[Snapshot],
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    progress.phase("snapshots", None);
    let problem_of: HashMap<PackId, usize> = report
        .problems
        .iter()
        .enumerate()
        .filter_map(|(at, problem)| match ObjectName::parse(&problem.object)? {
            ObjectName::Pack(id) => Some((id, at)),
            _ => None,
        })
        .collect();
    let doubtful: Arc<HashSet<PackId>> = Arc::new(problem_of.keys().copied().collect());
    let reader = Arc::new(Reader::new(repository.clone(), index.clone()));
    let mut rebuilt = None;
    for snapshot in all {
        report.snapshots += 1;
        let backup = format!("{}/{}", snapshot.server, snapshot.backup_id);
        let object = snapshot.object_name().to_string();
        let (mut result, mut packs) = follow(&reader, index, &doubtful, snapshot).await;
        if matches!(result, Err(Error::MissingChunk(_))) {
            // The packs may hold what the index does not name.
            let whole = match &rebuilt {
                Some(whole) => Arc::clone(whole),
                None => rebuilt.insert(Arc::new(Index::rebuild(repository).await?)).clone(),
            };
            let again = follow(&reader, &whole, &doubtful, snapshot).await;
            if again.0.is_ok() {
                let detail = "the index does not name everything that is in the packs; it is made \
                              anew by: barman repo repair index";
                if !report.problems.iter().any(|problem| problem.detail == detail) {
                    report.problem("index", detail);
                }
                (result, packs) = again;
            }
        }
        match result {
            Ok(()) => {}
            Err(error) if error.is_damage() => {
                let detail = crate::error::Error::from(error).to_string();
                report.problems.push(Problem { object, detail, backups: vec![backup.clone()] });
            }
            Err(error) => return Err(error),
        }
        for pack in packs {
            if let Some(problem) = problem_of.get(&pack).and_then(|at| report.problems.get_mut(*at))
            {
                problem.backups.push(backup.clone());
            }
        }
    }
    Ok(())
}

/// Follows all references of a snapshot, and says in which packs they end.
async fn follow(
    reader: &Arc<Reader>,
    index: &Arc<Index>,
    doubtful: &Arc<HashSet<PackId>>,
    snapshot: &Snapshot,
) -> (Result<()>, BTreeSet<PackId>) {
    let (reader, index, snapshot) = (reader.clone(), index.clone(), snapshot.clone());
    let doubtful = doubtful.clone();
    blocking(move || {
        let mut walk = References::new(&reader, &index);
        walk.doubtful = doubtful;
        (walk.follow(&snapshot), walk.packs)
    })
    .await
}

/// A snapshot names the newest ones that were there when it was made. One that is gone must have been deleted
/// on purpose, which a note says, or be known to be lost.
fn check_predecessors(
    existing: &[Snapshot],
    notes: &BTreeMap<(String, String), notes::BackupNotes>,
    report: &mut Report,
) {
    let hashes: BTreeSet<SnapshotHash> = existing.iter().map(Snapshot::hash).collect();
    for snapshot in existing {
        let is_older = |server: &str, backup_id: &str| {
            server == snapshot.server && *backup_id < *snapshot.backup_id
        };
        let is_explained =
            notes.iter().any(|((server, id), notes)| notes.deleted && is_older(server, id))
                || report.problems.iter().any(|problem| match ObjectName::parse(&problem.object) {
                    Some(ObjectName::Snapshot(name)) => is_older(&name.server, &name.backup_id),
                    _ => false,
                });
        if !is_explained && snapshot.previous.iter().any(|hash| !hashes.contains(hash)) {
            report.problem(
                snapshot.object_name().to_string(),
                "the backup before it is gone, and nothing says that it was deleted: look for it in \
                 a mirror or in the store's older versions",
            );
        }
    }
}

/// Snapshots of which only the copy in the packs is left.
async fn check_lost_snapshots(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    all: &[Snapshot],
    report: &mut Report,
) -> Result<()> {
    let previous: BTreeSet<SnapshotHash> = all.iter().flat_map(|s| s.previous.clone()).collect();
    for lost in repair::lost_snapshots(repository, index, all).await? {
        let backup = format!("{}/{}", lost.server, lost.backup_id);
        let remedy = "its copy is put in place by: barman repo repair snapshots";
        if report.problems.iter().any(|problem| problem.object == lost.object_name().to_string()) {
            continue;
        }
        if previous.contains(&lost.hash()) {
            report.problems.push(Problem {
                object: lost.object_name().to_string(),
                detail: format!("it is missing; {remedy}"),
                backups: vec![backup],
            });
        } else {
            report.notices.push(format!(
                "backup {backup} was interrupted as it ended, or its snapshot was lost; {remedy}"
            ));
        }
    }
    Ok(())
}

/// Checks the packs, and says which are missing.
async fn check_packs(
    repository: &Arc<Repository>,
    index: &Arc<Index>,
    read_data: bool,
    progress: &Progress,
    report: &mut Report,
) -> Result<BTreeSet<PackId>> {
    let listed = packs_in_store(repository.storage().as_ref()).await?;
    let known: BTreeMap<PackId, u64> = index.packs().collect();
    let total = read_data.then(|| listed.values().sum());
    progress.phase("packs", total);
    let mut missing = BTreeSet::new();
    for (id, length) in &known {
        report.packs += 1;
        match listed.get(id) {
            None => {
                report.problem(ObjectName::Pack(*id).to_string(), "it is missing");
                missing.insert(*id);
            }
            Some(size) if size != length => report.problem(
                ObjectName::Pack(*id).to_string(),
                format!("it has {size} bytes instead of {length}"),
            ),
            Some(_) => {}
        }
    }
    if !read_data {
        return Ok(missing);
    }
    let reader = Arc::new(Reader::new(repository.clone(), index.clone()));
    for (id, size) in listed {
        let name = ObjectName::Pack(id).to_string();
        let checked = match repository.storage().get(&name).await {
            Err(error) if error.is_not_found() => continue,
            Err(error) if error.is_unreadable() => Err(error.into()),
            Err(error) => return Err(error.into()),
            Ok(bytes) => {
                report.bytes_read += size;
                let reader = reader.clone();
                blocking(move || check_pack(&reader, &id, &bytes)).await
            }
        };
        if let Err(error) = checked {
            let already = report.problems.iter().any(|problem| problem.object == name);
            if !known.contains_key(&id) {
                report.notices.push(format!(
                    "{name} is damaged, and nothing uses it; it is removed by: barman repo prune"
                ));
            } else if !already {
                let remedy = "what is intact in it is saved by: barman repo repair packs";
                let detail = format!("{}; {remedy}", crate::error::Error::from(error));
                report.problem(name, detail);
            }
        }
        progress.advance(size);
    }
    Ok(missing)
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
        check_rows(reader, id, entry)?;
    }
    Ok(())
}

/// What the index says of a blob's chunks must be true.
fn check_rows(reader: &Reader, id: &PackId, entry: &PackEntry) -> Result<()> {
    let mut start = 0;
    for chunk in &entry.chunks {
        for place in reader.index().find(&chunk.id)? {
            let is_here = place.blob.pack == *id && place.blob.offset == entry.offset;
            let lengths = (place.blob.header_length, place.blob.body_length);
            let is_true = lengths == (entry.header_length, entry.body_length)
                && (place.blob.kind, place.blob.encoding) == (entry.kind, entry.encoding)
                && (place.offset, place.length) == (start, chunk.length);
            if is_here && !is_true {
                let detail = format!("the index is wrong about chunk {}", chunk.id);
                let name = ObjectName::Pack(*id).to_string();
                return Err(Error::damaged(name, DecodeError::malformed("index run", detail)));
            }
        }
        start += chunk.length;
    }
    Ok(())
}

fn check_blob(reader: &Reader, entry: &PackEntry, frame: &[u8]) -> Result<()> {
    let damaged = |e: DecodeError| Error::damaged("blob", e);
    let (frame, _) = Frame::split(frame).map_err(damaged)?;
    let (header, body) = open_frame(reader, &frame)?;
    let (chunks, kind) = (&header.chunks, header.kind);
    let (encoding, bases) = (body.encoding(), body.base_chunks());
    if (chunks, kind, encoding, &bases) != (&entry.chunks, entry.kind, entry.encoding, &entry.bases)
    {
        return Err(damaged(DecodeError::malformed("blob", "the footer describes another blob")));
    }
    match reader.prefix(kind, body.bases()) {
        Ok(prefix) => check_content(reader, &header, &body, &prefix),
        // A delta that nothing needs outlives its base; if a snapshot needs it, following that finds the base
        // missing. One that is damaged is found in its own pack.
        Err(error) if error.is_damage() => {
            tracing::debug!("a delta cannot be decoded: {error}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Opens a blob, decodes it, and compares the hash of each of its chunks.
pub(super) fn check_frame(reader: &Reader, frame: &Frame<'_>) -> Result<(BlobHeader, BlobBody)> {
    let (header, body) = open_frame(reader, frame)?;
    let prefix = reader.prefix(header.kind, body.bases())?;
    check_content(reader, &header, &body, &prefix)?;
    Ok((header, body))
}

fn open_frame(reader: &Reader, frame: &Frame<'_>) -> Result<(BlobHeader, BlobBody)> {
    let damaged = |e: DecodeError| Error::damaged("blob", e);
    let keys = reader.repository().keys();
    let header = frame.open_header(keys).map_err(damaged)?;
    let body = frame.open_body(keys, &header).map_err(damaged)?;
    Ok((header, body))
}

fn check_content(
    reader: &Reader,
    header: &BlobHeader,
    body: &BlobBody,
    prefix: &[u8],
) -> Result<()> {
    let damaged = |e: DecodeError| Error::damaged("blob", e);
    let content = body.content(header.content_length(), prefix).map_err(damaged)?;
    let mut rest = content.as_slice();
    for chunk in &header.chunks {
        let (bytes, after) = rest.split_at_checked(chunk.length as usize).unwrap_or_default();
        if reader.repository().keys().naming().chunk_id_of(header.kind, bytes) != chunk.id {
            let detail = format!("the content of chunk {} has another hash", chunk.id);
            return Err(damaged(DecodeError::malformed("blob", detail)));
        }
        rest = after;
    }
    Ok(())
}

/// Checks the objects that stand for themselves: each must open, or read, under its own name.
async fn check_small_objects(repository: &Arc<Repository>, report: &mut Report) -> Result<()> {
    let storage = repository.storage();
    let keys = repository.keys();
    for object in storage.list("").await? {
        let Some(name) = ObjectName::parse(&object.name) else {
            let notice = format!("{} is nothing of a repository, and ignored", object.name);
            report.notices.push(notice);
            continue;
        };
        let of_others = matches!(
            name,
            ObjectName::Pack(_)
                | ObjectName::Index(_)
                | ObjectName::Snapshot(_)
                | ObjectName::Wal(_)
                | ObjectName::Conflict(_)
        );
        if of_others {
            continue;
        }
        let bytes = match storage.get(&object.name).await {
            // Sessions end while they are looked at.
            Err(error) if error.is_not_found() => continue,
            Err(error) if error.is_damage() => {
                report.problem(object.name, crate::error::Error::from(error).to_string());
                continue;
            }
            bytes => bytes?,
        };
        let read = match &name {
            ObjectName::Config(number) => Config::open(keys.naming(), *number, &bytes).map(|_| ()),
            ObjectName::Role => PlaceRole::decode(&bytes).map(|_| ()),
            ObjectName::KeySlot(_) => slot::header(&bytes).map(|_| ()),
            ObjectName::Note { .. } => Note::open(keys, &name, &bytes).map(|_| ()),
            ObjectName::Server { .. } => ServerRecord::open(keys, &name, &bytes).map(|_| ()),
            ObjectName::Session { .. } => Session::open(keys, &name, &bytes).map(|_| ()),
            ObjectName::Maintenance(_) => Maintenance::open(keys, &name, &bytes).map(|_| ()),
            _ => Ok(()),
        };
        if let Err(error) = read {
            let backups = match &name {
                ObjectName::Note { server, backup_id, .. } => vec![format!("{server}/{backup_id}")],
                _ => vec![],
            };
            let detail = match &name {
                ObjectName::Server { server, .. } => format!(
                    "{error}; what it said is put anew by: barman repo server-accept {server}, or \
                     barman repo server-rename"
                ),
                _ => error.to_string(),
            };
            report.problems.push(Problem { object: object.name, detail, backups });
        }
    }
    Ok(())
}

async fn check_wal(
    repository: &Arc<Repository>,
    kind: &str,
    read_data: bool,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let objects = repository.storage().list(kind).await?;
    let total = read_data.then(|| objects.iter().map(|object| object.size).sum());
    progress.phase("WAL", total);
    let mut seen: HashMap<(String, u64, u32, String), String> = HashMap::new();
    for object in objects {
        let Some(whole_name) = ObjectName::parse(&object.name) else { continue };
        let (ObjectName::Wal(name) | ObjectName::Conflict(name)) = whole_name.clone() else {
            continue;
        };
        report.wal_files += 1;
        if matches!(whole_name, ObjectName::Wal(_)) && name.part.is_none() {
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
                Err(error) if error.is_damage() => {
                    report.problem(object.name, crate::error::Error::from(error).to_string());
                    continue;
                }
                bytes => bytes?,
            };
            report.bytes_read += object.size;
            let owned = repository.clone();
            let opened = blocking(move || wal::verify(&owned, &whole_name, &bytes)).await;
            if let Err(error) = opened {
                report.problem(object.name, crate::error::Error::from(error).to_string());
            }
            progress.advance(object.size);
        }
    }
    Ok(())
}
