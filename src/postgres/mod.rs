//! PostgreSQL: connections, replication protocol, file formats.
//!
//! The formats do no I/O: bytes in, facts out. They trust nothing they read.

pub mod backup_label;
pub mod backup_manifest;
pub mod control_file;
pub mod error;
mod fields;
pub mod lsn;
pub mod page;
pub mod relation_file;
pub mod timeline_history;
pub mod wal_header;
pub mod wal_name;
pub mod wal_records;

pub use error::FormatError;
pub use lsn::{Lsn, SystemId, TimelineId};
