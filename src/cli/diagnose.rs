//! `barman diagnose`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use futures::{StreamExt, stream};
use jiff::{Timestamp, Zoned};
use repo_format::FORMAT_VERSION;
use repo_format::slot::Unlock;
use serde_json::{Map, Value, json};

use super::open::{Places, Repositories};
use super::remote::Remote;
use super::{Session, backup_info, check, human};
use crate::catalog::Catalog;
use crate::config::{Effective, RepositorySettings, Server};
use crate::error::Result;
use crate::postgres::wal_name::WalName;
use crate::repository::{self, Access, Repository, sessions, slots};
use crate::server::check::{self as checks, Patience};

/// How many servers are asked at once.
const PARALLEL: usize = 32;

/// How much of the end of the log file is looked at for errors, in bytes.
const LOG_TAIL: u64 = 256 * 1024;

/// How many of the last errors are told.
const LAST_ERRORS: usize = 50;

/// Print all that helps to find a problem, as JSON.
///
/// The configuration in force, what is wrong with it, what the servers say of themselves, what 'barman check'
/// finds, what the repositories are and have of each server, the last errors in the log file, and the system
/// this runs on, in one JSON document to attach to a report. Passwords are hidden. With '-f json' the document
/// is one string in "_INFO", as scripts written for Barman expect.
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
    let mut places = Places::new(&session.output);
    let asked = stream::iter(config.servers.iter().map(|(name, server)| {
        let timeout = check::timeout(None, server);
        let place = places.of(&server.repository, Patience::of(timeout));
        async move {
            if !server.active || server.disabled {
                return (name, json!({}));
            }
            let (status, report) =
                futures::join!(Remote::ask(server), checks::run(server, &place, timeout));
            let status = match status {
                Ok(remote) => Value::Object(remote.shown()),
                Err(error) => json!({ "connection_error": error.in_one_line() }),
            };
            (name, json!({ "status": status, "checks": check::describe(&report) }))
        }
    }));
    let mut asked: BTreeMap<&String, Value> =
        asked.buffer_unordered(PARALLEL).boxed_local().collect().await;
    let mut servers: Map<String, Value> = Map::new();
    let repositories = Repositories::new(&session.output);
    for (name, server) in &config.servers {
        let mut shown = asked.remove(name).unwrap_or_default();
        shown["active_model"] = Value::Null;
        shown["config"] = config_of(server.shown(), &server.effective);
        shown["msg_list"] =
            json!(server.messages.iter().map(|m| m.text.as_str()).collect::<Vec<_>>());
        describe(server, &repositories, &mut shown).await;
        servers.insert(name.clone(), shown);
    }
    let models: Map<String, Value> = config
        .models
        .iter()
        .map(|(name, model)| (name.clone(), json!({ "config": model.shown() })))
        .collect();
    let log = config.global.log_file.as_deref();
    let last_errors =
        log.map(|path| last_errors(path).unwrap_or_else(|error| vec![error.to_string()]));
    let document = json!({
        "global": {
            "config": global,
            "system_info": system_info(),
            "last_errors": last_errors,
        },
        "models": models,
        "repositories": describe_repositories(session, &repositories).await,
        "servers": servers,
    });
    session.output.info(format!("{document:#}"));
    Ok(())
}

/// Adds what the repository has of a server.
async fn describe(server: &Server, repositories: &Repositories<'_>, shown: &mut Value) {
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
            shown["repository_error"] = json!(error.in_one_line());
        }
    }
}

/// The repositories that are in use, by their place.
async fn describe_repositories(session: &Session, repositories: &Repositories<'_>) -> Value {
    let config = &session.config;
    let of_servers = config.servers.values().map(|server| &server.repository);
    let mut shown = Map::new();
    for settings in of_servers.chain([&config.global.repository]) {
        let Some(place) = settings.location.as_ref().map(ToString::to_string) else { continue };
        if !shown.contains_key(&place) {
            let described = describe_repository(settings, repositories).await;
            let described =
                described.unwrap_or_else(|error| json!({ "error": error.in_one_line() }));
            shown.insert(place, described);
        }
    }
    Value::Object(shown)
}

async fn describe_repository(
    settings: &RepositorySettings,
    repositories: &Repositories<'_>,
) -> Result<Value> {
    let repository = repositories.at(settings, Access::Read).await?;
    let config = repository.config();
    let time = |micros| Timestamp::from_microsecond(micros).map(human::time).ok();
    let storage = repository.storage();
    let keys = slots::list(storage.as_ref()).await?;
    let keys = keys.iter().map(|slot| {
        let kind = match slot.header.unlock {
            Unlock::KeyFile => "key file",
            Unlock::Password(_) => "password",
            Unlock::PublicKey { .. } => "public key",
        };
        let created = time(slot.header.created_at);
        json!({ "id": slot.id.to_string(), "kind": kind, "label": slot.header.label, "created": created })
    });
    Ok(json!({
        "id": config.repository.to_string(),
        "created": time(config.created_at),
        "format_version": FORMAT_VERSION,
        "features": {
            "read": config.features.read,
            "write": config.features.write,
            "prune": config.features.prune,
        },
        "keys": keys.collect::<Vec<_>>(),
        "sessions": describe_sessions(&repository).await?,
        "free_bytes": storage.space().await.map_err(repository::Error::from)?.map(|space| space.available),
    }))
}

async fn describe_sessions(repository: &Repository) -> Result<Vec<Value>> {
    let found = sessions::list(repository).await?;
    let shown = found.iter().map(|found| {
        let session = found.session.as_ref();
        json!({
            "id": found.id.to_string(),
            "beat": found.beat,
            "beat_time": Timestamp::try_from(found.at).map(human::time).ok(),
            "host": session.map(|session| &session.host),
            "process": session.map(|session| session.process),
            "activity": session.map(|session| format!("{:?}", session.activity)),
        })
    });
    Ok(shown.collect())
}

/// The last warnings and errors in the log file. What is written there has no secrets in it.
fn last_errors(log: &Path) -> io::Result<Vec<String>> {
    if !fs::metadata(log)?.is_file() {
        return Ok(vec![]);
    }
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut tail = vec![];
    file.take(LOG_TAIL).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let is_error = |line: &&str| line.contains(" ERROR ") || line.contains(" WARN ");
    let errors: Vec<&str> = tail.lines().filter(is_error).collect();
    let last = errors.iter().skip(errors.len().saturating_sub(LAST_ERRORS));
    Ok(last.map(ToString::to_string).collect())
}

async fn catalog(server: &Server, repositories: &Repositories<'_>) -> Result<Catalog> {
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
