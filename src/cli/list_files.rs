//! `barman list-files`.

use std::collections::BTreeSet;
use std::sync::Arc;

use repo_format::tree::{DirectoryRef, Node};

use super::Session;
use super::open::Repositories;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::postgres::wal_name::SegmentName;
use crate::repository::index::Index;
use crate::repository::reader::Reader;
use crate::repository::{self, Access};

/// List the files of one backup.
///
/// The paths that a restore would write, one a line. --target says which: 'data' are the files of the base
/// backup, 'standalone' adds the WAL it needs to be consistent, 'wal' is all WAL from its beginning to
/// the next backup, and 'full' is everything.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or last-failed
    pub backup_id: String,
    /// Which files
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// List directories that are empty too
    #[arg(long)]
    pub list_empty_directories: bool,
}

/// Which files to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The base backup, and the WAL it needs to be consistent
    #[default]
    Standalone,
    /// The base backup only
    Data,
    /// The WAL from its beginning to the next backup
    Wal,
    /// The base backup and all that WAL
    Full,
}

const EXAMPLES: &str = "EXAMPLES:
  barman list-files main latest
  barman list-files main latest --target full";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server(&args.server_name)?;
    let repository = Repositories::new(output).of(server, Access::Read).await?;
    let catalog = Catalog::load(&repository, &server.name).await?;
    let backup = catalog.find(&args.backup_id)?;
    let snapshot = backup.usable()?;
    if args.target != Target::Wal {
        let index = Arc::new(Index::load(&repository).await?);
        let reader = Reader::new(repository.clone(), index);
        let trees: Vec<DirectoryRef> = snapshot.trees().cloned().collect();
        let walked = tokio::task::spawn_blocking(move || {
            let mut paths = vec![];
            // Configuration outside the data directory has absolute paths.
            for (tree, prefix) in trees.iter().zip(["", "/"]) {
                walk(&reader, tree, prefix, args.list_empty_directories, &mut paths)?;
            }
            Ok::<_, repository::Error>(paths)
        });
        let paths = walked.await.unwrap_or_else(|p| std::panic::resume_unwind(p.into_panic()))?;
        paths.iter().for_each(|path| output.listing(path));
    }
    let wanted = match args.target {
        Target::Data => BTreeSet::new(),
        Target::Standalone => backup.needed.segments.iter().copied().collect(),
        Target::Wal | Target::Full => {
            let following = backup.following.names.iter();
            backup.needed.segments.iter().chain(following).copied().collect()
        }
    };
    let missing: BTreeSet<SegmentName> = wanted
        .iter()
        .copied()
        .filter(|segment| !catalog.wal.get(&snapshot.system_id).is_some_and(|w| w.has(*segment)))
        .collect();
    wanted.difference(&missing).for_each(|segment| output.listing(format!("pg_wal/{segment}")));
    for segment in missing {
        output.warning(format!("{segment} is not archived yet"));
    }
    Ok(())
}

/// Adds the paths below a directory, in the order of the tree.
fn walk(
    reader: &Reader,
    directory: &DirectoryRef,
    prefix: &str,
    empty_directories: bool,
    paths: &mut Vec<String>,
) -> repository::Result<()> {
    let mut entries = reader.entries(directory)?.peekable();
    if entries.peek().is_none() && empty_directories && !prefix.is_empty() {
        paths.push(prefix.to_owned());
    }
    for entry in entries {
        let entry = entry?;
        let path = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        match entry.node {
            Node::Directory { entries, .. } => {
                walk(reader, &entries, &format!("{path}/"), empty_directories, paths)?;
            }
            Node::File(_) | Node::Symlink { .. } => paths.push(path),
        }
    }
    Ok(())
}
