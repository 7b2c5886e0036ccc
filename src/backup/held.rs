//! The WAL of a backup while it is made: kept on the server by a temporary slot, and streamed into the archive
//! where that is wanted.
//!
//! The slot lives and ends with a connection of its own, so that nothing stays on the server whatever happens
//! here.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Kind, Result};
use crate::postgres;
use crate::postgres::base_backup::WalPosition;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::lsn::Lsn;
use crate::postgres::replication::ReplicationConnection;
use crate::wal::receive::{Source, receive};

/// How often a connection that only keeps a slot is used, so that nobody takes it for forgotten.
const PULSE: Duration = Duration::from_secs(10);

/// A connection beside that of the backup, with a slot if there could be one.
pub struct Connected {
    connection: ReplicationConnection,
    slot: Option<String>,
}

impl Connected {
    /// Connects, and makes the temporary slot `name`; that there can be none is a warning.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn open(info: &ConnInfo, name: &str) -> Result<Self> {
        let mut connection = ReplicationConnection::connect(info).await?;
        let slot = match connection.create_slot(name, true).await {
            Ok(()) => Some(name.to_owned()),
            Err(error @ postgres::Error::Server(_)) => {
                warn_of_none(&error.to_string());
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Connected { connection, slot })
    }

    /// As [`Connected::open`], where a backup can be made without.
    pub async fn open_if_possible(info: &ConnInfo, name: &str) -> Option<Self> {
        Connected::open(info, name).await.map_err(|error| warn_of_none(&error.to_string())).ok()
    }

    /// The name of the slot.
    pub fn slot(&self) -> Option<String> {
        self.slot.clone()
    }
}

fn warn_of_none(why: &str) {
    tracing::warn!(
        "no temporary replication slot keeps the WAL of this backup on the server: {why}; see \
         max_replication_slots and max_wal_senders"
    );
}

/// WAL that is held for a backup; dropping it lets go.
#[derive(Debug)]
pub struct HeldWal {
    begin: watch::Sender<Option<WalPosition>>,
    end: watch::Sender<Option<Lsn>>,
    task: Option<JoinHandle<Result<()>>>,
    slot: Option<String>,
}

impl HeldWal {
    /// Holds the WAL from now on where there is a connection: for whoever archives it or, with `source`, to be
    /// streamed into the archive as soon as it is known where the backup begins.
    pub fn hold(connected: Option<Connected>, source: Option<Source>) -> Self {
        let (begin, begun) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        let slot = connected.as_ref().and_then(Connected::slot);
        let task = connected.map(|connected| match source {
            Some(source) => tokio::spawn(stream(connected, source, begun, ended)),
            None => tokio::spawn(keep(connected)),
        });
        HeldWal { begin, end, task, slot }
    }

    /// The slot that keeps it, if there is one.
    pub fn slot(&self) -> Option<&str> {
        self.slot.as_deref()
    }

    /// Says from where on the backup needs WAL.
    pub fn begin_at(&self, begin: WalPosition) {
        self.begin.send_replace(Some(begin));
    }

    /// Says how far the backup needs WAL.
    pub fn end_at(&self, end: Lsn) {
        self.end.send_replace(Some(end));
    }

    /// The failure of the stream; waits for ever if there is none. Cancel-safe.
    pub async fn failure(&mut self) -> Error {
        if let Some(task) = &mut self.task {
            let ended = task.await;
            self.task = None;
            match ended {
                Ok(Err(error)) => return error.context("the WAL of the backup"),
                Ok(Ok(())) => {}
                Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
                Err(_) => return Error::new(Kind::Internal, "the WAL of the backup was left"),
            }
        }
        pending().await
    }
}

impl Drop for HeldWal {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Keeps a slot. That its connection breaks harms no backup by itself.
async fn keep(mut connected: Connected) -> Result<()> {
    loop {
        tokio::time::sleep(PULSE).await;
        if let Err(error) = connected.connection.identify_system().await {
            warn_of_none(&error.to_string());
            return Ok(());
        }
    }
}

/// Keeps a slot until the backup begins, which a checkpoint may delay, and streams from there.
async fn stream(
    mut connected: Connected,
    source: Source,
    mut begun: watch::Receiver<Option<WalPosition>>,
    ended: watch::Receiver<Option<Lsn>>,
) -> Result<()> {
    loop {
        let begin = *begun.borrow_and_update();
        if let Some(WalPosition { lsn, timeline }) = begin {
            return receive(connected.connection, &source, timeline, lsn, ended).await;
        }
        tokio::select! {
            changed = begun.changed() => if changed.is_err() {
                return Ok(());
            },
            () = tokio::time::sleep(PULSE) => {
                connected.connection.identify_system().await?;
            }
        }
    }
}
