//! What a server runs on, and what its databases depend on.

use repo_format::environment::{Collation, Contents, Database, Environment, Extension};

use super::{SqlConnection, connect, get};
use crate::postgres::error::Error;

/// A database in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What the catalogue tells of it.
    pub database: Database,
    /// Whether this session is in it.
    pub is_current: bool,
    /// Whether this role may enter it, as far as its privileges go.
    pub may_enter: bool,
}

/// So many databases, and so many extensions and collations of each, are asked for.
const MAX_ROWS: i64 = 2000;

impl SqlConnection {
    /// Makes a session fit for databases of other people: what they define is not called, and a
    /// statement ends after `limit`.
    pub async fn prepare_to_ask(&self, limit: std::time::Duration) -> Result<(), Error> {
        let limit = limit.as_millis();
        let sql = format!("SET search_path = pg_catalog; SET statement_timeout = {limit}");
        self.client.batch_execute(&sql).await.map_err(connect::error)
    }

    /// The platform and the versions of what sorts, without databases.
    pub async fn platform(&self) -> Result<Environment, Error> {
        let sql = "SELECT version(), \
                   (SELECT max(pg_collation_actual_version(oid)) FROM pg_collation \
                    WHERE collprovider = 'c'), \
                   (SELECT max(pg_collation_actual_version(oid)) FROM pg_collation \
                    WHERE collprovider = 'i' AND collname = 'und-x-icu')";
        let row = self.row(sql, &[]).await?;
        Ok(Environment {
            version: get(&row, 0)?,
            libc_version: get(&row, 1)?,
            icu_version: get(&row, 2)?,
            preload_libraries: self.setting("shared_preload_libraries").await?,
            databases: vec![],
            left_out: 0,
        })
    }

    /// The databases, and how many there are beyond those that are returned.
    pub async fn databases(&self) -> Result<(Vec<Known>, u32), Error> {
        // PostgreSQL 17 has another name for the column of the locale.
        let sql = "SELECT d.oid, d.datname::text, pg_encoding_to_char(d.encoding)::text, \
                   d.datlocprovider::text, d.datcollate::text, d.datctype::text, \
                   coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), \
                   d.datcollversion, pg_database_collation_actual_version(d.oid), \
                   d.datallowconn AND NOT d.datistemplate \
                   AND has_database_privilege(d.oid, 'CONNECT'), \
                   d.datname = current_database(), count(*) OVER () \
                   FROM pg_database d ORDER BY d.oid LIMIT $1";
        let rows = self.rows(sql, &[&MAX_ROWS]).await?;
        let all = rows.first().map_or(Ok(0), |row| get::<i64>(row, 11))?;
        let databases = rows.iter().map(|row| {
            let database = Database {
                oid: get(row, 0)?,
                name: get(row, 1)?,
                encoding: get(row, 2)?,
                provider: provider(&get::<String>(row, 3)?),
                collate: get(row, 4)?,
                ctype: get(row, 5)?,
                locale: get(row, 6)?,
                collation_version: get(row, 7)?,
                actual_version: get(row, 8)?,
                contents: None,
            };
            Ok(Known { database, may_enter: get(row, 9)?, is_current: get(row, 10)? })
        });
        let databases = databases.collect::<Result<Vec<_>, Error>>()?;
        let left_out =
            u32::try_from(all).unwrap_or(u32::MAX).saturating_sub(databases.len() as u32);
        Ok((databases, left_out))
    }

    /// What this session's database has that comes from outside.
    pub async fn contents(&self) -> Result<Contents, Error> {
        let sql = "SELECT extname::text, extversion FROM pg_extension \
                   ORDER BY extname::text COLLATE \"C\" LIMIT $1";
        let rows = self.rows(sql, &[&MAX_ROWS]).await?;
        let extension = |row| Ok(Extension { name: get(row, 0)?, version: get(row, 1)? });
        let extensions = rows.iter().map(extension).collect::<Result<Vec<_>, Error>>()?;
        // Nothing depends on most of the hundreds of collations that a database knows.
        let sql = "SELECT n.nspname::text, c.collname::text, c.collprovider::text, c.collversion \
                   FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
                   WHERE c.collversion IS NOT NULL AND EXISTS (SELECT FROM pg_depend d \
                   WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid) \
                   AND c.collencoding IN (-1, (SELECT encoding FROM pg_database \
                   WHERE datname = current_database())) \
                   ORDER BY n.nspname::text COLLATE \"C\", c.collname::text COLLATE \"C\" LIMIT $1";
        let rows = self.rows(sql, &[&MAX_ROWS]).await?;
        let collation = |row| {
            Ok(Collation {
                schema: get(row, 0)?,
                name: get(row, 1)?,
                provider: provider(&get::<String>(row, 2)?),
                version: get(row, 3)?,
            })
        };
        let collations = rows.iter().map(collation).collect::<Result<Vec<_>, Error>>()?;
        Ok(Contents { extensions, collations })
    }
}

/// What PostgreSQL's letter for a provider of collations stands for.
fn provider(letter: &str) -> String {
    match letter {
        "c" => "libc",
        "i" => "icu",
        "b" => "builtin",
        "d" => "default",
        other => other,
    }
    .to_owned()
}
