//! What failures get: a clear error, a repository that is still sound, and a next run that works.

mod backups;
mod bases;
mod commands;
mod damage;
pub mod golden_copy;
mod mending;
mod outages;
mod pruning;
mod recovery;
mod signals;
pub mod small_disk;
mod states;
mod storage;
