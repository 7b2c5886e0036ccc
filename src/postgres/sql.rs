//! SQL sessions: the questions backups, checks and status ask a server.

mod backup;
mod configuration;
mod connect;
mod environment;
mod privileges;
mod switch_wal;
mod trial;

pub use backup::StoppedBackup;
pub use configuration::{FileSetting, HbaRule, IdentMapping};
pub use environment::Known;
pub use privileges::{
    FILES, GRANTS, Grant, HBA_RULES, IDENT_MAPPINGS, LOCAL, Privileges, quote_identifier,
};
pub use switch_wal::Write;
pub use trial::{Answer, DatabaseInfo, Relations, Replayed};

use super::error::Error;
use super::lsn::{Lsn, SystemId, TimelineId};
use super::wal_name::SegmentSize;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

/// A session. Dropping it closes the connection some time later; [`SqlConnection::close`] sees it closed.
pub struct SqlConnection {
    client: Client,
    connection: JoinHandle<()>,
    parameters: BTreeMap<&'static str, String>,
}

/// The row of `pg_stat_archiver`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverStatus {
    /// Files archived.
    pub archived_count: i64,
    /// The last file archived.
    pub last_archived_wal: Option<String>,
    /// When.
    pub last_archived_time: Option<SystemTime>,
    /// Failed attempts.
    pub failed_count: i64,
    /// The file of the last failed attempt.
    pub last_failed_wal: Option<String>,
    /// When.
    pub last_failed_time: Option<SystemTime>,
    /// Since when is counted.
    pub stats_reset: Option<SystemTime>,
}

impl ArchiverStatus {
    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        match (self.last_failed_time, self.last_archived_time) {
            (Some(failed), Some(archived)) => failed > archived,
            (failed, None) => failed.is_some(),
            (None, Some(_)) => false,
        }
    }
}

/// A tablespace outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceInfo {
    /// Its OID.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Where it lies on the server; relative for one within the data directory.
    pub location: String,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    pub slot_type: String,
    /// Whether someone streams with it.
    pub active: bool,
    /// The oldest WAL it keeps.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

/// How long a server may take to see that a session ends.
const CLOSE: Duration = Duration::from_secs(1);

impl SqlConnection {
    /// Ends the session in the server's sight: a process that just exits is logged there as lost.
    pub async fn close(self) {
        drop(self.client);
        let _ = tokio::time::timeout(CLOSE, self.connection).await;
    }

    /// The client, for statements that have no method here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The server's version as a number, for example 170002.
    pub async fn server_version_num(&self) -> Result<u32, Error> {
        self.setting_as("server_version_num").await
    }

    /// The server's version as text, without the packager's words: `17.2`.
    pub fn server_version(&self) -> &str {
        let version = self.parameters.get("server_version").map_or("", String::as_str);
        version.split_whitespace().next().unwrap_or("")
    }

    /// Whether the server is a standby, or still recovering.
    pub async fn is_in_recovery(&self) -> Result<bool, Error> {
        self.value("SELECT pg_is_in_recovery()", &[]).await
    }

    /// The values of settings, as `SHOW` has them. Those the server does not know, or does not show to
    /// this role, are left out.
    pub async fn settings(&self, names: &[&str]) -> Result<BTreeMap<String, String>, Error> {
        let sql = "SELECT name, current_setting(name, true) FROM unnest($1::text[]) AS name \
                   WHERE name IN (SELECT name FROM pg_settings)";
        let mut settings = BTreeMap::new();
        for row in self.rows(sql, &[&names]).await? {
            if let Some(value) = get::<Option<String>>(&row, 1)? {
                settings.insert(get(&row, 0)?, value);
            }
        }
        Ok(settings)
    }

    /// The value of one setting, as `SHOW` has it.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.settings(&[name]).await?.remove(name))
    }

    /// The size of WAL segments.
    pub async fn wal_segment_size(&self) -> Result<SegmentSize, Error> {
        // pg_settings has it in bytes, SHOW with a unit.
        let sql = "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'";
        let text: String = self.value(sql, &[]).await?;
        Ok(SegmentSize::new(number(&text)?)?)
    }

    /// The data directory.
    pub async fn data_directory(&self) -> Result<String, Error> {
        self.required_setting("data_directory").await
    }

    /// The paths of postgresql.conf, pg_hba.conf and pg_ident.conf.
    pub async fn configuration_files(&self) -> Result<[String; 3], Error> {
        Ok([
            self.required_setting("config_file").await?,
            self.required_setting("hba_file").await?,
            self.required_setting("ident_file").await?,
        ])
    }

    /// The address of this host as the server sees it; nothing over a Unix socket.
    pub async fn client_address(&self) -> Result<Option<std::net::IpAddr>, Error> {
        let address: Option<String> = self.value("SELECT host(inet_client_addr())", &[]).await?;
        Ok(address.and_then(|address| address.parse().ok()))
    }

    /// Where the WAL stands: written by a primary, replayed (or received) by a standby.
    pub async fn current_lsn(&self) -> Result<Lsn, Error> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() \
                   THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
                   ELSE pg_current_wal_lsn() END::text";
        Ok(self.value::<String>(sql, &[]).await?.parse()?)
    }

    /// Makes a restore point; the position after its record.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn, Error> {
        let sql = "SELECT pg_create_restore_point($1)::text";
        Ok(self.value::<String>(sql, &[&name]).await?.parse()?)
    }

    /// How archiving goes.
    pub async fn archiver_status(&self) -> Result<ArchiverStatus, Error> {
        let sql = "SELECT archived_count, last_archived_wal, last_archived_time, failed_count, \
                   last_failed_wal, last_failed_time, stats_reset FROM pg_stat_archiver";
        let row = self.row(sql, &[]).await?;
        Ok(ArchiverStatus {
            archived_count: get(&row, 0)?,
            last_archived_wal: get(&row, 1)?,
            last_archived_time: get(&row, 2)?,
            failed_count: get(&row, 3)?,
            last_failed_wal: get(&row, 4)?,
            last_failed_time: get(&row, 5)?,
            stats_reset: get(&row, 6)?,
        })
    }

    /// The tablespaces users made.
    pub async fn tablespaces(&self) -> Result<Vec<TablespaceInfo>, Error> {
        let sql = "SELECT oid, spcname::text, pg_tablespace_location(oid) FROM pg_tablespace \
                   WHERE pg_tablespace_location(oid) <> '' ORDER BY oid";
        let rows = self.rows(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(TablespaceInfo { oid: get(row, 0)?, name: get(row, 1)?, location: get(row, 2)? })
            })
            .collect()
    }

    /// Bytes in all tablespaces.
    pub async fn total_size(&self) -> Result<u64, Error> {
        let sql = "SELECT sum(pg_tablespace_size(oid))::int8 FROM pg_tablespace";
        Ok(u64::try_from(self.value::<i64>(sql, &[]).await?).unwrap_or_default())
    }

    /// The cluster's identifier.
    pub async fn system_id(&self) -> Result<SystemId, Error> {
        let sql = "SELECT system_identifier FROM pg_control_system()";
        // The column is a signed integer, the identifier is not.
        Ok(SystemId(self.value::<i64>(sql, &[]).await? as u64))
    }

    /// The timeline: of a standby, that of its last restartpoint.
    pub async fn timeline(&self) -> Result<TimelineId, Error> {
        // A new primary's control file tells the old timeline until its first checkpoint; the names
        // of its WAL files tell the new one at once.
        let sql = "SELECT CASE WHEN pg_is_in_recovery() \
                   THEN (SELECT lpad(to_hex(timeline_id), 8, '0') FROM pg_control_checkpoint()) \
                   ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END";
        timeline(&self.value::<String>(sql, &[]).await?)
    }

    /// The WAL file being written; `None` on a standby.
    pub async fn current_wal_file(&self) -> Result<Option<String>, Error> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL \
                   ELSE pg_walfile_name(pg_current_wal_lsn()) END";
        self.value(sql, &[]).await
    }

    /// The replication slots.
    pub async fn replication_slots(&self) -> Result<Vec<SlotInfo>, Error> {
        let sql = "SELECT slot_name::text, slot_type, active, restart_lsn::text, wal_status \
                   FROM pg_replication_slots ORDER BY slot_name";
        let rows = self.rows(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let restart_lsn = get::<Option<String>>(row, 3)?;
                Ok(SlotInfo {
                    name: get(row, 0)?,
                    slot_type: get(row, 1)?,
                    active: get(row, 2)?,
                    restart_lsn: restart_lsn.map(|lsn| lsn.parse()).transpose()?,
                    wal_status: get(row, 4)?,
                })
            })
            .collect()
    }

    async fn required_setting(&self, name: &'static str) -> Result<String, Error> {
        self.setting(name).await?.ok_or_else(|| {
            Error::Request(format!(
                "the server does not show {name} to this role: GRANT pg_read_all_settings to it"
            ))
        })
    }

    async fn setting_as<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, Error> {
        number(&self.required_setting(name).await?)
    }

    async fn value<T>(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<T, Error>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        get(&self.row(sql, parameters).await?, 0)
    }

    async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.client.query_one(sql, parameters).await.map_err(connect::error)
    }

    async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.client.query(sql, parameters).await.map_err(connect::error)
    }
}

fn get<T>(row: &Row, column: usize) -> Result<T, Error>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    row.try_get(column).map_err(connect::error)
}

/// A timeline, as names of WAL files have it.
fn timeline(hex: &str) -> Result<TimelineId, Error> {
    u32::from_str_radix(hex, 16)
        .map(TimelineId)
        .map_err(|_| Error::Protocol(format!("{hex:?} is no timeline")))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Protocol(format!("{text:?} where a number is due")))
}
