//! The format's tests through its public interface, in one binary.
#![allow(clippy::unwrap_used, missing_docs)]

mod arbitrary;
mod content;
mod damage;
mod fixtures;
mod limits;
mod reader;
mod records;
mod vectors;
