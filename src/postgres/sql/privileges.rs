//! Whether a role may do what backups need.

use super::{SqlConnection, get};
use crate::postgres::error::Error;

/// Something that a role for SQL needs and not every role has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    what: Granted,
    /// What for.
    pub reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Granted {
    Role(&'static str),
    Function(&'static str),
}

/// All that the role of a connection for SQL needs beside connecting, the same in all versions from 15 on.
/// Reading the files of the cluster takes the REPLICATION attribute, which another role may have.
pub const GRANTS: [Grant; 4] = [
    Grant {
        what: Granted::Role("pg_read_all_settings"),
        reason: "to note where the data directory and the configuration files are",
    },
    Grant {
        what: Granted::Role("pg_read_all_stats"),
        reason: "to know the size of the cluster, for progress and status",
    },
    Grant {
        what: Granted::Function("pg_catalog.pg_switch_wal()"),
        reason: "to have the last WAL of a backup archived at once",
    },
    Grant {
        what: Granted::Function("pg_catalog.pg_create_restore_point(text)"),
        reason: "to mark the end of a backup in the WAL",
    },
];

impl Grant {
    /// The statement that gives it to `role`.
    pub fn statement(&self, role: &str) -> String {
        let role = quote_identifier(role);
        match self.what {
            Granted::Role(granted) => format!("GRANT {granted} TO {role}"),
            Granted::Function(function) => {
                format!("GRANT EXECUTE ON FUNCTION {function} TO {role}")
            }
        }
    }
}

/// An identifier for use in a statement.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the role of a connection may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// The role.
    pub role: String,
    /// The database it is connected to: privileges on functions are each database's own.
    pub database: String,
    /// It is superuser and may do all that follows.
    pub superuser: bool,
    /// It may open replication connections.
    pub replication: bool,
    /// Statements that would grant what it lacks; empty if nothing.
    pub missing: Vec<String>,
}

impl Privileges {
    /// Whether it has all that backups need of SQL.
    pub fn can_backup(&self) -> bool {
        self.superuser || self.missing.is_empty()
    }

    /// Whether replication connections are possible.
    pub fn can_replicate(&self) -> bool {
        self.superuser || self.replication
    }
}

impl SqlConnection {
    /// Looks up what the role may do.
    pub async fn privileges(&self) -> Result<Privileges, Error> {
        let sql = "SELECT rolname::text, current_database()::text, rolsuper, rolreplication \
                   FROM pg_roles WHERE rolname = current_user";
        let row = self.row(sql, &[]).await?;
        let (role, superuser): (String, bool) = (get(&row, 0)?, get(&row, 2)?);
        let mut missing = Vec::new();
        for grant in GRANTS.iter().filter(|_| !superuser) {
            let has: bool = match grant.what {
                Granted::Role(granted) => {
                    let sql = "SELECT pg_has_role(current_user, $1::text::name, 'USAGE')";
                    self.value(sql, &[&granted]).await?
                }
                Granted::Function(function) => {
                    let sql = "SELECT has_function_privilege(current_user, $1::text, 'EXECUTE')";
                    self.value(sql, &[&function]).await?
                }
            };
            if !has {
                missing.push(grant.statement(&role));
            }
        }
        let (database, replication) = (get(&row, 1)?, get(&row, 3)?);
        Ok(Privileges { role, database, superuser, replication, missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_name_any_role() {
        assert_eq!(GRANTS[0].statement("barman"), "GRANT pg_read_all_settings TO \"barman\"");
        assert_eq!(
            GRANTS[2].statement("a \"b\""),
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO \"a \"\"b\"\"\""
        );
    }
}
