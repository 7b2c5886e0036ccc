//! Makes backups: reads a cluster, stores what the repository lacks, and commits a snapshot.

pub mod copy;
pub mod pages;
pub mod tree;
