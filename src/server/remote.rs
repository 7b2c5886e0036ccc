//! What a running server says of itself, asked once for a command.

use std::collections::BTreeMap;
use std::time::Duration;

use super::connect::connect;
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::sql::{ArchiverStatus, LOCAL, Privileges, SqlConnection};

/// How long a command that only shows things waits for a server.
const PATIENCE: Duration = Duration::from_secs(15);

/// The settings that are looked at.
const SETTINGS: [&str; 7] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "data_checksums",
    "summarize_wal",
    "wal_level",
];

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The version as text.
    pub version: String,
    /// `server_version_num`.
    pub version_num: u32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The cluster's identifier.
    pub system_id: u64,
    /// Bytes in all tablespaces, if they were asked for and the role may know.
    pub size: Option<u64>,
    /// The data directory, if the role may see it.
    pub data_directory: Option<String>,
    /// Where the WAL stands.
    pub current_lsn: Option<String>,
    /// The WAL file being written; nothing on a standby.
    pub current_wal: Option<String>,
    /// The size of WAL segments in bytes.
    pub segment_size: u64,
    /// Those of `SETTINGS` that the server has and shows.
    pub settings: BTreeMap<String, String>,
    /// How archiving goes.
    pub archiver: ArchiverStatus,
    /// What the role may do.
    pub privileges: Privileges,
}

impl Remote {
    /// Asks `server`; gives up after a while.
    pub async fn ask(server: &Server) -> Result<Self> {
        let asked = async {
            let sql = connect(server).await?;
            let asked = Remote::ask_over(server, &sql).await;
            let size = sql.total_size().await.ok();
            sql.close().await;
            Ok(Remote { size, ..asked? })
        };
        tokio::time::timeout(PATIENCE, Box::pin(asked)).await.unwrap_or_else(|_| {
            let message = format!("server '{}' gave no answer in {PATIENCE:?}", server.name);
            Err(Error::new(Kind::Postgres, message))
        })
    }

    /// Asks over a connection that is there, but for the size: to answer that, the server looks at every
    /// file it has.
    pub async fn ask_over(server: &Server, sql: &SqlConnection) -> Result<Self> {
        Ok(Remote {
            version: sql.server_version().to_owned(),
            version_num: sql.server_version_num().await?,
            in_recovery: sql.is_in_recovery().await?,
            system_id: sql.system_id().await?.0,
            size: None,
            data_directory: sql.data_directory().await.ok(),
            current_lsn: sql.current_lsn().await.ok().map(|lsn| lsn.to_string()),
            current_wal: sql.current_wal_file().await.ok().flatten(),
            segment_size: sql.wal_segment_size().await?.bytes(),
            settings: sql.settings(&SETTINGS).await?,
            archiver: sql.archiver_status().await?,
            privileges: sql.privileges(if server.reads_files { &LOCAL } else { &[] }).await?,
        })
    }

    /// The value of one of `SETTINGS`; empty if it is not shown.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// Whether the server hands its WAL to a command or library.
    pub fn has_archiver(&self) -> bool {
        let command = self.setting("archive_command");
        !matches!(command, "" | "(disabled)") || !self.setting("archive_library").is_empty()
    }

    /// Whether the settings say that WAL is archived.
    pub fn is_archiver_on(&self) -> bool {
        matches!(self.setting("archive_mode"), "on" | "always") && self.has_archiver()
    }

    /// Whether it archives WAL itself, and not its primary.
    pub fn archives_itself(&self) -> bool {
        let is_always = self.setting("archive_mode") == "always";
        self.is_archiver_on() && (is_always || !self.in_recovery)
    }

    /// Whether archiving is on and its last attempt succeeded.
    pub fn is_archiving(&self) -> bool {
        self.is_archiver_on() && !self.archiver.is_failing()
    }

    /// WAL files archived in an hour, since they are counted.
    pub fn archived_per_hour(&self) -> Option<f64> {
        let elapsed = self.archiver.stats_reset?.elapsed().ok()?.as_secs_f64();
        (elapsed > 0.0).then(|| self.archiver.archived_count as f64 / elapsed * 3600.0)
    }
}
