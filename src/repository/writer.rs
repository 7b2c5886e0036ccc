//! Puts chunks into the repository: those that it lacks, compressed and sealed on all cores.
//!
//! ```text
//! add(chunk) → group small ones → jobs → workers: encode, verify, seal → packer → uploader
//! ```
//!
//! A new version of pages that the repository has is compressed with their plain version as its prefix, if that is
//! clearly smaller; the workers fetch it.
//!
//! The queues between are bounded, so that memory has a ceiling whatever the size of a backup. Whoever adds chunks does
//! the work itself while the workers have enough.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use repo_format::blob::{self, BaseRange, BlobBody, BlobHeader, ChunkSpan, Encoder, SealedBlob};
use repo_format::chunk::ChunkKind;
use repo_format::ids::ChunkId;
use repo_format::ids::SHORT_ID;
use repo_format::limits::MAX_BASES;
use tokio::runtime::Handle;

use super::buffers::Buffers;
use super::error::{Error, Result};
use super::index::{Index, RowSet};
use super::packer::{self, Added};
use super::reader::Reader;
use super::{Repository, host};

/// Chunks shorter than this are compressed together with their neighbours.
const SMALL_CHUNK: usize = 64 * 1024;

/// A group of small chunks is stored when it has so many bytes.
const GROUP: usize = 256 * 1024;

/// A group is stored when it has so many chunks, even if they are tiny.
const GROUP_CHUNKS: usize = 1024;

/// A delta that is so many times smaller than its content is smaller than the content compressed, as good as
/// always: to find out would cost more.
const SURELY_SMALLER: usize = 16;

/// Buffers that are kept for later.
const BUFFERS: usize = 16;

/// How a writer works.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// Threads that compress and seal; where they are several, the one that adds chunks is one of them.
    pub threads: usize,
    /// The level of zstd.
    pub level: i32,
    /// Whether new versions of pages may be stored as deltas on what the repository has.
    pub deltas: bool,
}

/// What a writer has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// Bytes of their content.
    pub new_bytes: u64,
    /// Bytes that were added to the store.
    pub stored_bytes: u64,
}

/// Takes chunks, and stores those that the repository lacks.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    /// Small chunks, those that have a former version apart.
    groups: HashMap<(ChunkKind, bool), Job>,
    /// Closed when it has no more to give.
    queue: Option<Queue>,
    /// What is at the other end of the queue; nothing in a writer beside the one that has it.
    pipeline: Option<Pipeline>,
    written: Written,
}

/// What writers beside each other share.
#[derive(Debug)]
struct Shared {
    repository: Arc<Repository>,
    index: Arc<Index>,
    reader: Arc<Reader>,
    added: Mutex<RowSet<SHORT_ID>>,
    buffers: Buffers,
    failure: Arc<Failure>,
    options: WriterOptions,
}

/// The threads that compress, seal and upload.
#[derive(Debug)]
struct Pipeline {
    workers: Vec<JoinHandle<Result<()>>>,
    packer: JoinHandle<Result<Added>>,
}

/// The way to the workers.
#[derive(Debug)]
struct Queue {
    jobs: Sender<Job>,
    /// Works while the others have enough: to wait for them would cost more.
    own: Worker,
}

/// Chunks that become one blob.
#[derive(Debug)]
struct Job {
    header: BlobHeader,
    content: Vec<u8>,
    /// The former version of all of the content, if it is to be a delta.
    former: Vec<BaseRange>,
}

/// Whether a part of the pipeline has failed, so that the others stop.
#[derive(Debug, Default)]
pub struct Failure(AtomicBool);

impl Failure {
    /// Makes the others stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a part has failed.
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// A writer that stores what `index` does not have. Must be made within a tokio runtime, on which
    /// the store's calls run; the writer itself is for blocking threads.
    pub fn new(
        repository: Arc<Repository>,
        index: Arc<Index>,
        options: WriterOptions,
    ) -> Result<Self> {
        let threads = options.threads.max(1);
        let failure = Arc::new(Failure::default());
        let (jobs, waiting) = bounded::<Job>(threads);
        let (sealed, blobs) = bounded::<SealedBlob>(threads * 4);
        let buffers = Buffers::new(BUFFERS, repository.config().chunking.page_maximum as usize);
        let reader = Arc::new(Reader::of_index_alone(repository.clone(), index.clone()));
        let worker = || Worker::new(&reader, &sealed, &buffers, options.level);
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..(threads - 1).max(1) {
            let (mut worker, waiting, failure) = (worker()?, waiting.clone(), failure.clone());
            workers.push(std::thread::spawn(move || {
                waiting.iter().try_for_each(|job| worker.work(job)).inspect_err(|_| failure.set())
            }));
        }
        let queue = Queue { jobs, own: worker()? };
        let packer = {
            let (repository, failure, runtime) =
                (repository.clone(), failure.clone(), Handle::current());
            std::thread::spawn(move || {
                packer::pack(&repository, &runtime, &blobs, &failure).inspect_err(|_| failure.set())
            })
        };
        let added = Mutex::new(RowSet::new(&host::scratch_directory()));
        Ok(Writer {
            shared: Arc::new(Shared {
                repository,
                index,
                reader,
                added,
                buffers,
                failure,
                options,
            }),
            groups: HashMap::new(),
            queue: Some(queue),
            pipeline: Some(Pipeline { workers, packer }),
            written: Written::default(),
        })
    }

    /// A writer for another thread, which shares everything with this one. It must be finished before this one is.
    pub fn beside(&self) -> Result<Writer> {
        let queue = self.queue.as_ref().ok_or(Error::Interrupted)?;
        let Shared { reader, buffers, options, .. } = self.shared.as_ref();
        let own = Worker::new(reader, &queue.own.sealed, buffers, options.level)?;
        Ok(Writer {
            shared: self.shared.clone(),
            groups: HashMap::new(),
            queue: Some(Queue { jobs: queue.jobs.clone(), own }),
            pipeline: None,
            written: Written::default(),
        })
    }

    /// Counts what a writer beside this one has written.
    pub fn count(&mut self, beside: Written) {
        self.written.new_chunks += beside.new_chunks;
        self.written.new_bytes += beside.new_bytes;
    }

    /// The repository that is written to.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.shared.repository
    }

    /// Buffers for the contents of chunks; they come back when the chunks are stored.
    pub fn buffers(&self) -> &Buffers {
        &self.shared.buffers
    }

    /// Reads what the repository had when the writer was made.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.shared.reader
    }

    /// Stores a chunk if the repository lacks it.
    ///
    /// # Errors
    /// If the writer has failed; [`Writer::finish`] says why.
    pub fn add(&mut self, kind: ChunkKind, id: ChunkId, content: Vec<u8>) -> Result<()> {
        self.add_changed(kind, id, content, vec![])
    }

    /// Stores a chunk that is a new version of `former`, byte by byte, if the repository lacks it: as a delta, if
    /// that is clearly smaller.
    ///
    /// # Errors
    /// As [`Writer::add`].
    pub fn add_changed(
        &mut self,
        kind: ChunkKind,
        id: ChunkId,
        content: Vec<u8>,
        former: Vec<BaseRange>,
    ) -> Result<()> {
        if self.shared.failure.happened() {
            return Err(self.fail());
        }
        let former = if self.shared.options.deltas { former } else { vec![] };
        if !self.shared.is_new(&id)? {
            self.shared.buffers.give(content);
            return Ok(());
        }
        self.written.new_chunks += 1;
        self.written.new_bytes += content.len() as u64;
        let length = u32::try_from(content.len()).expect("a chunk is not over 1 MiB");
        let span = ChunkSpan { id, length };
        if content.len() >= SMALL_CHUNK {
            let header = BlobHeader { kind, chunks: vec![span] };
            return self.submit(Job { header, content, former });
        }
        let group = (kind, !former.is_empty());
        let job = self.groups.entry(group).or_insert_with(|| Job {
            header: BlobHeader { kind, chunks: vec![] },
            content: self.shared.buffers.take(),
            former: vec![],
        });
        job.header.chunks.push(span);
        job.content.extend_from_slice(&content);
        job.former.extend(former);
        self.shared.buffers.give(content);
        if job.content.len() >= GROUP || job.header.chunks.len() >= GROUP_CHUNKS {
            let job = self.groups.remove(&group).expect("the group was just filled");
            return self.submit(job);
        }
        Ok(())
    }

    /// Waits until everything is durable and the index says where it is. Beside another writer, which sees to that, it
    /// only gives away the rest.
    pub fn finish(mut self) -> Result<Written> {
        for (_, group) in std::mem::take(&mut self.groups) {
            self.submit(group)?;
        }
        if self.pipeline.is_some() {
            self.written.stored_bytes = self.join()?.bytes;
        }
        self.queue = None;
        Ok(self.written)
    }

    fn submit(&mut self, job: Job) -> Result<()> {
        let queue = self.queue.as_mut().expect("the queue is closed only by the end of the writer");
        let done = match queue.jobs.try_send(job) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job)) => queue.own.work(job),
            Err(TrySendError::Disconnected(_)) => Err(Error::Interrupted),
        };
        match done {
            // Another part has failed, and knows why.
            Err(Error::Interrupted) => Err(self.fail()),
            done => done,
        }
    }

    /// The error of the part that failed.
    pub fn fail(&mut self) -> Error {
        match self.join() {
            Err(error) => error,
            Ok(_) => Error::Interrupted,
        }
    }

    fn join(&mut self) -> Result<Added> {
        self.queue = None;
        let Some(Pipeline { workers, packer }) = self.pipeline.take() else {
            return Err(Error::Interrupted);
        };
        let mut result = Ok(());
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        let added = packer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What the packer says is the reason; workers then only find their queue closed.
        let added = added?;
        result?;
        Ok(added)
    }
}

impl Drop for Writer {
    /// A writer that is not finished stops without uploading what it still holds, and with it those beside it:
    /// they count on it.
    fn drop(&mut self) {
        if self.queue.is_some() {
            self.shared.failure.set();
            let _ = self.join();
        }
    }
}

impl Shared {
    /// Whether neither the repository has a chunk, nor any of the writers.
    fn is_new(&self, id: &ChunkId) -> Result<bool> {
        let added = || self.added.lock().unwrap_or_else(PoisonError::into_inner).insert(id.short());
        Ok(!self.index.contains(id)? && added().map_err(Error::Scratch)?)
    }
}

/// Compresses and seals.
#[derive(Debug)]
struct Worker {
    reader: Arc<Reader>,
    encoder: Encoder,
    sealed: Sender<SealedBlob>,
    buffers: Buffers,
}

impl Worker {
    fn new(
        reader: &Arc<Reader>,
        sealed: &Sender<SealedBlob>,
        buffers: &Buffers,
        level: i32,
    ) -> Result<Self> {
        let encoder = Encoder::new(level)?;
        let (reader, sealed, buffers) = (reader.clone(), sealed.clone(), buffers.clone());
        Ok(Worker { reader, encoder, sealed, buffers })
    }

    fn work(&mut self, job: Job) -> Result<()> {
        let body = self.encode(&job)?;
        self.buffers.give(job.content);
        let blob = blob::seal(self.reader.repository().keys(), job.header, &body)?;
        // The packer ends early only when it failed, which it reports itself.
        self.sealed.send(blob).map_err(|_| Error::Interrupted)
    }

    /// The smaller of what the content is plain and as a delta; plain, unless a delta is clearly smaller.
    fn encode(&mut self, job: &Job) -> Result<BlobBody> {
        let delta = if job.former.is_empty() { None } else { self.encode_delta(job)? };
        match delta {
            Some(delta) if delta.length() <= job.content.len() / SURELY_SMALLER => Ok(delta),
            Some(delta) => {
                let plain = self.encoder.encode(&job.content)?;
                Ok(if delta.length() <= plain.length() / 4 * 3 { delta } else { plain })
            }
            None => Ok(self.encoder.encode(&job.content)?),
        }
    }

    /// The content as a delta; nothing if what it would be on cannot be had.
    fn encode_delta(&mut self, job: &Job) -> Result<Option<BlobBody>> {
        let kind = job.header.kind;
        let fetched = || -> Result<_> {
            let Some(bases) = self.reader.plain_versions(kind, &job.former)? else {
                return Ok(None);
            };
            if bases.len() > MAX_BASES {
                return Ok(None);
            }
            let prefix = self.reader.prefix(kind, &bases)?;
            Ok(Some((bases, prefix)))
        };
        match fetched() {
            Ok(Some((bases, prefix))) => {
                Ok(Some(self.encoder.encode_delta(&job.content, bases, &prefix)?))
            }
            Ok(None) => Ok(None),
            // It is needed to save space, and for nothing else.
            Err(error) if error.is_damage() => {
                tracing::warn!("changed pages are stored whole: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
