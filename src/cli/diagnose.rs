//! `barman diagnose`.

use std::collections::BTreeMap;
use std::fs;

use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value, json};

use super::open::Repositories;
use super::remote::Remote;
use super::{Session, backup_info, human};
use crate::catalog::Catalog;
use crate::config::{Effective, Server};
use crate::error::Result;
use crate::postgres::wal_name::WalName;
use crate::repository::Access;

/// Print all that helps to find a problem, as JSON.
///
/// The configuration in force, what is wrong with it, what the servers say of themselves, what the
/// repository has of them, and the system this runs on, in one JSON document to attach to a report. Passwords are hidden. With '-f json' the document is one string in "_INFO",
/// as scripts written for Barman expect.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Tell for every option which file and line its value comes from
    #[arg(long)]
    pub show_config_source: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman diagnose
  barman diagnose --show-config-source > report.json";

/// Prints it.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let config = &session.config;
    let config_of = |shown, effective: &BTreeMap<&'static str, Effective>| {
        if args.show_config_source { with_sources(shown, effective) } else { json!(shown) }
    };
    let mut global = config_of(config.global.shown(), &config.global.effective);
    let errors: Vec<String> = config
        .global
        .messages
        .iter()
        .map(|m| m.text.clone())
        .chain(config.warnings.iter().map(ToString::to_string))
        .collect();
    global["errors_list"] = json!(errors);
    let mut servers: Map<String, Value> = Map::new();
    let mut repositories = Repositories::new(&session.output);
    for (name, server) in &config.servers {
        let options = config_of(server.shown(), &server.effective);
        servers.insert(name.clone(), describe(server, options, &mut repositories).await);
    }
    let models: Map<String, Value> = config
        .models
        .iter()
        .map(|(name, model)| (name.clone(), json!({ "config": model.shown() })))
        .collect();
    let document = json!({
        "global": { "config": global, "system_info": system_info() },
        "models": models,
        "servers": servers,
    });
    session.output.info(format!("{document:#}"));
    Ok(())
}

async fn describe(server: &Server, config: Value, repositories: &mut Repositories<'_>) -> Value {
    let messages: Vec<&str> = server.messages.iter().map(|m| m.text.as_str()).collect();
    let mut shown = json!({ "active_model": null, "config": config, "msg_list": messages });
    shown["status"] = match Remote::ask(server).await {
        Ok(remote) => Value::Object(remote.shown()),
        Err(error) => json!({ "connection_error": error.to_string() }),
    };
    match catalog(server, repositories).await {
        Ok(catalog) => {
            let backups = catalog.backups.iter();
            let backups = backups.map(|backup| {
                (backup.id.clone(), Value::Object(backup_info::fields(&server.name, backup)))
            });
            shown["backups"] = Value::Object(backups.collect());
            shown["wals"] = json!({ "last_archived_wal_per_timeline": last_wals(&catalog) });
        }
        Err(error) => {
            shown["backups"] = json!({});
            shown["repository_error"] = json!(error.to_string());
        }
    }
    shown
}

async fn catalog(server: &Server, repositories: &mut Repositories<'_>) -> Result<Catalog> {
    let repository = repositories.of(server, Access::Read).await?;
    Catalog::load(&repository, &server.name).await
}

/// The newest segment of each timeline of the cluster that was backed up last.
fn last_wals(catalog: &Catalog) -> Value {
    let newest = catalog.usable().next_back().map(|(_, snapshot)| snapshot.system_id);
    let inventory = match newest {
        Some(system_id) => catalog.wal.get(&system_id),
        None => catalog.wal.values().next_back(),
    };
    let mut shown = Map::new();
    for (name, file) in inventory.iter().flat_map(|inventory| inventory.files()) {
        if let WalName::Segment(segment) = name {
            let time = Timestamp::try_from(file.archived_at).ok().map(human::epoch);
            let wal = json!({
                "name": segment.to_string(),
                "size": file.stored_size,
                "time": time,
                "compression": "zstd",
                "encryption": "xchacha20-poly1305",
            });
            // Files come in order: the last one of a timeline stays.
            shown.insert(segment.timeline.to_hex(), wal);
        }
    }
    Value::Object(shown)
}

fn with_sources(
    shown: BTreeMap<String, Value>,
    effective: &BTreeMap<&'static str, Effective>,
) -> Value {
    let sourced = shown.into_iter().map(|(option, value)| {
        let source = effective.get(option.as_str()).map(|e| e.source.to_string());
        (option, json!({ "value": value, "source": source }))
    });
    Value::Object(sourced.collect())
}

fn system_info() -> Value {
    let kernel = rustix::system::uname();
    json!({
        "barman_ver": env!("CARGO_PKG_VERSION"),
        "kernel_ver": format!(
            "{} {} {}",
            kernel.sysname().to_string_lossy(),
            kernel.release().to_string_lossy(),
            kernel.machine().to_string_lossy(),
        ),
        "release": release(),
        "timestamp": Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string(),
    })
}

/// The name of the distribution, as os-release(5) gives it.
fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}
