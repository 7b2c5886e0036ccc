//! What a long series of incrementals costs: to store, and to restore the last one of.
//!
//! ```text
//! cargo bench --bench daily_incrementals
//! # BENCH_PG=17 BENCH_SCALE=10 BENCH_DAYS=60 BENCH_TRANSACTIONS=4000 BENCH_WORKLOAD=shop (both unless set)
//! ```
//!
//! Each day the server works, and a backup is compared with the one before. What a restore of the last one would fetch and
//! decode is set in relation to a full backup of the same moment into an empty repository: every blob counts once,
//! with the blobs that it is a delta on.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use barman::backup::{Incremental, Request, back_up};
use barman::interrupt::Interrupt;
use barman::progress::Unobserved;
use barman::repository::Repository;
use barman::repository::index::Index;
use barman::repository::reader::Reader;
use repo_format::chunk::ChunkKind;
use repo_format::content::Run;
use repo_format::snapshot::{Snapshot, Statistics};
use repo_format::tree::{DirectoryRef, Node};
use support::Cluster;

use common::workload::Workload;
use common::{create_repository, request, setting};

fn main() {
    let (version, scale) = (setting("BENCH_PG", 17), setting("BENCH_SCALE", 10));
    let days = setting("BENCH_DAYS", 60);
    let transactions = setting("BENCH_TRANSACTIONS", 4000);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let wanted = std::env::var("BENCH_WORKLOAD").ok();
    let wanted = |workload: &Workload| wanted.as_ref().is_none_or(|w| w == workload.name());
    for workload in Workload::ALL.into_iter().filter(wanted) {
        let cluster = Cluster::builder(version).setting("wal_level", "replica").start();
        workload.load(&cluster, scale);
        let directory = tempfile::Builder::new().prefix("barman-bench").tempdir().unwrap();
        let series = runtime.block_on(create_repository(&directory.path().join("series")));
        let request = request(&cluster, directory.path());
        let full = runtime.block_on(made(&series, &request)).statistics;
        println!(
            "{}: {} MB, stored {} kB",
            workload.name(),
            full.bytes / 1_000_000,
            full.stored_bytes / 1000
        );
        let (mut last, mut stored) = (None, vec![]);
        for _ in 0..days {
            workload.run(&cluster, transactions);
            let snapshot = runtime.block_on(made(&series, &request));
            stored.push(snapshot.statistics);
            last = Some(snapshot);
        }
        tell("first", &stored[..1]);
        tell("mean", &stored);
        tell("mean of the last 10", &stored[stored.len().saturating_sub(10)..]);
        let fresh = runtime.block_on(create_repository(&directory.path().join("fresh")));
        let whole = Request { incremental: Incremental::None, ..request };
        let whole = runtime.block_on(made(&fresh, &whole));
        let (fetched, decoded) = needs(&runtime, &series, &last.unwrap());
        let (fresh_fetched, fresh_decoded) = needs(&runtime, &fresh, &whole);
        println!(
            "  restore of the last / of a fresh full: fetched {:.2}, decoded {:.2}",
            fetched as f64 / fresh_fetched as f64,
            decoded as f64 / fresh_decoded as f64
        );
    }
}

fn tell(what: &str, all: &[Statistics]) {
    let mean = |bytes: fn(&Statistics) -> u64| {
        all.iter().map(bytes).sum::<u64>() / all.len() as u64 / 1000
    };
    println!("  {what}: new {} kB, stored {} kB", mean(|s| s.new_bytes), mean(|s| s.stored_bytes));
}

async fn made(repository: &Arc<Repository>, request: &Request) -> Snapshot {
    let progress: barman::progress::Progress = Arc::new(Unobserved);
    back_up(repository, request, &Interrupt::never(), &progress).await.unwrap().snapshot
}

/// The bytes that must be fetched and decoded for the files of a snapshot.
fn needs(
    runtime: &tokio::runtime::Runtime,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
) -> (u64, u64) {
    let _inside = runtime.enter();
    let index = Arc::new(runtime.block_on(Index::load(repository)).unwrap());
    let reader = Reader::new(repository.clone(), index);
    let mut blobs = BTreeMap::new();
    walk(&reader, &snapshot.root, &mut blobs);
    let sum = |part: fn(&(u64, u64)) -> u64| blobs.values().map(part).sum();
    (sum(|(stored, _)| *stored), sum(|(_, content)| *content))
}

type Blobs = BTreeMap<(repo_format::ids::PackId, u64), (u64, u64)>;

fn walk(reader: &Reader, directory: &DirectoryRef, blobs: &mut Blobs) {
    for entry in reader.entries(directory).unwrap() {
        match entry.unwrap().node {
            Node::Directory { entries, .. } => walk(reader, &entries, blobs),
            Node::File(file) => {
                for run in reader.runs(&file.content).unwrap() {
                    let Run::Chunk { id, .. } = run else { continue };
                    let place = reader.index().find(&id).unwrap()[0];
                    let bases = reader.index().bases(&place).unwrap();
                    let bases = bases.iter().map(|base| {
                        reader.index().find_base(base, ChunkKind::Data).unwrap()[0].blob
                    });
                    for blob in std::iter::once(place.blob).chain(bases) {
                        let size = (blob.frame_length(), u64::from(blob.content_length));
                        blobs.insert((blob.pack, blob.offset), size);
                    }
                }
            }
            Node::Symlink { .. } => {}
        }
    }
}
