//! Closing the current WAL segment.

use super::{SqlConnection, get};
use crate::postgres::error::Error;
use crate::postgres::lsn::Lsn;
use crate::postgres::wal_name::{SegmentName, SegmentNo};

/// What is written before a segment is closed. PostgreSQL closes none that nothing was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// A record without meaning, so that there is always a segment to finish.
    Record,
    /// A checkpoint, or a record if the role may not make one.
    Checkpoint,
}

impl SqlConnection {
    /// Switches to a new WAL segment; the name of the one finished, or `None` if nothing had been
    /// written since the last switch.
    pub async fn switch_wal(&self, before: Write) -> Result<Option<SegmentName>, Error> {
        match before {
            Write::Nothing => {}
            Write::Checkpoint if self.may_checkpoint().await? => {
                self.client.batch_execute("CHECKPOINT").await.map_err(super::connect::error)?;
            }
            Write::Record | Write::Checkpoint => {
                let sql = "SELECT pg_logical_emit_message(false, 'barman', '')::text";
                self.row(sql, &[]).await?;
            }
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

    /// Asked first: a refusal would stand in the server's log as an error.
    async fn may_checkpoint(&self) -> Result<bool, Error> {
        self.value("SELECT pg_has_role('pg_checkpoint', 'USAGE')", &[]).await
    }
}
