//! Content-addressed, deduplicating, encrypted backups of PostgreSQL.
//!
//! The modules in the order the data flows: [`postgres`] talks to the server; [`config`] says which
//! servers there are; [`cli`] is what people and scripts use.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod backup;
pub mod blocking;
pub mod catalog;
pub mod chunking;
pub mod cli;
pub mod config;
pub mod error;
pub mod human;
pub mod interrupt;
pub mod postgres;
pub mod progress;
pub mod rehearsal;
pub mod repository;
pub mod restore;
pub mod server;
pub mod storage;
pub mod wal;
