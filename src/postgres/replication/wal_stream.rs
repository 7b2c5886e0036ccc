//! WAL as it is written, from a server.

use super::{ReplicationConnection, slot_name};
use crate::postgres::error::Error;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::wire::{Event, unexpected};
use bytes::{Buf, Bytes};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a server sends while it streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalMessage {
    /// WAL that follows on what came before, without a gap.
    Data {
        /// The position of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: Bytes,
        /// How far the server's own WAL reaches.
        server_end: Lsn,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server's own WAL reaches.
        server_end: Lsn,
        /// Whether the server wants a status at once, or else will hang up.
        reply_requested: bool,
    },
}

/// Where the WAL goes on after a timeline that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    /// The timeline to go on with.
    pub timeline: TimelineId,
    /// Where it begins.
    pub start: Lsn,
}

/// A stream of WAL. Dropping it closes the connection.
#[derive(Debug)]
pub struct WalStream {
    connection: ReplicationConnection,
    position: Lsn,
    phase: Phase,
    next_timeline: Option<NextTimeline>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// The server sends no more WAL; its closing words are still to be read.
    ServerDone,
    Over,
}

impl WalStream {
    pub(super) async fn start(
        mut connection: ReplicationConnection,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream, Error> {
        let slot = match slot {
            Some(name) => format!("SLOT {} ", slot_name(name)?),
            None => String::new(),
        };
        let sql = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        connection.wire.query(&sql).await?;
        let mut stream =
            WalStream { connection, position: start, phase: Phase::Streaming, next_timeline: None };
        match stream.connection.wire.next().await? {
            Event::CopyBoth => {}
            // Asked for the very end of an old timeline, the server skips the COPY.
            Event::Columns(_) => stream.read_ending().await?,
            other => return Err(unexpected(&other)),
        }
        Ok(stream)
    }

    /// The position of the next byte to come.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The next message; `None` when the timeline ended. Cancel-safe.
    ///
    /// An idle server says nothing for half of its `wal_sender_timeout`: send a status by a timer of
    /// your own, and take only a longer silence for an error.
    pub async fn next(&mut self) -> Result<Option<WalMessage>, Error> {
        if self.phase == Phase::Streaming {
            match self.connection.wire.next().await? {
                Event::CopyData(data) => return self.read(data).map(Some),
                Event::CopyDone => self.phase = Phase::ServerDone,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(None)
    }

    /// Reports what has been written and what has been flushed to durable storage, both as the
    /// position after the last byte. The server lets go of WAL before `flush`.
    pub async fn send_status(&mut self, write: Lsn, flush: Lsn) -> Result<(), Error> {
        if self.phase != Phase::Streaming {
            return Ok(());
        }
        let mut message = Vec::with_capacity(34);
        message.push(b'r');
        // Nothing is ever applied here: the third position stays invalid.
        for position in [write, flush, Lsn::INVALID] {
            message.extend_from_slice(&position.0.to_be_bytes());
        }
        message.extend_from_slice(&now().to_be_bytes());
        message.push(0);
        self.connection.wire.copy_data(&message).await
    }

    /// Ends the stream, from our side if the server did not, and gives the connection back, with the
    /// timeline to go on with if this one ended.
    pub async fn finish(mut self) -> Result<(ReplicationConnection, Option<NextTimeline>), Error> {
        if self.phase != Phase::Over {
            self.connection.wire.copy_done().await?;
            while self.phase == Phase::Streaming {
                // WAL that was on its way is not wanted any more.
                self.next().await?;
            }
            self.read_ending().await?;
        }
        Ok((self.connection, self.next_timeline))
    }

    fn read(&mut self, mut data: Bytes) -> Result<WalMessage, Error> {
        let short = |_| Error::Protocol("a replication message that is cut short".into());
        match data.try_get_u8().map_err(short)? {
            b'w' => {
                let start = Lsn(data.try_get_u64().map_err(short)?);
                let server_end = Lsn(data.try_get_u64().map_err(short)?);
                let _sent = data.try_get_i64().map_err(short)?;
                if start != self.position {
                    return Err(Error::Protocol(format!(
                        "WAL from {start} where {} should follow",
                        self.position
                    )));
                }
                self.position = start
                    .checked_add(data.len() as u64)
                    .ok_or_else(|| Error::Protocol("WAL beyond the last position".into()))?;
                Ok(WalMessage::Data { start, bytes: data, server_end })
            }
            b'k' => {
                let server_end = Lsn(data.try_get_u64().map_err(short)?);
                let _sent = data.try_get_i64().map_err(short)?;
                let reply_requested = data.try_get_u8().map_err(short)? != 0;
                Ok(WalMessage::Keepalive { server_end, reply_requested })
            }
            other => Err(Error::Protocol(format!("replication message of type {other}"))),
        }
    }

    /// Reads the row that names the next timeline, if there is one, up to the end.
    async fn read_ending(&mut self) -> Result<(), Error> {
        loop {
            match self.connection.wire.next().await? {
                Event::Row(row) => {
                    self.next_timeline = Some(NextTimeline {
                        timeline: row.parse(0, "timeline")?,
                        start: row.parse(1, "WAL position")?,
                    });
                }
                Event::Columns(_) | Event::Complete(_) => {}
                Event::Ready => {
                    self.phase = Phase::Over;
                    return Ok(());
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
}

/// Microseconds since 2000, PostgreSQL's clock.
fn now() -> i64 {
    const Y2000: i64 = 946_684_800_000_000;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX) - Y2000
}
