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

/// The largest snapshot, note, server record, session, config or key slot, in bytes. A snapshot's record must also
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

/// The most runs that one content or one leaf of a map holds. So many always fit a chunk, and a leaf
/// of the map of a file in which every page is a run of its own covers 128 MiB.
pub const MAX_RUNS: usize = 16 * 1024;

/// The most map leaves of one content.
pub const MAX_MAP_LEAVES: usize = 1 << 20;

/// The longest name of a file in a directory, in bytes.
pub const MAX_FILE_NAME: usize = 255;

/// The deepest that directories lie in each other; the data directory itself is the first.
pub const MAX_DEPTH: usize = 64;

/// The longest target of a symbolic link, in bytes.
pub const MAX_SYMLINK: usize = 4096;

/// The longest server name, in bytes.
pub const MAX_SERVER_NAME: usize = 128;

/// The longest escaped server name, in bytes: it must fit a file name everywhere.
pub const MAX_ESCAPED_NAME: usize = 240;

/// The longest name of a WAL file, in bytes.
pub const MAX_WAL_NAME: usize = 64;

/// The most bad pages that a snapshot names.
pub const MAX_BAD_PAGES: usize = 1000;

/// The longest environment of a snapshot, in bytes.
pub const MAX_ENVIRONMENT: usize = 256 * 1024;

/// The most configuration files that a snapshot says it lacks.
pub const MAX_UNREAD: usize = 256;

/// The longest signature, in bytes.
pub const MAX_SIGNATURE: usize = 8 * 1024;

/// The most features of a configuration that one kind of operation needs.
pub const MAX_FEATURES: usize = 64;

/// The longest name of a feature, and the longest label of a key slot, in bytes.
pub const MAX_LABEL: usize = 256;

/// The most clusters that one server's record names.
pub const MAX_SYSTEMS: usize = 1024;

/// The most sealing epochs of a repository.
pub const MAX_EPOCHS: usize = 1024;

/// Argon2id: the most memory a slot may ask for, in KiB. A slot's header is not authenticated before
/// this memory is spent.
pub const MAX_ARGON2_MEMORY_KIB: u32 = 1024 * 1024;

/// Argon2id: the most passes and lanes a slot may ask for.
pub const MAX_ARGON2_PASSES: u32 = 64;
