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
use crate::postgres::sql::{SqlConnection, StoppedBackup};
use crate::progress::Progress;
use crate::repository::writer::Writer;
use read::{Reading, read};

/// A server writes when it was started into its lock file before it knows it itself: with much memory to set up, this
/// much earlier.
const START: Duration = Duration::from_secs(600);

/// How often it is seen whether the session of the backup lives.
const PULSE: Duration = Duration::from_secs(5);

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
    let data = data_directory(&sql, facts, wal.slot()).await?;
    progress.phase("waiting for a checkpoint", None);
    let label = format!("barman backup of {}", request.server);
    let backend = sql.backend().await?;
    let begun = sql.start_backup(&label, request.fast_checkpoint).await.map_err(not_allowed)?;
    let control = require_its_own(&sql, &data).await?;
    let start = WalPosition { lsn: begun, timeline: control.parsed.timeline };
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
        let data = data.clone();
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
        gone = until_gone(&sql, backend) => return Err(gone),
    };
    require_its_own(&sql, &data).await?;
    require_tablespaces(&sql, facts, &files.tablespaces).await?;
    let StoppedBackup { stop, timeline, label } = sql.stop_backup().await?;
    sql.close().await;
    let stop = WalPosition { lsn: stop, timeline };
    let parsed = BackupLabel::parse(label.as_bytes()).map_err(|error| {
        Error::new(Kind::Postgres, "the server sent something wrong as backup_label").because(error)
    })?;
    if (parsed.start, parsed.start_timeline) != (start.lsn, start.timeline) {
        let message = format!(
            "the backup began at {} on timeline {}, and its label says {} on timeline {}",
            start.lsn, start.timeline, parsed.start, parsed.start_timeline
        );
        return Err(Error::new(Kind::Postgres, message).hint("run the backup again"));
    }
    source::require_one_timeline(start, stop)?;
    wal.end_at(stop.lsn);
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

/// The data directory of the server, if it is on this host; `slot` is one that the server has just made.
///
/// # Errors
/// If it cannot be read, or what is there is not what this server runs on.
async fn data_directory(
    sql: &SqlConnection,
    facts: &ServerFacts,
    slot: Option<&str>,
) -> Result<PathBuf> {
    let data = PathBuf::from(sql.data_directory().await?);
    let started = sql.started_at().await?;
    let port = sql.setting("port").await?;
    let (system_id, slot) = (facts.system_id, slot.map(str::to_owned));
    blocking(move || {
        if Control::read(&data)?.parsed.system_id != system_id {
            return Err(elsewhere(&data, "it is of another cluster"));
        }
        // A standby or an old copy at the same place is of the same cluster.
        let path = data.join("postmaster.pid");
        let lock = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        let line = |number| lock.lines().nth(number).map(str::trim);
        let began = line(2).and_then(|line| line.parse().ok()).map(Duration::from_secs);
        let is_its = began.is_some_and(|began| {
            let apart = started.duration_since(UNIX_EPOCH + began);
            apart.unwrap_or_else(|error| error.duration()) <= START
        });
        if !is_its || port.as_deref() != line(3) {
            return Err(elsewhere(&data, "another server runs on it, or none"));
        }
        if slot.is_some_and(|slot| !data.join("pg_replslot").join(slot).is_dir()) {
            return Err(elsewhere(&data, "the replication slot of this backup is not in it"));
        }
        Ok(data)
    })
    .await
}

/// The control file of this host, if it is the server's: it has the checkpoint that the server says, now that a backup
/// has begun with one.
async fn require_its_own(sql: &SqlConnection, data: &Path) -> Result<Control> {
    for _ in 0..CONTROL_TRIES {
        let said = sql.last_checkpoint().await?;
        let path = data.to_owned();
        let control = blocking(move || Control::read(&path)).await?;
        let ControlFile { checkpoint, redo, .. } = control.parsed;
        if said == (checkpoint, redo) {
            return Ok(control);
        }
        // There may have been another one in between.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(elsewhere(data, "its control file has another checkpoint"))
}

/// Returns when the session in which the backup has begun is gone, or the server was promoted.
async fn until_gone(sql: &SqlConnection, (process, in_recovery): (i32, bool)) -> Error {
    loop {
        tokio::time::sleep(PULSE).await;
        match sql.backend().await {
            Ok((other, _)) if other != process => {
                let message =
                    "the session in which the backup began is served by another process now";
                return Error::new(Kind::Config, message)
                    .hint("conninfo must not lead through a pooler of connections");
            }
            Ok((_, now)) if now != in_recovery => {
                return Error::new(Kind::Postgres, "the server was promoted during the backup")
                    .hint("run the backup again");
            }
            Ok(_) => {}
            Err(error) => return Error::from(error).context("the session of the backup"),
        }
    }
}

/// Sees that every tablespace was found that was there all the time.
async fn require_tablespaces(
    sql: &SqlConnection,
    facts: &ServerFacts,
    found: &[MappedTablespace],
) -> Result<()> {
    let now = sql.tablespaces().await?;
    let is_missing = |oid: u32| !found.iter().any(|space| space.oid == oid);
    let outside = now.iter().filter(|space| space.location.starts_with('/'));
    let mut kept = outside.filter(|space| facts.tablespace_names.contains_key(&space.oid));
    match kept.find(|space| is_missing(space.oid)) {
        None => Ok(()),
        Some(space) => {
            let message = format!("tablespace {} was not found in pg_tblspc", space.name);
            Err(Error::new(Kind::Io, message).hint("barman must see all files of the server"))
        }
    }
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
