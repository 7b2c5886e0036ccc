//! The configuration of a server: its files, and what it shows of those that may not be read.

use super::privileges::{HBA_RULES, IDENT_MAPPINGS};
use super::{SqlConnection, get};
use crate::postgres::error::Error;

/// A setting that a configuration file has, and that counts. It may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct FileSetting {
    /// Its name.
    pub name: String,
    /// Its value, in the unit that it has by itself.
    pub value: String,
    /// The file.
    pub file: String,
}

/// A line of `pg_hba.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbaRule {
    /// `local`, `host`, `hostssl` and so on.
    pub kind: String,
    /// Databases.
    pub databases: Vec<String>,
    /// Roles.
    pub users: Vec<String>,
    /// A host, or an address.
    pub address: Option<String>,
    /// The mask of the address.
    pub mask: Option<String>,
    /// How clients authenticate.
    pub method: String,
    /// Options of that.
    pub options: Vec<String>,
}

/// A line of `pg_ident.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentMapping {
    /// The name of the map.
    pub map: String,
    /// The name of the user elsewhere.
    pub system_user: String,
    /// The role.
    pub role: String,
}

impl SqlConnection {
    /// The settings that configuration files have and that count. What the session itself has set is not
    /// among them: ask before it sets anything.
    pub async fn file_settings(&self) -> Result<Vec<FileSetting>, Error> {
        let sql = "SELECT name, setting, sourcefile FROM pg_catalog.pg_settings \
                   WHERE sourcefile IS NOT NULL ORDER BY sourcefile, sourceline";
        let rows = self.rows(sql, &[]).await?;
        let setting = |row| {
            Ok(FileSetting {
                name: get(row, 0)?,
                value: get::<Option<String>>(row, 1)?.unwrap_or_default(),
                file: get(row, 2)?,
            })
        };
        rows.iter().map(setting).collect()
    }

    /// The first `limit` bytes of a file on the server; nothing if there is no such file.
    pub async fn read_file(&self, path: &str, limit: i64) -> Result<Option<Vec<u8>>, Error> {
        self.value("SELECT pg_read_binary_file($1, 0, $2, true)", &[&path, &limit]).await
    }

    /// The files that PostgreSQL includes with a directory, up to `limit`.
    pub async fn included_files(&self, directory: &str, limit: i64) -> Result<Vec<String>, Error> {
        let sql = "SELECT name FROM pg_ls_dir($1, true, false) AS name \
                   WHERE name LIKE '%.conf' AND name NOT LIKE '.%' \
                   ORDER BY name COLLATE \"C\" LIMIT $2";
        self.rows(sql, &[&directory, &limit]).await?.iter().map(|row| get(row, 0)).collect()
    }

    /// The lines of `pg_hba.conf` without mistakes; nothing if the role may not see them.
    pub async fn hba_rules(&self) -> Result<Option<Vec<HbaRule>>, Error> {
        if !self.has_all(&HBA_RULES).await? {
            return Ok(None);
        }
        // Lines of included files stand where they are included, which their numbers do not tell.
        let sql = "SELECT type, database, user_name, address, netmask, auth_method, options \
                   FROM pg_hba_file_rules WHERE error IS NULL";
        let rows = self.rows(sql, &[]).await?;
        let rule = |row| {
            Ok(HbaRule {
                kind: get(row, 0)?,
                databases: get(row, 1)?,
                users: get(row, 2)?,
                address: get(row, 3)?,
                mask: get(row, 4)?,
                method: get(row, 5)?,
                options: get::<Option<Vec<String>>>(row, 6)?.unwrap_or_default(),
            })
        };
        rows.iter().map(rule).collect::<Result<_, _>>().map(Some)
    }

    /// The lines of `pg_ident.conf` without mistakes; nothing if the role may not see them.
    pub async fn ident_mappings(&self) -> Result<Option<Vec<IdentMapping>>, Error> {
        if !self.has_all(&IDENT_MAPPINGS).await? {
            return Ok(None);
        }
        let sql = "SELECT map_name, sys_name, pg_username FROM pg_ident_file_mappings \
                   WHERE error IS NULL";
        let rows = self.rows(sql, &[]).await?;
        let mapping = |row| {
            Ok(IdentMapping { map: get(row, 0)?, system_user: get(row, 1)?, role: get(row, 2)? })
        };
        rows.iter().map(mapping).collect::<Result<_, _>>().map(Some)
    }
}
