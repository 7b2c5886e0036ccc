//! The backups of a server as far as a check reads them: all names, and of the snapshots only those that a
//! question needs, so that a long history takes no longer than a short one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use repo_format::DecodeError;
use repo_format::names::{BackupName, ObjectName, escape};
use repo_format::note::KeepTarget;
use repo_format::snapshot::Snapshot;

use crate::catalog::segment_size;
use crate::config::values::RetentionPolicy;
use crate::error::Result;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::repository::notes::Rehearsal;
use crate::repository::wal::StoredWal;
use crate::repository::{self, Repository, notes, now_micros, servers, snapshots};
use crate::wal::inventory::Inventory;

/// How many of the backups that left only notes are looked at.
const NOTED: usize = 64;

/// How many of the newest are read to find the last one.
const NEWEST: usize = 2;

/// What there is of a server's backups and WAL.
#[derive(Debug)]
pub(super) struct Shelf<'a> {
    repository: &'a Repository,
    /// The backups that can be restored, oldest first, with the time of their arrival.
    backups: Vec<(BackupName, SystemTime)>,
    /// Those that are kept for recovery to any later moment.
    kept: BTreeSet<String>,
    /// How the last rehearsals ended of those that had any, by id.
    pub rehearsals: BTreeMap<String, Rehearsal>,
    /// The ids of those that failed.
    pub failed: BTreeSet<String>,
    /// The WAL of each cluster the server has had.
    pub wal: BTreeMap<u64, Inventory>,
    read: BTreeMap<String, Option<Snapshot>>,
}

/// How many backups there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    /// Those that are complete, with the WAL that they need.
    pub complete: usize,
    /// Those that lack some WAL.
    pub waiting: usize,
}

impl<'a> Shelf<'a> {
    /// Lists what there is of `server`. Backups in `running` do not count yet.
    pub async fn list(
        repository: &'a Repository,
        server: &str,
        running: &BTreeSet<(String, String)>,
    ) -> Result<Self> {
        // Sessions name servers as their objects do.
        let stored = servers::stored_name(repository, server).await?;
        let is_running = |id: &str| running.contains(&(stored.clone(), id.to_owned()));
        let mut backups = named(repository, server).await?;
        backups.retain(|(name, _)| !is_running(&name.backup_id));
        let ids: BTreeSet<String> =
            backups.iter().map(|(name, _)| name.backup_id.clone()).collect();
        let (with, without): (Vec<String>, Vec<String>) = notes::noted(repository, server)
            .await?
            .into_iter()
            .filter(|id| !is_running(id))
            .partition(|id| ids.contains(id));
        let (mut failed, mut gone) = (BTreeSet::new(), BTreeSet::new());
        let (mut kept, mut rehearsals) = (BTreeSet::new(), BTreeMap::new());
        for id in with {
            let notes = notes::of_backup(repository, server, &id).await?;
            if notes.failure.is_some() && !notes.deleted {
                failed.insert(id.clone());
            }
            if notes.keep == Some(KeepTarget::Full) {
                kept.insert(id.clone());
            }
            if notes.deleted || notes.failure.is_some() {
                gone.insert(id);
            } else if let Some(rehearsal) = notes.rehearsal {
                rehearsals.insert(id, rehearsal);
            }
        }
        for id in without.iter().rev().take(NOTED) {
            let notes = notes::of_backup(repository, server, id).await?;
            if !notes.deleted {
                failed.insert(id.clone());
            }
        }
        backups.retain(|(name, _)| !gone.contains(&name.backup_id));
        let mut listings: BTreeMap<u64, Vec<StoredWal>> = BTreeMap::new();
        for stored in repository::wal::of_server(repository, server).await? {
            listings.entry(stored.name.system_id).or_default().push(stored);
        }
        let mut wal = BTreeMap::new();
        for (system, listing) in listings {
            wal.insert(system, Inventory::of(repository, listing).await);
        }
        let read = BTreeMap::new();
        Ok(Shelf { repository, backups, kept, rehearsals, failed, wal, read })
    }

    /// When the snapshot of a backup arrived, by the store's clock.
    pub fn arrival(&self, id: &str) -> Option<SystemTime> {
        self.backups.iter().find(|(name, _)| name.backup_id == id).map(|(_, at)| *at)
    }

    /// How many backups there are that can be restored.
    pub fn len(&self) -> usize {
        self.backups.len()
    }

    /// The last backup: the highest in sequence of those that arrived last and those that are named so. A
    /// clock that was wrong misleads neither for long.
    pub async fn last(&mut self) -> Result<Option<Snapshot>> {
        let mut by_arrival = self.backups.clone();
        by_arrival.sort_by_key(|(_, at)| *at);
        let mut last: Option<Snapshot> = None;
        for order in [by_arrival, self.backups.clone()] {
            let mut sound = 0;
            for (name, _) in order.iter().rev() {
                let Some(snapshot) = self.snapshot(name).await? else { continue };
                if last.as_ref().is_none_or(|last| last.sequence < snapshot.sequence) {
                    last = Some(snapshot);
                }
                sound += 1;
                if sound == NEWEST {
                    break;
                }
            }
        }
        Ok(last)
    }

    /// Counts the backups that have the WAL they need, and those that wait for some. The newest are read until
    /// `wanted` are found that have it, and one at least. Older ones are taken for complete: they wait no more, and
    /// what was lost of their WAL is told as a gap.
    pub async fn count(&mut self, wanted: usize) -> Result<Count> {
        let (mut done, mut count) = (0, Count { complete: self.backups.len(), waiting: 0 });
        for (name, _) in self.backups.clone().iter().rev() {
            if done >= wanted.max(1) {
                break;
            }
            let Some(snapshot) = self.snapshot(name).await? else {
                count.complete -= 1;
                continue;
            };
            let needed = &snapshot.wal;
            let (from, to) = (Lsn(needed.start_lsn), Lsn(needed.stop_lsn));
            let timeline = TimelineId(needed.stop_timeline);
            let size = segment_size(&snapshot)?;
            let is_done = self
                .wal
                .get(&snapshot.system_id)
                .is_some_and(|wal| wal.gaps(timeline, from, to, size).is_empty());
            if is_done {
                done += 1;
            } else {
                count.complete -= 1;
                count.waiting += 1;
            }
        }
        Ok(count)
    }

    /// The oldest backup of the cluster `system` from which any later moment shall be recoverable: what
    /// `policy` asks for, or all.
    pub async fn oldest_needed(
        &mut self,
        system: u64,
        policy: Option<RetentionPolicy>,
    ) -> Result<Option<Snapshot>> {
        let of_system: Vec<BackupName> = self
            .backups
            .iter()
            .filter(|(name, _)| name.system_id == system)
            .map(|(name, _)| name.clone())
            .collect();
        let first = match policy {
            None => 0,
            Some(RetentionPolicy::Redundancy(count)) => {
                of_system.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX))
            }
            Some(RetentionPolicy::RecoveryWindow(window)) => {
                let window = i64::try_from(window.duration().as_micros()).unwrap_or(i64::MAX);
                self.first_in_window(&of_system, now_micros().saturating_sub(window)).await?
            }
        };
        let is_kept = |name: &BackupName| self.kept.contains(&name.backup_id);
        let oldest = of_system.iter().position(is_kept).map_or(first, |kept| kept.min(first));
        for name in &of_system[oldest.min(of_system.len())..] {
            if let Some(snapshot) = self.snapshot(name).await? {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    /// The index of the backup from which the moment `begin` can be recovered: the newest that ended
    /// before. It also began before, which its id tells.
    async fn first_in_window(&mut self, names: &[BackupName], begin: i64) -> Result<usize> {
        let id = jiff::Timestamp::from_microsecond(begin).unwrap_or_default();
        let id = id.strftime("%Y%m%dT%H%M%S").to_string();
        let began_later = names.partition_point(|name| name.backup_id <= id);
        for (at, name) in names[..began_later].iter().enumerate().rev() {
            if self.snapshot(name).await?.is_some_and(|snapshot| snapshot.ended_at <= begin) {
                return Ok(at);
            }
        }
        Ok(0)
    }

    /// One snapshot; nothing if it is damaged or gone. A damaged one counts as a failed backup.
    async fn snapshot(&mut self, name: &BackupName) -> Result<Option<Snapshot>> {
        if let Some(known) = self.read.get(&name.backup_id) {
            return Ok(known.clone());
        }
        let snapshot = match snapshots::read(self.repository, name).await {
            Ok(snapshot) => Some(snapshot),
            Err(error) if error.is_not_found() => None,
            Err(error) if error.is_damage() && !is_newer_format(&error) => {
                tracing::warn!("backup {} cannot be read: {error}", name.backup_id);
                self.failed.insert(name.backup_id.clone());
                None
            }
            Err(error) => return Err(error.into()),
        };
        self.read.insert(name.backup_id.clone(), snapshot.clone());
        Ok(snapshot)
    }
}

/// Whether only a newer program can read it.
fn is_newer_format(error: &repository::Error) -> bool {
    matches!(error, repository::Error::Damaged { error: DecodeError::Version { .. }, .. })
}

/// The names of a server's snapshots, and when they arrived; by id.
async fn named(repository: &Repository, server: &str) -> Result<Vec<(BackupName, SystemTime)>> {
    let stored = servers::stored_name(repository, server).await?;
    let listed = repository.storage().list(&format!("snapshots/{}/", escape(&stored))).await;
    let listed = listed.map_err(repository::Error::from)?;
    let mut named: Vec<(BackupName, SystemTime)> = listed
        .into_iter()
        .filter_map(|object| match ObjectName::parse(&object.name)? {
            ObjectName::Snapshot(name) => Some((name, object.modified)),
            _ => None,
        })
        .collect();
    named.sort_by(|(a, _), (b, _)| a.backup_id.cmp(&b.backup_id));
    Ok(named)
}
