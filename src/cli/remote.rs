//! What a running server says of itself, asked once for a command.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::human;
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::ConnInfo;
use crate::postgres::replication::ReplicationConnection;
use crate::postgres::sql::{ArchiverStatus, Privileges, SqlConnection};

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

/// How to connect to `server` for SQL.
pub fn sql_conninfo(server: &Server) -> Result<ConnInfo> {
    parse(server, "conninfo", server.conninfo.as_deref())
}

/// How to connect to `server` for replication.
pub fn streaming_conninfo(server: &Server) -> Result<ConnInfo> {
    let text = server.streaming_conninfo.as_deref();
    Ok(parse(server, "streaming_conninfo", text)?
        .with_application_name(&server.streaming_backup_name))
}

/// Connects to `server` for SQL.
pub async fn connect(server: &Server) -> Result<SqlConnection> {
    Ok(Box::pin(SqlConnection::connect(&sql_conninfo(server)?)).await?)
}

/// Connects to the primary that `server`, a standby, names; nothing if it names none.
pub async fn connect_to_primary(server: &Server) -> Result<Option<SqlConnection>> {
    let Some(text) = server.primary_conninfo.as_deref() else { return Ok(None) };
    let info = parse(server, "primary_conninfo", Some(text))?;
    Ok(Some(Box::pin(SqlConnection::connect(&info)).await?))
}

/// The system identifier that the streaming connection leads to.
pub async fn streaming_system_id(server: &Server) -> Result<u64> {
    let info = streaming_conninfo(server)?;
    let mut connection = Box::pin(ReplicationConnection::connect(&info)).await?;
    let system = connection.identify_system().await?;
    connection.close().await;
    Ok(system.system_id.0)
}

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
    /// Bytes in all tablespaces, if the role may ask.
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
            let asked = Remote::ask_over(&sql).await;
            sql.close().await;
            asked
        };
        tokio::time::timeout(PATIENCE, Box::pin(asked)).await.unwrap_or_else(|_| {
            let message = format!("server '{}' gave no answer in {PATIENCE:?}", server.name);
            Err(Error::new(Kind::Postgres, message))
        })
    }

    /// Asks over a connection that is there.
    pub async fn ask_over(sql: &SqlConnection) -> Result<Self> {
        Ok(Remote {
            version: sql.server_version().to_owned(),
            version_num: sql.server_version_num().await?,
            in_recovery: sql.is_in_recovery().await?,
            system_id: sql.system_id().await?.0,
            size: sql.total_size().await.ok(),
            data_directory: sql.data_directory().await.ok(),
            current_lsn: sql.current_lsn().await.ok().map(|lsn| lsn.to_string()),
            current_wal: sql.current_wal_file().await.ok().flatten(),
            segment_size: sql.wal_segment_size().await?.bytes(),
            settings: sql.settings(&SETTINGS).await?,
            archiver: sql.archiver_status().await?,
            privileges: sql.privileges().await?,
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

    /// Whether archiving is on and its last attempt succeeded.
    pub fn is_archiving(&self) -> bool {
        self.is_archiver_on() && !self.archiver.is_failing()
    }

    /// WAL files archived in an hour, since they are counted.
    pub fn archived_per_hour(&self) -> Option<f64> {
        let elapsed = self.archiver.stats_reset?.elapsed().ok()?.as_secs_f64();
        (elapsed > 0.0).then(|| self.archiver.archived_count as f64 / elapsed * 3600.0)
    }

    /// Barman's names for all this.
    pub fn shown(&self) -> Map<String, Value> {
        let moment = |at: Option<SystemTime>| at.and_then(|at| Timestamp::try_from(at).ok());
        let time = |at| moment(at).map(human::time);
        let epoch = |at| moment(at).map(human::epoch);
        let archiver = &self.archiver;
        let shown = json!({
            "server_txt_version": self.version,
            "is_in_recovery": self.in_recovery,
            "postgres_systemid": self.system_id.to_string(),
            "current_size": self.size,
            "data_directory": self.data_directory,
            "current_lsn": self.current_lsn,
            "current_xlog": self.current_wal,
            "xlog_segment_size": self.segment_size,
            "archive_command": self.setting("archive_command"),
            "archive_mode": self.setting("archive_mode"),
            "archive_timeout": self.setting("archive_timeout"),
            "data_checksums": self.setting("data_checksums"),
            "summarize_wal": self.settings.get("summarize_wal"),
            "wal_level": self.setting("wal_level"),
            "archived_count": archiver.archived_count,
            "last_archived_wal": archiver.last_archived_wal,
            "last_archived_time": time(archiver.last_archived_time),
            "last_archived_time_timestamp": epoch(archiver.last_archived_time),
            "failed_count": archiver.failed_count,
            "last_failed_wal": archiver.last_failed_wal,
            "last_failed_time": time(archiver.last_failed_time),
            "last_failed_time_timestamp": epoch(archiver.last_failed_time),
            "stats_reset": time(archiver.stats_reset),
            "stats_reset_timestamp": epoch(archiver.stats_reset),
            "is_archiving": self.is_archiving(),
            "current_archived_wals_per_second":
                self.archived_per_hour().map(|rate| rate / 3600.0),
            "is_superuser": self.privileges.superuser,
            "has_backup_privileges": self.privileges.can_backup(),
        });
        match shown {
            Value::Object(shown) => shown,
            _ => Map::new(),
        }
    }
}

fn parse(server: &Server, option: &str, text: Option<&str>) -> Result<ConnInfo> {
    let text = text.ok_or_else(|| {
        Error::new(Kind::Config, format!("{option} of server '{}' is not set", server.name))
    })?;
    ConnInfo::parse(text).map_err(|error| {
        Error::new(Kind::Config, format!("{option} of server '{}'", server.name)).because(error)
    })
}
