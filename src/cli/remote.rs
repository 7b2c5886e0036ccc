//! What a running server says of itself, as Barman shows it.

use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::human;

pub use crate::server::connect::{connect, connect_to_primary, sql_conninfo, streaming_conninfo};
pub use crate::server::remote::Remote;

impl Remote {
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
