//! `barman delete`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use repo_format::names::{BackupName, ObjectName};
use serde_json::{Value, json};

use super::open::Repositories;
use super::output::Output;
use super::{Session, human};
use crate::catalog::expiry::{self, ExpiredWal};
use crate::catalog::{Backup, Catalog, deletion};
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::TimelineId;
use crate::repository::{Access, Repository, prune};

/// Delete one backup.
///
/// Refused when the backup is kept ('barman keep'), when a restore or a backup uses it, and when fewer than
/// minimum_redundancy complete backups would be left. Every backup is complete by itself, so deleting one
/// harms no other. The WAL that no other backup needs goes at once; what only this backup used of the
/// repository's packs is freed by 'barman repo prune', which 'barman cron' runs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
    /// Only tell what would be deleted, and what could no longer be restored
    #[arg(long)]
    pub dry_run: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman delete main 20260101T010203
  barman delete main oldest --dry-run";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server(&args.server_name)?;
    let access = if args.dry_run { Access::Read } else { Access::Prune };
    let repository = Repositories::new(output).of(server, access).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let backup = catalog.find(&args.backup_id)?;
    if let Some(reason) = deletion::obstacle(&repository, server, &catalog, backup).await? {
        output.warning(reason);
        let message = format!("Cannot delete backup '{}' of server '{}'", backup.id, server.name);
        return Err(Error::new(Kind::Refused, message));
    }
    let remaining = catalog.without(&backup.id);
    let windows = (Window::of(&catalog), Window::of(&remaining));
    if args.dry_run {
        let bar = session.progress("looking what is needed");
        let found = preview(&repository, &remaining, backup, &server.name, &bar.observer()).await;
        bar.finish();
        let (wal, bytes) = found?;
        output.print(format!("Would delete backup {} of server {}", backup.id, server.name));
        print_wal("Would delete", &wal, output);
        output.print(format!("Would free {} of packs", human::size(bytes)));
        print_window(&windows, output);
        output.result(&server.name, describe(backup, &wal, &windows, Some(bytes)));
        return Ok(());
    }
    output.info(format!("Deleting backup {} of server {}", backup.id, server.name));
    deletion::delete(&repository, &server.name, &backup.id, "barman delete").await?;
    let wal = deletion::retire_wal(&repository, &remaining).await?;
    print_wal("Deleted", &wal, output);
    print_window(&windows, output);
    output.info(format!("Deleted backup {} of server {}", backup.id, server.name));
    output.info("What only this backup used is freed by: barman repo prune (or barman cron)");
    output.result(&server.name, describe(backup, &wal, &windows, None));
    Ok(())
}

/// The WAL that would go, and the bytes of packs that nothing else needs.
async fn preview(
    repository: &Arc<Repository>,
    remaining: &Catalog,
    backup: &Backup,
    server: &str,
    progress: &crate::progress::Progress,
) -> Result<(Vec<ExpiredWal>, u64)> {
    let wal = expiry::expired_wal(repository, remaining).await?;
    let names: Vec<BackupName> = backup.snapshot.iter().map(|s| s.backup_name()).collect();
    let expired: Vec<ObjectName> = deletion::leftovers(repository).await?;
    tracing::debug!("{server}: {} objects are deleted already", expired.len());
    let bytes = prune::bytes_only_of(repository, &names, &expired, progress).await?;
    Ok((wal, bytes))
}

/// From when to when a server can be restored to any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window(Option<Timestamp>);

impl Window {
    /// It begins with the oldest backup that holds the WAL after it.
    fn of(catalog: &Catalog) -> Self {
        let mut recoverable = catalog.usable().filter(|(backup, _)| !backup.is_standalone());
        let begins = recoverable.next().map(|(_, snapshot)| snapshot.ended_at);
        Window(begins.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
    }

    fn describe(self) -> Value {
        json!(self.0.map(|begins| begins.to_string()))
    }
}

fn print_window((before, after): &(Window, Window), output: &Output) {
    match (before.0, after.0) {
        (before, after) if before == after => {}
        (Some(before), Some(after)) => output.warning(format!(
            "the recovery window begins at {} instead of {}",
            human::time_with_offset(after),
            human::time_with_offset(before)
        )),
        _ => output.warning("no moment can be restored any more until there is another backup"),
    }
}

/// One line for each timeline.
fn print_wal(done: &str, wal: &[ExpiredWal], output: &Output) {
    let mut timelines: BTreeMap<TimelineId, Vec<&ExpiredWal>> = BTreeMap::new();
    for expired in wal {
        timelines.entry(expired.file.timeline()).or_default().push(expired);
    }
    for files in timelines.values() {
        let (Some(first), Some(last)) = (files.first(), files.last()) else { continue };
        let bytes = human::size(files.iter().map(|wal| wal.stored_size).sum());
        let files = match files.len() {
            1 => format!("1 WAL file, {}", first.file),
            count => format!("{count} WAL files, {} to {}", first.file, last.file),
        };
        output.info(format!("{done} {files} ({bytes})"));
    }
}

fn describe(
    backup: &Backup,
    wal: &[ExpiredWal],
    (before, after): &(Window, Window),
    freed: Option<u64>,
) -> Value {
    let mut shown = json!({
        "backup_id": backup.id,
        "dry_run": freed.is_some(),
        "wal_files": wal.iter().map(|wal| wal.file.to_string()).collect::<Vec<_>>(),
        "wal_size_bytes": wal.iter().map(|wal| wal.stored_size).sum::<u64>(),
        "recovery_window_begin": after.describe(),
        "recovery_window_begin_before": before.describe(),
    });
    if let Some(freed) = freed {
        shown["freed_bytes"] = json!(freed);
    }
    shown
}
