//! The hashes of the pages of a backup, kept on this host: by them the next backup knows what changed without reading
//! the repository.
//!
//! A page map is disposable. What it says of a file counts only if it gives the digest that the file has in the
//! snapshot it is asked about; else the pages are compared with those in the repository, with the same result.
//!
//! ```text
//! magic [8]   leaf hashes of file after file   rows   number of rows u64   offset of the rows u64   magic [8]
//! row: beginning of the BLAKE3 hash of the path [16]   offset u64   number of leaves u64
//! ```
//!
//! Integers are little-endian; rows are sorted.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use repo_format::chunk::DigestBuilder;
use repo_format::ids::LeafHash;
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;
use repo_format::tree;
use tempfile::NamedTempFile;

const MAGIC: [u8; 8] = *b"BARMANPM";

/// Path, offset, number of leaves.
const ROW: usize = 32;

/// Rows, their number and offset, magic.
const TRAILER: u64 = 24;

/// The page maps of a server, of which only that of its latest backup is kept.
#[derive(Debug, Clone)]
pub struct PageMaps {
    directory: PathBuf,
}

impl PageMaps {
    /// The page maps in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        PageMaps { directory }
    }

    /// The page map of a backup; nothing if it is not there, or not whole.
    pub fn open(&self, backup_id: &str) -> Option<PageMap> {
        match PageMap::open(&self.directory.join(backup_id)) {
            Ok(map) => Some(map),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("the page map of backup {backup_id} is not used: {error}");
                None
            }
        }
    }

    /// Begins a page map.
    pub fn create(&self) -> io::Result<PageMapWriter> {
        fs::create_dir_all(&self.directory)?;
        // What a backup left that was killed.
        for entry in fs::read_dir(&self.directory)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        let mut writer = PageMapWriter { file: BufWriter::new(file), rows: vec![], offset: 0 };
        writer.put(&MAGIC)?;
        Ok(writer)
    }

    /// Keeps a page map as that of a backup, and no other.
    pub fn keep(&self, map: NamedTempFile, backup_id: &str) -> io::Result<()> {
        map.persist(self.directory.join(backup_id))?;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name() != backup_id {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// How the names of files begin that are being written.
const UNFINISHED: &str = ".unfinished-";

/// Writes a page map.
#[derive(Debug)]
pub struct PageMapWriter {
    file: BufWriter<NamedTempFile>,
    rows: Vec<[u8; ROW]>,
    offset: u64,
}

impl PageMapWriter {
    /// Adds a file.
    pub fn add(&mut self, path: &[u8], leaves: &[LeafHash]) -> io::Result<()> {
        let mut row = [0; ROW];
        let (hash, numbers) = row.split_at_mut(16);
        hash.copy_from_slice(&hash_of(path));
        let (offset, count) = numbers.split_at_mut(8);
        offset.copy_from_slice(&self.offset.to_le_bytes());
        count.copy_from_slice(&(leaves.len() as u64).to_le_bytes());
        self.rows.push(row);
        leaves.iter().try_for_each(|leaf| self.put(leaf.as_bytes()))
    }

    /// The map, complete, under a name that nobody looks for.
    pub fn finish(mut self) -> io::Result<NamedTempFile> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_unstable();
        let offset = self.offset;
        rows.iter().try_for_each(|row| self.put(row))?;
        self.put(&(rows.len() as u64).to_le_bytes())?;
        self.put(&offset.to_le_bytes())?;
        self.put(&MAGIC)?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// A page map that can be asked.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    rows: Vec<[u8; ROW]>,
    /// Where the rows begin.
    end: u64,
}

impl PageMap {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let cut_short = || io::Error::new(ErrorKind::InvalidData, "it is cut short");
        let trailer_at = length.checked_sub(TRAILER).ok_or_else(cut_short)?;
        let mut trailer = [0; TRAILER as usize];
        file.read_exact_at(&mut trailer, trailer_at)?;
        let [count, end, magic] = *trailer.as_chunks::<8>().0 else { return Err(cut_short()) };
        let (count, end) = (u64::from_le_bytes(count), u64::from_le_bytes(end));
        let rows_length = count.checked_mul(ROW as u64);
        if magic != MAGIC || rows_length.and_then(|rows| rows.checked_add(end)) != Some(trailer_at)
        {
            return Err(cut_short());
        }
        let mut rows = vec![[0; ROW]; usize::try_from(count).map_err(io::Error::other)?];
        file.read_exact_at(rows.as_flattened_mut(), end)?;
        Ok(PageMap { file, rows, end })
    }

    /// The leaves of a file, which give the digest that it has; nothing if they are not known.
    pub fn leaves(
        &self,
        keys: &NamingKeys,
        path: &[u8],
        file: &tree::File,
    ) -> Option<Vec<LeafHash>> {
        let hash = hash_of(path);
        let at = self.rows.binary_search_by(|row| row.split_at(16).0.cmp(&hash)).ok()?;
        let [offset, count] = *self.rows.get(at)?.split_at(16).1.as_chunks::<8>().0 else {
            return None;
        };
        let (offset, count) = (u64::from_le_bytes(offset), u64::from_le_bytes(count));
        let length = count.checked_mul(LeafHash::LEN as u64)?;
        if count != file.size.div_ceil(LEAF as u64) || offset.checked_add(length)? > self.end {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        let (leaves, _) = bytes.as_chunks();
        let leaves: Vec<LeafHash> = leaves.iter().copied().map(LeafHash::from_bytes).collect();
        let mut digest = DigestBuilder::new(keys);
        digest.leaves(&leaves);
        (digest.finish(file.size) == file.digest).then_some(leaves)
    }
}

fn hash_of(path: &[u8]) -> [u8; 16] {
    blake3::hash(path).as_bytes().first_chunk().copied().unwrap_or_default()
}
