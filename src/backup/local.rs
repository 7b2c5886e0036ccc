//! A backup of which this program reads the files itself, on the host of the server.
//!
//! ```text
//! pg_backup_start → walk → readers, several at a time → pg_control → pg_backup_stop
//! ```
//!
//! What is read, and what is left out, is what a server streams ([`walk`]): both give the same snapshot.

mod read;
mod walk;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use repo_format::chunk::ChunkKind;
use repo_format::tree::File;

use super::copy::Copied;
use super::source::{self, Means, Read, Taken};
use super::{Request, ServerFacts};
use crate::blocking::blocking;
use crate::chunking::Grid;
use crate::chunking::writer::{StoredContent, store_bytes};
use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::{BackupLabel, MappedTablespace, format_tablespace_map};
use crate::postgres::base_backup::WalPosition;
use crate::postgres::control_file::{CONTROL_FILE, ControlFile};
use crate::postgres::lsn::Lsn;
use crate::postgres::sql::{SqlConnection, StoppedBackup};
use crate::progress::Progress;
use crate::repository::writer::Writer;
use read::{Reading, read};

/// A server writes when it was started into its lock file before it knows it itself: with much memory to set up, this
/// much earlier.
const START: Duration = Duration::from_secs(600);

/// The control file is written in one piece, which a reader may see half of.
const CONTROL_TRIES: u32 = 20;

/// Takes a backup of the files of the server that `sql` leads to.
pub async fn take(
    request: &Request,
    facts: &ServerFacts,
    sql: SqlConnection,
    means: Means,
    progress: &Progress,
) -> Result<Taken> {
    let Means { mut replication, mut writer, known, mut wal, .. } = means;
    let directory_mode = source::directory_mode(&mut replication).await?;
    let timeline = replication.identify_system().await?.timeline;
    let data = data_directory(&sql, facts).await?;
    progress.phase("waiting for a checkpoint", None);
    let label = format!("barman backup of {}", request.server);
    let begun = sql.start_backup(&label, request.fast_checkpoint);
    let start = WalPosition { lsn: begun.await.map_err(not_allowed)?, timeline };
    let copy_began = Instant::now();
    wal.begin_at(start);
    progress.phase("copying", Some(facts.size));
    let stopping = Stopping::default();
    let reading = {
        let (progress, stop) = (progress.clone(), stopping.0.clone());
        let reading = Reading {
            data: data.clone(),
            major: facts.version / 10_000,
            verify_pages: facts.checksums,
            directory_mode,
            threads: request.threads,
            max_rate: request.max_rate,
        };
        blocking(move || {
            let files = read(&reading, &mut writer, known, &stop, &progress)?;
            // Last, as a server sends it: its checkpoint is not older than what was read.
            let control = Control::read(&data)?;
            Ok::<_, Error>((files, control, writer))
        })
    };
    let (mut files, control, mut writer) = tokio::select! {
        read = reading => read?,
        failure = wal.failure() => return Err(failure),
    };
    let StoppedBackup { stop, timeline, label } = sql.stop_backup().await?;
    sql.close().await;
    let stop = WalPosition { lsn: stop, timeline };
    source::require_one_timeline(start, stop)?;
    wal.end_at(stop.lsn);
    let parsed = BackupLabel::parse(label.as_bytes()).map_err(|error| {
        Error::new(Kind::Postgres, "the server sent something wrong as backup_label").because(error)
    })?;
    control.require_since(parsed.checkpoint, facts)?;
    files.tablespaces.sort_unstable_by_key(|space| space.oid);
    let copied = blocking(move || {
        let mut own = vec![OwnFile::new("backup_label", directory_mode, label.into_bytes())];
        if !files.tablespaces.is_empty() {
            let map = format_tablespace_map(&files.tablespaces);
            own.push(OwnFile::new("tablespace_map", directory_mode, map));
        }
        own.push(control.file);
        for file in own {
            file.store(&mut writer, &mut files)?;
        }
        let copied = Copied {
            tree: files.tree,
            label: parsed,
            control: control.parsed,
            tablespaces: files.tablespaces,
            pages: files.pages,
            page_map: files.known.own,
            files: files.totals.files,
            bytes: files.totals.bytes,
            zero_bytes: files.totals.zero_bytes,
        };
        Ok::<_, Error>((copied, writer))
    });
    let (copied, writer) = copied.await?;
    Ok(Taken { copied, writer, reading: Read::Full, start, stop, directory_mode, wal, copy_began })
}

/// Tells the readers to stop when nobody waits for them any more.
#[derive(Default)]
struct Stopping(Arc<AtomicBool>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The data directory of the server, if it is on this host.
///
/// # Errors
/// If it cannot be read, or what is there is not what this server runs on.
async fn data_directory(sql: &SqlConnection, facts: &ServerFacts) -> Result<PathBuf> {
    let shown = sql.data_directory().await?;
    let started = sql.started_at().await?;
    let system_id = facts.system_id;
    blocking(move || {
        let data = PathBuf::from(shown);
        let control = Control::read(&data)?;
        if control.parsed.system_id != system_id {
            return Err(elsewhere(&data, "it is of another cluster"));
        }
        // A standby or an old copy at the same place is of the same cluster.
        let lock = std::fs::read_to_string(data.join("postmaster.pid"));
        let lock = lock.map_err(|error| unreadable(&data.join("postmaster.pid"), &error))?;
        let began = lock.lines().nth(2).and_then(|line| line.trim().parse().ok());
        let began = began.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let is_its = began.is_some_and(|began| {
            let apart = started.duration_since(began).unwrap_or_else(|error| error.duration());
            apart <= START
        });
        if is_its { Ok(data) } else { Err(elsewhere(&data, "another server runs on it, or none")) }
    })
    .await
}

fn elsewhere(data: &Path, why: &str) -> Error {
    let message =
        format!("{} on this host is not the server's data directory: {why}", data.display());
    Error::new(Kind::Config, message)
        .hint("with backup_method = local barman runs on the server's host; elsewhere: backup_method = postgres")
}

/// The error for a file of the server that cannot be read.
fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let failed =
        Error::new(Kind::Io, format!("cannot read {}", path.display())).because(error.to_string());
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => failed.hint(
            "with backup_method = local barman runs as the user of the server, or, where the data directory was made \
             with initdb --allow-group-access, as one of its group",
        ),
        std::io::ErrorKind::NotFound => failed.hint(
            "with backup_method = local barman runs on the server's host; elsewhere: backup_method = postgres",
        ),
        _ => failed,
    }
}

fn not_allowed(error: crate::postgres::Error) -> Error {
    let is_denied = matches!(
        &error,
        crate::postgres::Error::Server(server) if server.code == "42501"
    );
    let error = Error::from(error);
    if is_denied {
        return error.hint("see what to grant: barman setup-sql, with backup_method = local set");
    }
    error
}

/// A file that the backup has of its own.
struct OwnFile {
    name: &'static str,
    bytes: Vec<u8>,
    mode: u32,
    mtime: i64,
}

impl OwnFile {
    /// A file as the server would make it now: for its group where the data directory is.
    fn new(name: &'static str, directory_mode: u32, bytes: Vec<u8>) -> Self {
        OwnFile { name, bytes, mode: 0o600 | (directory_mode & 0o040), mtime: seconds() }
    }

    fn store(self, writer: &mut Writer, files: &mut Files) -> Result<()> {
        let repository = writer.repository().clone();
        let keys = repository.keys().naming();
        let stored = store_bytes(writer, keys, Grid::Stream, ChunkKind::Data, &self.bytes)?;
        let StoredContent { length: size, digest, content, .. } = stored;
        files.totals.add(size, 0);
        let file = File { mode: self.mode, mtime: self.mtime, size, digest, content };
        files.tree.file(self.name.as_bytes(), file)
    }
}

/// The control file, as it was read last.
struct Control {
    file: OwnFile,
    parsed: ControlFile,
}

impl Control {
    fn read(data: &Path) -> Result<Control> {
        let path = data.join(CONTROL_FILE);
        let mut tries = 0;
        loop {
            let read = || Ok((std::fs::read(&path)?, path.metadata()?));
            let (bytes, metadata) = read().map_err(|error| unreadable(&path, &error))?;
            match ControlFile::parse(&bytes) {
                Ok(parsed) => {
                    let (mode, mtime) = (metadata.mode() & 0o7777, metadata.mtime());
                    let file = OwnFile { name: CONTROL_FILE, bytes, mode, mtime };
                    return Ok(Control { file, parsed });
                }
                Err(_) if tries < CONTROL_TRIES => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => {
                    let message = format!("{} is damaged", path.display());
                    return Err(Error::new(Kind::Postgres, message).because(error));
                }
            }
            tries += 1;
        }
    }

    /// Refuses files of a server that knows nothing of the checkpoint with which the backup began.
    fn require_since(&self, checkpoint: Lsn, facts: &ServerFacts) -> Result<()> {
        if self.parsed.system_id == facts.system_id && self.parsed.checkpoint >= checkpoint {
            return Ok(());
        }
        let message = format!(
            "the control file on this host does not know the checkpoint {checkpoint} with which the backup began"
        );
        Err(Error::new(Kind::Config, message)
            .hint("conninfo must lead to the server whose files are on this host"))
    }
}

/// What is known of the files that were read.
struct Files {
    tree: super::tree::TreeBuilder,
    known: super::parent::KnownPages,
    pages: super::pages::PageCheck,
    tablespaces: Vec<MappedTablespace>,
    totals: Totals,
}

/// Sums over files.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    files: u64,
    bytes: u64,
    zero_bytes: u64,
}

impl Totals {
    fn add(&mut self, bytes: u64, zero_bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
        self.zero_bytes += zero_bytes;
    }

    fn sum(&mut self, other: Totals) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.zero_bytes += other.zero_bytes;
    }
}

/// The time by this host's clock, in seconds since 1970-01-01 UTC.
fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}
