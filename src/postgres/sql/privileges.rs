//! Whether a role may do what backups need.

use super::{SqlConnection, get};
use crate::postgres::error::Error;

/// What the role of a connection may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// The role.
    pub role: String,
    /// It is superuser and may do all that follows.
    pub superuser: bool,
    /// It may open replication connections.
    pub replication: bool,
    /// Statements that would grant what it lacks for backups through SQL; empty if nothing.
    pub missing: Vec<String>,
}

impl Privileges {
    /// Whether backups through SQL (`pg_backup_start`) are possible.
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
        let sql = "SELECT rolname::text, rolsuper, rolreplication, quote_ident(rolname), \
                   pg_has_role(current_user, 'pg_read_all_settings', 'USAGE'), \
                   pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') \
                   FROM pg_roles WHERE rolname = current_user";
        let row = self.row(sql, &[]).await?;
        let superuser: bool = get(&row, 1)?;
        let quoted: String = get(&row, 3)?;
        let mut missing = Vec::new();
        if !superuser {
            for (column, role) in [(4, "pg_read_all_settings"), (5, "pg_read_all_stats")] {
                if !get::<bool>(&row, column)? {
                    missing.push(format!("GRANT {role} TO {quoted}"));
                }
            }
            let sql = "SELECT has_function_privilege(current_user, f::regprocedure, 'EXECUTE') \
                       FROM unnest($1::text[]) WITH ORDINALITY AS t(f, n) ORDER BY n";
            let rows = self.rows(sql, &[&FUNCTIONS.as_slice()]).await?;
            for (row, function) in rows.iter().zip(FUNCTIONS) {
                if !get::<bool>(row, 0)? {
                    missing.push(format!("GRANT EXECUTE ON FUNCTION {function} TO {quoted}"));
                }
            }
        }
        let replication = get(&row, 2)?;
        Ok(Privileges { role: get(&row, 0)?, superuser, replication, missing })
    }
}

/// What backups call that not everyone may.
const FUNCTIONS: [&str; 4] = [
    "pg_catalog.pg_backup_start(text, boolean)",
    "pg_catalog.pg_backup_stop(boolean)",
    "pg_catalog.pg_switch_wal()",
    "pg_catalog.pg_create_restore_point(text)",
];
