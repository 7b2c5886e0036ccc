//! Cuts a file of pages where it differs from its former version.
//!
//! Pages that did not change stay in the chunks that they are in. Those that did are gathered, in the order of the
//! file, into new chunks, each a new version of as many former pages; pages that had no former version are gathered apart, and are
//! what later versions can be compared with (`SPEC.md` 13.3). Where the hashes of the former pages are not
//! known, chunks are compared by their ids, and only those that changed are read.

use std::collections::{HashMap, VecDeque};

use repo_format::blob::BaseRange;
use repo_format::chunk::ChunkKind;
use repo_format::config::Chunking;
use repo_format::content::Run;
use repo_format::ids::{ChunkId, LeafHash};
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;

use super::former::{Former, Stretch, Use};
use super::pages::{CutRule, ZEROS};
use crate::repository::buffers::Buffers;
use crate::repository::error::{Error, Result};
use crate::repository::reader::{Reader, run_bytes};

/// Takes what a file is made of.
pub trait Sink {
    /// Stores a chunk, which may be a new version of `former`, byte by byte.
    fn chunk(
        &mut self,
        content: Vec<u8>,
        leaves: &[LeafHash],
        former: Vec<BaseRange>,
    ) -> Result<ChunkId>;

    /// Adds the next run of the file.
    fn run(&mut self, run: Run) -> Result<()>;
}

/// Cuts one file.
#[derive(Debug)]
pub struct ChangeCutter {
    former: Former,
    /// The number of the stretch of the former version that `offset` is in, and where in the file it begins.
    stretch: usize,
    stretch_start: u64,
    offset: u64,
    /// No chunk has pages of two windows, so that readers of different ones agree.
    window: u64,
    /// Pages that cannot be compared before all of their stretch has come.
    unknown: Pages,
    changed: Gathering,
    fresh: Gathering,
    /// What the file is made of and the sink does not have yet, because the chunk of some of it is not complete.
    pending: VecDeque<Pending>,
    complete: HashMap<ChunkNumber, ChunkId>,
    buffers: Buffers,
}

/// Pages that follow each other.
#[derive(Debug, Default)]
struct Pages {
    content: Vec<u8>,
    leaves: Vec<LeafHash>,
}

/// Pages of which a chunk is made.
#[derive(Debug)]
struct Gathering {
    of: Origin,
    rule: CutRule,
    pages: Pages,
    former: Vec<BaseRange>,
    chunks: u64,
}

/// Whether gathered pages had a former version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Changed,
    Fresh,
}

/// A chunk of this file before it has an id.
type ChunkNumber = (Origin, u64);

#[derive(Debug)]
enum Pending {
    Run(Run),
    Gathered { chunk: ChunkNumber, offset: u32, length: u32 },
}

impl ChangeCutter {
    /// A cutter at the beginning of a file, that puts chunks into `buffers`.
    pub fn new(former: Former, chunking: &Chunking, buffers: &Buffers) -> Self {
        let gathering = |of| Gathering {
            of,
            rule: CutRule::new(chunking),
            pages: Pages::default(),
            former: vec![],
            chunks: 0,
        };
        ChangeCutter {
            former,
            stretch: 0,
            stretch_start: 0,
            offset: 0,
            window: u64::from(chunking.page_restart),
            unknown: Pages::default(),
            changed: gathering(Origin::Changed),
            fresh: gathering(Origin::Fresh),
            pending: VecDeque::new(),
            complete: HashMap::new(),
            buffers: buffers.clone(),
        }
    }

    /// Adds the next leaf of the file; only the last one may be short.
    pub fn leaf(
        &mut self,
        reader: &Reader,
        hash: LeafHash,
        leaf: &[u8],
        sink: &mut impl Sink,
    ) -> Result<()> {
        let offset = self.offset;
        self.offset += leaf.len() as u64;
        let usable = self.former.stretches().get(self.stretch).map_or(Use::Nothing, |s| s.usable);
        match (usable, self.former.leaf(offset)) {
            (Use::Nothing | Use::Renew, _) => self.gather(hash, leaf, None, sink)?,
            (Use::Gather, _) => self.gather(hash, leaf, self.former_range(offset, leaf), sink)?,
            (Use::Keep, Some(former)) => self.page(offset, hash, leaf, *former == hash, sink)?,
            (Use::Keep, None) => {
                if self.unknown.content.capacity() == 0 {
                    self.unknown.content = self.buffers.take();
                }
                self.unknown.push(hash, leaf);
            }
        }
        while let Some(end) = self.stretch_end()
            && self.offset >= end
        {
            self.compare_unknown(reader, sink)?;
            self.stretch_start = end;
            self.stretch += 1;
        }
        if self.offset.is_multiple_of(self.window) {
            self.complete_all(sink)?;
        }
        Ok(())
    }

    /// Adds the next leaf of the file, which is as it was: a whole one. Returns its hash.
    ///
    /// # Errors
    /// If the former version does not have it, or it is needed and cannot be read.
    pub fn same_leaf(
        &mut self,
        reader: &Reader,
        keys: &NamingKeys,
        sink: &mut impl Sink,
    ) -> Result<LeafHash> {
        let stretch = self.former.stretches().get(self.stretch).copied();
        let Some(Stretch { run: Run::Chunk { id, .. }, usable }) = stretch else {
            let hash = keys.leaf(&ZEROS);
            self.leaf(reader, hash, &ZEROS, sink)?;
            return Ok(hash);
        };
        let former = self.former_range(self.offset, &ZEROS).ok_or(Error::MissingChunk(id))?;
        if usable == Use::Keep
            && let Some(hash) = self.former.leaf(self.offset).copied()
        {
            // Its bytes are not looked at.
            self.leaf(reader, hash, &ZEROS, sink)?;
            return Ok(hash);
        }
        let chunk = reader.chunk(&id)?;
        let leaf = run_bytes(&chunk, &id, former.offset, former.length)?;
        let hash = keys.leaf(leaf);
        self.leaf(reader, hash, leaf, sink)?;
        Ok(hash)
    }

    /// Ends the file.
    pub fn end(&mut self, reader: &Reader, sink: &mut impl Sink) -> Result<()> {
        self.compare_unknown(reader, sink)?;
        self.complete_all(sink)
    }

    fn complete_all(&mut self, sink: &mut impl Sink) -> Result<()> {
        self.complete(Origin::Changed, sink)?;
        self.complete(Origin::Fresh, sink)?;
        self.drain(sink)?;
        self.complete.clear();
        Ok(())
    }

    /// Where the stretch ends, in the file; nothing behind the former version.
    fn stretch_end(&self) -> Option<u64> {
        let stretch = self.former.stretches().get(self.stretch)?;
        Some(self.stretch_start + stretch.run.length())
    }

    /// The former version of a leaf at `offset`, in the stretch; nothing if it had another length.
    fn former_range(&self, offset: u64, leaf: &[u8]) -> Option<BaseRange> {
        let stretch = self.former.stretches().get(self.stretch)?;
        let Run::Chunk { id, offset: start, length } = stretch.run else { return None };
        let within = u32::try_from(offset - self.stretch_start).ok()?;
        let had = (length.checked_sub(within)? as usize).min(LEAF);
        let length = u32::try_from(leaf.len()).ok()?;
        (had == leaf.len()).then_some(BaseRange { chunk: id, offset: start + within, length })
    }

    /// Takes a leaf whose former version can be used.
    fn page(
        &mut self,
        offset: u64,
        hash: LeafHash,
        leaf: &[u8],
        same: bool,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let former = self.former_range(offset, leaf);
        match former {
            Some(BaseRange { chunk: id, offset, length }) if same => {
                self.run(Run::Chunk { id, offset, length });
                self.drain(sink)
            }
            former => self.gather(hash, leaf, former, sink),
        }
    }

    /// Compares the pages that wait with the stretch that they are in.
    fn compare_unknown(&mut self, reader: &Reader, sink: &mut impl Sink) -> Result<()> {
        if self.unknown.content.is_empty() {
            return Ok(());
        }
        let Pages { content, leaves } = std::mem::take(&mut self.unknown);
        let Some(Run::Chunk { id, offset: start, length }) =
            self.former.stretches().get(self.stretch).map(|stretch| stretch.run)
        else {
            unreachable!("only stretches of chunks are compared");
        };
        let keys = reader.repository().keys().naming();
        let is_same = start == 0
            && content.len() == length as usize
            && keys.chunk_id(ChunkKind::Data, content.len() as u64, &leaves) == id;
        let read = if is_same { None } else { Some(reader.chunk(&id)) };
        let chunk = match read {
            Some(Err(error)) if error.is_damage() => {
                tracing::warn!("pages are stored again: {error}");
                for (leaf, hash) in content.chunks(LEAF).zip(leaves) {
                    self.gather(hash, leaf, None, sink)?;
                }
                self.buffers.give(content);
                return Ok(());
            }
            Some(chunk) => Some(chunk?),
            None => None,
        };
        let former = match &chunk {
            Some(chunk) => run_bytes(chunk, &id, start, length)?,
            None => &content,
        };
        let mut offset = self.stretch_start;
        for (at, (leaf, hash)) in content.chunks(LEAF).zip(leaves).enumerate() {
            let same = former.chunks(LEAF).nth(at) == Some(leaf);
            self.page(offset, hash, leaf, same, sink)?;
            offset += leaf.len() as u64;
        }
        self.buffers.give(content);
        Ok(())
    }

    /// Takes a leaf that is stored anew.
    fn gather(
        &mut self,
        hash: LeafHash,
        leaf: &[u8],
        former: Option<BaseRange>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        if leaf == ZEROS {
            self.run(Run::Zero { length: LEAF as u64 });
            return self.drain(sink);
        }
        let gathering = if former.is_some() { &mut self.changed } else { &mut self.fresh };
        if gathering.pages.content.capacity() == 0 {
            gathering.pages.content = self.buffers.take();
        }
        let offset = u32::try_from(gathering.pages.content.len()).expect("a chunk is short");
        let length = u32::try_from(leaf.len()).expect("a leaf is short");
        let (of, chunk) = (gathering.of, (gathering.of, gathering.chunks));
        gathering.pages.push(hash, leaf);
        gathering.former.extend(former);
        let is_complete = gathering.rule.ends_after(gathering.pages.content.len(), &hash);
        match self.pending.back_mut() {
            Some(Pending::Gathered { chunk: last, length: before, .. }) if *last == chunk => {
                *before += length;
            }
            _ => self.pending.push_back(Pending::Gathered { chunk, offset, length }),
        }
        if is_complete {
            self.complete(of, sink)?;
            self.drain(sink)?;
        }
        Ok(())
    }

    fn run(&mut self, run: Run) {
        if let Some(Pending::Run(last)) = self.pending.back_mut()
            && let Some(joined) = last.joined(&run)
        {
            *last = joined;
            return;
        }
        self.pending.push_back(Pending::Run(run));
    }

    /// Stores a chunk of what was gathered.
    fn complete(&mut self, of: Origin, sink: &mut impl Sink) -> Result<()> {
        let gathering = match of {
            Origin::Changed => &mut self.changed,
            Origin::Fresh => &mut self.fresh,
        };
        if gathering.pages.content.is_empty() {
            return Ok(());
        }
        let Pages { content, leaves } = std::mem::take(&mut gathering.pages);
        let id = sink.chunk(content, &leaves, std::mem::take(&mut gathering.former))?;
        self.complete.insert((of, gathering.chunks), id);
        gathering.chunks += 1;
        Ok(())
    }

    /// Gives the sink everything that waits for no chunk, in the order of the file.
    fn drain(&mut self, sink: &mut impl Sink) -> Result<()> {
        while let Some(next) = self.pending.front() {
            let run = match next {
                Pending::Run(run) => *run,
                Pending::Gathered { chunk, offset, length } => match self.complete.get(chunk) {
                    Some(id) => Run::Chunk { id: *id, offset: *offset, length: *length },
                    None => break,
                },
            };
            sink.run(run)?;
            self.pending.pop_front();
        }
        Ok(())
    }
}

impl Pages {
    fn push(&mut self, hash: LeafHash, leaf: &[u8]) {
        self.content.extend_from_slice(leaf);
        self.leaves.push(hash);
    }
}
