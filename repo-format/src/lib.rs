//! The bytes of a barman repository.
//!
//! This crate encodes and decodes, seals and opens every object of the repository format that
//! `SPEC.md` defines. It does no I/O and knows nothing of PostgreSQL: bytes go in, values come out,
//! and the other way round. Everything it accepts is canonical (`encode(decode(x)) == x`), and every
//! length is bounded before anything is allocated for it.
//!
//! From the bottom up:
//!
//! - [`limits`], [`codec`], [`ids`]: maxima, strict decoding, identifiers;
//! - [`keys`], [`seal`], [`slot`], [`keyfile`], [`recovery_code`]: master secrets, sealed boxes, wrapped
//!   keys;
//! - [`chunk`], [`blob`], [`pack`], [`index`]: content, how it is stored, and where;
//! - [`content`], [`tree`], [`environment`], [`snapshot`], [`wal`]: files, directories, backups, WAL;
//! - [`config`], [`role`], [`note`], [`server`], [`session`], [`maintenance`]: the objects around them;
//! - [`envelope`], [`record`], [`names`]: the frame of an object, sealed records, names in the store.

pub mod blob;
pub mod chunk;
pub mod codec;
pub mod config;
pub mod content;
pub mod envelope;
pub mod environment;
pub mod ids;
pub mod index;
pub mod keyfile;
pub mod keys;
pub mod limits;
pub mod maintenance;
pub mod names;
pub mod note;
pub mod pack;
pub mod record;
pub mod recovery_code;
pub mod role;
pub mod seal;
pub mod server;
pub mod session;
pub mod slot;
pub mod snapshot;
pub mod tree;
pub mod wal;

pub use codec::{DecodeError, Result};

/// The version of the format that this crate writes, and the highest it reads.
pub const FORMAT_VERSION: u16 = 1;
