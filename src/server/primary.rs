//! The primary of a standby, which alone can close a WAL segment that a backup of the standby waits for.

use std::time::Duration;

use super::connect::connect_to_primary;
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::human;
use crate::postgres::sql::{SqlConnection, Write};
use crate::postgres::wal_name::SegmentName;

/// How long a server may take to answer.
pub const ANSWER: Duration = Duration::from_secs(60);

/// The same where it makes a checkpoint first.
const CHECKPOINT: Duration = Duration::from_secs(3600);

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
    let limit = match before {
        Write::Checkpoint => CHECKPOINT,
        Write::Record | Write::Nothing => ANSWER,
    };
    let switched = async {
        let Some(sql) = connect_to_primary(server).await? else { return Ok(Switch::NoPrimary) };
        let switched = switch(&sql, system_id, before).await;
        sql.close().await;
        switched
    };
    in_time(limit, Box::pin(switched)).await
}

/// Gives up what is asked of a server that does not answer.
pub async fn in_time<T>(limit: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
        let message = format!("the server gave no answer in {}", human::duration(limit));
        Err(Error::new(Kind::Postgres, message))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_answer_is_not_waited_for() {
        assert_eq!(in_time(ANSWER, async { Ok(1) }).await.unwrap(), 1);
        let silence = std::future::pending::<Result<()>>();
        let error = in_time(Duration::from_millis(5), silence).await.unwrap_err();
        assert!(error.to_string().contains("gave no answer in"), "{error}");
    }
}
