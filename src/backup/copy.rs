//! Copies the archives of a base backup into the repository, while they stream.
//!
//! ```text
//! frames → tar entries → file bytes → { page checksums, manifest checksum, chunks }
//! ```
//!
//! Nothing is held but what is in flight: a relation of any size passes in pieces.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use repo_format::chunk::ChunkKind;
use repo_format::content::Content;
use repo_format::ids::Digest;
use repo_format::tree::File;
use tokio::sync::mpsc::Receiver;

use super::pages::PageCheck;
use super::parent::KnownPages;
use super::tree::TreeBuilder;
use crate::chunking::Grid;
use crate::chunking::page_map::PageMapWriter;
use crate::chunking::writer::{ContentWriter, StoredContent, store_bytes};
use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::{
    BackupLabel, MappedTablespace, parse_tablespace_map, without_parent,
};
use crate::postgres::backup_manifest::{BackupManifest, FileChecksum, ManifestFile};
use crate::postgres::base_backup::Frame;
use crate::postgres::control_file::{CONTROL_FILE, ControlFile};
use crate::postgres::error::FormatError;
use crate::postgres::incremental_file::{IncrementalHeader, whole_path};
use crate::postgres::page::PAGE_SIZE;
use crate::postgres::relation_file::DEFAULT_SEGMENT_BLOCKS;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::writer::Writer;

/// How much of a file is handled at once.
const PIECE: usize = 256 * 1024;

/// The largest manifest: the files of some tens of millions of relations.
const MAX_MANIFEST: u64 = 4 << 30;

/// Files that are also kept in memory, to be read here.
const SMALL: usize = 1 << 20;

/// What a base backup was found to be.
#[derive(Debug)]
pub struct Copied {
    /// The tree of the data directory, not yet stored.
    pub tree: TreeBuilder,
    /// The backup's label.
    pub label: BackupLabel,
    /// The control file.
    pub control: ControlFile,
    /// The tablespaces outside the data directory.
    pub tablespaces: Vec<MappedTablespace>,
    /// Pages with wrong checksums.
    pub pages: PageCheck,
    /// The hashes of all pages, for the next backup.
    pub page_map: Option<PageMapWriter>,
    /// Regular files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of runs of zeros.
    pub zero_bytes: u64,
}

/// How a backup is copied.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether of relation files only the pages come that changed since the parent.
    pub incremental: bool,
    /// Whether pages have checksums.
    pub verify_pages: bool,
    /// The permission bits of directories that do not come themselves.
    pub directory_mode: u32,
}

/// Copies what `frames` bring into `writer`. Blocks, and is for a thread of its own.
///
/// # Errors
/// If the server's manifest disagrees with what arrived, if something is not what a server sends, or if
/// the repository fails. When `frames` ends early, the sender knows why.
pub fn copy(
    frames: Receiver<Frame>,
    repository: &Arc<Repository>,
    writer: &mut Writer,
    known: KnownPages,
    options: Options,
    progress: &Progress,
) -> Result<Copied> {
    let Options { incremental, verify_pages, directory_mode } = options;
    let mut frames = Frames { frames, data: Bytes::new(), next: None };
    let mut copy = Copy {
        repository,
        writer,
        known,
        incremental,
        verify_pages,
        progress,
        tree: TreeBuilder::new(directory_mode),
        pages: PageCheck::default(),
        arrived: HashSet::new(),
        small: BTreeMap::new(),
        linked: vec![],
        files: 0,
        bytes: 0,
        zero_bytes: 0,
    };
    let mut verified = false;
    while let Some(frame) = frames.next_part() {
        match frame {
            Frame::Archive { name, .. } => copy.archive(&name, &mut frames)?,
            Frame::Manifest => {
                copy.verify(&mut frames)?;
                verified = true;
            }
            Frame::Data(_) | Frame::Progress(_) => {
                return Err(protocol("data came before its archive"));
            }
        }
    }
    if !verified {
        return Err(protocol("the manifest did not come"));
    }
    copy.finish()
}

struct Copy<'a> {
    repository: &'a Arc<Repository>,
    writer: &'a mut Writer,
    known: KnownPages,
    incremental: bool,
    verify_pages: bool,
    progress: &'a Progress,
    tree: TreeBuilder,
    pages: PageCheck,
    /// What arrived, and the manifest has not named yet: there may be millions.
    arrived: HashSet<FileHash>,
    small: BTreeMap<&'static str, Vec<u8>>,
    /// Tablespaces that came as links.
    linked: Vec<MappedTablespace>,
    files: u64,
    bytes: u64,
    zero_bytes: u64,
}

const BACKUP_LABEL: &str = "backup_label";

/// Files that tell what the backup is.
const TELLING: [&str; 3] = [BACKUP_LABEL, "tablespace_map", CONTROL_FILE];

const EMPTY: File = File {
    mode: 0,
    mtime: 0,
    size: 0,
    digest: Digest::from_bytes([0; Digest::LEN]),
    content: Content::Runs(vec![]),
};

impl Copy<'_> {
    fn archive(&mut self, name: &str, frames: &mut Frames) -> Result<()> {
        let prefix = match name.strip_suffix(".tar") {
            Some("base") => String::new(),
            Some(oid) if oid.parse::<u32>().is_ok() => format!("pg_tblspc/{oid}"),
            _ => return Err(protocol(&format!("there is an archive called {name:?}"))),
        };
        self.tree.directory(prefix.as_bytes(), self.directory_mode())?;
        let mut archive = tar::Archive::new(&mut *frames);
        let broken = |e: io::Error| protocol(&format!("{name} is not a sound tar archive: {e}"));
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let path = join(&prefix, &entry.path_bytes());
            let header = entry.header();
            let mode = header.mode().map_err(broken)? & 0o7777;
            match header.entry_type() {
                tar::EntryType::Directory => self.tree.directory(&path, mode)?,
                tar::EntryType::Symlink => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    self.link(&path, target)?;
                }
                tar::EntryType::Regular => {
                    let mtime = header.mtime().map_err(broken)?;
                    let size = header.size().map_err(broken)?;
                    let mtime = i64::try_from(mtime).unwrap_or_default();
                    self.file(&path, size, mode, mtime, &mut entry)?;
                }
                other => {
                    let path = String::from_utf8_lossy(&path);
                    return Err(protocol(&format!("{path} is of kind {other:?}")));
                }
            }
        }
        // What follows the end of the archive is padding.
        io::copy(frames, &mut io::sink()).map_err(broken)?;
        Ok(())
    }

    fn directory_mode(&self) -> u32 {
        self.tree.default_mode()
    }

    /// A link in `pg_tblspc` is a tablespace, whose files come in an archive of their own.
    fn link(&mut self, path: &[u8], target: Vec<u8>) -> Result<()> {
        let oid = path.strip_prefix(b"pg_tblspc/").and_then(|oid| std::str::from_utf8(oid).ok());
        match oid.and_then(|oid| oid.parse().ok()) {
            Some(oid) => {
                self.linked.push(MappedTablespace { oid, location: target });
                Ok(())
            }
            None => self.tree.symlink(path, target),
        }
    }

    fn file(
        &mut self,
        path: &[u8],
        size: u64,
        mode: u32,
        mtime: i64,
        from: &mut impl Read,
    ) -> Result<()> {
        let mut from = Arriving { from, left: size, crc: 0, progress: self.progress };
        let cut_short = |error: &io::Error| {
            protocol(&format!("{} is wrong: {error}", String::from_utf8_lossy(path)))
        };
        let whole = if self.incremental { whole_path(path) } else { None };
        let file = File { mode, mtime, ..EMPTY };
        match whole {
            Some(whole) => self.changed_file(&whole, size, file, &mut from),
            None => self.whole_file(path, size, file, &mut from),
        }
        .map_err(|failure| match failure {
            Failure::Reading(error) => cut_short(&error),
            Failure::Other(error) => error,
        })?;
        self.arrived.insert(hash(path, size, from.crc));
        Ok(())
    }

    /// Takes a file that comes whole.
    fn whole_file(
        &mut self,
        path: &[u8],
        size: u64,
        file: File,
        from: &mut impl Read,
    ) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(path);
        let telling = TELLING.into_iter().find(|name| *name == text && size <= SMALL as u64);
        if let Some(name) = telling {
            let mut bytes = vec![];
            from.read_to_end(&mut bytes)?;
            if name == BACKUP_LABEL && self.incremental {
                bytes = without_parent(&bytes);
            }
            let keys = self.repository.keys().naming();
            let stored = store_bytes(self.writer, keys, Grid::Stream, ChunkKind::Data, &bytes)?;
            self.small.insert(name, bytes);
            return self.add(path, file, stored);
        }
        let keys = self.repository.keys().naming();
        let (grid, mut pages) = self.pages.of(&text, self.verify_pages);
        let former = if grid == Grid::Pages { self.known.former(path)? } else { None };
        let mut content = match former {
            Some((_, former)) => ContentWriter::of_changes(self.writer, keys, former),
            None => ContentWriter::new(self.writer, keys, grid, ChunkKind::Data),
        };
        let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE))];
        loop {
            let read = from.read(&mut piece)?;
            if read == 0 {
                break;
            }
            let bytes = piece.get(..read).unwrap_or_default();
            if let Some(pages) = &mut pages {
                pages.update(bytes);
            }
            content.write(bytes)?;
        }
        let stored = content.finish()?;
        self.add(path, file, stored)
    }

    /// Takes a file of which the pages come that changed since the parent; the others are as they are there.
    fn changed_file(
        &mut self,
        path: &[u8],
        size: u64,
        file: File,
        from: &mut impl Read,
    ) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(path);
        let header = IncrementalHeader::read(from, size)?;
        let length = header.length();
        let Some((before, former)) = self.known.former(path)? else {
            return Err(damaged_parent(&text).into());
        };
        // Each block of it gets memory: a server may not ask for more than a segment can have, or than is there.
        let known = before.size.div_ceil(PAGE_SIZE as u64) + header.blocks.len() as u64;
        if u64::from(length) > known.max(u64::from(DEFAULT_SEGMENT_BLOCKS)) {
            return Err(protocol(&format!("{text} is said to have {length} blocks")).into());
        }
        let bytes = u64::from(length) * PAGE_SIZE as u64;
        if header.blocks.is_empty() && bytes == before.size && former.can_stay() {
            let leaves = former.leaves().map(<[_]>::to_vec).unwrap_or_default();
            let zero_bytes = former.zero_bytes();
            let File { digest, content, .. } = before;
            let same = StoredContent { length: bytes, digest, content, zero_bytes, leaves };
            return self.add(path, file, same);
        }
        let keys = self.repository.keys().naming();
        let (_, mut pages) = self.pages.of(&text, self.verify_pages);
        let mut content = ContentWriter::of_changes(self.writer, keys, former);
        let mut changed = header.blocks.iter().copied().peekable();
        let mut page = [0; PAGE_SIZE];
        for block in 0..length {
            if changed.next_if_eq(&block).is_none() {
                content.same_page()?;
                continue;
            }
            from.read_exact(&mut page)?;
            if let Some(pages) = &mut pages {
                pages.seek(block);
                pages.update(&page);
            }
            content.write(&page)?;
        }
        let stored = content.finish()?;
        self.add(path, file, stored)
    }

    /// Adds a stored file to the tree.
    fn add(&mut self, path: &[u8], file: File, stored: StoredContent) -> Result<(), Failure> {
        let StoredContent { length, digest, content, zero_bytes, leaves } = stored;
        self.known.note(path, &content, &leaves);
        self.files += 1;
        self.bytes += length;
        self.zero_bytes += zero_bytes;
        Ok(self.tree.file(path, File { size: length, digest, content, ..file })?)
    }

    /// Compares the manifest with what arrived: every file of one is in the other, with the same bytes.
    fn verify(&mut self, frames: &mut Frames) -> Result<()> {
        let (arrived, mut verdict) = (&mut self.arrived, Ok(()));
        let take = |file: ManifestFile| {
            let crc = file.checksum.as_ref().and_then(FileChecksum::as_crc32c);
            let as_it_was =
                crc.is_some_and(|crc| arrived.remove(&hash(&file.path, file.size, crc)));
            if !as_it_was && verdict.is_ok() {
                let path = String::from_utf8_lossy(&file.path);
                verdict = Err(lost(&path, "did not arrive as it is in the server's manifest"));
            }
        };
        BackupManifest::read(frames.take(MAX_MANIFEST), take)
            .map_err(sent_wrong("its backup manifest"))?;
        verdict?;
        match self.arrived.len() {
            0 => Ok(()),
            1 => Err(lost("a file", "arrived and is not in the server's manifest")),
            count => {
                let what = "arrived and are not in the server's manifest";
                Err(lost(&format!("{count} files"), what))
            }
        }
    }

    fn finish(self) -> Result<Copied> {
        let file = |name: &str| -> Result<&[u8]> {
            let bytes = self.small.get(name).map(Vec::as_slice);
            bytes.ok_or_else(|| protocol(&format!("{name} did not come")))
        };
        let label =
            BackupLabel::parse(file("backup_label")?).map_err(sent_wrong("backup_label"))?;
        let control = ControlFile::parse(file(CONTROL_FILE)?).map_err(sent_wrong(CONTROL_FILE))?;
        let mut tablespaces = match self.small.get("tablespace_map") {
            Some(map) => parse_tablespace_map(map).map_err(sent_wrong("tablespace_map"))?,
            None => self.linked,
        };
        // The server names them in the order in which its file system lists them.
        tablespaces.sort_unstable_by_key(|space| space.oid);
        Ok(Copied {
            tree: self.tree,
            label,
            control,
            tablespaces,
            pages: self.pages,
            page_map: self.known.own,
            files: self.files,
            bytes: self.bytes,
            zero_bytes: self.zero_bytes,
        })
    }
}

/// Why a file could not be taken.
enum Failure {
    /// What arrives is not what it should be.
    Reading(io::Error),
    Other(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Reading(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Other(error)
    }
}

impl From<crate::repository::Error> for Failure {
    fn from(error: crate::repository::Error) -> Self {
        Failure::Other(error.into())
    }
}

fn damaged_parent(path: &str) -> Error {
    let message =
        format!("{path}, of which only what changed is read, is damaged in the backup before");
    Error::new(Kind::Damaged, message).hint("read everything: --read full")
}

/// The bytes of one file while they arrive: all of them, and no more.
struct Arriving<'a, R> {
    from: &'a mut R,
    left: u64,
    crc: u32,
    progress: &'a Progress,
}

impl<R: Read> Read for Arriving<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let wanted = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let out = out.get_mut(..wanted).unwrap_or_default();
        let read = self.from.read(out)?;
        if read == 0 && wanted > 0 {
            let message = format!("it is cut short by {} bytes", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.left -= read as u64;
        self.crc = crc32c::crc32c_append(self.crc, out.get(..read).unwrap_or_default());
        self.progress.advance(read as u64);
        Ok(read)
    }
}

/// The beginning of the BLAKE3 hash of a file's length in bytes, CRC-32C, and path.
type FileHash = [u8; 16];

fn hash(path: &[u8], size: u64, crc: u32) -> FileHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes()).update(&crc.to_le_bytes()).update(path);
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

fn lost(path: &str, what: &str) -> Error {
    Error::new(Kind::Postgres, format!("{path} {what}: something was lost or changed on the way"))
        .hint("run the backup again; if it happens again, suspect the network or memory")
}

/// The path of an entry within the data directory.
fn join(prefix: &str, name: &[u8]) -> Vec<u8> {
    // Some directories are sent as `./pg_wal/…`, and all with a slash at the end.
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix.as_bytes(), b"/", name].concat()
}

fn protocol(what: &str) -> Error {
    Error::new(Kind::Postgres, format!("the base backup is not what a server sends: {what}"))
}

fn sent_wrong(what: &'static str) -> impl Fn(FormatError) -> Error {
    move |error| {
        Error::new(Kind::Postgres, format!("the server sent something wrong as {what}"))
            .because(error)
    }
}

/// The frames of a backup, one archive after the other as a stream of bytes.
struct Frames {
    frames: Receiver<Frame>,
    data: Bytes,
    next: Option<Frame>,
}

impl Frames {
    /// The beginning of the next archive or of the manifest.
    fn next_part(&mut self) -> Option<Frame> {
        loop {
            match self.next.take().or_else(|| self.frames.blocking_recv())? {
                Frame::Data(_) | Frame::Progress(_) => {}
                part => return Some(part),
            }
        }
    }
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.data.is_empty() {
            if self.next.is_some() {
                return Ok(0);
            }
            match self.frames.blocking_recv() {
                None => return Ok(0),
                Some(Frame::Data(data)) => self.data = data,
                Some(Frame::Progress(_)) => {}
                Some(part) => self.next = Some(part),
            }
        }
        let length = out.len().min(self.data.len());
        let (out, _) = out.split_at_mut(length);
        self.data.copy_to_slice(out);
        Ok(length)
    }
}
