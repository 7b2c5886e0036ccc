//! Database hosts that have no key, and the backup host that they reach by SSH.

mod wal;
