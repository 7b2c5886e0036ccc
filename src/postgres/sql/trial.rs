//! What a server is asked that was restored for trial.

use std::pin::pin;
use std::time::SystemTime;

use futures::TryStreamExt;
use tokio_postgres::SimpleQueryMessage;

use super::connect::error;
use super::{SqlConnection, get};
use crate::postgres::error::Error;
use crate::postgres::lsn::Lsn;

/// How far recovery came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The end of the last WAL record.
    pub lsn: Lsn,
    /// When the last transaction ended that was in the WAL.
    pub last_transaction: Option<SystemTime>,
}

/// A database that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// The relations of a database that have files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relations {
    /// How many there are.
    pub count: u64,
    /// How many of them have no file.
    pub missing: u64,
    /// The names of some of those.
    pub first_missing: Vec<String>,
}

/// What statements gave: the result of the last one that has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The first rows.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many more there are.
    pub more: u64,
}

/// So many relations without files are named.
const NAMED: i32 = 5;

impl SqlConnection {
    /// The oldest superuser who may log in: as a rule that of initdb.
    pub async fn superuser(&self) -> Result<String, Error> {
        let sql = "SELECT rolname::text FROM pg_catalog.pg_roles \
                   WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1";
        self.value(sql, &[]).await
    }

    /// How far recovery came, on a server that has recovered since its start.
    pub async fn replayed(&self) -> Result<Option<Replayed>, Error> {
        let sql = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text, \
                   pg_catalog.pg_last_xact_replay_timestamp()";
        let row = self.row(sql, &[]).await?;
        let Some(lsn) = get::<Option<String>>(&row, 0)? else { return Ok(None) };
        Ok(Some(Replayed { lsn: lsn.parse()?, last_transaction: get(&row, 1)? }))
    }

    /// The databases that can be connected to, by name.
    pub async fn open_databases(&self) -> Result<Vec<DatabaseInfo>, Error> {
        // -2 is a database whose DROP was interrupted.
        let sql = "SELECT datname::text, pg_catalog.pg_database_size(oid) \
                   FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1";
        let rows = self.rows(sql, &[]).await?;
        let info = |row| {
            let bytes = u64::try_from(get::<i64>(row, 1)?).unwrap_or_default();
            Ok(DatabaseInfo { name: get(row, 0)?, bytes })
        };
        rows.iter().map(info).collect()
    }

    /// The relations of this database, and whether they have their files.
    pub async fn relations(&self) -> Result<Relations, Error> {
        // Temporary ones are of sessions that are over.
        let sql = "WITH relation AS ( \
                     SELECT oid, pg_catalog.pg_relation_filepath(oid) AS path FROM pg_catalog.pg_class \
                     WHERE relkind IN ('r', 'i', 'S', 't', 'm') AND relpersistence <> 't'), \
                   seen AS ( \
                     SELECT oid, (pg_catalog.pg_stat_file(path, true)).size IS NULL AS is_missing \
                     FROM relation WHERE path IS NOT NULL) \
                   SELECT count(*), count(*) FILTER (WHERE is_missing), coalesce((array_agg( \
                     oid::pg_catalog.regclass::text ORDER BY oid) FILTER (WHERE is_missing))[1:$1], '{}') \
                   FROM seen";
        let row = self.row(sql, &[&NAMED]).await?;
        let count = |column| -> Result<u64, Error> {
            Ok(u64::try_from(get::<i64>(&row, column)?).unwrap_or_default())
        };
        Ok(Relations { count: count(0)?, missing: count(1)?, first_missing: get(&row, 2)? })
    }

    /// Whether an extension is installed in this database, where the host has it at all.
    pub async fn has_extension(&self, name: &str) -> Result<Option<bool>, Error> {
        let sql = "SELECT installed_version IS NOT NULL FROM pg_catalog.pg_available_extensions \
                   WHERE name = $1";
        let rows = self.rows(sql, &[&name]).await?;
        rows.first().map(|row| get(row, 0)).transpose()
    }

    /// Runs statements of a user, and keeps `most` rows of what they give.
    pub async fn ask(&self, statements: &str, most: usize) -> Result<Answer, Error> {
        let messages = self.client.simple_query_raw(statements).await.map_err(error)?;
        let mut messages = pin!(messages);
        let mut answer = Answer::default();
        while let Some(message) = messages.try_next().await.map_err(error)? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    let columns = columns.iter().map(|column| column.name().to_owned()).collect();
                    answer = Answer { columns, ..Answer::default() };
                }
                SimpleQueryMessage::Row(row) if answer.rows.len() < most => {
                    let values = (0..row.len()).map(|column| row.get(column).map(str::to_owned));
                    answer.rows.push(values.collect());
                }
                SimpleQueryMessage::Row(_) => answer.more += 1,
                _ => {}
            }
        }
        Ok(answer)
    }
}
