//! What benchmarks share.

#![allow(dead_code, reason = "each benchmark uses some")]

pub mod workload;

use std::path::Path;
use std::sync::Arc;

use barman::backup::Request;
use barman::chunking::page_map::PageMaps;
use barman::postgres::conninfo::ConnInfo;
use barman::repository::Repository;
use barman::repository::slots::NewSlot;
use repo_format::keys::Secret;
use repo_format::slot::Credential;

use crate::support::Cluster;

/// A number from the environment.
pub fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A new repository.
pub async fn create_repository(location: &Path) -> Arc<Repository> {
    let storage = barman::storage::location::storage_at(location.to_str().unwrap()).unwrap();
    storage.prepare(None).await.unwrap();
    let slot = NewSlot {
        credential: Credential::KeyFile(Secret::from_bytes([7; 32])),
        label: "bench".into(),
        cost: Default::default(),
    };
    let created = Repository::create(storage, &slot, Default::default(), Default::default());
    Arc::new(created.await.unwrap())
}

/// A backup of server `bench`, whose page maps are in `directory`.
pub fn request(cluster: &Cluster, directory: &Path) -> Request {
    let connection = ConnInfo::parse(&cluster.conninfo()).unwrap();
    let page_maps = PageMaps::new(directory.join("page-maps"));
    let request = Request::new("bench", connection.clone(), connection, page_maps);
    Request { reserve: Some(0), ..request }
}
