//! Replication connections: what the server is, its timelines and slots, and its WAL as a stream.

mod wal_stream;

pub use wal_stream::{NextTimeline, WalMessage, WalStream};

use super::conninfo::{ConnInfo, Host};
use super::error::{Error, ServerError};
use super::lsn::{Lsn, SystemId, TimelineId};
use super::wire::{Canceller, Event, Row, Wire, unexpected};
use std::io::{self, Read};

/// A connection in replication mode.
#[derive(Debug)]
pub struct ReplicationConnection {
    pub(super) wire: Wire,
}

/// What `IDENTIFY_SYSTEM` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemIdentification {
    /// The cluster.
    pub system_id: SystemId,
    /// The timeline it is on; of a standby, the one it has replayed.
    pub timeline: TimelineId,
    /// The position WAL is flushed to.
    pub xlogpos: Lsn,
}

/// A physical replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// `physical`.
    pub slot_type: String,
    /// The oldest WAL it keeps; `None` until it reserved any.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_timeline: Option<TimelineId>,
}

impl ReplicationConnection {
    /// Connects. The server must be PostgreSQL 15 or later.
    pub async fn connect(info: &ConnInfo) -> Result<ReplicationConnection, Error> {
        let connection = ReplicationConnection { wire: Wire::connect_replication(info).await? };
        match connection.major_version() {
            Some(15..) => Ok(connection),
            _ => Err(Error::Request(format!(
                "PostgreSQL {} on {} is not supported: 15 or later is needed",
                connection.server_version(),
                connection.wire.host()
            ))),
        }
    }

    /// The server's version as it names it, for example `17.2 (Debian 17.2-1)`.
    pub fn server_version(&self) -> &str {
        self.wire.parameter("server_version").unwrap_or("of unknown version")
    }

    /// The server's major version.
    pub fn major_version(&self) -> Option<u32> {
        let version = self.server_version();
        let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        version.get(..digits)?.parse().ok()
    }

    /// The server that this connection was made to, of those that would do.
    pub fn host(&self) -> &Host {
        self.wire.host()
    }

    /// Whether the server was a standby at login.
    pub fn is_standby(&self) -> bool {
        self.parameter("in_hot_standby") == Some("on")
    }

    /// A parameter the server reported at login.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.wire.parameter(name)
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.wire.is_encrypted()
    }

    /// A handle to cancel what this connection does.
    pub fn canceller(&self, info: &ConnInfo) -> Option<Canceller> {
        self.wire.canceller(info)
    }

    /// Asks which cluster this is, and where its WAL stands.
    pub async fn identify_system(&mut self) -> Result<SystemIdentification, Error> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentification {
            system_id: row.parse(0, "system identifier")?,
            timeline: row.parse(1, "timeline")?,
            xlogpos: row.parse(2, "WAL position")?,
        })
    }

    /// The value of a setting.
    pub async fn show(&mut self, name: &str) -> Result<String, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::Request(format!("{name:?} is not the name of a setting")));
        }
        self.one_row(&format!("SHOW {name}")).await?.parse(0, name)
    }

    /// The name and content of a timeline's history file; `None` if the server has none.
    pub async fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<Option<(String, Vec<u8>)>, Error> {
        let row = match self.one_row(&format!("TIMELINE_HISTORY {timeline}")).await {
            Err(error) if error.is_code(ServerError::UNDEFINED_FILE) => return Ok(None),
            other => other?,
        };
        let content = row.bytes(1).map(|bytes| bytes.to_vec()).unwrap_or_default();
        Ok(Some((row.parse(0, "file name")?, content)))
    }

    /// Creates a physical slot that keeps WAL from now on. A temporary one ends with the connection.
    pub async fn create_slot(&mut self, name: &str, temporary: bool) -> Result<(), Error> {
        let name = slot_name(name)?;
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let sql = format!("CREATE_REPLICATION_SLOT {name}{temporary} PHYSICAL (RESERVE_WAL true)");
        self.wire.rows(&sql).await.map(|_| ())
    }

    /// Drops a slot, waiting while it is in use if `wait`.
    pub async fn drop_slot(&mut self, name: &str, wait: bool) -> Result<(), Error> {
        let name = slot_name(name)?;
        let wait = if wait { " WAIT" } else { "" };
        self.wire.rows(&format!("DROP_REPLICATION_SLOT {name}{wait}")).await.map(|_| ())
    }

    /// Looks at a physical slot; `None` if there is no such slot.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<Slot>, Error> {
        let row = self.one_row(&format!("READ_REPLICATION_SLOT {}", slot_name(name)?)).await?;
        let Some(slot_type) = row.text(0)? else { return Ok(None) };
        Ok(Some(Slot {
            slot_type: slot_type.to_owned(),
            restart_lsn: row.parse_or_null(1, "restart_lsn")?,
            restart_timeline: row.parse_or_null(2, "restart_tli")?,
        }))
    }

    /// Hands the server the manifest an incremental backup shall build on (17 and later).
    pub async fn upload_manifest(&mut self, mut manifest: impl Read) -> Result<(), Error> {
        self.wire.query("UPLOAD_MANIFEST").await?;
        match self.wire.next().await? {
            Event::CopyIn => {}
            other => return Err(unexpected(&other)),
        }
        let mut part = vec![0; 64 << 10];
        loop {
            let unreadable =
                |e: io::Error| Error::Request(format!("the manifest cannot be read: {e}"));
            let length = manifest.read(&mut part).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            self.wire.copy_data(part.get(..length).unwrap_or_default()).await?;
        }
        self.wire.copy_done().await?;
        loop {
            match self.wire.next().await? {
                Event::Complete(_) => {}
                Event::Ready => return Ok(()),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Starts to stream WAL of `timeline` from `start`, on behalf of a slot if given.
    pub async fn start_replication(
        self,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream, Error> {
        WalStream::start(self, slot, start, timeline).await
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.wire.close().await;
    }

    async fn one_row(&mut self, sql: &str) -> Result<Row, Error> {
        let mut rows = self.wire.rows(sql).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Error::Protocol(format!("{sql} was not answered with one row"))),
        }
    }
}

/// A slot's name, checked by PostgreSQL's own rule so that it needs no quotes.
pub(super) fn slot_name(name: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(Error::Request(format!(
        "{name:?} cannot name a replication slot: lower-case letters, digits and _ only, at most 63"
    )))
}
