//! `barman status`.

use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::open::Repositories;
use super::output::shown;
use super::remote::Remote;
use super::{Session, human};
use crate::catalog::{self, Catalog};
use crate::config::Server;
use crate::error::Result;
use crate::repository::Access;

/// Show the state of one or more servers.
///
/// What the running PostgreSQL says of itself, and what the repository holds of it: version, size, how far
/// WAL has been archived, the first and last backup.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman status main
  barman -f json status all";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let mut repositories = Repositories::new(output);
    for server in session.servers(&args.server_name) {
        let mut status = Status::default();
        of_server(server, &mut status);
        match Remote::ask(server).await {
            Ok(remote) => of_postgres(&remote, &mut status),
            Err(error) => {
                status.add(
                    "pg_version",
                    "PostgreSQL version",
                    "FAILED trying to get PostgreSQL version",
                );
                output.warning(error.context(format!("server {}", server.name)));
            }
        }
        match catalog(server, &mut repositories).await {
            Ok(catalog) => of_catalog(server, &catalog, &mut status),
            Err(error) => output.failure(&error.context(format!("server {}", server.name))),
        }
        output.print(format!("Server {}:", server.name));
        for (_, description, message) in &status.lines {
            output.print(format!("\t{description}: {message}"));
        }
        let shown: Map<String, Value> = status
            .lines
            .into_iter()
            .map(|(key, description, message)| {
                (key.to_owned(), json!({ "description": description, "message": message }))
            })
            .collect();
        output.result(&server.name, shown);
    }
    Ok(())
}

/// The lines of a status: key, description, message.
#[derive(Default)]
struct Status {
    lines: Vec<(&'static str, &'static str, String)>,
}

impl Status {
    fn add(&mut self, key: &'static str, description: &'static str, message: impl Into<String>) {
        self.lines.push((key, description, message.into()));
    }
}

async fn catalog(server: &Server, repositories: &mut Repositories<'_>) -> Result<Catalog> {
    let repository = repositories.of(server, Access::Read).await?;
    Catalog::load(&repository, &server.name).await
}

fn of_server(server: &Server, status: &mut Status) {
    let description = server.description.clone().unwrap_or_default();
    status.add("description", "Description", description);
    status.add("active", "Active", shown(&json!(server.active)));
    status.add("disabled", "Disabled", shown(&json!(server.disabled)));
    status.add("passive_node", "Passive node", "False");
    let policy = match &server.retention_policy {
        Some(policy) => format!("enforced (mode: auto, retention: {policy}, WAL retention: MAIN)"),
        None => "not enforced".to_owned(),
    };
    status.add("retention_policies", "Retention policies", policy);
}

fn of_postgres(remote: &Remote, status: &mut Status) {
    let time = |at: Option<SystemTime>| {
        at.and_then(|at| Timestamp::try_from(at).ok())
            .map(human::time_with_offset)
            .unwrap_or_default()
    };
    let archiver = &remote.archiver;
    status.add("pg_version", "PostgreSQL version", &*remote.version);
    let state = if remote.in_recovery { "in archive recovery" } else { "in production" };
    status.add("is_in_recovery", "Cluster state", state);
    if let Some(size) = remote.size {
        status.add("current_size", "Current data size", human::size(size));
    }
    if let Some(directory) = &remote.data_directory {
        status.add("data_directory", "PostgreSQL Data directory", directory);
    }
    if let Some(segment) = &remote.current_wal {
        status.add("current_xlog", "Current WAL segment", segment);
    }
    let command = remote.setting("archive_command");
    status.add("archive_command", "PostgreSQL 'archive_command' setting", command);
    let last = match &archiver.last_archived_wal {
        Some(file) => format!("{file}, at {}", time(archiver.last_archived_time)),
        None => "No WAL segment shipped yet".to_owned(),
    };
    status.add("last_archived_wal", "Last archived WAL", last);
    let failures = match &archiver.last_failed_wal {
        Some(file) => {
            format!("{} ({file} at {})", archiver.failed_count, time(archiver.last_failed_time))
        }
        None => archiver.failed_count.to_string(),
    };
    status.add("failed_count", "Failures of WAL archiver", failures);
    if let Some(rate) = remote.archived_per_hour() {
        let rate = format!("{rate:.2}/hour");
        status.add("server_archived_wals_per_hour", "Server WAL archiving rate", rate);
    }
}

fn of_catalog(server: &Server, catalog: &Catalog, status: &mut Status) {
    let usable: Vec<&str> = catalog.usable().map(|(backup, _)| backup.id.as_str()).collect();
    status.add("backups_number", "No. of available backups", usable.len().to_string());
    let id = |id: Option<&&str>| (*id.unwrap_or(&"None")).to_owned();
    status.add("first_backup", "First available backup", id(usable.first()));
    status.add("last_backup", "Last available backup", id(usable.last()));
    let done = catalog.backups.iter().filter(|b| b.status() == catalog::Status::Done).count();
    let minimum = server.minimum_redundancy;
    let enough = done >= usize::try_from(minimum).unwrap_or(usize::MAX);
    let word = if enough { "satisfied" } else { "FAILED" };
    let message = format!("{word} ({done}/{minimum})");
    status.add("minimum_redundancy", "Minimum redundancy requirements", message);
}
