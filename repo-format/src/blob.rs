//! Blobs: one or more chunks, compressed and sealed together.
//!
//! A blob is stored as a *frame*, which says everything about it and can be moved as it is:
//!
//! ```text
//! header length u32   body length u32   sealed header   sealed body
//!
//! header:  kind u8   count u16   count × { chunk id [32]   length u32 }
//! body:    encoding u8   bases u16   bases × { chunk id [32]   offset u32   length u32 }
//!          payload length u32   payload   zero bytes to the end
//! ```
//!
//! The header is the associated data of the body, so that a body opens only as the chunks it is.

use zstd::zstd_safe;

use crate::chunk::ChunkKind;
use crate::codec::{DecodeError, Reader, Result, within};
use crate::ids::ChunkId;
use crate::keys::KeyRing;
use crate::limits::{
    MAX_BASE_BYTES, MAX_BASES, MAX_BLOB, MAX_BLOB_CHUNKS, MAX_BODY_OVERHEAD, MAX_CHUNK,
};
use crate::record::SealError;
use crate::seal::{Domain, OVERHEAD};

/// A chunk within a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct ChunkSpan {
    /// The identity of the chunk.
    pub id: ChunkId,
    /// Its length in bytes, at least one.
    pub length: u32,
}

/// Which chunks a blob holds, in the order of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobHeader {
    /// What the chunks are.
    pub kind: ChunkKind,
    /// The chunks, whose contents follow each other without gaps.
    pub chunks: Vec<ChunkSpan>,
}

impl BlobHeader {
    /// The length of the blob's content in bytes.
    pub fn content_length(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.length as usize).sum()
    }

    /// The plaintext of the header.
    pub fn encode(&self) -> Result<Vec<u8>> {
        validate_chunks(&self.chunks)?;
        let mut out = Vec::with_capacity(header_length(self.chunks.len()));
        out.push(self.kind as u8);
        let count = u16::try_from(self.chunks.len()).expect("a blob holds at most 4096 chunks");
        out.extend_from_slice(&count.to_le_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
            out.extend_from_slice(&chunk.length.to_le_bytes());
        }
        Ok(out)
    }

    /// Decodes the plaintext of a header.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let what = "blob header";
        let mut reader = Reader::new(what, bytes);
        let kind = ChunkKind::from_number(reader.u8()?)?;
        let count = usize::from(reader.u16()?);
        within("number of chunks in a blob", count as u64, MAX_BLOB_CHUNKS as u64)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ChunkId::from_bytes(reader.array()?);
            chunks.push(ChunkSpan { id, length: reader.u32()? });
        }
        reader.end()?;
        validate_chunks(&chunks)?;
        Ok(BlobHeader { kind, chunks })
    }
}

/// The length of a header's plaintext in bytes.
pub(crate) fn header_length(chunks: usize) -> usize {
    3 + chunks * 36
}

/// Checks the chunks of one blob, wherever they are listed.
pub(crate) fn validate_chunks(chunks: &[ChunkSpan]) -> Result<()> {
    let what = "list of a blob's chunks";
    if chunks.is_empty() {
        return Err(DecodeError::malformed(what, "it is empty"));
    }
    within("number of chunks in a blob", chunks.len() as u64, MAX_BLOB_CHUNKS as u64)?;
    for chunk in chunks {
        if chunk.length == 0 {
            return Err(DecodeError::malformed(what, "a chunk is empty"));
        }
        within("chunk length", u64::from(chunk.length), MAX_CHUNK as u64)?;
    }
    let total = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    within("blob content", total, MAX_BLOB as u64)
}

/// How the payload of a blob gives its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Encoding {
    /// The payload is the content.
    Raw = 0,
    /// The payload is one zstd frame of the content.
    Zstd = 1,
    /// The payload is one zstd frame, and the base ranges, one after the other, are its prefix
    /// (raw-content dictionary).
    Delta = 2,
}

impl Encoding {
    /// The encoding with this number.
    pub fn from_number(number: u8) -> Result<Self> {
        Ok(match number {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            2 => Encoding::Delta,
            _ => return Err(DecodeError::malformed("blob encoding", format!("unknown {number}"))),
        })
    }
}

/// A range of a chunk that is stored plain, as part of a delta's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseRange {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where the range begins in the chunk, in bytes.
    pub offset: u32,
    /// The length of the range in bytes.
    pub length: u32,
}

/// The body of a blob: its content in encoded form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobBody {
    encoding: Encoding,
    bases: Vec<BaseRange>,
    payload: Vec<u8>,
    padding: usize,
}

impl BlobBody {
    /// The same body with so many zero bytes after its payload, which hide its length.
    #[must_use]
    pub fn padded(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }

    /// How the payload is encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The ranges that form the prefix of a delta, in order; empty for other encodings.
    pub fn bases(&self) -> &[BaseRange] {
        &self.bases
    }

    /// The length of the body without its padding, in bytes.
    pub fn length(&self) -> usize {
        7 + self.bases.len() * 40 + self.payload.len()
    }

    /// The distinct chunks of [`BlobBody::bases`], in ascending order.
    pub fn base_chunks(&self) -> Vec<ChunkId> {
        let mut chunks: Vec<ChunkId> = self.bases.iter().map(|base| base.chunk).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }

    /// The content that this body encodes.
    ///
    /// `prefix` is the content of [`BlobBody::bases`], one after the other; `length` is what the
    /// header says the content has. The caller checks digests; this only decodes.
    pub fn content(&self, length: usize, prefix: &[u8]) -> Result<Vec<u8>> {
        let what = "blob body";
        within("blob content", length as u64, MAX_BLOB as u64)?;
        let mut content = Vec::with_capacity(length);
        match self.encoding {
            Encoding::Raw if self.payload.len() == length => {
                content.extend_from_slice(&self.payload);
            }
            Encoding::Raw => {}
            Encoding::Zstd => {
                self.one_frame()?;
                zstd::bulk::Decompressor::new()
                    .and_then(|mut zstd| zstd.decompress_to_buffer(&self.payload, &mut content))
                    .map_err(|e| DecodeError::malformed(what, format!("zstd: {e}")))?;
            }
            Encoding::Delta => {
                self.one_frame()?;
                if prefix.len() as u64 != total_length(&self.bases) {
                    return Err(DecodeError::malformed(what, "its base has another length"));
                }
                let mut zstd = zstd_safe::DCtx::create();
                zstd.ref_prefix(prefix)
                    .and_then(|_| zstd.decompress(&mut content, &self.payload))
                    .map_err(|code| {
                        let reason = zstd_safe::get_error_name(code);
                        DecodeError::malformed(what, format!("zstd: {reason}"))
                    })?;
            }
        }
        if content.len() != length {
            let detail = format!("its content has {} bytes instead of {length}", content.len());
            return Err(DecodeError::malformed(what, detail));
        }
        Ok(content)
    }

    /// zstd would decode several frames one after the other; the format has one.
    fn one_frame(&self) -> Result<()> {
        match zstd_safe::find_frame_compressed_size(&self.payload) {
            Ok(length) if length == self.payload.len() => Ok(()),
            _ => Err(DecodeError::malformed("blob body", "its payload is not one zstd frame")),
        }
    }

    fn validate(&self) -> Result<()> {
        let what = "blob body";
        within("number of base ranges", self.bases.len() as u64, MAX_BASES as u64)?;
        if (self.encoding == Encoding::Delta) == self.bases.is_empty() {
            return Err(DecodeError::malformed(what, "deltas, and only they, have base ranges"));
        }
        for base in &self.bases {
            if base.length == 0 {
                return Err(DecodeError::malformed(what, "a base range is empty"));
            }
            let end = u64::from(base.offset) + u64::from(base.length);
            within("end of a base range", end, MAX_CHUNK as u64)?;
        }
        within("base ranges of a delta", total_length(&self.bases), MAX_BASE_BYTES as u64)?;
        let length = self.length().saturating_add(self.padding);
        within("blob body", length as u64, (MAX_BLOB + MAX_BODY_OVERHEAD) as u64)
    }

    /// The plaintext of the body.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let length = self.length() + self.padding;
        let mut out = Vec::with_capacity(length);
        out.push(self.encoding as u8);
        let bases = u16::try_from(self.bases.len()).expect("a delta has at most 1024 bases");
        out.extend_from_slice(&bases.to_le_bytes());
        for base in &self.bases {
            out.extend_from_slice(base.chunk.as_bytes());
            out.extend_from_slice(&base.offset.to_le_bytes());
            out.extend_from_slice(&base.length.to_le_bytes());
        }
        let payload = u32::try_from(self.payload.len()).expect("a body is not over 5 MiB");
        out.extend_from_slice(&payload.to_le_bytes());
        out.extend_from_slice(&self.payload);
        out.resize(length, 0);
        Ok(out)
    }

    /// Decodes the plaintext of a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let what = "blob body";
        let mut reader = Reader::new(what, bytes);
        let encoding = Encoding::from_number(reader.u8()?)?;
        let count = usize::from(reader.u16()?);
        within("number of base ranges", count as u64, MAX_BASES as u64)?;
        let mut bases = Vec::with_capacity(count);
        for _ in 0..count {
            bases.push(BaseRange {
                chunk: ChunkId::from_bytes(reader.array()?),
                offset: reader.u32()?,
                length: reader.u32()?,
            });
        }
        let length = reader.u32()? as usize;
        let payload = reader.take(length)?.to_vec();
        if reader.rest().iter().any(|byte| *byte != 0) {
            return Err(DecodeError::malformed(what, "its padding is not zero"));
        }
        let body = BlobBody { encoding, bases, payload, padding: reader.rest().len() };
        body.validate()?;
        Ok(body)
    }
}

fn total_length(bases: &[BaseRange]) -> u64 {
    bases.iter().map(|base| u64::from(base.length)).sum()
}

/// Why content could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// zstd refused.
    #[error("zstd cannot compress: {0}")]
    Compress(#[source] std::io::Error),
    /// The encoded form does not decode to the content: bad memory, or a bug.
    #[error("compressed content does not decode to what it was made from; suspect faulty memory")]
    Verify,
}

/// Encodes contents with one zstd context, which is expensive to make.
pub struct Encoder {
    level: i32,
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    check: Vec<u8>,
}

impl Encoder {
    /// An encoder at zstd's `level`.
    pub fn new(level: i32) -> std::result::Result<Self, EncodeError> {
        Ok(Encoder {
            level,
            compressor: zstd::bulk::Compressor::new(level).map_err(EncodeError::Compress)?,
            decompressor: zstd::bulk::Decompressor::new().map_err(EncodeError::Compress)?,
            check: Vec::new(),
        })
    }

    /// The smaller of the plain encodings of `content`, decoded again and compared.
    pub fn encode(&mut self, content: &[u8]) -> std::result::Result<BlobBody, EncodeError> {
        let mut payload = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
        self.compressor.compress_to_buffer(content, &mut payload).map_err(EncodeError::Compress)?;
        if payload.len() >= content.len() {
            return Ok(BlobBody {
                encoding: Encoding::Raw,
                bases: vec![],
                payload: content.to_vec(),
                padding: 0,
            });
        }
        self.check.clear();
        self.check.reserve(content.len());
        let decoded = self.decompressor.decompress_to_buffer(&payload, &mut self.check);
        if decoded.is_err() || self.check != content {
            return Err(EncodeError::Verify);
        }
        Ok(BlobBody { encoding: Encoding::Zstd, bases: vec![], payload, padding: 0 })
    }

    /// `content` as a delta on `bases`, whose contents one after the other are `prefix`; decoded
    /// again and compared. The caller decides whether it is small enough to be worth a base.
    pub fn encode_delta(
        &mut self,
        content: &[u8],
        bases: Vec<BaseRange>,
        prefix: &[u8],
    ) -> std::result::Result<BlobBody, EncodeError> {
        let error =
            |code| EncodeError::Compress(std::io::Error::other(zstd_safe::get_error_name(code)));
        let mut zstd = zstd_safe::CCtx::create();
        let mut payload = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
        zstd.set_parameter(zstd_safe::CParameter::CompressionLevel(self.level)).map_err(error)?;
        zstd.set_parameter(zstd_safe::CParameter::HashLog(18)).map_err(error)?;
        zstd.ref_prefix(prefix).map_err(error)?;
        zstd.compress2(&mut payload, content).map_err(error)?;
        let body = BlobBody { encoding: Encoding::Delta, bases, payload, padding: 0 };
        match body.content(content.len(), prefix) {
            Ok(decoded) if decoded == content => Ok(body),
            _ => Err(EncodeError::Verify),
        }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder(zstd {})", self.level)
    }
}

/// A blob ready to be put into a pack or a WAL object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlob {
    /// Which chunks it holds.
    pub header: BlobHeader,
    /// How its body is encoded.
    pub encoding: Encoding,
    /// The distinct chunks that a delta needs, in ascending order.
    pub bases: Vec<ChunkId>,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Seals a blob into a frame.
pub fn seal(
    keys: &KeyRing,
    header: BlobHeader,
    body: &BlobBody,
) -> std::result::Result<SealedBlob, SealError> {
    let body_key = if header.kind.is_metadata() { keys.metadata() } else { keys.data() };
    validate_encoding(header.kind, body.encoding)?;
    let (header_text, body_text) = (header.encode()?, body.encode()?);
    let header_length = header_text.len() + OVERHEAD;
    let body_length = body_text.len() + OVERHEAD;
    let mut frame = Vec::with_capacity(8 + header_length + body_length);
    for length in [header_length, body_length] {
        let length = u32::try_from(length).expect("blobs are far smaller than 4 GiB");
        frame.extend_from_slice(&length.to_le_bytes());
    }
    let repository = keys.repository();
    keys.metadata().seal(&mut frame, Domain::BlobHeader, repository, &[], &header_text)?;
    body_key.seal(&mut frame, Domain::BlobBody, repository, &header_text, &body_text)?;
    Ok(SealedBlob { header, encoding: body.encoding, bases: body.base_chunks(), frame })
}

/// Some kinds of chunks are never deltas.
pub(crate) fn validate_encoding(kind: ChunkKind, encoding: Encoding) -> Result<()> {
    if encoding == Encoding::Delta && kind.base_kind().is_none() {
        return Err(DecodeError::malformed("blob", "chunks of its kind are never deltas"));
    }
    Ok(())
}

/// A frame's parts, still sealed.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The sealed header.
    pub header: &'a [u8],
    /// The sealed body.
    pub body: &'a [u8],
}

/// The lengths in front of a frame: of its sealed header, and of its sealed body.
pub const FRAME_PREFIX: usize = 8;

impl<'a> Frame<'a> {
    /// Splits the first frame off `bytes`; what follows it comes second.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let mut reader = Reader::new("blob", bytes);
        let (header, body) = (reader.u32()?, reader.u32()?);
        within(
            "blob header",
            u64::from(header),
            (header_length(MAX_BLOB_CHUNKS) + OVERHEAD) as u64,
        )?;
        within("blob body", u64::from(body), (MAX_BLOB + MAX_BODY_OVERHEAD + OVERHEAD) as u64)?;
        let frame =
            Frame { header: reader.take(header as usize)?, body: reader.take(body as usize)? };
        Ok((frame, reader.rest()))
    }

    /// The frame that `bytes` are, with the lengths that the index or a footer says it has. The
    /// lengths in front of a frame are not sealed: they serve where nothing else is left.
    pub fn exactly(bytes: &'a [u8], header_length: u32, body_length: u32) -> Result<Self> {
        let (frame, rest) = Frame::split(bytes)?;
        let lengths = (frame.header.len() as u64, frame.body.len() as u64);
        if !rest.is_empty() || lengths != (u64::from(header_length), u64::from(body_length)) {
            return Err(DecodeError::malformed("blob", "its frame has other lengths than listed"));
        }
        Ok(frame)
    }

    /// The length of the whole frame in bytes.
    pub fn length(&self) -> usize {
        FRAME_PREFIX + self.header.len() + self.body.len()
    }

    /// Opens the header.
    pub fn open_header(&self, keys: &KeyRing) -> Result<BlobHeader> {
        BlobHeader::decode(&keys.open(Domain::BlobHeader, &[], self.header)?)
    }

    /// Opens the body, which must be that of `header`.
    pub fn open_body(&self, keys: &KeyRing, header: &BlobHeader) -> Result<BlobBody> {
        let body = keys.open(Domain::BlobBody, &header.encode()?, self.body)?;
        let body = BlobBody::decode(&body)?;
        validate_encoding(header.kind, body.encoding)?;
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{MasterSecrets, NamingKeys};

    fn keys() -> KeyRing {
        KeyRing::new(&MasterSecrets::random().unwrap()).unwrap()
    }

    fn header(naming: &NamingKeys, contents: &[&[u8]]) -> BlobHeader {
        let span = |c: &&[u8]| ChunkSpan {
            id: naming.chunk_id_of(ChunkKind::Data, c),
            length: c.len() as u32,
        };
        BlobHeader { kind: ChunkKind::Data, chunks: contents.iter().map(span).collect() }
    }

    #[test]
    fn every_encoding_gives_back_its_content() {
        let keys = keys();
        let mut encoder = Encoder::new(3).unwrap();
        let text = b"all work and no play ".repeat(4000);
        let noise: Vec<u8> =
            (0..5000u32).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        let mut edited = noise.clone();
        edited[77] ^= 1;
        let base = BaseRange {
            chunk: keys.naming().chunk_id_of(ChunkKind::Data, &noise),
            offset: 0,
            length: noise.len() as u32,
        };
        for (content, prefix, expected) in [
            (&text, None, Encoding::Zstd),
            (&noise, None, Encoding::Raw),
            (&edited, Some(&noise), Encoding::Delta),
        ] {
            let header = header(keys.naming(), &[content]);
            let body = match prefix {
                None => encoder.encode(content).unwrap(),
                Some(prefix) => encoder.encode_delta(content, vec![base], prefix).unwrap(),
            };
            assert_eq!(body.encoding(), expected);
            let sealed = seal(&keys, header, &body).unwrap();
            let (frame, rest) = Frame::split(&sealed.frame).unwrap();
            assert!(rest.is_empty());
            let header = frame.open_header(&keys).unwrap();
            assert_eq!(header, sealed.header);
            let body = frame.open_body(&keys, &header).unwrap();
            let prefix = prefix.map(|p| p.as_slice()).unwrap_or_default();
            assert_eq!(&body.content(header.content_length(), prefix).unwrap(), content);
        }
        assert!(encoder.encode_delta(&edited, vec![base], &noise).unwrap().payload.len() < 500);
    }

    #[test]
    fn a_body_opens_only_under_its_own_header() {
        let keys = keys();
        let body = Encoder::new(3).unwrap().encode(b"one").unwrap();
        let one = seal(&keys, header(keys.naming(), &[b"one"]), &body).unwrap();
        let (frame, _) = Frame::split(&one.frame).unwrap();
        let error = frame.open_body(&keys, &header(keys.naming(), &[b"two"])).unwrap_err();
        assert_eq!(error, DecodeError::Seal { what: "blob body" });
    }
}
