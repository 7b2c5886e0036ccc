//! `barman repo info`.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use repo_format::FORMAT_VERSION;
use repo_format::names::ObjectName;
use serde_json::json;

use crate::cli::{Session, human, open};
use crate::error::Result;
use crate::repository::index::Index;
use crate::repository::{self, Access, Repository, snapshots};
use crate::storage::Object;

/// Show what the repository is and holds.
///
/// Its identity, format, features, keys, sizes, and how much deduplication saves.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "EXAMPLES:
  barman repo info
  barman -f json repo info";

/// Runs the command.
pub async fn run(_args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let repository = open::repository(settings, Access::Read, |text| output.warning(text)).await?;
    let config = repository.config();
    let objects = repository.storage().list("").await.map_err(repository::Error::from)?;
    let [slots, packs, index, snapshots, wal] = Kind::ALL.map(|kind| Sum::of(kind, &objects));
    let total: u64 = objects.iter().map(|object| object.size).sum();
    let chunks = Index::load(&repository).await?.len();
    let backed_up = backed_up(&repository).await?;
    let created = Timestamp::from_microsecond(config.created_at).unwrap_or_default();
    let features = [&config.features.read, &config.features.write, &config.features.prune]
        .map(|names| if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    let counted = |sum: Sum| format!("{} ({})", sum.count, human::size(sum.bytes));
    for (label, value) in [
        ("Id", config.repository.to_string()),
        ("Location", repository.location()),
        ("Created", human::time_with_offset(created)),
        ("Format version", FORMAT_VERSION.to_string()),
        ("Features to read", features[0].clone()),
        ("Features to write", features[1].clone()),
        ("Features to prune", features[2].clone()),
        ("Keys", slots.count.to_string()),
        ("Backups", counted(snapshots)),
        ("Packs", counted(packs)),
        ("Index runs", counted(index)),
        ("Chunks", chunks.to_string()),
        ("WAL files", counted(wal)),
        ("Total size", human::size(total)),
        ("Size of all backups", format!("{} as restored", human::size(backed_up))),
        ("Reduction", reduction(backed_up, packs.bytes)),
    ] {
        output.print(format!("{label:<20}: {value}"));
    }
    output.result(
        "repository",
        json!({
            "id": config.repository.to_string(),
            "location": repository.location(),
            "created": human::time(created),
            "created_timestamp": human::epoch(created),
            "format_version": FORMAT_VERSION,
            "features": {
                "read": config.features.read,
                "write": config.features.write,
                "prune": config.features.prune,
            },
            "keys": slots.count,
            "backups": snapshots.count,
            "packs": packs.count,
            "packs_bytes": packs.bytes,
            "index_runs": index.count,
            "index_bytes": index.bytes,
            "chunks": chunks,
            "wal_files": wal.count,
            "wal_bytes": wal.bytes,
            "total_bytes": total,
            "restored_bytes": backed_up,
        }),
    );
    Ok(())
}

/// Kinds of objects that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Slot,
    Pack,
    Index,
    Snapshot,
    Wal,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Slot, Kind::Pack, Kind::Index, Kind::Snapshot, Kind::Wal];

    fn of(object: &Object) -> Option<Self> {
        Some(match ObjectName::parse(&object.name)? {
            ObjectName::KeySlot(_) => Kind::Slot,
            ObjectName::Pack(_) => Kind::Pack,
            ObjectName::Index(_) => Kind::Index,
            ObjectName::Snapshot(_) => Kind::Snapshot,
            ObjectName::Wal(_) => Kind::Wal,
            _ => return None,
        })
    }
}

/// How many objects, and how large together.
#[derive(Debug, Clone, Copy)]
struct Sum {
    count: u64,
    bytes: u64,
}

impl Sum {
    fn of(kind: Kind, objects: &[Object]) -> Self {
        let of_kind = objects.iter().filter(|object| Kind::of(object) == Some(kind));
        of_kind.fold(Sum { count: 0, bytes: 0 }, |sum, object| Sum {
            count: sum.count + 1,
            bytes: sum.bytes + object.size,
        })
    }
}

/// The bytes of all files of all backups, as a restore would write them.
async fn backed_up(repository: &Repository) -> Result<u64> {
    let names = snapshots::names(repository, None).await?;
    let sizes: Vec<u64> = stream::iter(names)
        .map(|name| async move {
            match snapshots::read(repository, &name).await {
                Err(error) if error.is_not_found() => Ok(0),
                snapshot => Ok::<_, repository::Error>(snapshot?.statistics.bytes),
            }
        })
        .buffer_unordered(8)
        .try_collect()
        .await?;
    Ok(sizes.iter().sum())
}

/// How many times smaller the packs are than what they hold.
fn reduction(restored: u64, stored: u64) -> String {
    if stored == 0 {
        return "-".to_owned();
    }
    format!(
        "{:.1} times smaller, by deduplication and compression",
        restored as f64 / stored as f64
    )
}
