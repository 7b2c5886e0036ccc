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
    View(&'static str),
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

/// What it needs besides where barman reads the files of the cluster itself (`backup_method = local`).
pub const LOCAL: [Grant; 2] = [
    Grant {
        what: Granted::Function("pg_catalog.pg_backup_start(text,boolean)"),
        reason: FOR_LOCAL,
    },
    Grant { what: Granted::Function("pg_catalog.pg_backup_stop(boolean)"), reason: FOR_LOCAL },
];

const FOR_LOCAL: &str = "to tell the server when files are read (backup_method = local)";

/// What lets the role see the rules of pg_hba.conf, which a backup keeps where it may not read the file.
pub const HBA_RULES: [Grant; 2] = [
    Grant { what: Granted::View("pg_catalog.pg_hba_file_rules"), reason: FOR_RULES },
    Grant { what: Granted::Function("pg_catalog.pg_hba_file_rules()"), reason: FOR_RULES },
];

/// The same for pg_ident.conf.
pub const IDENT_MAPPINGS: [Grant; 2] = [
    Grant { what: Granted::View("pg_catalog.pg_ident_file_mappings"), reason: FOR_RULES },
    Grant { what: Granted::Function("pg_catalog.pg_ident_file_mappings()"), reason: FOR_RULES },
];

const FOR_RULES: &str = "to keep who may connect, where pg_hba.conf is not in the data directory";

/// What lets the role read configuration files outside the data directory.
pub const FILES: [Grant; 3] = [
    Grant { what: Granted::Role("pg_read_server_files"), reason: FOR_FILES },
    Grant {
        what: Granted::Function("pg_catalog.pg_read_binary_file(text,bigint,bigint,boolean)"),
        reason: FOR_FILES,
    },
    Grant {
        what: Granted::Function("pg_catalog.pg_ls_dir(text,boolean,boolean)"),
        reason: FOR_FILES,
    },
];

const FOR_FILES: &str = "to keep configuration files outside the data directory as they are";

impl Grant {
    /// The statement that gives it to `role`.
    pub fn statement(&self, role: &str) -> String {
        let role = quote_identifier(role);
        match self.what {
            Granted::Role(granted) => format!("GRANT {granted} TO {role}"),
            Granted::Function(function) => {
                format!("GRANT EXECUTE ON FUNCTION {function} TO {role}")
            }
            Granted::View(view) => format!("GRANT SELECT ON {view} TO {role}"),
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
    /// Looks up what the role may do, where it needs `more` than all [`GRANTS`].
    pub async fn privileges(&self, more: &[Grant]) -> Result<Privileges, Error> {
        let sql = "SELECT rolname::text, current_database()::text, rolsuper, rolreplication \
                   FROM pg_roles WHERE rolname = current_user";
        let row = self.row(sql, &[]).await?;
        let (role, superuser): (String, bool) = (get(&row, 0)?, get(&row, 2)?);
        let mut missing = Vec::new();
        for grant in GRANTS.iter().chain(more).filter(|_| !superuser) {
            if !self.has(grant).await? {
                missing.push(grant.statement(&role));
            }
        }
        let (database, replication) = (get(&row, 1)?, get(&row, 3)?);
        Ok(Privileges { role, database, superuser, replication, missing })
    }

    /// Whether the role has all of these. To try instead would leave an error in the server's log.
    pub async fn has_all(&self, grants: &[Grant]) -> Result<bool, Error> {
        for grant in grants {
            if !self.has(grant).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn has(&self, grant: &Grant) -> Result<bool, Error> {
        let (sql, what) = match grant.what {
            Granted::Role(role) => {
                ("SELECT pg_has_role(current_user, $1::text::name, 'USAGE')", role)
            }
            Granted::Function(function) => {
                ("SELECT has_function_privilege(current_user, $1::text, 'EXECUTE')", function)
            }
            Granted::View(view) => {
                ("SELECT has_table_privilege(current_user, $1::text, 'SELECT')", view)
            }
        };
        self.value(sql, &[&what]).await
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
