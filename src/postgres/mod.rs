//! PostgreSQL: connections, replication protocol, file formats.
//!
//! The formats do no I/O: bytes in, facts out. They trust nothing they read.

pub mod authentication_file;
pub mod backup_label;
pub mod backup_manifest;
pub mod base_backup;
pub mod configuration_file;
pub mod conninfo;
pub mod control_file;
pub mod database_list;
pub mod error;
mod fields;
pub mod incremental_file;
pub mod lsn;
pub mod page;
pub mod relation_file;
pub mod replication;
pub mod sql;
pub mod timeline_history;
mod tls;
mod transport;
pub mod wal_header;
pub mod wal_name;
pub mod wal_records;
pub mod wire;

pub use conninfo::ConnInfo;
pub use error::{Error, FormatError, ServerError};
pub use lsn::{Lsn, SystemId, TimelineId};
