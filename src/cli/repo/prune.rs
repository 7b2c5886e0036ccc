//! `barman repo prune`.

use serde_json::json;

use crate::catalog::deletion;
use crate::cli::{Session, human, open};
use crate::error::Result;
use crate::repository::Access;
use crate::repository::prune::{Plan, Pruner};

/// Free the space of what was deleted.
///
/// Deletes the packs that no backup needs any more; packs of which little is needed are written anew without
/// the rest. Refused while a backup or a restore is running. 'barman cron' does this by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only tell what would be freed
    #[arg(long)]
    pub dry_run: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo prune --dry-run
  barman repo prune";

/// Runs the command.
pub async fn run(args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let repository = open::repository(settings, Access::Prune, |text| output.warning(text)).await?;
    let pruner = Pruner::begin(&repository).await?;
    let bar = session.progress("pruning");
    let progress = bar.observer();
    let ended =
        pruner.run(&progress, args.dry_run, async || deletion::leftovers(&repository).await).await;
    bar.finish();
    if !args.dry_run {
        repository.storage().ensure_reserve(settings.reserve).await?;
    }
    let Plan { objects, packs, bytes, copied, .. } = &ended?;
    let plan = Plan { bytes: *bytes, copied: *copied, ..Plan::default() };
    let done = if args.dry_run { "Would free" } else { "Freed" };
    output.print(match packs.len() + objects.len() {
        0 => "Nothing to free: everything in the repository is needed".to_owned(),
        _ => format!(
            "{done} {}: {}, and {} other objects",
            human::size(plan.freed()),
            taken(packs.len(), *copied),
            objects.len()
        ),
    });
    output.result(
        "repository",
        json!({
            "dry_run": args.dry_run,
            "packs": packs.len(),
            "objects": objects.len(),
            "bytes_deleted": bytes,
            "bytes_copied": copied,
            "bytes_freed": plan.freed(),
        }),
    );
    Ok(())
}

/// The packs that go, and how much of them stays.
fn taken(packs: usize, copied: u64) -> String {
    match copied {
        0 => format!("{packs} packs"),
        _ => format!("{packs} packs, of which {} is needed and written anew", human::size(copied)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_anew_is_told_where_anything_is() {
        assert_eq!(taken(3, 0), "3 packs");
        let some = taken(3, 1 << 20);
        assert_eq!(some, "3 packs, of which 1.0 MiB is needed and written anew");
    }
}
