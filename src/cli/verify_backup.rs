//! `barman verify-backup`.

use super::open::Repositories;
use super::{Session, human};
use crate::catalog::Catalog;
use crate::catalog::verify::verify;
use crate::error::{Error, Kind, Result};
use crate::repository::Access;

/// Read a backup back and verify it.
///
/// Reads every file of the backup from the repository, decrypts and decodes it and compares its digest.
/// Nothing is written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-full
    pub backup_id: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman verify-backup main latest";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server(&args.server_name)?;
    let repository = Repositories::new(output).of(server, Access::Read).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let backup = catalog.find(&args.backup_id)?;
    let snapshot = backup.usable()?;
    let bar = session.progress("verifying");
    let verified =
        verify(&repository, backup, snapshot, server.workers(None), &bar.observer()).await;
    bar.finish();
    let verified = verified?;
    for damage in &verified.damaged {
        output.error(format!("{}: {}", damage.path, damage.reason));
    }
    for gap in &backup.needed.gaps {
        output.warning(format!("{gap} is not archived yet: the backup needs it to be consistent"));
    }
    output.print(format!(
        "Verified {} files ({}) and {} WAL files of backup {}",
        verified.files,
        human::size(verified.bytes),
        verified.wal_files,
        backup.id
    ));
    if !verified.damaged.is_empty() {
        return Err(Error::new(
            Kind::Damaged,
            format!("backup {} is damaged in {} files", backup.id, verified.damaged.len()),
        )
        .hint("see which objects are damaged: barman repo check --read-data"));
    }
    let whose = format!("Backup {} of server {}", backup.id, server.name);
    output.info(match backup.needed.gaps.first() {
        None => format!("{whose} is sound"),
        Some(gap) => {
            format!("{whose}: its files are sound; it cannot be restored before {gap} is archived")
        }
    });
    Ok(())
}
