//! Closing the current WAL segment.

use super::{SqlConnection, get};
use crate::postgres::error::Error;
use crate::postgres::lsn::Lsn;
use crate::postgres::wal_name::{SegmentName, SegmentNo};

impl SqlConnection {
    /// Switches to a new WAL segment; the name of the one finished, or `None` if nothing had been
    /// written since the last switch. With `force` something is written first (a checkpoint), so
    /// that there is always a segment to finish.
    pub async fn switch_wal(&self, force: bool) -> Result<Option<SegmentName>, Error> {
        if force {
            self.write_something().await?;
        }
        let size = self.wal_segment_size().await?;
        let timeline = self.timeline().await?;
        let sql = "SELECT pg_current_wal_insert_lsn()::text, pg_switch_wal()::text";
        let row = self.row(sql, &[]).await?;
        let before: Lsn = get::<String>(&row, 0)?.parse()?;
        let after: Lsn = get::<String>(&row, 1)?.parse()?;
        // The answer is the end of the switch record; or, if the segment was empty, its start.
        let finished = SegmentNo::before(after, size);
        let switched = size.offset(after) != 0 || SegmentNo::containing(before, size) <= finished;
        Ok(switched.then(|| SegmentName::new(timeline, finished, size)))
    }

    /// Writes a checkpoint, or a record without meaning if the role may not do that.
    async fn write_something(&self) -> Result<(), Error> {
        // Asked first: a refusal would stand in the server's log as an error.
        let row = self.row("SELECT pg_has_role('pg_checkpoint', 'USAGE')", &[]).await?;
        if get(&row, 0)? {
            return self.client.batch_execute("CHECKPOINT").await.map_err(super::connect::error);
        }
        let sql = "SELECT pg_logical_emit_message(false, 'barman', '')::text";
        self.row(sql, &[]).await.map(|_| ())
    }
}
