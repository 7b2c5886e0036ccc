//! The SQL that prepares a server to be backed up: roles, what they may do and why, and, as comments, the
//! settings and the lines of `pg_hba.conf` that go with them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::ConnInfo;
use crate::postgres::conninfo::{Address, SslMode};
use crate::postgres::sql::{
    FILES, GRANTS, HBA_RULES, IDENT_MAPPINGS, LOCAL, SqlConnection, quote_identifier,
};
use crate::server::connect;

/// The oldest version that can be backed up.
const OLDEST: u32 = 15;

/// What the settings must be, and whether a change needs a restart of the server.
const SETTINGS: [(&str, &str, bool); 5] = [
    ("wal_level", "replica", true),
    ("max_wal_senders", "10", true),
    ("archive_mode", "on", true),
    ("archive_command", "", false),
    // Since 17.
    ("summarize_wal", "on", false),
];

/// What a running server tells of itself that the script depends on.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its major version.
    pub version: Option<u32>,
    /// The settings of interest.
    pub settings: BTreeMap<String, String>,
    /// This host's address, as the server sees it over TCP.
    pub client: Option<IpAddr>,
}

impl Known {
    /// Asks over a connection.
    pub async fn ask(sql: &SqlConnection) -> Result<Self> {
        let names = SETTINGS.map(|(name, _, _)| name);
        Ok(Known {
            version: Some(sql.server_version_num().await? / 10_000),
            settings: sql.settings(&names).await?,
            client: sql.client_address().await?,
        })
    }
}

/// The script for `server`, whose WAL `program` shall archive.
///
/// # Errors
/// If the version is too old, or a name in the configuration cannot stand in a script.
pub fn script(server: &Server, known: &Known, program: &str) -> Result<String> {
    if let Some(version) = known.version.filter(|version| *version < OLDEST) {
        let message =
            format!("PostgreSQL {version} cannot be backed up: {OLDEST} or later is needed");
        return Err(Error::new(Kind::Refused, message));
    }
    let sql = connect::sql_conninfo(server)?;
    let streaming = connect::streaming_conninfo(server)?;
    for name in [&server.name, &sql.user, &sql.dbname, &streaming.user] {
        if name.chars().any(char::is_control) {
            let message = format!("{name:?} has control characters and cannot stand in a script");
            return Err(Error::new(Kind::Config, message));
        }
    }
    let mut script = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut script, server, (&sql, &streaming), known, program);
    Ok(script)
}

fn write(
    out: &mut String,
    server: &Server,
    (sql, streaming): (&ConnInfo, &ConnInfo),
    known: &Known,
    program: &str,
) -> std::fmt::Result {
    let version = known.version.map_or(format!("{OLDEST} and later"), |v| v.to_string());
    writeln!(out, "-- Prepares PostgreSQL {version} to be backed up as server '{}'.", server.name)?;
    writeln!(
        out,
        "-- Run it as superuser in database {}: what is granted on functions holds",
        sql.dbname
    )?;
    writeln!(out, "-- in one database only. It can be run again at any time.\n")?;
    writeln!(out, "BEGIN;\n")?;
    if sql.user == streaming.user {
        writeln!(
            out,
            "-- One role for all, because conninfo and streaming_conninfo have the same user. With"
        )?;
        writeln!(out, "-- REPLICATION it can read every file of the cluster.")?;
        role(out, &sql.user, "LOGIN REPLICATION")?;
    } else {
        writeln!(out, "-- For SQL (conninfo). It reads no table.")?;
        role(out, &sql.user, "LOGIN")?;
        grants(out, server, &sql.user)?;
        writeln!(
            out,
            "-- For the files of the cluster and WAL (streaming_conninfo): REPLICATION reads every file,"
        )?;
        writeln!(out, "-- and needs no other privilege.")?;
        role(out, &streaming.user, "LOGIN REPLICATION")?;
    }
    if sql.user == streaming.user {
        grants(out, server, &sql.user)?;
    }
    writeln!(out, "COMMIT;\n")?;
    passwords(out, sql, streaming)?;
    hba(out, sql, streaming, known.client)?;
    settings(out, server, known, program)
}

/// A role that is made if it is missing, and has these attributes then.
fn role(out: &mut String, name: &str, attributes: &str) -> std::fmt::Result {
    let mut tag = "barman".to_owned();
    while name.contains(&tag) && name.contains('$') {
        tag.push('_');
    }
    let (literal, role) = (name.replace('\'', "''"), quote_identifier(name));
    writeln!(out, "DO ${tag}$ BEGIN")?;
    writeln!(
        out,
        "  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{literal}') THEN"
    )?;
    writeln!(out, "    CREATE ROLE {role};")?;
    writeln!(out, "  END IF;")?;
    writeln!(out, "END ${tag}$;")?;
    writeln!(out, "ALTER ROLE {role} {attributes};\n")
}

fn grants(out: &mut String, server: &Server, role: &str) -> std::fmt::Result {
    let local = if server.reads_files { LOCAL.as_slice() } else { &[] };
    for grant in GRANTS.iter().chain(local) {
        writeln!(out, "-- {}", grant.reason)?;
        writeln!(out, "{};", grant.statement(role))?;
    }
    writeln!(out, "-- {}", HBA_RULES[0].reason)?;
    for grant in HBA_RULES.iter().chain(&IDENT_MAPPINGS) {
        writeln!(out, "{};", grant.statement(role))?;
    }
    writeln!(out, "-- Not granted by this script: {}, and not", FILES[0].reason)?;
    writeln!(
        out,
        "-- what the server shows of them. The role can read every file then that the server can read:"
    )?;
    for grant in FILES {
        writeln!(out, "--   {};", grant.statement(role))?;
    }
    writeln!(out)
}

fn passwords(out: &mut String, sql: &ConnInfo, streaming: &ConnInfo) -> std::fmt::Result {
    writeln!(
        out,
        "-- Passwords, in psql; they go into ~/.pgpass (mode 0600) of the user that runs barman,"
    )?;
    writeln!(out, "-- where the database of the streaming role is \"replication\":")?;
    writeln!(out, "--   \\password {}", quote_identifier(&sql.user))?;
    if sql.user != streaming.user {
        writeln!(out, "--   \\password {}", quote_identifier(&streaming.user))?;
    }
    writeln!(out)
}

fn hba(
    out: &mut String,
    sql: &ConnInfo,
    streaming: &ConnInfo,
    client: Option<IpAddr>,
) -> std::fmt::Result {
    writeln!(
        out,
        "-- pg_hba.conf, before lines that match the same and refuse, or let in otherwise; then"
    )?;
    writeln!(out, "-- SELECT pg_reload_conf();")?;
    writeln!(
        out,
        "-- (With {} instead of all, backups do not note the extensions of other databases.)",
        hba_name(&sql.dbname)
    )?;
    for (info, database) in [(sql, "all"), (streaming, "replication")] {
        let role = hba_name(&info.user);
        let mut lines: Vec<String> = info
            .hosts
            .iter()
            .map(|host| {
                let address = match client {
                    Some(address @ IpAddr::V4(_)) => format!("{address}/32"),
                    Some(address @ IpAddr::V6(_)) => format!("{address}/128"),
                    None => "ADDRESS-OF-THE-BACKUP-HOST/32".to_owned(),
                };
                let kind = match (&host.address, info.ssl_mode) {
                    (Address::Unix(_), _) => {
                        return format!("local    {database}  {role}  scram-sha-256");
                    }
                    (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => "hostssl",
                    _ => "host   ",
                };
                format!("{kind}  {database}  {role}  {address}  scram-sha-256")
            })
            .collect();
        lines.dedup();
        for line in lines {
            writeln!(out, "--   {line}")?;
        }
    }
    writeln!(out)
}

/// A name as pg_hba.conf has it: the quotes take away the meaning of words like `all`.
fn hba_name(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let is_word = matches!(name, "all" | "sameuser" | "samerole" | "samegroup" | "replication");
    if is_plain && !is_word { name.to_owned() } else { format!("\"{name}\"") }
}

fn settings(out: &mut String, server: &Server, known: &Known, program: &str) -> std::fmt::Result {
    writeln!(out, "-- postgresql.conf:")?;
    for (name, value, restart) in SETTINGS {
        if name == "summarize_wal" && known.version.is_none_or(|version| version < 17) {
            continue;
        }
        let wanted = match name {
            "archive_command" => format!("{program} wal-archive {} %p", server.name),
            _ => value.to_owned(),
        };
        let when = if restart { "needs a restart" } else { "needs a reload" };
        let now = known.settings.get(name).map(String::as_str);
        let will_do = match (name, now) {
            ("wal_level", Some(now)) => matches!(now, "replica" | "logical"),
            ("archive_mode", Some(now)) => matches!(now, "on" | "always"),
            // A backup streams files and WAL at once.
            ("max_wal_senders", Some(now)) => now.parse::<u32>().is_ok_and(|now| now >= 2),
            ("archive_command" | "summarize_wal", Some(now)) => now == wanted,
            _ => false,
        };
        let now = match now {
            Some(now) if will_do => format!("now '{}': nothing to do", one_line(now)),
            Some(now) => format!("now '{}': {when}", one_line(now)),
            None => when.to_owned(),
        };
        let wanted = wanted.replace('\'', "''");
        let why = match name {
            "summarize_wal" => "; optional: backups read only what changed",
            _ => "",
        };
        writeln!(out, "--   {name} = '{wanted}'    # {now}{why}")?;
    }
    Ok(())
}

/// A value without what would end a comment.
fn one_line(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
