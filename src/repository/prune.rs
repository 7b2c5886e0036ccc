//! Frees the space of what nothing needs any more (`SPEC.md` 15.4).
//!
//! A pruner is alone: it does not begin while anybody else is at work. What is about to go is written down
//! first, and only then everything is looked at once more: a backup that began before shows its session, and
//! one that begins later reads what was written down. Nothing is deleted while anything that is needed does
//! not resolve.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use repo_format::blob::{Frame, SealedBlob};
use repo_format::chunk::ChunkKind;
use repo_format::ids::{IndexId, PackId, SessionId};
use repo_format::index::BlobLocation;
use repo_format::maintenance::{Maintenance, Phase};
use repo_format::names::{BackupName, ObjectName};
use repo_format::record::{Record, SealError};
use repo_format::session::Activity;
use repo_format::snapshot::Snapshot;
use tokio::runtime::Handle;

use super::check::check_frame;
use super::error::{Error, Result};
use super::index::{Index, LiveBlobs, RowSet, packs_in_store};
use super::reader::Reader;
use super::references::References;
use super::rewrite::{self, Replaced};
use super::sessions::{self, FoundSession, OwnSession};
use super::{Access, Repository, aftermath, host, now_micros, repair, snapshots};
use crate::blocking::blocking;
use crate::progress::Progress;

/// A pack of which less than this part is needed is written anew without the rest: one in so many bytes.
const NEEDED_PART: u64 = 2;

/// What goes, and what that frees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Snapshots, notes and WAL that expired.
    pub objects: BTreeSet<String>,
    /// Packs of which little or nothing is needed.
    pub packs: BTreeSet<PackId>,
    /// Index runs that others replace.
    pub runs: BTreeSet<IndexId>,
    /// The bytes of all these.
    pub bytes: u64,
    /// How many of these bytes are in packs, needed, and copied.
    pub copied: u64,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.packs.is_empty() && self.runs.is_empty()
    }

    /// The bytes that are free afterwards.
    pub fn freed(&self) -> u64 {
        self.bytes.saturating_sub(self.copied)
    }
}

/// A run of the pruner: alone in the repository from its beginning on.
#[derive(Debug)]
pub struct Pruner {
    repository: Arc<Repository>,
    session: OwnSession,
    /// What nobody finished that began earlier.
    pending: Option<Maintenance>,
    /// The number of the highest record, of this or an earlier run.
    epoch: u64,
}

/// All that is needed, at one moment.
struct Mark {
    index: Arc<Index>,
    blobs: LiveBlobs,
}

impl Mark {
    /// Follows every snapshot that is not `expired`, and finds a place for each chunk, outside of the
    /// `doomed` packs where there is one.
    async fn of(
        repository: &Arc<Repository>,
        expired: &[ObjectName],
        doomed: &HashSet<PackId>,
        progress: &Progress,
    ) -> Result<Self> {
        progress.phase("looking what is needed", None);
        let expired: HashSet<&BackupName> = expired
            .iter()
            .filter_map(|name| match name {
                ObjectName::Snapshot(name) => Some(name),
                _ => None,
            })
            .collect();
        let (mut needed, damaged) = snapshots::all(repository, None).await?;
        if let Some(damaged) = damaged.into_iter().find(|found| !expired.contains(&found.name)) {
            return Err(Error::NeededByBackup {
                backup: format!("{}/{}", damaged.name.server, damaged.name.backup_id),
                error: Box::new(damaged.error),
            });
        }
        needed.retain(|snapshot| !expired.contains(&snapshot.backup_name()));
        let index = Index::load(repository).await?;
        if let Some((object, error)) = index.damaged().first() {
            return Err(Error::damaged(object, error.clone()));
        }
        let available = packs_in_store(repository.storage().as_ref()).await?;
        let index = Arc::new(index.within(&available));
        // What can be put back is needed, until somebody does that or says that it was deleted.
        let mut lost = repair::lost_snapshots(repository, &index, &needed).await?;
        lost.retain(|snapshot| !expired.contains(&snapshot.backup_name()));
        let reader = Reader::new(repository.clone(), index.clone());
        let (owned, doomed) = (index.clone(), doomed.clone());
        let blobs = blocking(move || {
            let mut walk = References::new(&reader, &owned);
            walk.reached = Some(RowSet::new(&host::scratch_directory()));
            for snapshot in &needed {
                walk.follow(snapshot).map_err(|error| Error::NeededByBackup {
                    backup: format!("{}/{}", snapshot.server, snapshot.backup_id),
                    error: Box::new(error),
                })?;
            }
            for snapshot in lost {
                match walk.follow(&snapshot) {
                    Ok(()) => needed.push(snapshot),
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            let mut live = walk.reached.unwrap_or_else(|| RowSet::new(&host::scratch_directory()));
            for snapshot in &needed {
                live.insert(copy_of(reader.repository(), snapshot)?).map_err(Error::Scratch)?;
            }
            LiveBlobs::find(&owned, &live, &doomed)
        });
        Ok(Mark { index, blobs: blobs.await? })
    }

    /// The bytes of all packs that something needs.
    fn bytes(&self) -> u64 {
        self.blobs.bytes().values().sum()
    }
}

impl Pruner {
    /// Begins.
    ///
    /// # Errors
    /// [`Error::NotAlone`] if anybody else is at work in the repository.
    pub async fn begin(repository: &Arc<Repository>) -> Result<Self> {
        let activity = Activity::Read { purpose: "prune".to_owned(), backups: vec![] };
        repository.require_newest(Access::Prune).await?;
        aftermath::settle(repository).await?;
        // Before anything is written: on a full disk that takes of the reserve, which a backup that waits would use up.
        refuse_company(repository, None).await?;
        let session = OwnSession::begin(repository.clone(), activity).await?;
        let mut pruner =
            Pruner { repository: repository.clone(), session, pending: None, epoch: 0 };
        match pruner.look_around().await {
            Ok(()) => Ok(pruner),
            Err(error) => {
                pruner.session.end().await?;
                Err(error)
            }
        }
    }

    async fn look_around(&mut self) -> Result<()> {
        self.refuse_others().await?;
        let Some(latest) = records(&self.repository).await?.pop() else { return Ok(()) };
        let object = self.repository.storage().get(&latest.name.to_string()).await?;
        let record = Maintenance::open(self.repository.keys(), &latest.name, &object)
            .map_err(|e| Error::damaged(latest.name.to_string(), e))?;
        // Who wrote it is gone: whoever prunes has a session.
        self.pending = Some(record).filter(|record| record.phase != Phase::Done);
        self.epoch = latest.epoch;
        Ok(())
    }

    async fn refuse_others(&self) -> Result<()> {
        refuse_company(&self.repository, Some(self.session.id())).await
    }

    /// Plans, and does it unless this is a dry run. `expired` tells what nothing needs; it is asked again when
    /// the plan is written down.
    ///
    /// # Errors
    /// As [`Pruner::plan`] and [`Pruner::carry_out`].
    pub async fn run<E: From<Error>>(
        self,
        progress: &Progress,
        dry_run: bool,
        expired: impl AsyncFn() -> std::result::Result<Vec<ObjectName>, E>,
    ) -> std::result::Result<Plan, E> {
        let planned = match expired().await {
            Ok(expired) => self.plan(&expired, progress).await.map_err(E::from),
            Err(error) => Err(error),
        };
        match planned {
            Ok(plan) if !dry_run => {
                self.carry_out(&plan, expired, progress).await?;
                Ok(plan)
            }
            planned => {
                let ended = self.session.end().await;
                let plan = planned?;
                ended?;
                Ok(plan)
            }
        }
    }

    /// Finds out what goes. `expired` are the objects that nothing needs, snapshots and WAL among them.
    ///
    /// # Errors
    /// If anything that is needed does not resolve: then nobody can tell what is not.
    pub async fn plan(&self, expired: &[ObjectName], progress: &Progress) -> Result<Plan> {
        let mark = Mark::of(&self.repository, expired, &HashSet::new(), progress).await?;
        let in_store = packs_in_store(self.repository.storage().as_ref()).await?;
        let mut plan = Plan { objects: names(expired), ..Plan::default() };
        let copies = mark.index.blobs_of(ChunkKind::Snapshot)?;
        let dead_copies = self.packs_with_dead_copies(&mark, &copies)?;
        for (id, length) in &in_store {
            // One in no run is what a writer left that died.
            let needed = mark.blobs.bytes().get(id).copied().unwrap_or_default();
            if needed * NEEDED_PART < *length || dead_copies.contains(id) {
                plan.packs.insert(*id);
                plan.bytes += length;
                plan.copied += needed;
            }
        }
        if let Some(pending) = &self.pending {
            let in_store = |id: &&PackId| in_store.contains_key(*id);
            plan.packs.extend(pending.packs.iter().filter(in_store));
        }
        plan.runs = mark.index.runs_with(&plan.packs.iter().copied().collect());
        for prefix in ["snapshots/", "notes/"] {
            let listed = self.repository.storage().list(prefix).await?;
            let goes = listed.iter().filter(|object| plan.objects.contains(&object.name));
            plan.bytes += goes.map(|object| object.size).sum::<u64>();
        }
        Ok(plan)
    }

    /// A copy of a deleted snapshot must go with it: it would be taken for one that was lost.
    fn packs_with_dead_copies(
        &self,
        mark: &Mark,
        copies: &[BlobLocation],
    ) -> Result<HashSet<PackId>> {
        let all: HashSet<PackId> = copies.iter().map(|blob| blob.pack).collect();
        let live = mark.blobs.within(&mark.index, &all)?;
        let is_live = |blob: &BlobLocation| {
            live.get(&blob.pack).is_some_and(|blobs| blobs.iter().any(|b| b.offset == blob.offset))
        };
        Ok(copies.iter().filter(|blob| !is_live(blob)).map(|blob| blob.pack).collect())
    }

    /// Does what was planned: writes it down, looks again, and deletes what is still not needed. `expired`
    /// tells, after the plan was written down, what nothing needs.
    ///
    /// # Errors
    /// [`Error::NotAlone`] if a backup began meanwhile; nothing was deleted then.
    pub async fn carry_out<E: From<Error>>(
        mut self,
        plan: &Plan,
        expired: impl AsyncFn() -> std::result::Result<Vec<ObjectName>, E>,
        progress: &Progress,
    ) -> std::result::Result<(), E> {
        let record = Maintenance {
            phase: Phase::Deleting,
            begun_at: now_micros(),
            host: host::name(),
            process: std::process::id(),
            packs: plan.packs.iter().copied().collect(),
            indexes: plan.runs.iter().copied().collect(),
            objects: plan.objects.iter().cloned().collect(),
        };
        let done = match self.announce(&record).await {
            Ok(()) if plan.is_empty() => Ok(()),
            Ok(()) => match expired().await {
                Ok(expired) => self.delete(plan, &expired, progress).await.map_err(E::from),
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        };
        // Whatever came of it, what is left over is named by no record any more, and needed by all that
        // resolves: an index run is deleted after the one that replaces it, a pack after its runs.
        let settled = match done.is_ok() || self.pending.is_none() {
            true => self.settle(record).await,
            false => Ok(()),
        };
        let ended = self.session.end().await;
        done?;
        settled?;
        Ok(ended?)
    }

    /// Writes down what goes, and looks then whether anybody has come who does not know.
    async fn announce(&mut self, record: &Maintenance) -> Result<()> {
        self.put_record(record).await?;
        self.refuse_others().await
    }

    /// Says that nothing is pending.
    async fn settle(&mut self, record: Maintenance) -> Result<()> {
        let (packs, indexes, objects) = Default::default();
        let done = Maintenance { phase: Phase::Done, packs, indexes, objects, ..record };
        self.put_record(&done).await?;
        for record in records(&self.repository).await? {
            if record.epoch < self.epoch {
                self.repository.storage().delete(&record.name.to_string()).await?;
            }
        }
        Ok(())
    }

    /// Ends without having done anything.
    pub async fn end(self) -> Result<()> {
        self.session.end().await
    }

    async fn put_record(&mut self, record: &Maintenance) -> Result<()> {
        let name = ObjectName::Maintenance(self.epoch + 1);
        let object = Bytes::from(record.seal(self.repository.keys(), &name)?);
        self.repository.storage().put(&name.to_string(), object).await?;
        self.epoch += 1;
        Ok(())
    }

    async fn delete(&self, plan: &Plan, expired: &[ObjectName], progress: &Progress) -> Result<()> {
        let doomed: HashSet<PackId> = plan.packs.iter().copied().collect();
        let mark = Mark::of(&self.repository, expired, &doomed, progress).await?;
        self.copy(&mark, &doomed, progress).await?;
        self.still_alone().await?;
        let storage = self.repository.storage();
        let gone = names(expired);
        progress.phase("deleting", None);
        // Notes that say what was deleted go last: until then a copy of the snapshot may be there.
        let (notes, objects): (Vec<&String>, Vec<&String>) =
            plan.objects.intersection(&gone).partition(|name| name.starts_with("notes/"));
        for name in objects {
            storage.delete(name).await?;
        }
        // Not those of the plan: what was written since may name a pack that goes, too.
        let runs = mark.index.runs_with(&doomed);
        rewrite::replace_runs(&self.repository, &mark.index, &runs, &doomed, Replaced::Go).await?;
        self.still_alone().await?;
        for run in &runs {
            storage.delete(&ObjectName::Index(*run).to_string()).await?;
        }
        for pack in &plan.packs {
            storage.delete(&ObjectName::Pack(*pack).to_string()).await?;
        }
        for name in notes {
            storage.delete(name).await?;
        }
        Ok(())
    }

    /// Nobody may have taken this pruner for dead, and gone on in its place.
    async fn still_alone(&self) -> Result<()> {
        let highest = records(&self.repository).await?.last().map(|record| record.epoch);
        if self.session.is_known().await? && highest == Some(self.epoch) {
            return Ok(());
        }
        Err(Error::Fenced { silence: format!("{} s", sessions::SILENCE.as_secs()) })
    }

    /// Copies what is needed of the packs that go into new ones, durable and in the index when this returns.
    async fn copy(&self, mark: &Mark, doomed: &HashSet<PackId>, progress: &Progress) -> Result<()> {
        let live = mark.blobs.within(&mark.index, doomed)?;
        if live.is_empty() {
            return Ok(());
        }
        let total = live.values().flatten().map(BlobLocation::frame_length).sum();
        progress.phase("copying what is needed", Some(total));
        let reader = Reader::new(self.repository.clone(), mark.index.clone());
        let progress = progress.clone();
        rewrite::pack(&self.repository, move |runtime, sink| {
            live.values().flatten().try_for_each(|blob| {
                sink(sealed(&reader, runtime, blob)?)?;
                progress.advance(blob.frame_length());
                Ok(())
            })
        })
        .await
    }
}

/// An error if anybody but the session `own` is at work.
async fn refuse_company(repository: &Repository, own: Option<SessionId>) -> Result<()> {
    let mut others = sessions::live(repository).await?;
    others.retain(|found| Some(found.id) != own);
    match others.into_iter().next() {
        None => Ok(()),
        Some(FoundSession { session: Some(session), .. }) => Err(Error::NotAlone {
            what: sessions::describe(&session.activity),
            is_backup: matches!(session.activity, Activity::Backup { .. }),
            since: sessions::since(&session),
            host: session.host,
            process: session.process,
        }),
        Some(_) => Err(Error::NotAlone {
            what: "an unknown session".to_owned(),
            is_backup: false,
            host: "another host".to_owned(),
            process: 0,
            since: "an unknown time".to_owned(),
        }),
    }
}

/// How many bytes of packs nobody would need any more without the `backups`. Those that are `expired` do not
/// count either way.
///
/// # Errors
/// If anything that another backup needs does not resolve.
pub async fn bytes_only_of(
    repository: &Arc<Repository>,
    backups: &[BackupName],
    expired: &[ObjectName],
    progress: &Progress,
) -> Result<u64> {
    let with = Mark::of(repository, expired, &HashSet::new(), progress).await?.bytes();
    let mut expired = expired.to_vec();
    expired.extend(backups.iter().cloned().map(ObjectName::Snapshot));
    let without = Mark::of(repository, &expired, &HashSet::new(), progress).await?.bytes();
    Ok(with.saturating_sub(without))
}

/// Whether the last run was finished less than `rest` ago. The store's clock is compared with this host's: more
/// than a margin is not asked of it.
pub async fn rests(repository: &Repository, rest: Duration) -> Result<bool> {
    let Some(latest) = records(repository).await?.pop() else { return Ok(false) };
    Ok(latest.at.elapsed().unwrap_or_default() < rest)
}

/// A maintenance record in a listing.
struct FoundRecord {
    epoch: u64,
    name: ObjectName,
    /// When it was put, by the store's clock.
    at: SystemTime,
}

/// The maintenance records in the store, the highest last.
async fn records(repository: &Repository) -> Result<Vec<FoundRecord>> {
    let listed = repository.storage().list("maintenance/").await?;
    let mut records: Vec<FoundRecord> = listed
        .iter()
        .filter_map(|object| match ObjectName::parse(&object.name)? {
            name @ ObjectName::Maintenance(epoch) => {
                Some(FoundRecord { epoch, name, at: object.modified })
            }
            _ => None,
        })
        .collect();
    records.sort_unstable_by_key(|record| record.epoch);
    Ok(records)
}

/// The short id of a snapshot's copy among the chunks.
fn copy_of(
    repository: &Repository,
    snapshot: &Snapshot,
) -> Result<[u8; repo_format::ids::SHORT_ID]> {
    let record = snapshot.encode().map_err(SealError::from)?;
    Ok(repository.keys().naming().chunk_id_of(ChunkKind::Snapshot, &record).short())
}

/// A blob as it lies in its pack, with all of its chunks verified.
fn sealed(reader: &Reader, runtime: &Handle, blob: &BlobLocation) -> Result<SealedBlob> {
    let name = ObjectName::Pack(blob.pack).to_string();
    let range = blob.offset..blob.offset + blob.frame_length();
    let bytes = runtime.block_on(reader.repository().storage().get_range(&name, range))?;
    let damaged = |e| Error::damaged(&*name, e);
    let (frame, _) = Frame::split(&bytes).map_err(damaged)?;
    let (header, body) = check_frame(reader, &frame).map_err(|error| match error {
        Error::Damaged { error, .. } => damaged(error),
        other => other,
    })?;
    let (encoding, bases) = (body.encoding(), body.base_chunks());
    Ok(SealedBlob { header, encoding, bases, frame: bytes.to_vec() })
}

fn names(objects: &[ObjectName]) -> BTreeSet<String> {
    objects.iter().map(ToString::to_string).collect()
}
