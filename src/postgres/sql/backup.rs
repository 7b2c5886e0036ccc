//! Backups of files that this program reads itself: the server is told when that begins and ends.

use super::{Error, Lsn, SqlConnection, TimelineId, get};
use std::time::SystemTime;

/// What a server says when a backup ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoppedBackup {
    /// Where the backup is consistent.
    pub stop: Lsn,
    /// The timeline of that.
    pub timeline: TimelineId,
    /// The `backup_label`.
    pub label: String,
}

impl SqlConnection {
    /// Begins a backup, which ends with this session if it is not stopped. `fast` asks for a checkpoint at once.
    /// Returns where recovery will begin.
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<Lsn, Error> {
        // Little is said in this session while files are read. Not every version has all of these.
        let patient = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN \
                       ('statement_timeout', 'idle_session_timeout', 'lock_timeout', 'transaction_timeout')";
        self.rows(patient, &[]).await?;
        let sql = "SELECT pg_backup_start(label => $1, fast => $2)::text";
        Ok(self.value::<String>(sql, &[&label, &fast]).await?.parse()?)
    }

    /// Ends the backup. The WAL that it needs may not be archived yet.
    pub async fn stop_backup(&self) -> Result<StoppedBackup, Error> {
        let sql = "SELECT lsn::text, labelfile, CASE WHEN pg_is_in_recovery() \
                   THEN (SELECT lpad(to_hex(min_recovery_end_timeline), 8, '0') FROM pg_control_recovery()) \
                   ELSE left(pg_walfile_name(lsn), 8) END \
                   FROM pg_backup_stop(wait_for_archive => false)";
        let row = self.row(sql, &[]).await?;
        Ok(StoppedBackup {
            stop: get::<String>(&row, 0)?.parse()?,
            timeline: super::timeline(&get::<String>(&row, 2)?)?,
            label: get(&row, 1)?,
        })
    }

    /// The process that serves this session, and whether the server is in recovery.
    pub async fn backend(&self) -> Result<(i32, bool), Error> {
        let row = self.row("SELECT pg_backend_pid(), pg_is_in_recovery()", &[]).await?;
        Ok((get(&row, 0)?, get(&row, 1)?))
    }

    /// Where the last checkpoint of the server's control file is, and where recovery from it begins.
    pub async fn last_checkpoint(&self) -> Result<(Lsn, Lsn), Error> {
        let sql = "SELECT checkpoint_lsn::text, redo_lsn::text FROM pg_control_checkpoint()";
        let row = self.row(sql, &[]).await?;
        Ok((get::<String>(&row, 0)?.parse()?, get::<String>(&row, 1)?.parse()?))
    }

    /// When the server was started.
    pub async fn started_at(&self) -> Result<SystemTime, Error> {
        self.value("SELECT pg_postmaster_start_time()", &[]).await
    }
}
