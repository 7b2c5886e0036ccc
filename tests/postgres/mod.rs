//! The `postgres` module of the library against real servers.

mod base_backup;
mod connections;
mod sql;
mod wal;

use crate::support::Cluster;
use barman::postgres::ConnInfo;
use barman::postgres::conninfo::Environment;

/// An environment in which nothing of the machine's matters.
fn environment(cluster: &Cluster) -> Environment {
    Environment::default().with("HOME", cluster.directory().to_str().unwrap())
}

/// Connection parameters for a cluster of a test.
fn conninfo(cluster: &Cluster, text: &str) -> ConnInfo {
    ConnInfo::parse_in(text, &environment(cluster)).unwrap()
}

/// As superuser through the Unix socket.
fn local(cluster: &Cluster) -> ConnInfo {
    conninfo(cluster, &cluster.conninfo())
}
