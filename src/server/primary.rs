//! The primary of a standby, which alone can close a WAL segment that a backup of the standby waits for.

use super::connect::connect_to_primary;
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::sql::{SqlConnection, Write};
use crate::postgres::wal_name::SegmentName;

/// What became of a segment that was to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// The configuration names no primary.
    NoPrimary,
    /// Nothing had been written to it.
    NotNeeded,
    /// It was closed.
    Closed(SegmentName),
}

/// Makes the primary that `server`, a standby of the cluster `system_id`, names close its WAL segment.
///
/// # Errors
/// If it cannot be reached, is of another cluster, or may not be told to.
pub async fn switch_wal(server: &Server, system_id: u64, before: Write) -> Result<Switch> {
    let Some(sql) = connect_to_primary(server).await? else { return Ok(Switch::NoPrimary) };
    let switched = switch(&sql, system_id, before).await;
    sql.close().await;
    switched
}

async fn switch(sql: &SqlConnection, system_id: u64, before: Write) -> Result<Switch> {
    let found = sql.system_id().await?.0;
    if found != system_id {
        let message = format!("it leads to the cluster with system identifier {found}");
        return Err(Error::new(Kind::Config, message));
    }
    Ok(match sql.switch_wal(before).await? {
        Some(closed) => Switch::Closed(closed),
        None => Switch::NotNeeded,
    })
}
