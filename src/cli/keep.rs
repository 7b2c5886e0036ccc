//! `barman keep`.

use repo_format::note::{Fact, KeepTarget};
use serde_json::json;

use super::Session;
use super::open::Repositories;
use crate::catalog::Catalog;
use crate::error::{Error, Kind, Result};
use crate::repository::{Access, notes};

/// Keep a backup from being deleted.
///
/// A kept backup is never deleted, neither by a retention policy nor by 'barman delete', until it is
/// released. With --target full the WAL from its beginning on stays too; with --target standalone only the
/// WAL it needs to be consistent.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
    /// What to do.
    #[command(flatten)]
    pub action: Action,
}

/// What to do; exactly one of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Action {
    /// Release the backup
    #[arg(short, long)]
    pub release: bool,
    /// Say whether the backup is kept, and how
    #[arg(short, long)]
    pub status: bool,
    /// Keep it, with this much WAL
    #[arg(long, value_enum)]
    pub target: Option<Target>,
}

/// How much WAL a kept backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// All from its beginning on: every later moment can be restored
    Full,
    /// What it needs to be consistent
    Standalone,
}

const EXAMPLES: &str = "EXAMPLES:
  barman keep main latest --target full
  barman keep main 20260101T010203 --status
  barman keep main 20260101T010203 --release";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server(&args.server_name)?;
    let access = if args.action.status { Access::Read } else { Access::Write };
    let repository = Repositories::new(output).of(server, access).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let backup = catalog.find(&args.backup_id)?;
    let fact = match args.action {
        Action { target: Some(target), .. } => {
            backup.usable()?;
            Fact::Keep(target.into())
        }
        Action { release: true, .. } => Fact::Release,
        Action { .. } => {
            let kept = match backup.keep {
                Some(KeepTarget::Full) => "full",
                Some(KeepTarget::Standalone) => "standalone",
                None => "nokeep",
            };
            output.print(format!("Server {}:\n\tKeep: {kept}", server.name));
            let status = json!({ "keep_status": { "description": "Keep", "message": kept } });
            output.result(&server.name, status);
            return Ok(());
        }
    };
    let done = match fact {
        Fact::Release => "is kept no longer",
        _ => "is kept",
    };
    notes::add(&repository, &server.name, &backup.id, fact).await?;
    // Who deletes it looks after its own note, too: one of the two sees the other.
    let known = notes::of_server(&repository, &server.name).await?;
    if known.get(&backup.id).is_some_and(|notes| notes.deleted) {
        let message = format!("backup {} of server {} was just deleted", backup.id, server.name);
        return Err(Error::new(Kind::Refused, message));
    }
    output.info(format!("Backup {} of server {} {done}", backup.id, server.name));
    Ok(())
}

impl From<Target> for KeepTarget {
    fn from(target: Target) -> Self {
        match target {
            Target::Full => KeepTarget::Full,
            Target::Standalone => KeepTarget::Standalone,
        }
    }
}
