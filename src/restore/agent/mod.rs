//! Restores to another host: an agent there, the same program, does what a [`super::destination`] does.
//!
//! The agent needs no repository and no key; it is started over SSH and ends with its input. All that it
//! is told, and all that it answers, goes in frames ([`protocol`]) over its standard streams.

pub mod client;
pub mod protocol;
pub mod server;
