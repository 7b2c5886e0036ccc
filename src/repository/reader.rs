//! Gets chunks back: fetches blobs, opens and decodes them, and keeps the latest in memory.

mod bases;

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use repo_format::DecodeError;
use repo_format::blob::{BaseRange, BlobBody, BlobHeader, ChunkSpan, Encoding, Frame};
use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, Run, decode_leaf};
use repo_format::ids::{ChunkId, PackId};
use repo_format::index::{BlobLocation, ChunkLocation};
use repo_format::names::ObjectName;
use repo_format::tree::{DirectoryDecoder, DirectoryRef, Entry};
use tokio::runtime::Handle;

use super::Repository;
use super::error::{Error, Result};
use super::index::Index;

/// Decoded blobs that are kept, in bytes.
const CACHE: u64 = 96 * 1024 * 1024;

/// Lists of base ranges that are kept, in bytes.
const BASES_CACHE: u64 = 8 * 1024 * 1024;

/// Reads chunks. It blocks, and is for threads that are not the runtime's.
#[derive(Debug)]
pub struct Reader {
    repository: Arc<Repository>,
    index: Arc<Index>,
    runtime: Handle,
    blobs: Cache<(PackId, u64), Arc<Blob>, BlobWeight>,
    /// What deltas are made on.
    bases: Cache<(PackId, u64), Arc<[BaseRange]>, BasesWeight>,
    /// Whether what the index does not lead to is looked for in the packs themselves.
    searches_packs: bool,
    rebuilt: OnceLock<Index>,
    rebuilding: Mutex<()>,
}

/// A decoded blob.
#[derive(Debug)]
struct Blob {
    kind: ChunkKind,
    encoding: Encoding,
    chunks: Vec<ChunkSpan>,
    content: Vec<u8>,
}

impl Blob {
    /// Whether the blob's header says that a chunk is where the index has it.
    fn has(&self, id: &ChunkId, location: &ChunkLocation) -> bool {
        let mut start = 0u32;
        self.chunks.iter().any(|chunk| {
            let at = start;
            start += chunk.length;
            chunk.id == *id && at == location.offset && chunk.length == location.length
        })
    }
}

#[derive(Debug, Clone)]
struct BlobWeight;

impl Weighter<(PackId, u64), Arc<Blob>> for BlobWeight {
    fn weight(&self, _: &(PackId, u64), blob: &Arc<Blob>) -> u64 {
        (blob.content.len() + size_of_val(blob.chunks.as_slice())) as u64
    }
}

#[derive(Debug, Clone)]
struct BasesWeight;

impl Weighter<(PackId, u64), Arc<[BaseRange]>> for BasesWeight {
    fn weight(&self, _: &(PackId, u64), bases: &Arc<[BaseRange]>) -> u64 {
        (64 + size_of_val::<[BaseRange]>(bases)) as u64
    }
}

/// The content of a chunk, within its blob.
#[derive(Debug, Clone)]
pub struct Chunk {
    blob: Arc<Blob>,
    range: Range<usize>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.blob.content.get(self.range.clone()).unwrap_or_default()
    }
}

impl Reader {
    /// A reader of what `index` has. Must be made within a tokio runtime, on which the store's calls
    /// run.
    pub fn new(repository: Arc<Repository>, index: Arc<Index>) -> Self {
        let blobs = Cache::with_weighter(1024, CACHE, BlobWeight);
        let bases = Cache::with_weighter(1024, BASES_CACHE, BasesWeight);
        Reader {
            repository,
            index,
            runtime: Handle::current(),
            blobs,
            bases,
            searches_packs: true,
            rebuilt: OnceLock::new(),
            rebuilding: Mutex::new(()),
        }
    }

    /// As [`Reader::new`], of what can be done without if the index does not lead to it: the packs themselves, which
    /// may be many, are not searched for that.
    pub fn of_index_alone(repository: Arc<Repository>, index: Arc<Index>) -> Self {
        Reader { searches_packs: false, ..Reader::new(repository, index) }
    }

    /// The repository that is read.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// What says where chunks are.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The content of a chunk: authentic, and of the length that the index has.
    pub fn chunk(&self, id: &ChunkId) -> Result<Chunk> {
        self.climb(id, |index| index.find(id), |location| self.chunk_at(id, location))
    }

    /// Reads a chunk at the first of its places where that succeeds: those of the index, then those that
    /// the packs themselves name, if the index has lost some (`SPEC.md` 15.7).
    fn climb<T>(
        &self,
        id: &ChunkId,
        places: impl Fn(&Index) -> Result<Vec<ChunkLocation>>,
        read: impl Fn(&ChunkLocation) -> Result<T>,
    ) -> Result<T> {
        let mut failure = Error::MissingChunk(*id);
        let mut unanswered = None;
        let mut tried = vec![];
        for rung in [false, true] {
            if rung && !self.searches_packs {
                break;
            }
            let index = if rung { self.rebuilt()? } else { &self.index };
            for location in places(index)? {
                let place = (location.blob.pack, location.blob.offset, location.offset);
                if tried.contains(&place) {
                    continue;
                }
                tried.push(place);
                match read(&location) {
                    Ok(content) => return Ok(content),
                    Err(error) if error.is_damage() => {
                        tracing::warn!("{}: {error}", ObjectName::Pack(location.blob.pack));
                        failure = error;
                    }
                    // Another place may be in a better one.
                    Err(error) => unanswered = Some(error),
                }
            }
            // What gave no answer is not known to be missing.
            if let Some(error) = unanswered.take() {
                return Err(error);
            }
        }
        Err(failure)
    }

    /// The index as the packs themselves have it; made once, when something is missing.
    fn rebuilt(&self) -> Result<&Index> {
        if let Some(rebuilt) = self.rebuilt.get() {
            return Ok(rebuilt);
        }
        let _one_at_a_time = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rebuilt) = self.rebuilt.get() {
            return Ok(rebuilt);
        }
        tracing::warn!("the index does not lead to everything; reading the packs themselves");
        let rebuilt = self.runtime.block_on(Index::rebuild(&self.repository))?;
        Ok(self.rebuilt.get_or_init(|| rebuilt))
    }

    /// The runs that give the content of a file, with its map's leaves read in.
    pub fn runs(&self, content: &Content) -> Result<Vec<Run>> {
        match content {
            Content::Runs(runs) => Ok(runs.clone()),
            Content::Map(leaves) => {
                let mut runs = vec![];
                for leaf in leaves {
                    runs.extend(self.leaf(&leaf.chunk, leaf.covers)?);
                }
                Ok(runs)
            }
        }
    }

    /// The runs in one leaf of a map.
    pub fn leaf(&self, id: &ChunkId, covers: u64) -> Result<Vec<Run>> {
        let chunk = self.metadata_chunk(ChunkKind::Map, id)?;
        decode_leaf(&chunk, covers).map_err(|e| Error::damaged(format!("chunk {id}"), e))
    }

    /// The bytes that a short content has, such as a directory or a configuration file.
    pub fn bytes(&self, kind: ChunkKind, content: &Content, limit: u64) -> Result<Vec<u8>> {
        let damaged = |e| Error::damaged("content", e);
        let length = content.validate().map_err(damaged)?;
        repo_format::codec::within("content", length, limit).map_err(damaged)?;
        let mut bytes = Vec::new();
        for run in self.runs(content)? {
            match run {
                Run::Zero { length } => bytes.resize(bytes.len() + length as usize, 0),
                Run::Chunk { id, offset, length } => {
                    let chunk = if kind.is_metadata() {
                        self.metadata_chunk(kind, &id)?
                    } else {
                        self.chunk(&id)?
                    };
                    bytes.extend_from_slice(run_bytes(&chunk, &id, offset, length)?);
                }
            }
        }
        Ok(bytes)
    }

    /// What is in a directory, read while it is gone through.
    pub fn entries(&self, directory: &DirectoryRef) -> Result<Entries<'_>> {
        directory.validate().map_err(|e| Error::damaged("a directory", e))?;
        let runs = self.runs(&directory.content)?.into();
        Ok(Entries { reader: self, runs, decoder: DirectoryDecoder::default(), ended: false })
    }

    /// A chunk of metadata, whose hash is checked: trees are Merkle trees all the way down.
    fn metadata_chunk(&self, kind: ChunkKind, id: &ChunkId) -> Result<Chunk> {
        let read = |location: &ChunkLocation| {
            let chunk = self.chunk_at(id, location)?;
            if self.repository.keys().naming().chunk_id_of(kind, &chunk) != *id {
                let error = DecodeError::malformed("chunk", "its content has another hash");
                return Err(Error::damaged(format!("chunk {id}"), error));
            }
            Ok(chunk)
        };
        self.climb(id, |index| index.find(id), read)
    }

    fn chunk_at(&self, id: &ChunkId, location: &ChunkLocation) -> Result<Chunk> {
        let key = (location.blob.pack, location.blob.offset);
        let blob = self
            .blobs
            .get_or_insert_with(&key, || self.decode_blob(&location.blob).map(Arc::new))?;
        self.must_have(&blob, id, location)?;
        let start = location.offset as usize;
        Ok(Chunk { blob, range: start..start + location.length as usize })
    }

    /// That a blob's header lists the chunk is what counts, not that the index says so.
    fn must_have(&self, blob: &Blob, id: &ChunkId, location: &ChunkLocation) -> Result<()> {
        if blob.has(id, location) {
            return Ok(());
        }
        let detail = format!("the index says that chunk {id} is here, and the blob does not");
        let name = ObjectName::Pack(location.blob.pack).to_string();
        Err(Error::damaged(name, DecodeError::malformed("blob", detail)))
    }

    /// Fetches and decodes a blob: what its header says, and its content.
    pub fn whole_blob(&self, location: &BlobLocation) -> Result<(BlobHeader, Vec<u8>)> {
        let Blob { kind, chunks, content, .. } = self.decode_blob(location)?;
        Ok((BlobHeader { kind, chunks }, content))
    }

    fn decode_blob(&self, location: &BlobLocation) -> Result<Blob> {
        let (header, body) = self.open_blob(location)?;
        // An index that lies must not make two blobs wait for each other.
        if body.encoding() != location.encoding {
            let detail = "the index says that it is encoded otherwise";
            let name = ObjectName::Pack(location.pack).to_string();
            return Err(Error::damaged(name, DecodeError::malformed("blob", detail)));
        }
        let prefix = self.prefix(header.kind, body.bases())?;
        decode(location, header, &body, &prefix)
    }

    /// A blob that must be plain, and of the kind on which deltas of `kind` are made.
    fn base_blob(&self, location: &BlobLocation, kind: ChunkKind) -> Result<Arc<Blob>> {
        let is_base = |found: ChunkKind, encoding: Encoding| {
            if encoding != Encoding::Delta && Some(found) == kind.base_kind() {
                return Ok(());
            }
            let detail = "a delta has a base here that is a delta itself, or of another kind";
            let name = ObjectName::Pack(location.pack).to_string();
            Err(Error::damaged(name, DecodeError::malformed("blob", detail)))
        };
        let key = (location.pack, location.offset);
        // Who waits here waits for a plain blob, which needs no other.
        let blob =
            self.blobs.get_or_insert_with(&key, || self.decode_blob(location).map(Arc::new))?;
        is_base(blob.kind, blob.encoding)?;
        Ok(blob)
    }

    /// Fetches and opens a blob.
    fn open_blob(&self, blob: &BlobLocation) -> Result<(BlobHeader, BlobBody)> {
        let name = ObjectName::Pack(blob.pack).to_string();
        let damaged = |e: DecodeError| Error::damaged(&*name, e);
        let range = blob.offset..blob.offset + blob.frame_length();
        let bytes = self.runtime.block_on(self.repository.storage().get_range(&name, range))?;
        let keys = self.repository.keys();
        let (frame, rest) = Frame::split(&bytes).map_err(damaged)?;
        let header = frame.open_header(keys).map_err(damaged)?;
        if !rest.is_empty() || header.content_length() != blob.content_length as usize {
            let detail = "the index says that it has another length";
            return Err(damaged(DecodeError::malformed("blob", detail)));
        }
        let body = frame.open_body(keys, &header).map_err(damaged)?;
        Ok((header, body))
    }

    /// The base ranges of a delta of `kind`, one after the other.
    pub(super) fn prefix(&self, kind: ChunkKind, bases: &[BaseRange]) -> Result<Vec<u8>> {
        let length = bases.iter().map(|base| base.length as usize).sum();
        let mut prefix = Vec::with_capacity(length);
        for base in bases {
            let read = |location: &ChunkLocation| {
                let blob = self.base_blob(&location.blob, kind)?;
                self.must_have(&blob, &base.chunk, location)?;
                let start = location.offset as usize;
                let chunk = Chunk { blob, range: start..start + location.length as usize };
                run_bytes(&chunk, &base.chunk, base.offset, base.length)?;
                Ok(chunk)
            };
            let short = base.chunk.short();
            let chunk = self.climb(&base.chunk, |index| index.find_base(&short, kind), read)?;
            prefix.extend_from_slice(run_bytes(&chunk, &base.chunk, base.offset, base.length)?);
        }
        Ok(prefix)
    }
}

/// The content of an opened blob.
fn decode(
    location: &BlobLocation,
    header: BlobHeader,
    body: &BlobBody,
    prefix: &[u8],
) -> Result<Blob> {
    let content = body
        .content(header.content_length(), prefix)
        .map_err(|e| Error::damaged(ObjectName::Pack(location.pack).to_string(), e))?;
    let BlobHeader { kind, chunks } = header;
    Ok(Blob { kind, encoding: body.encoding(), chunks, content })
}

/// The entries of a directory, up to the first error.
#[derive(Debug)]
pub struct Entries<'r> {
    reader: &'r Reader,
    /// What is still to be read.
    runs: VecDeque<Run>,
    decoder: DirectoryDecoder,
    ended: bool,
}

/// So many zeros of a run are decoded at once.
const ZEROS: [u8; 4096] = [0; 4096];

impl Entries<'_> {
    fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.decoder.next_entry().map_err(damaged_directory)? {
                return Ok(Some(entry));
            }
            if self.runs.is_empty() {
                return self.decoder.finish().map(|()| None).map_err(damaged_directory);
            }
            let wanted = self.decoder.wanted();
            while let Some(run) = self.runs.pop_front() {
                self.push(run)?;
                if self.decoder.pending() >= wanted {
                    break;
                }
            }
        }
    }

    /// Gives bytes of a run to the decoder: of one of zeros some, and it stays the first for the rest.
    fn push(&mut self, run: Run) -> Result<()> {
        match run {
            Run::Chunk { id, offset, length } => {
                let chunk = self.reader.metadata_chunk(ChunkKind::Tree, &id)?;
                let bytes = run_bytes(&chunk, &id, offset, length)?;
                self.decoder.push(bytes).map_err(damaged_directory)
            }
            Run::Zero { length } => {
                let some = length.min(ZEROS.len() as u64);
                let zeros = ZEROS.get(..some as usize).unwrap_or(&ZEROS);
                if length > some {
                    self.runs.push_front(Run::Zero { length: length - some });
                }
                self.decoder.push(zeros).map_err(damaged_directory)
            }
        }
    }
}

fn damaged_directory(error: DecodeError) -> Error {
    Error::damaged("a directory", error)
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.ended {
            return None;
        }
        let next = self.next_entry().transpose();
        self.ended = next.as_ref().is_none_or(Result::is_err);
        next
    }
}

/// A part of a chunk; an error if the chunk is shorter.
pub fn run_bytes<'a>(chunk: &'a [u8], id: &ChunkId, offset: u32, length: u32) -> Result<&'a [u8]> {
    let start = offset as usize;
    chunk.get(start..start + length as usize).ok_or_else(|| {
        let detail =
            format!("it has {} bytes, and {} are needed", chunk.len(), start + length as usize);
        Error::damaged(format!("chunk {id}"), DecodeError::malformed("chunk", detail))
    })
}
