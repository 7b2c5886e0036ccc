//! The servers of the configuration as they run: how they are reached, what they say of themselves, whether
//! they can be backed up, and what prepares them for it.

pub mod check;
pub mod connect;
pub mod primary;
pub mod remote;
pub mod setup;
