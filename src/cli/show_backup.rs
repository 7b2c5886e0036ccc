//! `barman show-backup`.

use std::time::Duration;

use jiff::Timestamp;
use repo_format::environment::{Collation, Database, Environment};
use repo_format::snapshot::{Cluster, Configuration, Method, Snapshot};
use serde_json::{Value, json};

use super::backup_info::{self, TYPE, WalRange, on_off, time};
use super::open::Repositories;
use super::output::{self, Output};
use super::{Session, human};
use crate::catalog::retention::{self, Retention};
use crate::catalog::{Backup, Catalog};
use crate::config::Server;
use crate::error::Result;
use crate::postgres::lsn::Lsn;
use crate::repository::Access;
use crate::restore::environment::platform;

/// Show all about one backup.
///
/// Its times, sizes and WAL range, what it stored, and the backups before and after it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman show-backup main latest
  barman -f json show-backup main 20260101T010203";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let mut repositories = Repositories::new(output);
    let server = session.server_or_known(&args.server_name, &mut repositories).await?;
    let repository = repositories.of(&server, Access::Read).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let backup = catalog.find(&args.backup_id)?;
    let shown = describe(&server, &catalog, backup);
    print(&server.name, &shown, output);
    output.result(&server.name, shown);
    Ok(())
}

fn describe(server: &Server, catalog: &Catalog, backup: &Backup) -> Value {
    let mut shown = json!({
        "backup_id": backup.id,
        "status": backup.status().name(),
        "backup_type": TYPE,
    });
    if let Some(name) = backup.name() {
        shown["backup_name"] = json!(name);
    }
    if let Some(failure) = &backup.failure {
        shown["error"] = json!(failure.reason);
        if let Some(id) = failure.system_id {
            shown["system_id"] = json!(id.to_string());
        }
    }
    let Some(snapshot) = &backup.snapshot else { return shown };
    let cluster = &snapshot.cluster;
    shown["system_id"] = json!(snapshot.system_id.to_string());
    shown["server_information"] = json!({
        "host": cluster.endpoint.as_ref().map(|endpoint| &endpoint.host),
        "port": cluster.endpoint.as_ref().map(|endpoint| endpoint.port),
        "is_in_recovery": cluster.from_standby,
        "data_checksums": on_off(cluster.data_checksums != 0),
        "summarize_wal": cluster.summarize_wal.map(on_off),
    });
    shown["cluster_size"] = json!(human::size(cluster.size));
    shown["cluster_size_bytes"] = json!(cluster.size);
    shown["postgresql_version"] = json!(cluster.version);
    shown["pgdata_directory"] = json!(cluster.data_directory);
    shown["tablespaces"] = json!(backup_info::tablespaces(snapshot));
    shown["base_backup_information"] = base_backup(backup, snapshot);
    shown["wal_information"] = wal(catalog, backup, snapshot);
    let (previous, next) = catalog.neighbours(&backup.id);
    let id = |backup: Option<&Backup>| backup.map_or_else(|| "-".to_owned(), |b| b.id.clone());
    let retentions = retention::of(&catalog.backups, server, Timestamp::now());
    let mut known = catalog.backups.iter().zip(retentions);
    let retention = known.find(|(other, _)| other.id == backup.id).map(|(_, known)| known);
    shown["catalog_information"] = json!({
        "retention_policy": retention.unwrap_or(Retention::None).name(),
        "previous_backup": id(previous),
        "next_backup": id(next),
    });
    shown["repository_information"] = repository(snapshot);
    if let Some(rehearsal) = &backup.rehearsal {
        shown["rehearsal_information"] = backup_info::rehearsal(rehearsal);
    }
    if let Some(told) = &snapshot.environment {
        shown["environment_information"] = environment(told, cluster.version);
    }
    if let Some(outside) = &snapshot.configuration {
        shown["configuration_information"] = configuration(outside, cluster);
    }
    shown
}

fn base_backup(backup: &Backup, snapshot: &Snapshot) -> Value {
    let statistics = &snapshot.statistics;
    let range = WalRange::of(snapshot);
    let needed = backup.needed.stored_bytes;
    let with_wals = statistics.bytes + needed;
    let saved = statistics.bytes.saturating_sub(statistics.stored_bytes);
    let percent = 100.0 * saved as f64 / statistics.bytes.max(1) as f64;
    let (begun, ended) = (time(snapshot.begun_at), time(snapshot.ended_at));
    let copy_time = Duration::from_micros(statistics.copy_micros);
    let throughput = statistics.bytes as f64 / copy_time.as_secs_f64().max(1e-6);
    json!({
        "backup_method": match snapshot.method {
            Method::Stream => "postgres",
            Method::Local => "local",
            Method::Agent => "rsync",
            Method::Import => "import",
        },
        "encryption": "xchacha20-poly1305",
        "compression": "zstd",
        "backup_size": human::size(statistics.bytes),
        "backup_size_bytes": statistics.bytes,
        "backup_size_with_wals": human::size(with_wals),
        "backup_size_with_wals_bytes": with_wals,
        "wal_size": human::size(needed),
        "wal_size_bytes": needed,
        "resources_saved": human::size(saved),
        "resources_saved_bytes": saved,
        "resources_saved_percentage": format!("{percent:.2}%"),
        "timeline": snapshot.wal.stop_timeline,
        "begin_wal": range.begin.to_string(),
        "end_wal": range.end.to_string(),
        "wal_num": backup.needed.segments.len(),
        "begin_time": human::time(begun),
        "begin_time_timestamp": human::epoch(begun),
        "end_time": human::time(ended),
        "end_time_timestamp": human::epoch(ended),
        "copy_time": human::duration(copy_time),
        "copy_time_seconds": copy_time.as_secs_f64(),
        "throughput": human::rate(statistics.bytes, copy_time),
        "throughput_bytes": throughput,
        "begin_offset": range.begin_offset,
        "end_offset": range.end_offset,
        "begin_lsn": Lsn(snapshot.wal.start_lsn).to_string(),
        "end_lsn": Lsn(snapshot.wal.stop_lsn).to_string(),
    })
}

fn wal(catalog: &Catalog, backup: &Backup, snapshot: &Snapshot) -> Value {
    let following = &backup.following;
    let mut shown = json!({
        "no_of_files": following.segments,
        "disk_usage": human::size(following.stored_bytes),
        "disk_usage_bytes": following.stored_bytes,
        "last_available": following.last.map(|segment| segment.to_string()),
    });
    if let Some((first, last)) = following.archived
        && let Ok(span) = last.duration_since(first)
        && !span.is_zero()
    {
        let per_second = following.segments as f64 / span.as_secs_f64();
        shown["wal_rate"] = json!(format!("{:.2}/hour", per_second * 3600.0));
        shown["wal_rate_per_second"] = json!(per_second);
    }
    let size = u64::from(snapshot.cluster.wal_segment_size) * following.segments;
    if size > 0 {
        let ratio = 1.0 - following.stored_bytes as f64 / size as f64;
        shown["compression_ratio"] = json!(ratio);
    }
    let later: Vec<u32> = catalog
        .wal
        .get(&snapshot.system_id)
        .map(|inventory| inventory.timelines())
        .unwrap_or_default()
        .into_iter()
        .map(|timeline| timeline.0)
        .filter(|timeline| *timeline > snapshot.wal.stop_timeline)
        .collect();
    if !later.is_empty() {
        shown["timelines"] = json!(later);
        shown["_WARNING"] =
            json!("WAL information is inaccurate because there are several timelines");
    }
    if !backup.needed.gaps.is_empty() {
        let missing: Vec<String> = backup.needed.gaps.iter().map(ToString::to_string).collect();
        shown["missing"] = json!(missing.join(", "));
    }
    shown
}

/// What Barman has no words for.
fn repository(snapshot: &Snapshot) -> Value {
    let statistics = &snapshot.statistics;
    let bad: Vec<Value> = snapshot
        .bad_pages
        .first
        .iter()
        .map(|page| json!({ "path": page.path, "block": page.block }))
        .collect();
    json!({
        "sequence": snapshot.sequence,
        "files": statistics.files,
        "zero_bytes": statistics.zero_bytes,
        "new_bytes": statistics.new_bytes,
        "stored_bytes": statistics.stored_bytes,
        "new_chunks": statistics.new_chunks,
        "deduplicated": format!("{:.1} %", backup_info::deduplicated_percent(snapshot)),
        "trusted": snapshot.trusted,
        "parent": snapshot.parent,
        "host": snapshot.host,
        "program": snapshot.program,
        "bad_pages": snapshot.bad_pages.count,
        "first_bad_pages": bad,
    })
}

/// Where the configuration files were that the data directory does not have.
fn configuration(outside: &Configuration, cluster: &Cluster) -> Value {
    let files = cluster.config_files.as_ref();
    json!({
        "config_file": files.map(|files| &files.config),
        "hba_file": files.map(|files| &files.hba),
        "ident_file": files.map(|files| &files.ident),
        "included_files": files.map(|files| &files.included),
        "unread_files": outside.unread,
    })
}

/// What the server ran on, for which Barman has no words either.
fn environment(told: &Environment, version: u32) -> Value {
    let databases = told.databases.iter().map(database);
    json!({
        "platform": platform(&told.version),
        "version": format!("{}.{}", version / 10_000, version % 10_000),
        "version_text": told.version,
        "libc_version": told.libc_version,
        "icu_version": told.icu_version,
        "shared_preload_libraries": told.preload_libraries,
        "databases": databases.collect::<Vec<Value>>(),
        "databases_left_out": told.left_out,
    })
}

fn database(database: &Database) -> Value {
    let collation = |it: &Collation| {
        json!({
            "schema": it.schema,
            "name": it.name,
            "provider": it.provider,
            "version": it.version,
        })
    };
    let contents = database.contents.as_ref();
    let extensions = contents.map(|contents| {
        let pairs = contents.extensions.iter().map(|it| (it.name.clone(), json!(it.version)));
        pairs.collect::<serde_json::Map<String, Value>>()
    });
    let collations =
        contents.map(|contents| contents.collations.iter().map(collation).collect::<Vec<_>>());
    json!({
        "name": database.name,
        "oid": database.oid,
        "encoding": database.encoding,
        "locale_provider": database.provider,
        "collate": database.collate,
        "ctype": database.ctype,
        "locale": database.locale,
        "collation_version": database.collation_version,
        "actual_collation_version": database.actual_version,
        "extensions": extensions,
        "collations": collations,
    })
}

/// A part of what the console shows: its title, its object in the JSON, and labels of keys.
type Section = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// The lines above the first section.
const HEAD: Section = (
    "",
    "",
    &[
        ("Backup Name", "backup_name"),
        ("System Id", "system_id"),
        ("Status", "status"),
        ("PostgreSQL Version", "postgresql_version"),
        ("PGDATA directory", "pgdata_directory"),
        ("Estimated Cluster Size", "cluster_size"),
        ("Error", "error"),
    ],
);

const SECTIONS: &[Section] = &[
    (
        "Server information",
        "server_information",
        &[
            ("Read from host", "host"),
            ("Port", "port"),
            ("Was a standby", "is_in_recovery"),
            ("Checksums", "data_checksums"),
            ("WAL summarizer", "summarize_wal"),
        ],
    ),
    (
        "Base backup information",
        "base_backup_information",
        &[
            ("Backup Method", "backup_method"),
            ("Backup Size", "backup_size"),
            ("Backup Size with WALs", "backup_size_with_wals"),
            ("WAL Size", "wal_size"),
            ("Resources saved", "resources_saved_percentage"),
            ("Timeline", "timeline"),
            ("Begin WAL", "begin_wal"),
            ("End WAL", "end_wal"),
            ("WAL number", "wal_num"),
            ("Begin time", "begin_time"),
            ("End time", "end_time"),
            ("Copy time", "copy_time"),
            ("Estimated throughput", "throughput"),
            ("Begin Offset", "begin_offset"),
            ("End Offset", "end_offset"),
            ("Begin LSN", "begin_lsn"),
            ("End LSN", "end_lsn"),
        ],
    ),
    (
        "Repository information",
        "repository_information",
        &[
            ("Sequence", "sequence"),
            ("Files", "files"),
            ("Compared with", "parent"),
            ("New content", "new_bytes"),
            ("Stored", "stored_bytes"),
            ("Deduplicated", "deduplicated"),
            ("Complete read", "trusted"),
            ("Bad pages", "bad_pages"),
            ("Made by", "program"),
            ("Made on", "host"),
        ],
    ),
    (
        "Rehearsal information",
        "rehearsal_information",
        &[
            ("Last rehearsal", "time"),
            ("Good", "good"),
            ("Found", "report"),
            ("Rehearsed on", "host"),
        ],
    ),
    (
        "Environment information",
        "environment_information",
        &[
            ("PostgreSQL", "version"),
            ("Platform", "platform"),
            ("Collations of libc", "libc_version"),
            ("Collations of ICU", "icu_version"),
            ("Preloaded libraries", "shared_preload_libraries"),
        ],
    ),
    (
        "Configuration outside the data directory",
        "configuration_information",
        &[
            ("Config file", "config_file"),
            ("HBA file", "hba_file"),
            ("Ident file", "ident_file"),
            ("Included", "included_files"),
            ("Not read", "unread_files"),
        ],
    ),
    (
        "WAL information",
        "wal_information",
        &[
            ("No of files", "no_of_files"),
            ("Disk usage", "disk_usage"),
            ("WAL rate", "wal_rate"),
            ("Last available", "last_available"),
            ("Missing", "missing"),
            ("Reachable timelines", "timelines"),
        ],
    ),
    (
        "Catalog information",
        "catalog_information",
        &[
            ("Retention Policy", "retention_policy"),
            ("Previous Backup", "previous_backup"),
            ("Next Backup", "next_backup"),
        ],
    ),
];

fn print(server: &str, shown: &Value, output: &Output) {
    output.print(format!("Backup {}:", output::shown(&shown["backup_id"])));
    output.print(format!("  {:<23}: {server}", "Server Name"));
    lines(shown, HEAD.2, "  ", output);
    for space in shown["tablespaces"].as_array().into_iter().flatten() {
        let [name, oid, location] =
            ["name", "oid", "location"].map(|key| output::shown(&space[key]));
        output.print(format!("  {:<23}: {name} (oid {oid}) in {location}", "Tablespace"));
    }
    for (title, key, labels) in SECTIONS {
        if shown[key].is_object() {
            output.print(format!("\n  {title}:"));
            lines(&shown[key], labels, "    ", output);
        }
        if *key == "environment_information" {
            databases(&shown[key], output);
        }
    }
    output.print("");
}

fn databases(environment: &Value, output: &Output) {
    for database in environment["databases"].as_array().into_iter().flatten() {
        let text = |key: &str| database[key].as_str().unwrap_or_default();
        let locale = database["locale"].as_str().unwrap_or(text("collate"));
        let version = database["collation_version"].as_str().map(|it| format!(" {it}"));
        output.print(format!(
            "    {:<21}: {}, {}, {locale} ({}{})",
            "Database",
            text("name"),
            text("encoding"),
            text("locale_provider"),
            version.unwrap_or_default()
        ));
        let extensions = database["extensions"].as_object().into_iter().flatten();
        let extensions: Vec<String> = extensions
            .map(|(name, version)| format!("{name} {}", output::shown(version)))
            .collect();
        if !extensions.is_empty() {
            output.print(format!("    {:<21}: {}", "  Extensions", extensions.join(", ")));
        }
    }
    if let Some(left_out @ 1..) = environment["databases_left_out"].as_u64() {
        output.print(format!("    {:<21}: {left_out}", "More databases"));
    }
}

fn lines(shown: &Value, labels: &[(&str, &str)], indent: &str, output: &Output) {
    let width = 25 - indent.len();
    for (label, key) in labels {
        let value = &shown[key];
        if value.is_null() {
            continue;
        }
        let value = match (*key, value.as_u64(), value.as_array()) {
            ("new_bytes" | "stored_bytes", Some(bytes), _) => human::size(bytes),
            (_, _, Some(items)) if items.is_empty() => continue,
            (_, _, Some(items)) => items.iter().map(output::shown).collect::<Vec<_>>().join(", "),
            _ => output::shown(value),
        };
        output.print(format!("{indent}{label:<width$}: {value}"));
    }
}
