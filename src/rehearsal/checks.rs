//! What a restored server is asked: whether its databases and their files are there, what the user wants to know,
//! and whether tables and indexes are what they should be.

use std::fs::{self, File};
use std::io::Read;

use jiff::Timestamp;

use super::Wish;
use super::found::{Database, Found, Query, Reached};
use super::scratch::Scratch;
use super::server::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::TimelineId;
use crate::postgres::sql::{Relations, SqlConnection};
use crate::postgres::timeline_history::TimelineHistory;
use crate::restore::programs::Programs;

/// The program that checks tables and indexes, and the extension that it needs.
pub const AMCHECK: &str = "pg_amcheck";
const EXTENSION: &str = "amcheck";

/// So many rows of an answer are kept.
const ROWS: usize = 100;

/// So many lines of what pg_amcheck says are told.
const LINES: usize = 10;

/// So much of what pg_amcheck says is read, in bytes.
const SAID: u64 = 64 * 1024;

/// Asks everything. What is wrong with the backup is added to what is found.
///
/// # Errors
/// For what keeps the questions from being asked.
pub async fn check(
    server: &mut Server,
    wish: &Wish,
    scratch: &Scratch,
    found: &mut Found,
) -> Result<()> {
    server.become_superuser(&wish.roles).await?;
    let databases = {
        let sql = match server.connect("template1").await {
            Ok(sql) => sql,
            Err(_) => server.connect("postgres").await?,
        };
        found.reached = reached(&sql, scratch).await?;
        let databases = sql.open_databases().await?;
        if wish.amcheck && sql.has_extension(EXTENSION).await?.is_none() {
            return Err(no_amcheck(&server.programs));
        }
        sql.close().await;
        databases
    };
    for database in databases {
        let relations = match look(server, &database.name, wish).await {
            Ok(relations) => {
                found.problems.extend(missing(&database.name, &relations));
                Some(relations.count)
            }
            Err(error) => {
                found.problems.push(format!("database {}: {error}", database.name));
                None
            }
        };
        let (name, bytes) = (database.name, database.bytes);
        found.databases.push(Database { name, bytes, relations });
    }
    for sql in &wish.queries {
        let answer = ask(server, &wish.database, sql).await;
        if let Err(error) = &answer {
            found.problems.push(format!("query {sql}: {error}"));
        }
        found.queries.push(Query { sql: sql.clone(), answer });
    }
    if wish.amcheck {
        amcheck(server, scratch, found).await?;
    }
    Ok(())
}

/// The error for a host that does not have what `--amcheck` needs.
pub fn no_amcheck(programs: &Programs) -> Error {
    let major = programs.major;
    Error::new(Kind::Refused, format!("{AMCHECK} of PostgreSQL {major} is not installed here"))
        .hint("install what came with PostgreSQL besides the server, as postgresql-contrib; or leave out --amcheck")
}

/// How far recovery came.
async fn reached(sql: &SqlConnection, scratch: &Scratch) -> Result<Option<Reached>> {
    let Some(replayed) = sql.replayed().await? else { return Ok(None) };
    let own = sql.timeline().await?;
    // The server is on a new timeline, which tells which one it left.
    let history = scratch.data().join(format!("pg_wal/{}.history", own.to_hex()));
    let history = fs::read(history).ok().and_then(|file| TimelineHistory::parse(own, &file).ok());
    let left = |history: TimelineHistory| -> Option<TimelineId> {
        history.ancestors().last().map(|ancestor| ancestor.timeline)
    };
    let timeline = history.and_then(left).unwrap_or(own);
    let last_transaction =
        replayed.last_transaction.and_then(|time| Timestamp::try_from(time).ok());
    Ok(Some(Reached { lsn: replayed.lsn, timeline, last_transaction }))
}

/// Looks into a database, and makes it ready for pg_amcheck where that is wanted.
async fn look(server: &Server, database: &str, wish: &Wish) -> Result<Relations> {
    let sql = server.connect(database).await?;
    let relations = sql.relations().await?;
    if wish.amcheck && sql.has_extension(EXTENSION).await? == Some(true) {
        // A cluster that was upgraded may have one that is too old.
        sql.ask(&format!("ALTER EXTENSION {EXTENSION} UPDATE"), 0).await?;
    }
    sql.close().await;
    Ok(relations)
}

fn missing(database: &str, relations: &Relations) -> Option<String> {
    let Relations { missing, first_missing, .. } = relations;
    let more = if *missing > first_missing.len() as u64 { ", …" } else { "" };
    let named = first_missing.join(", ");
    (*missing > 0)
        .then(|| format!("database {database}: {missing} relations have no file: {named}{more}"))
}

async fn ask(
    server: &Server,
    database: &str,
    statements: &str,
) -> Result<crate::postgres::sql::Answer, String> {
    let sql = server.connect(database).await.map_err(|error| error.to_string())?;
    let answer = sql.ask(statements, ROWS).await.map_err(|error| error.to_string());
    sql.close().await;
    answer
}

/// Has pg_amcheck look at every table and every B-tree index.
async fn amcheck(server: &Server, scratch: &Scratch, found: &mut Found) -> Result<()> {
    let path = scratch.write(AMCHECK, "")?;
    let cannot = |error| Error::new(Kind::Io, format!("cannot run {AMCHECK}")).because(error);
    let said = File::options().append(true).open(&path).map_err(cannot)?;
    let mut command = server.client(AMCHECK, scratch);
    command.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
    command.stdout(said.try_clone().map_err(cannot)?).stderr(said);
    let status = command.status().await.map_err(cannot)?;
    found.amcheck = Some(status.success());
    if !status.success() {
        let mut said = vec![];
        let read = File::open(&path).and_then(|file| file.take(SAID).read_to_end(&mut said));
        read.map_err(cannot)?;
        let said = String::from_utf8_lossy(&said);
        let mut lines: Vec<&str> = said.lines().map(str::trim).take(LINES).collect();
        if said.lines().count() > LINES {
            lines.push("…");
        }
        found.problems.push(format!("{AMCHECK}: {}", lines.join(" ")));
    }
    Ok(())
}
