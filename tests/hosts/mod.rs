//! Who shares a repository: users of one host, and database hosts that have no key and reach the backup host by SSH.

mod group;
mod restore;
mod wal;
