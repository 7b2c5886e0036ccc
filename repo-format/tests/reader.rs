//! Reads chunks and contents as SPEC.md 6.4 and 9.1 say, from packs in memory.

use std::collections::HashMap;

use repo_format::blob::{Encoding, Frame};
use repo_format::chunk::ChunkKind;
use repo_format::codec::{DecodeError, Result};
use repo_format::content::{Content, Run, decode_leaf};
use repo_format::ids::{ChunkId, PackId};
use repo_format::index::IndexRun;
use repo_format::keys::KeyRing;

pub struct Reader {
    pub keys: KeyRing,
    pub runs: Vec<IndexRun>,
    pub packs: HashMap<PackId, Vec<u8>>,
}

fn wrong(detail: &str) -> DecodeError {
    DecodeError::malformed("repository", detail)
}

impl Reader {
    /// The content of a chunk.
    pub fn chunk(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        self.stored_chunk(kind, id, false)
    }

    fn stored_chunk(&self, kind: ChunkKind, id: &ChunkId, as_base: bool) -> Result<Vec<u8>> {
        let location = self.runs.iter().find_map(|run| run.find(id).next());
        let location = location.ok_or_else(|| wrong("a chunk is not indexed"))?;
        let blob = location.blob;
        let pack = self.packs.get(&blob.pack).ok_or_else(|| wrong("a pack is missing"))?;
        let range = blob.offset as usize..(blob.offset + blob.frame_length()) as usize;
        let bytes = pack.get(range).ok_or_else(|| wrong("a pack is short"))?;
        let frame = blob.frame(bytes)?;
        let chunks = self.blob(&frame, kind, as_base)?;
        let found = chunks.into_iter().find(|(found, _)| found == id);
        Ok(found.ok_or_else(|| wrong("a blob lacks a chunk"))?.1)
    }

    /// The chunks of a blob, each compared with its id.
    pub fn blob(
        &self,
        frame: &Frame<'_>,
        kind: ChunkKind,
        as_base: bool,
    ) -> Result<Vec<(ChunkId, Vec<u8>)>> {
        let header = frame.open_header(&self.keys)?;
        let body = frame.open_body(&self.keys, &header)?;
        if header.kind != kind || as_base && body.encoding() == Encoding::Delta {
            return Err(wrong("a blob is of another kind, or a base is a delta"));
        }
        let mut prefix = vec![];
        for base in body.bases() {
            let base_kind = kind.base_kind().ok_or_else(|| wrong("a delta where none is"))?;
            let chunk = self.stored_chunk(base_kind, &base.chunk, true)?;
            let range = base.offset as usize..(base.offset + base.length) as usize;
            prefix.extend_from_slice(chunk.get(range).ok_or_else(|| wrong("a base is short"))?);
        }
        let content = body.content(header.content_length(), &prefix)?;
        let mut rest = content.as_slice();
        let mut chunks = vec![];
        for span in &header.chunks {
            let (chunk, tail) = rest.split_at(span.length as usize);
            rest = tail;
            if self.keys.naming().chunk_id_of(kind, chunk) != span.id {
                return Err(wrong("a chunk is not what its id says"));
            }
            chunks.push((span.id, chunk.to_vec()));
        }
        Ok(chunks)
    }

    /// The bytes that `content` gives, of chunks of one kind.
    pub fn content(&self, kind: ChunkKind, content: &Content) -> Result<Vec<u8>> {
        let mut runs = vec![];
        match content {
            Content::Runs(own) => runs.extend_from_slice(own),
            Content::Map(leaves) => {
                for leaf in leaves {
                    let bytes = self.chunk(ChunkKind::Map, &leaf.chunk)?;
                    runs.extend(decode_leaf(&bytes, leaf.covers)?);
                }
            }
        }
        let mut bytes = vec![];
        for run in &runs {
            match run {
                Run::Zero { length } => bytes.resize(bytes.len() + *length as usize, 0),
                Run::Chunk { id, offset, length } => {
                    let chunk = self.chunk(kind, id)?;
                    let range = *offset as usize..(*offset + *length) as usize;
                    let range = chunk.get(range).ok_or_else(|| wrong("a chunk is short"))?;
                    bytes.extend_from_slice(range);
                }
            }
        }
        Ok(bytes)
    }
}
