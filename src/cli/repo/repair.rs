//! `barman repo repair`.

use std::sync::Arc;

use serde_json::json;

use crate::cli::{Session, open};
use crate::error::{Error, Result};
use crate::repository::index::Index;
use crate::repository::{Access, Repository, repair, snapshots};

/// Bring back what can be made again from the rest.
///
/// 'barman repo check' tells what is damaged, and which of these commands helps. They add what is missing
/// and delete nothing that can be read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum What {
    /// Make the index anew for packs that no sound part of it names
    ///
    /// Backups and restores work without: they read the ends of the packs instead, which takes longer.
    /// Damaged parts of the index are replaced, and stay where they are.
    #[command(after_help = INDEX_EXAMPLES)]
    Index,
    /// Save what is intact in damaged packs
    ///
    /// Reads all packs, and copies what is intact in a damaged one into a new pack. What is lost then counts as
    /// missing: the next backup stores it again, if the server still has it, which may bring older backups back,
    /// too. The damaged packs are removed by 'barman repo prune'.
    #[command(after_help = PACKS_EXAMPLES)]
    Packs,
    /// Put lost or damaged snapshots back from the copies in the packs
    ///
    /// A snapshot is what makes a backup of its chunks; each is kept twice. Backups that were deleted or
    /// that failed stay as they are.
    #[command(after_help = SNAPSHOTS_EXAMPLES)]
    Snapshots {
        /// Only tell which ones
        #[arg(long)]
        dry_run: bool,
    },
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo repair index
  barman repo repair snapshots --dry-run";

const INDEX_EXAMPLES: &str = "EXAMPLES:
  barman repo repair index
  barman -f json repo repair index";

const PACKS_EXAMPLES: &str = "EXAMPLES:
  barman repo check --read-data
  barman repo repair packs";

const SNAPSHOTS_EXAMPLES: &str = "EXAMPLES:
  barman repo repair snapshots --dry-run
  barman repo repair snapshots";

/// Runs the command.
pub async fn run(args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let repository = open::repository(settings, Access::Write, |text| output.warning(text)).await?;
    match args.what {
        What::Index => index(&repository, session).await,
        What::Packs => packs(&repository, session).await,
        What::Snapshots { dry_run } => put_snapshots_back(&repository, dry_run, session).await,
    }
}

async fn index(repository: &Arc<Repository>, session: &Session) -> Result<()> {
    let output = &session.output;
    let repair::RepairedIndex { packs, replaced, unreadable } =
        repair::repair_index(repository).await?;
    output.print(match packs + replaced {
        0 => "The index names all packs already; nothing was changed".to_owned(),
        _ => format!("Packs added to the index: {packs}; damaged runs replaced: {replaced}"),
    });
    if unreadable > 0 {
        output.warning(format!("of {unreadable} packs nothing can be read: barman repo check"));
    }
    output.result(
        "repair",
        json!({
            "packs_added": packs,
            "runs_replaced": replaced,
            "packs_unreadable": unreadable,
        }),
    );
    Ok(())
}

async fn packs(repository: &Arc<Repository>, session: &Session) -> Result<()> {
    let output = &session.output;
    let bar = session.progress("repairing");
    let repaired = repair::repair_packs(repository, &bar.observer()).await;
    bar.finish();
    let repair::RepairedPacks { damaged, saved } = repaired?;
    output.print(match damaged.len() {
        0 => "No pack is damaged; nothing was changed".to_owned(),
        count => format!("Damaged packs: {count}; intact blobs in them that were saved: {saved}"),
    });
    if !damaged.is_empty() {
        output.info(
            "Run a backup of each server now: it stores again what was lost and is still there",
        );
        output.info("See what is still missing, and in which backups: barman repo check");
    }
    let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    output.result("repair", json!({ "damaged_packs": damaged, "blobs_saved": saved }));
    Ok(())
}

async fn put_snapshots_back(
    repository: &Arc<Repository>,
    dry_run: bool,
    session: &Session,
) -> Result<()> {
    let output = &session.output;
    // From the packs: where snapshots are lost, parts of the index may be too.
    let index = Arc::new(Index::rebuild(repository).await?);
    let (sound, _) = snapshots::all(repository, None).await?;
    let lost = repair::lost_snapshots(repository, &index, &sound).await?;
    if lost.is_empty() {
        output.print("No snapshot is lost of which there is a copy; nothing was changed");
    }
    let mut repaired = vec![];
    for snapshot in &lost {
        let backup = format!("{}/{}", snapshot.server, snapshot.backup_id);
        if dry_run {
            output.print(format!("Backup {backup} can be put back"));
            continue;
        }
        match repair::put_snapshot_back(repository, &index, snapshot).await {
            Ok(()) => {
                output.print(format!("Backup {backup} is back"));
                repaired.push(backup);
            }
            Err(error) => output.failure(&Error::from(error).context(format!("backup {backup}"))),
        }
    }
    let found: Vec<_> = lost.iter().map(|s| format!("{}/{}", s.server, s.backup_id)).collect();
    output.result("repair", json!({ "found": found, "put_back": repaired }));
    Ok(())
}
