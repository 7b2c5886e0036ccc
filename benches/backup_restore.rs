//! A full streaming backup and its restore, against PostgreSQL's own tools on the same cluster.
//!
//! ```text
//! cargo bench --bench backup_restore            # BENCH_PG=17 BENCH_SCALE=60 BENCH_ROUNDS=3
//! ```
//!
//! The yardsticks are `pg_basebackup -Ft --compress=client-zstd:level=3,workers=2` and
//! `zstd -d | tar x`. They run in turn with ours, and ratios are of each round: what another process
//! does to the machine, it does to both. What one has written is on the disk before the next begins; ours
//! itself ends when it is.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barman::interrupt::Interrupt;
use barman::progress::{Progress, Unobserved};
use barman::repository::Repository;
use barman::wal::arrival::Arrival;
use support::Cluster;

use common::{create_repository, request, setting};

fn main() {
    let (version, scale) = (setting("BENCH_PG", 17), setting("BENCH_SCALE", 60));
    let rounds = setting("BENCH_ROUNDS", 3);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::builder(version).setting("wal_level", "replica").start();
    cluster.pgbench(&["-i", "-q", "-s", &scale.to_string()]);
    cluster.pgbench(&["-n", "-t", "2000", "-c", "4"]);
    cluster.psql("CHECKPOINT");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut backups, mut restores) = (vec![], vec![]);
    for round in 1..=rounds {
        let directory = tempfile::Builder::new().prefix("barman-bench").tempdir().unwrap();
        let (theirs, their_size) = pg_basebackup(&cluster, version, directory.path());
        let (ours, bytes, our_size, repository) =
            runtime.block_on(back_up(&cluster, directory.path()));
        let untar = untar(directory.path());
        let restore = runtime.block_on(restore(&repository, directory.path()));
        println!(
            "round {round}: {} MB cluster | backup: pg_basebackup {:.2} s ({} MB), barman {:.2} s \
             ({} MB) | restore: zstd -d | tar x {:.2} s, barman {:.2} s",
            bytes / 1_000_000,
            theirs.as_secs_f64(),
            their_size / 1_000_000,
            ours.as_secs_f64(),
            our_size / 1_000_000,
            untar.as_secs_f64(),
            restore.as_secs_f64(),
        );
        backups.push(ours.as_secs_f64() / theirs.as_secs_f64());
        restores.push(restore.as_secs_f64() / untar.as_secs_f64());
    }
    println!("backup  / pg_basebackup:      {:.2} (median of {rounds})", median(&mut backups));
    println!("restore / (zstd -d | tar x):  {:.2} (median of {rounds})", median(&mut restores));
}

fn pg_basebackup(cluster: &Cluster, version: u32, directory: &Path) -> (Duration, u64) {
    let postgres = support::Postgres::require(version);
    let out = directory.join("theirs");
    settle();
    let begun = Instant::now();
    let status = Command::new(postgres.program("pg_basebackup"))
        .args(["-Ft", "--compress=client-zstd:level=3,workers=2", "-X", "none", "-c", "fast", "-D"])
        .arg(&out)
        .args(["-d", &cluster.conninfo()])
        .env("LC_ALL", "C")
        .status()
        .unwrap();
    assert!(status.success());
    (begun.elapsed(), out.join("base.tar.zst").metadata().unwrap().len())
}

async fn back_up(cluster: &Cluster, directory: &Path) -> (Duration, u64, u64, Arc<Repository>) {
    let repository = create_repository(&directory.join("repository")).await;
    let request = request(cluster, directory);
    settle();
    let begun = Instant::now();
    let snapshot =
        barman::backup::back_up(&repository, &request, &Interrupt::never(), &unobserved())
            .await
            .unwrap()
            .snapshot;
    let elapsed = begun.elapsed();
    // The restore needs the WAL of the backup.
    let wal = cluster.data().join("pg_wal");
    for entry in std::fs::read_dir(wal).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().len() == 24 {
            // Recycled files are refused, as they should be.
            let Ok(arrival) = Arrival::read(&path) else { continue };
            barman::wal::archive::archive(&repository, "bench", arrival).await.unwrap();
        }
    }
    (elapsed, snapshot.statistics.bytes, snapshot.statistics.stored_bytes, repository)
}

fn untar(directory: &Path) -> Duration {
    let out = directory.join("untarred");
    std::fs::create_dir(&out).unwrap();
    let archive = directory.join("theirs/base.tar.zst");
    settle();
    let begun = Instant::now();
    let script = format!("zstd -dc {} | tar -x -C {}", archive.display(), out.display());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    begun.elapsed()
}

async fn restore(repository: &Arc<Repository>, directory: &Path) -> Duration {
    let catalog = barman::catalog::Catalog::load(repository, "bench").await.unwrap();
    let snapshot = catalog.find("latest").unwrap().usable().unwrap().clone();
    let request = barman::restore::Request {
        threads: 2,
        // The programs of the benchmark's version need not be on the search path.
        any_version: true,
        ..barman::restore::Request::to(directory.join("ours"))
    };
    settle();
    let begun = Instant::now();
    barman::restore::restore(repository, &snapshot, &request, &unobserved()).await.unwrap();
    begun.elapsed()
}

/// Lets nobody pay for what another has left to be written.
fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn unobserved() -> Progress {
    Arc::new(Unobserved)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
