//! `barman list-backups`.

use jiff::Timestamp;
use repo_format::snapshot::Snapshot;
use serde_json::{Value, json};

use super::backup_info::{self, LETTER, TYPE};
use super::open::Repositories;
use super::output::Output;
use super::{Session, human};
use crate::catalog::retention::{self, Retention};
use crate::catalog::{Backup, Catalog, Status};
use crate::config::Server;
use crate::error::Result;
use crate::repository::Access;

/// List the backups of one or more servers.
///
/// One line a backup, the newest first: its id, its name, when it ended, its size, and the size of the WAL
/// since.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Print the ids only
    #[arg(long)]
    pub minimal: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman list-backups main
  barman list-backups all --minimal
  barman -f json list-backups main";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let mut repositories = Repositories::new(output);
    for server in session.servers_or_known(&args.server_name, &mut repositories).await? {
        match list(&server, &mut repositories, args.minimal, output).await {
            Ok(shown) => output.result(&server.name, shown),
            Err(error) => output.failure(&error.context(format!("server {}", server.name))),
        }
    }
    Ok(())
}

async fn list(
    server: &Server,
    repositories: &mut Repositories<'_>,
    minimal: bool,
    output: &Output,
) -> Result<Vec<Value>> {
    let repository = repositories.of(server, Access::Read).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let retentions = retention::of(&catalog.backups, server, Timestamp::now());
    let newest_first = catalog.backups.iter().zip(retentions).rev();
    if minimal {
        return Ok(newest_first
            .map(|(backup, _)| {
                output.print(&backup.id);
                json!(backup.id)
            })
            .collect());
    }
    Ok(newest_first
        .map(|(backup, retention)| {
            output.print(line(&server.name, backup, retention));
            describe(backup, retention)
        })
        .collect())
}

/// One line in the form of Barman, which scripts parse.
fn line(server: &str, backup: &Backup, retention: Retention) -> String {
    let mut line = format!("{server} {}", backup.id);
    if let Some(name) = backup.name() {
        line.push_str(&format!(" '{name}'"));
    }
    line.push_str(&format!(" - {LETTER}"));
    let Some((snapshot, sizes)) = finished(backup) else {
        return format!("{line} - {}", backup.status().name());
    };
    let ended = human::time(backup_info::time(snapshot.ended_at));
    line.push_str(&format!(
        " - {ended} - Size: {} - WAL Size: {}",
        human::size(sizes.backup),
        human::size(sizes.wal)
    ));
    if backup.status() == Status::WaitingForWals {
        line.push_str(&format!(" - {}", backup.status().name()));
    }
    match retention {
        Retention::None => line,
        known => format!("{line} - {}", known.name()),
    }
}

fn describe(backup: &Backup, retention: Retention) -> Value {
    let mut shown = json!({
        "backup_id": backup.id,
        "backup_type": TYPE,
        "status": backup.status().name(),
    });
    if let Some(name) = backup.name() {
        shown["backup_name"] = json!(name);
    }
    if let Some((snapshot, sizes)) = finished(backup) {
        let ended = backup_info::time(snapshot.ended_at);
        shown["end_time_timestamp"] = json!(human::epoch(ended));
        shown["end_time"] = json!(human::time(ended));
        shown["size_bytes"] = json!(sizes.backup);
        shown["size"] = json!(human::size(sizes.backup));
        shown["wal_size_bytes"] = json!(sizes.wal);
        shown["wal_size"] = json!(human::size(sizes.wal));
        shown["retention_status"] = json!(retention.name());
    }
    if let Some(rehearsal) = &backup.rehearsal {
        shown["rehearsal"] = backup_info::rehearsal(rehearsal);
    }
    shown
}

/// What the list shows of sizes, in bytes.
struct Sizes {
    /// The backup with the WAL that makes it consistent.
    backup: u64,
    /// The WAL after it.
    wal: u64,
}

fn finished(backup: &Backup) -> Option<(&Snapshot, Sizes)> {
    let snapshot = backup.usable().ok()?;
    let sizes = Sizes {
        backup: snapshot.statistics.bytes + backup.needed.stored_bytes,
        wal: backup.following.stored_bytes,
    };
    Some((snapshot, sizes))
}
