//! What the archive has of a cluster: segments, histories, and where something is missing.

use std::collections::BTreeMap;
use std::ops::Bound;

use repo_format::names::WalObjectName;

use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::timeline_history::TimelineHistory;
use crate::postgres::wal_name::{SegmentName, SegmentSize, WalName, segments_between};
use crate::repository::wal::StoredWal;
use crate::repository::{self, Repository, snapshots};

/// The archive of one cluster.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    files: BTreeMap<WalName, Vec<StoredWal>>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
}

/// Segments that follow each other and are not in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The first one missing.
    pub first: SegmentName,
    /// The last one missing.
    pub last: SegmentName,
    /// How many.
    pub count: u64,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.count == 1 {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{} to {} ({} segments)", self.first, self.last, self.count)
        }
    }
}

impl Inventory {
    /// Lists what the archive has of one cluster.
    pub async fn load(repository: &Repository, server: &str, system_id: u64) -> Result<Self> {
        let listing = repository::wal::of_system(repository, server, system_id).await?;
        Ok(Inventory::of(repository, listing).await)
    }

    /// What a listing of one cluster has.
    pub async fn of(repository: &Repository, listing: Vec<StoredWal>) -> Self {
        let mut files: BTreeMap<WalName, Vec<StoredWal>> = BTreeMap::new();
        for stored in listing {
            if stored.name.part.is_none()
                && let Ok(name) = stored.name.file.parse()
            {
                files.entry(name).or_default().push(stored);
            }
        }
        let mut inventory = Inventory { files, histories: BTreeMap::new() };
        for timeline in inventory.timelines() {
            let name = WalName::History(timeline);
            // The first timeline has none; one that cannot be read is asked for again where it is needed.
            let history = match inventory.files.get(&name).map(Vec::as_slice) {
                None if timeline.0 == 1 => Some(TimelineHistory::root(timeline)),
                Some([_]) => inventory.history(repository, timeline).await.ok(),
                _ => None,
            };
            inventory.histories.extend(history.map(|history| (timeline, history)));
        }
        inventory
    }

    /// The histories of all timelines that have a readable one.
    pub fn histories(&self) -> &BTreeMap<TimelineId, TimelineHistory> {
        &self.histories
    }

    /// Whether a segment that ends before `to` is there: itself, or under a timeline that left its own later,
    /// whose copy begins with it. A primary that died did not archive its last segment, its standby did.
    fn covers(&self, segment: SegmentName, to: Lsn, size: SegmentSize) -> bool {
        let Ok(number) = segment.number(size) else { return false };
        self.has(segment)
            || self.histories.iter().any(|(timeline, history)| {
                let under = SegmentName::new(*timeline, number, size);
                *timeline > segment.timeline
                    && history.contains(segment.timeline, to)
                    && self.has(under)
            })
    }

    /// The object that holds a file.
    ///
    /// # Errors
    /// If the archive has several contents of it, because then nobody can say which is right.
    pub fn find(&self, name: &WalName) -> Result<Option<&StoredWal>> {
        match self.files.get(name).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([one]) => Ok(Some(one)),
            Some(several) => Err(ambiguous(name, several.iter().map(|wal| &wal.name))),
        }
    }

    /// Whether a segment is there.
    pub fn has(&self, segment: SegmentName) -> bool {
        self.files.contains_key(&WalName::Segment(segment))
    }

    /// All files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = (&WalName, &StoredWal)> {
        self.files.iter().filter_map(|(name, stored)| Some((name, stored.first()?)))
    }

    /// All objects, several for a file with different contents.
    pub fn objects(&self) -> impl Iterator<Item = &StoredWal> {
        self.files.values().flatten()
    }

    /// The segments of a timeline, from the one that holds `from` on, as far as they are there.
    pub fn segments_from(
        &self,
        first: SegmentName,
    ) -> impl Iterator<Item = (SegmentName, &StoredWal)> {
        let bounds = (Bound::Included(WalName::Segment(first)), Bound::Unbounded);
        self.files
            .range(bounds)
            .map_while(move |(name, stored)| match name {
                WalName::Segment(segment) => Some((*segment, stored.first()?)),
                _ => None,
            })
            .filter(move |(segment, _)| segment.timeline == first.timeline)
    }

    /// The newest segment of a timeline.
    pub fn last_segment(&self, timeline: TimelineId) -> Option<SegmentName> {
        self.files
            .keys()
            .filter_map(|name| match name {
                WalName::Segment(segment) if segment.timeline == timeline => Some(*segment),
                _ => None,
            })
            .next_back()
    }

    /// The timelines of which there is any file.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> = self.files.keys().map(WalName::timeline).collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// What is missing between two positions of a timeline.
    pub fn gaps(&self, timeline: TimelineId, from: Lsn, to: Lsn, size: SegmentSize) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = vec![];
        let mut follows = false;
        for segment in segments_between(timeline, from, to, size) {
            let missing = !self.covers(segment, to, size);
            match gaps.last_mut() {
                Some(gap) if missing && follows => {
                    gap.last = segment;
                    gap.count += 1;
                }
                _ if missing => gaps.push(Gap { first: segment, last: segment, count: 1 }),
                _ => {}
            }
            follows = missing;
        }
        gaps
    }

    /// The history of a timeline; one without a file has no ancestors.
    pub async fn history(
        &self,
        repository: &Repository,
        timeline: TimelineId,
    ) -> Result<TimelineHistory> {
        let Some(stored) = self.find(&WalName::History(timeline))? else {
            return Ok(TimelineHistory::root(timeline));
        };
        let file = repository::wal::read(repository, &stored.name).await?;
        TimelineHistory::parse(timeline, &file).map_err(|error| {
            Error::new(Kind::Damaged, format!("{} is not a timeline history", stored.name.file))
                .because(error)
        })
    }
}

/// The clusters that a server has had: of which there are snapshots or WAL.
pub async fn system_ids(repository: &Repository, server: &str) -> Result<Vec<u64>> {
    let mut ids = repository::wal::systems(repository, server).await?;
    let backups = snapshots::names(repository, Some(server)).await?;
    ids.extend(backups.iter().map(|name| name.system_id));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The error for a file of which the archive has several contents.
pub fn ambiguous<'a>(name: &WalName, contents: impl Iterator<Item = &'a WalObjectName>) -> Error {
    let objects: Vec<String> = contents.map(|name| format!("wal/{name}")).collect();
    Error::new(
        Kind::Damaged,
        format!(
            "the archive has {} different contents of {name}: {}",
            objects.len(),
            objects.join(", ")
        ),
    )
    .hint("find out which server wrote which (barman repo check), and remove the wrong one")
}
