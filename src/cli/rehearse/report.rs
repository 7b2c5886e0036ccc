//! What a rehearsal says: what it needs before it begins, and what it found.

use serde_json::{Value, json};

use crate::cli::human;
use crate::cli::output::Output;
use crate::cli::table::{Align, Table};
use crate::postgres::sql::Answer;
use crate::rehearsal::found::{Found, Query, Times};
use crate::restore::Prepared;

/// Says what will be restored, and what room there is.
pub fn need(output: &Output, prepared: &Prepared) {
    let Some(part) = prepared.layout.parts.first() else { return };
    let bytes: u64 = prepared.layout.parts.iter().map(|part| part.bytes).sum();
    output.info(format!(
        "It needs {} there, for {} of files, {} WAL files and what recovery writes; {} are free",
        human::size(bytes),
        human::size(prepared.bytes()),
        prepared.wal.segments().count(),
        human::size(part.place.free_bytes)
    ));
}

/// Says what was found.
pub fn report(output: &Output, server: &str, id: &str, found: &Found) {
    print(output, found);
    for remark in &found.remarks {
        output.warning(remark);
    }
    for problem in &found.problems {
        output.error(problem);
    }
    if found.is_good() {
        output.info(format!("Backup {id} of server {server} can be restored: {}", found.report()));
    }
    output.result(server, describe(id, found));
}

fn print(output: &Output, found: &Found) {
    let Times { restore, recovery, checks } = found.times;
    output.print(format!(
        "Restored {} files, {}, and {} WAL files in {}",
        found.restored.files,
        human::size(found.restored.bytes),
        found.restored.wal_files,
        human::duration(restore)
    ));
    if !found.warnings.is_empty() {
        output.print("A restore to this host warns:");
        found.warnings.iter().for_each(|warning| output.print(format!("  {warning}")));
    }
    if let Some(reached) = &found.reached {
        output.print(format!("Recovered to {reached} in {}", human::duration(recovery)));
    }
    for database in &found.databases {
        let relations = match database.relations {
            Some(count) => format!("{count} relations"),
            None => "cannot be looked at".to_owned(),
        };
        let size = human::size(database.bytes);
        output.print(format!("  database {}: {relations}, {size}", database.name));
    }
    for Query { sql, answer } in &found.queries {
        output.print(format!("  {sql}"));
        if let Ok(answer) = answer {
            print_answer(output, answer);
        }
    }
    match found.amcheck {
        Some(true) => output.print("Tables and indexes are sound: pg_amcheck found nothing"),
        Some(false) => output.print("pg_amcheck found something"),
        None => {}
    }
    if !checks.is_zero() {
        output.print(format!("Checked in {}", human::duration(checks)));
    }
}

fn print_answer(output: &Output, answer: &Answer) {
    let columns: Vec<_> = answer.columns.iter().map(|name| (name.as_str(), Align::Left)).collect();
    if columns.is_empty() {
        return;
    }
    let mut table = Table::new(&columns);
    for row in &answer.rows {
        table.row(row.iter().map(|value| value.as_deref().unwrap_or("NULL")));
    }
    for line in table.lines() {
        output.print(format!("    {line}"));
    }
    if answer.more > 0 {
        output.print(format!("    … and {} more rows", answer.more));
    }
}

fn describe(id: &str, found: &Found) -> Value {
    let Times { restore, recovery, checks } = found.times;
    let databases = found.databases.iter().map(|database| {
        json!({
            "name": database.name,
            "size_bytes": database.bytes,
            "relations": database.relations,
        })
    });
    let last_transaction = found.reached.and_then(|reached| reached.last_transaction);
    json!({
        "backup_id": id,
        "good": found.is_good(),
        "problems": found.problems,
        "remarks": found.remarks,
        "warnings": found.warnings,
        "files": found.restored.files,
        "bytes": found.restored.bytes,
        "wal_files": found.restored.wal_files,
        "restore_seconds": restore.as_secs_f64(),
        "recovery_seconds": recovery.as_secs_f64(),
        "check_seconds": checks.as_secs_f64(),
        "reached_lsn": found.reached.map(|reached| reached.lsn.to_string()),
        "reached_timeline": found.reached.map(|reached| reached.timeline.0),
        "last_transaction_time": last_transaction.map(human::time),
        "last_transaction_time_timestamp": last_transaction.map(human::epoch),
        "databases": databases.collect::<Vec<Value>>(),
        "queries": found.queries.iter().map(query).collect::<Vec<Value>>(),
        "amcheck": found.amcheck,
    })
}

fn query(query: &Query) -> Value {
    match &query.answer {
        Ok(answer) => json!({
            "query": query.sql,
            "columns": answer.columns,
            "rows": answer.rows,
            "more_rows": answer.more,
        }),
        Err(error) => json!({ "query": query.sql, "error": error }),
    }
}
