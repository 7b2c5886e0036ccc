//! The format's tests through its public interface, in one binary.
#![allow(clippy::unwrap_used, missing_docs)]

mod fixtures;
mod vectors;
