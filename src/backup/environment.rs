//! What is noted of the server that is backed up: its platform, its databases, what they depend on.
//!
//! None of it is needed for a restore, and none of it may fail or hold up a backup: what the server
//! does not tell in time is left out.

use std::time::{Duration, Instant};

use repo_format::codec;
use repo_format::environment::{Contents, Environment};
use repo_format::limits::MAX_ENVIRONMENT;

use crate::postgres::conninfo::ConnInfo;
use crate::postgres::error::{Error, ServerError};
use crate::postgres::sql::SqlConnection;

/// One question may take so long.
const STATEMENT: Duration = Duration::from_secs(3);

/// All of them together may take so long; what is known then is kept.
const ALL: Duration = Duration::from_secs(10);

/// So many databases are entered.
const MAX_ENTERED: usize = 100;

/// What the server at `info` tells of itself; nothing if it does not.
pub async fn ask(info: &ConnInfo) -> Option<Environment> {
    let until = Instant::now() + ALL;
    let first = async {
        let sql = Box::pin(SqlConnection::connect(info)).await?;
        let asked = first(&sql).await;
        sql.close().await;
        asked
    };
    let (mut environment, enterable) = match within(until, first).await {
        Ok(first) => first,
        Err(reason) => {
            tracing::warn!("the server's platform and databases are not noted: {reason}");
            return None;
        }
    };
    for at in enterable.into_iter().take(MAX_ENTERED) {
        let Some(database) = environment.databases.get_mut(at) else { break };
        match within(until, enter(info.clone().with_dbname(&database.name))).await {
            Ok(contents) => database.contents = Some(contents),
            Err(Refused::Late) => break,
            Err(Refused::Failed(error)) => {
                tracing::debug!("database {} is not entered: {error}", database.name);
                // Who is not let into one by pg_hba.conf is seldom let into the next.
                if is_about_us(&error) {
                    break;
                }
            }
        }
    }
    shorten(&mut environment);
    Some(environment)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it took too long")]
    Late,
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Whether the next database will refuse us as well.
fn is_about_us(error: &Error) -> bool {
    let refused = error.server().is_some_and(ServerError::is_authentication);
    refused || error.is_transient() || matches!(error, Error::Authentication { .. })
}

async fn within<T>(
    until: Instant,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Refused> {
    let left = until.saturating_duration_since(Instant::now());
    match tokio::time::timeout(left, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Refused::Late),
    }
}

/// What one session knows, and which other databases can be entered, by their places in the list.
async fn first(sql: &SqlConnection) -> Result<(Environment, Vec<usize>), Error> {
    sql.prepare_to_ask(STATEMENT).await?;
    let mut environment = sql.platform().await?;
    let (known, left_out) = sql.databases().await?;
    environment.left_out = left_out;
    let mut enterable = vec![];
    for (at, known) in known.into_iter().enumerate() {
        let mut database = known.database;
        if known.is_current {
            database.contents = sql.contents().await.ok();
        } else if known.may_enter {
            enterable.push(at);
        }
        environment.databases.push(database);
    }
    Ok((environment, enterable))
}

async fn enter(info: ConnInfo) -> Result<Contents, Error> {
    let sql = Box::pin(SqlConnection::connect(&info)).await?;
    let asked = async {
        sql.prepare_to_ask(STATEMENT).await?;
        sql.contents().await
    };
    let asked = asked.await;
    sql.close().await;
    asked
}

/// Leaves out what there is no room for: contents first, then databases, from the end.
fn shorten(environment: &mut Environment) {
    let mut length = environment.encoded_length();
    for database in environment.databases.iter_mut().rev() {
        if length <= MAX_ENVIRONMENT {
            return;
        }
        length -= database.contents.take().map_or(0, |contents| codec::encode(&contents).len());
    }
    while length > MAX_ENVIRONMENT
        && let Some(database) = environment.databases.pop()
    {
        length -= codec::encode(&database).len();
        environment.left_out = environment.left_out.saturating_add(1);
    }
    if length > MAX_ENVIRONMENT {
        environment.preload_libraries = None;
        environment.version.clear();
    }
}

#[cfg(test)]
mod tests {
    use repo_format::environment::{Database, Extension};

    use super::*;

    fn environment(databases: u32, extensions: usize) -> Environment {
        let extension =
            |n: usize| Extension { name: format!("extension {n:05}"), version: "1.0".into() };
        let contents =
            Contents { extensions: (0..extensions).map(extension).collect(), collations: vec![] };
        let database = |oid| Database {
            oid,
            name: "n".repeat(63),
            encoding: "UTF8".into(),
            provider: "libc".into(),
            collate: "en_US.UTF-8".into(),
            ctype: "en_US.UTF-8".into(),
            locale: None,
            collation_version: Some("2.36".into()),
            actual_version: Some("2.36".into()),
            contents: Some(contents.clone()),
        };
        Environment {
            version: "PostgreSQL 17".into(),
            libc_version: None,
            icu_version: None,
            preload_libraries: None,
            databases: (1..=databases).map(database).collect(),
            left_out: 3,
        }
    }

    #[test]
    fn what_fits_is_kept() {
        let mut kept = environment(20, 20);
        shorten(&mut kept);
        assert_eq!(kept, environment(20, 20));
    }

    #[test]
    fn contents_go_before_databases() {
        let mut shortened = environment(100, 1000);
        shorten(&mut shortened);
        assert!(shortened.validate().is_ok());
        assert_eq!((shortened.databases.len(), shortened.left_out), (100, 3));
        let with_contents = shortened.databases.iter().filter(|it| it.contents.is_some()).count();
        assert!((1..20).contains(&with_contents), "{with_contents}");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let mut shortened = environment(2500, 1);
        shorten(&mut shortened);
        assert!(shortened.validate().is_ok());
        let listed = shortened.databases.len() as u32;
        assert!((1000..2500).contains(&listed), "{listed}");
        assert_eq!(listed + shortened.left_out, 2503);
        let mut wordy = environment(0, 0);
        wordy.preload_libraries = Some("x".repeat(MAX_ENVIRONMENT));
        shorten(&mut wordy);
        assert!(wordy.validate().is_ok());
    }
}
