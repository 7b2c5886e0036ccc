//! Reads the files of a data directory, several at a time.

use std::fs::{File as Opened, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use repo_format::chunk::ChunkKind;
use repo_format::tree::File;
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::walk::{Found, Walk};
use super::{Control, Files, Totals, unreadable};
use crate::backup::pages::PageCheck;
use crate::backup::parent::KnownPages;
use crate::backup::tree::TreeBuilder;
use crate::chunking::Grid;
use crate::chunking::writer::{ContentWriter, StoredContent};
use crate::error::{Error, Kind, Result};
use crate::postgres::page::PAGE_SIZE;
use crate::progress::Progress;
use crate::repository::writer::{Writer, Written};

/// How much of a file is read at once: there is no reading ahead.
const PIECE: usize = 1 << 20;

/// The lowest rate, in KiB/s, as a server has it that streams.
const SLOWEST: u32 = 32;

/// How long at most it is not seen that the reading is to stop.
const STEP: Duration = Duration::from_millis(200);

/// Files between the walk and the readers.
const WAITING: usize = 64;

/// What is read at once of what the system does not have in memory, and dropped from it again.
const ABSENT: usize = 128 * 1024;

/// A page that stays bad for so long is bad where it lies: whoever writes one may be interrupted in its middle.
const PATIENCE: Duration = Duration::from_millis(30);

/// So many bad pages are waited for, by each reader.
const PATIENT: u32 = 200;

/// What is read, and how.
pub struct Reading {
    pub data: PathBuf,
    pub major: u32,
    pub verify_pages: bool,
    pub directory_mode: u32,
    pub threads: usize,
    /// In KiB/s.
    pub max_rate: Option<u32>,
}

/// A file that is to be read.
struct Wanted {
    path: Vec<u8>,
    from: PathBuf,
}

/// What the readers share.
struct Shared<'a> {
    reading: &'a Reading,
    gathered: Mutex<(TreeBuilder, KnownPages)>,
    pace: Pace,
    stop: &'a AtomicBool,
    progress: &'a Progress,
}

/// Reads all files but the control file into `writer`. Blocks, until `stop` is set.
pub fn read(
    reading: &Reading,
    writer: &mut Writer,
    known: KnownPages,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Files> {
    let catalog = Control::read(&reading.data)?.parsed.catalog_version;
    let (wanted, waiting) = bounded(WAITING);
    let shared = Shared {
        reading,
        gathered: Mutex::new((TreeBuilder::new(reading.directory_mode), known)),
        pace: Pace::new(reading.max_rate),
        stop,
        progress,
    };
    let mut tablespaces = vec![];
    let (pages, totals) = std::thread::scope(|scope| -> Result<_> {
        let mut readers = vec![];
        for _ in 0..reading.threads.max(1) {
            let reader = FileReader {
                shared: &shared,
                wanted: waiting.clone(),
                writer: writer.beside()?,
                pages: PageCheck::default(),
                totals: Totals::default(),
                piece: vec![0; PIECE],
                patient: PATIENT,
            };
            readers.push(scope.spawn(move || reader.run()));
        }
        drop(waiting);
        let mut found = |found| {
            let directory = |path: &[u8], mode| shared.gathered().0.directory(path, mode);
            match found {
                Found::Directory { path, mode } => directory(&path, mode),
                Found::OwnDirectory { path } => directory(&path, reading.directory_mode),
                Found::Tablespace(tablespace) => {
                    tablespaces.push(tablespace);
                    Ok(())
                }
                // When all readers have failed, one of them says why.
                Found::File { path, from } => {
                    wanted.send(Wanted { path, from }).map_err(|_| stopped())
                }
            }
        };
        let tablespace_version = format!("PG_{}_{catalog}", reading.major).into();
        let walked = Walk::through(&reading.data, reading.major, tablespace_version, &mut found);
        drop(wanted);
        if walked.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        let mut read = Ok((PageCheck::default(), Totals::default()));
        for reader in readers {
            let one = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (&mut read, one) {
                (Ok((pages, totals)), Ok((more, of, written))) => {
                    pages.add(more);
                    totals.sum(of);
                    writer.count(written);
                }
                (Ok(_), Err(error)) => read = Err(error),
                (Err(first), Err(error)) if first.kind() == Kind::Interrupted => read = Err(error),
                (Err(_), _) => {}
            }
        }
        match (walked, read) {
            (Err(error), _) | (_, Err(error)) if error.kind() != Kind::Interrupted => Err(error),
            (Ok(()), Ok(read)) => Ok(read),
            // The threads behind the readers know why.
            _ => Err(writer.fail().into()),
        }
    })?;
    let (tree, known) = shared.gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Files { tree, known, pages, tablespaces, totals })
}

impl Shared<'_> {
    fn gathered(&self) -> MutexGuard<'_, (TreeBuilder, KnownPages)> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the threads.
struct FileReader<'a> {
    shared: &'a Shared<'a>,
    wanted: Receiver<Wanted>,
    writer: Writer,
    pages: PageCheck,
    totals: Totals,
    piece: Vec<u8>,
    /// How many more bad pages are waited for.
    patient: u32,
}

impl FileReader<'_> {
    fn run(mut self) -> Result<(PageCheck, Totals, Written)> {
        while let Ok(Wanted { path, from }) = self.wanted.recv() {
            self.file(&path, &from)
                .inspect_err(|_| self.shared.stop.store(true, Ordering::Relaxed))?;
        }
        Ok((self.pages, self.totals, self.writer.finish()?))
    }

    /// Reads one file. One that is gone was dropped, and recovery drops it too; of one that grows what there was when
    /// it was opened is enough, and of one that is cut what is left: recovery does the rest.
    fn file(&mut self, path: &[u8], from: &Path) -> Result<()> {
        let failed = |error: io::Error| unreadable(from, &error);
        let no_link = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(no_link).open(from) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file.map_err(failed)?,
        };
        // What others read of it stays where it is; nothing is read that was not asked for.
        let _ = fadvise(&file, 0, None, Advice::Random);
        let metadata = file.metadata().map_err(failed)?;
        let FileReader { shared, writer, pages, totals, piece, patient, .. } = self;
        let text = String::from_utf8_lossy(path);
        let (grid, mut check) = pages.of(&text, shared.reading.verify_pages);
        let former = match grid {
            Grid::Pages => shared.gathered().1.former(path)?,
            Grid::Stream => None,
        };
        let keys = writer.repository().clone();
        let keys = keys.keys().naming();
        let mut content = match former {
            Some((_, former)) => ContentWriter::of_changes(writer, keys, former),
            None => ContentWriter::new(writer, keys, grid, ChunkKind::Data),
        };
        let mut offset = 0;
        while offset < metadata.len() {
            if shared.stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            let left = usize::try_from(metadata.len() - offset).unwrap_or(PIECE);
            let wanted = left.min(PIECE);
            let piece = piece.get_mut(..wanted).unwrap_or_default();
            let read = read_beside(&file, piece, offset).map_err(failed)?;
            let piece = piece.get_mut(..read).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            shared.pace.keep(read as u64, shared.stop);
            if let Some(check) = &mut check {
                let again = |at: usize, page: &mut [u8; PAGE_SIZE]| {
                    read_again(&file, offset + at as u64, page, patient)
                };
                check.update_or_read_again(piece, again).map_err(failed)?;
            }
            content.write(piece)?;
            shared.progress.advance(read as u64);
            offset += read as u64;
            if read < wanted {
                // It was cut. What grows there now is not of this file.
                break;
            }
        }
        let StoredContent { length, digest, content, zero_bytes, leaves } = content.finish()?;
        totals.add(length, zero_bytes);
        let mode = metadata.mode() & 0o7777;
        let file = File { mode, mtime: metadata.mtime(), size: length, digest, content };
        let (tree, known) = &mut *shared.gathered();
        known.note(path, &file.content, &leaves);
        tree.file(path, file)
    }
}

/// Reads as much of a file as there is. What the system did not have in memory before does not stay there: that is for
/// the server.
fn read_beside(file: &Opened, piece: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset + filled as u64;
        match preadv2(file, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT) {
            Ok(read @ 1..) => filled += read,
            // The next is not there, or nobody can say.
            Ok(0) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let wanted = rest.len().min(ABSENT);
                let absent = rest.get_mut(..wanted).unwrap_or_default();
                let read = read_full(file, absent, at)?;
                let _ = fadvise(file, at, NonZeroU64::new(read as u64), Advice::DontNeed);
                filled += read;
                if read < wanted {
                    break;
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

fn read_full(file: &Opened, piece: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a page that was found bad, and says whether it is another one now: else it is bad where it lies.
fn read_again(
    file: &Opened,
    offset: u64,
    page: &mut [u8; PAGE_SIZE],
    patient: &mut u32,
) -> io::Result<bool> {
    let mut now = [0; PAGE_SIZE];
    for wait in [Duration::from_millis(1), PATIENCE] {
        if wait == PATIENCE {
            let Some(less) = patient.checked_sub(1) else { break };
            *patient = less;
        }
        std::thread::sleep(wait);
        if read_full(file, &mut now, offset)? < PAGE_SIZE {
            break;
        }
        if now != *page {
            *page = now;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps all readers together under a rate.
struct Pace {
    bytes_per_second: Option<f64>,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(max_rate: Option<u32>) -> Self {
        let bytes_per_second = max_rate.map(|rate| f64::from(rate.max(SLOWEST)) * 1024.0);
        Pace { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Waits as long as the next bytes take, or until it is to stop.
    fn keep(&self, bytes: u64, stop: &AtomicBool) {
        let Some(rate) = self.bytes_per_second else { return };
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = (*next).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate);
            *next
        };
        while !stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "the backup was stopped")
}
