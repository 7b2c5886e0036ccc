//! WAL that a server streams, put into the archive segment by segment.
//!
//! One segment is in memory at a time: nothing is read from the server while one is stored, however long the
//! repository takes, and the server is told meanwhile that its reader lives. What is stored is durable before it
//! is told to be flushed, so that a slot lets go of nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::archive::archive;
use super::arrival::Arrival;
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::{Lsn, SystemId, TimelineId};
use crate::postgres::replication::{NextTimeline, ReplicationConnection, WalMessage, WalStream};
use crate::postgres::wal_name::{SegmentName, SegmentSize, WalName};
use crate::repository::Repository;

/// How often the server hears that its reader lives; it may have any `wal_sender_timeout`.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How long a server may take to end a stream of which all that was wanted is stored.
const FAREWELL: Duration = Duration::from_secs(10);

/// The timeline that has no history.
const FIRST_TIMELINE: TimelineId = TimelineId(1);

/// Whose WAL is streamed, and where it goes.
#[derive(Debug, Clone)]
pub struct Source {
    /// The repository.
    pub repository: Arc<Repository>,
    /// The server's name.
    pub server: String,
    /// The cluster.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// The slot that keeps the WAL on the server, if there is one.
    pub slot: Option<String>,
}

/// Streams the WAL of `timeline`, from the segment that holds `start` on, into the archive: up to the segment that
/// holds the byte before `end`, as soon as that is known. Timelines are followed.
///
/// # Errors
/// If the server does not have it any more, or goes away; if it cannot be stored; or if the timeline was left
/// before the end.
pub async fn receive(
    mut connection: ReplicationConnection,
    source: &Source,
    mut timeline: TimelineId,
    start: Lsn,
    mut end: watch::Receiver<Option<Lsn>>,
) -> Result<()> {
    let mut from = source.segment_size.floor(start);
    if timeline > FIRST_TIMELINE {
        source.store_history(&mut connection, timeline).await?;
    }
    loop {
        let slot = source.slot.as_deref();
        let stream = connection.start_replication(slot, from, timeline).await?;
        let reading = Reading { source, timeline, stream, stored: from, segment: vec![] };
        let (next, there) = match reading.read(&mut end).await? {
            Outcome::Complete(stream) => {
                if let Ok(Ok((connection, _))) = timeout(FAREWELL, stream.finish()).await {
                    connection.close().await;
                }
                return Ok(());
            }
            Outcome::TimelineEnded(next, connection) => (next, connection),
        };
        connection = there;
        if end.borrow().is_some_and(|end| end > next.start) {
            let message = format!("the server left timeline {timeline} at {}", next.start);
            return Err(Error::new(Kind::Postgres, message));
        }
        tracing::info!("the WAL goes on with timeline {} at {}", next.timeline, next.start);
        source.store_history(&mut connection, next.timeline).await?;
        (timeline, from) = (next.timeline, source.segment_size.floor(next.start));
    }
}

impl Source {
    /// Puts the history of a timeline into the archive: its segments are of no use without.
    async fn store_history(
        &self,
        connection: &mut ReplicationConnection,
        timeline: TimelineId,
    ) -> Result<()> {
        let Some((_, content)) = connection.timeline_history(timeline).await? else {
            tracing::warn!("the server has no history of timeline {timeline}");
            return Ok(());
        };
        let file = WalName::History(timeline).to_string();
        let mut arrival = Arrival::received(&file, content)?;
        arrival.system_id = Some(self.system_id);
        archive(&self.repository, &self.server, arrival).await.map(|_| ())
    }
}

/// A timeline that is being streamed.
struct Reading<'s> {
    source: &'s Source,
    timeline: TimelineId,
    stream: WalStream,
    /// All WAL before this position is in the archive.
    stored: Lsn,
    /// What has come of the segment that begins there.
    segment: Vec<u8>,
}

/// How the stream of a timeline ended.
enum Outcome {
    /// All that was wanted is stored.
    Complete(WalStream),
    /// The timeline ended, and the WAL goes on with another.
    TimelineEnded(NextTimeline, ReplicationConnection),
}

impl Reading<'_> {
    async fn read(mut self, end: &mut watch::Receiver<Option<Lsn>>) -> Result<Outcome> {
        let mut alive = interval(SIGN_OF_LIFE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = *end.borrow_and_update();
            if wanted.is_some_and(|wanted| self.stored >= wanted) {
                return Ok(Outcome::Complete(self.stream));
            }
            tokio::select! {
                message = self.stream.next() => match message? {
                    Some(WalMessage::Data { bytes, .. }) => self.take(&bytes).await?,
                    Some(WalMessage::Keepalive { reply_requested: true, .. }) => self.report().await?,
                    Some(WalMessage::Keepalive { .. }) => {}
                    None => break,
                },
                _ = alive.tick() => self.report().await?,
                changed = end.changed() => if changed.is_err() {
                    return Err(Error::new(Kind::Internal, "nobody waits for the WAL any more"));
                },
            }
        }
        let (connection, next) = self.stream.finish().await?;
        let next = next.ok_or_else(|| {
            Error::new(Kind::Postgres, format!("the server ended the WAL at {}", self.stored))
        })?;
        Ok(Outcome::TimelineEnded(next, connection))
    }

    /// Takes WAL that came, and stores the segments that it completes.
    async fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        let size = usize::try_from(self.source.segment_size.bytes()).unwrap_or(usize::MAX);
        while !bytes.is_empty() {
            let room = size.saturating_sub(self.segment.len());
            let (some, rest) = bytes.split_at(bytes.len().min(room));
            if self.segment.is_empty() {
                self.segment.reserve_exact(size);
            }
            self.segment.extend_from_slice(some);
            bytes = rest;
            if self.segment.len() == size {
                self.store().await?;
            }
        }
        Ok(())
    }

    /// Stores the segment that is complete, and tells the server meanwhile that its reader lives.
    async fn store(&mut self) -> Result<()> {
        let Source { repository, server, segment_size, .. } = self.source;
        let name = SegmentName::containing(self.timeline, self.stored, *segment_size);
        let content = std::mem::take(&mut self.segment);
        let archived = async {
            let arrival = blocking(move || Arrival::received(&name.to_string(), content)).await?;
            archive(repository, server, arrival).await
        };
        tokio::pin!(archived);
        loop {
            tokio::select! {
                done = &mut archived => {
                    done.map_err(|error| error.context(format!("WAL file {name}")))?;
                    break;
                }
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    self.stream.send_status(self.stream.position(), self.stored).await?;
                }
            }
        }
        self.stored = Lsn(self.stored.0.saturating_add(segment_size.bytes()));
        self.report().await
    }

    /// Tells the server how far its WAL has come, and what is durable.
    async fn report(&mut self) -> Result<()> {
        Ok(self.stream.send_status(self.stream.position(), self.stored).await?)
    }
}
