//! Every maximum of the format, in one place. A decoder refuses what goes beyond them before it
//! allocates.

/// Bytes of content that are hashed as one leaf; the last leaf of a chunk or file may be shorter.
pub const LEAF: usize = 8 * 1024;

/// The largest chunk, in bytes of content.
pub const MAX_CHUNK: usize = 1024 * 1024;

/// The largest content of one blob, in bytes: all its chunks together.
pub const MAX_BLOB: usize = 4 * 1024 * 1024;

/// The most chunks that one blob can hold.
pub const MAX_BLOB_CHUNKS: usize = 4096;

/// The most base ranges of a delta.
pub const MAX_BASES: usize = 1024;

/// The most bytes that all base ranges of a delta have together.
pub const MAX_BASE_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes of a sealed blob body beyond its content: encoding, base ranges, padding.
pub const MAX_BODY_OVERHEAD: usize = 1024 * 1024;

/// The largest pack, in bytes.
pub const MAX_PACK: u64 = 1 << 30;

/// The most blobs in one pack.
pub const MAX_PACK_BLOBS: usize = 1 << 20;

/// The largest index run, in bytes.
pub const MAX_INDEX: usize = 256 * 1024 * 1024;

/// The largest snapshot, note, session, config or key slot, in bytes. A snapshot's record must also
/// fit a chunk, because a copy of it is kept as one.
pub const MAX_RECORD: usize = MAX_CHUNK;

/// The largest maintenance record, in bytes: it lists what is about to be deleted.
pub const MAX_MAINTENANCE: usize = 256 * 1024 * 1024;

/// The largest WAL file that can be archived, in bytes (PostgreSQL's largest segment is 1 GiB).
pub const MAX_WAL_FILE: u64 = 1 << 30;

/// The largest header of a WAL object, in bytes.
pub const MAX_WAL_HEADER: usize = 16 * 1024 * 1024;

/// The largest directory, in bytes of its encoded entries.
pub const MAX_DIRECTORY: u64 = 1 << 30;

/// The most runs that one content or one leaf of a map holds.
pub const MAX_RUNS: usize = 16 * 1024;

/// The most map leaves of one content.
pub const MAX_MAP_LEAVES: usize = 1 << 20;

/// The longest name of a file in a directory, in bytes.
pub const MAX_FILE_NAME: usize = 255;

/// The longest server name, in bytes.
pub const MAX_SERVER_NAME: usize = 128;

/// Argon2id: the most memory a slot may ask for, in KiB.
pub const MAX_ARGON2_MEMORY_KIB: u32 = 4 * 1024 * 1024;

/// Argon2id: the most passes and lanes a slot may ask for.
pub const MAX_ARGON2_PASSES: u32 = 64;
