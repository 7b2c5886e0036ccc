//! `barman delete`.

use repo_format::note::Fact;

use super::Session;
use super::open::Repositories;
use crate::catalog::{Backup, Catalog, Status};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::repository::{Access, notes};

/// Delete one backup.
///
/// Refused when the backup is kept ('barman keep'), and when fewer than minimum_redundancy would be left.
/// Every backup is complete by itself, so deleting one harms no other. What only this backup used becomes
/// free with the next maintenance.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman delete main 20260101T010203
  barman delete main oldest";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server(&args.server_name)?;
    let repository = Repositories::new(output).of(server, Access::Write).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let backup = catalog.find(&args.backup_id)?;
    if let Some(reason) = refusal(server, &catalog, backup) {
        output.warning(reason);
        let message = format!("Cannot delete backup '{}' of server '{}'", backup.id, server.name);
        return Err(Error::new(Kind::Refused, message));
    }
    let fact = Fact::Deleted { reason: "barman delete".to_owned() };
    notes::add(&repository, &server.name, &backup.id, fact).await?;
    output.info(format!("Deleted backup {} of server {}", backup.id, server.name));
    output.info("The space that only this backup used is freed by the next maintenance.");
    Ok(())
}

/// Why a backup must stay.
fn refusal(server: &Server, catalog: &Catalog, backup: &Backup) -> Option<String> {
    let (id, name) = (&backup.id, &server.name);
    if backup.status() == Status::Started {
        return Some(format!("backup {id} of server {name} is being made"));
    }
    if backup.keep.is_some() {
        return Some(format!(
            "backup {id} of server {name} is kept; to delete it, release it first: \
             barman keep {name} {id} --release"
        ));
    }
    if let [note, ..] = backup.unreadable_notes.as_slice() {
        return Some(format!(
            "{note} is damaged: it may say that backup {id} of server {name} is kept; say anew \
             whether it is: barman keep {name} {id} --target full, or --release"
        ));
    }
    let done = catalog.backups.iter().filter(|backup| backup.status() == Status::Done).count();
    let minimum = usize::try_from(server.minimum_redundancy).unwrap_or(usize::MAX);
    (backup.status() == Status::Done && done <= minimum).then(|| {
        format!(
            "backup {id} of server {name} must stay because of minimum redundancy requirements \
             (minimum redundancy = {minimum}, current redundancy = {done})"
        )
    })
}
