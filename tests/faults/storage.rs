//! A store that fails on its n-th call, for every n.

use std::path::Path;
use std::sync::Arc;

use barman::backup::{Request, back_up};
use barman::catalog::Catalog;
use barman::chunking::page_map::PageMaps;
use barman::interrupt::Interrupt;
use barman::postgres::conninfo::ConnInfo;
use barman::progress::{Progress, Unobserved};
use barman::repository::slots::NewSlot;
use barman::repository::{Access, Repository, check, snapshots};
use barman::restore::{self, Onto};
use barman::storage::Storage;
use barman::storage::faulty::{Fault, FaultyStorage};
use barman::storage::location::storage_at;
use barman::storage::patient::PatientStorage;
use barman::wal::arrival::Arrival;
use repo_format::config::Packing;
use repo_format::keys::Secret;
use repo_format::slot::Credential;

use crate::support::Cluster;

const FAULTS: [(Fault, bool); 3] =
    [(Fault::Refused, true), (Fault::Refused, false), (Fault::LostAcknowledgement, true)];

fn credential() -> Credential {
    Credential::KeyFile(Secret::from_bytes([3; 32]))
}

fn unobserved() -> Progress {
    Arc::new(Unobserved)
}

async fn create(storage: Arc<dyn Storage>) -> Result<Repository, barman::repository::Error> {
    let slot = NewSlot { credential: credential(), label: "test".into(), cost: Default::default() };
    Repository::create(storage, &slot, Default::default(), Default::default()).await
}

async fn open(storage: Arc<dyn Storage>) -> Arc<Repository> {
    Arc::new(Repository::open(storage, &credential(), Access::Write).await.unwrap())
}

fn request(cluster: &Cluster) -> Request {
    let connection = ConnInfo::parse(&cluster.conninfo()).unwrap();
    let page_maps = PageMaps::new(cluster.directory().join("page-maps"));
    let request = Request::new("main", connection.clone(), connection, page_maps);
    Request { level: 1, reserve: Some(0), ..request }
}

async fn is_sound(repository: &Arc<Repository>) {
    let report = check::check(repository, true, &unobserved()).await.unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn a_backup_survives_a_failure_of_every_call() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::builder(17).setting("wal_level", "replica").start();
    cluster.psql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let original = directory.path().join("original");
        let healthy = storage_at(original.to_str().unwrap()).unwrap();
        create(healthy.clone()).await.unwrap();
        let first = back_up(
            &open(healthy.clone()).await,
            &request(&cluster),
            &Interrupt::never(),
            &unobserved(),
        )
        .await;
        let first = first.unwrap();
        for (fault, once) in FAULTS {
            let (mut n, mut failures) = (0, 0);
            loop {
                n += 1;
                // What an attempt leaves behind would be read by the next: each gets a repository of
                // its own.
                let place = directory.path().join(format!("{n}"));
                let mut copy = std::process::Command::new("cp");
                assert!(copy.arg("-R").args([&original, &place]).status().unwrap().success());
                let healthy = storage_at(place.to_str().unwrap()).unwrap();
                let faulty = Arc::new(FaultyStorage::new(healthy.clone(), n, once, fault));
                let opened = Repository::open(faulty.clone(), &credential(), Access::Write).await;
                let outcome = match opened {
                    Err(error) => Err(barman::error::Error::from(error)),
                    Ok(opened) => {
                        back_up(
                            &Arc::new(opened),
                            &request(&cluster),
                            &Interrupt::never(),
                            &unobserved(),
                        )
                        .await
                    }
                };
                let calls = faulty.calls();
                let repository = open(healthy.clone()).await;
                let known = snapshots::of_server(&repository, "main").await.unwrap();
                assert!(known.contains(&first.snapshot), "an earlier backup is untouched");
                match outcome {
                    Ok(made) => assert!(known.contains(&made.snapshot)),
                    Err(error) => {
                        failures += 1;
                        assert!(error.to_string().contains("injected fault"), "{n}: {error}");
                    }
                }
                let report = check::check(&repository, false, &unobserved()).await.unwrap();
                assert_eq!(report.problems, [], "{fault:?} at call {n}");
                if n % 8 == 0 {
                    // A command that failed is over, and its session with it; this process is not.
                    let _ = std::fs::remove_dir_all(place.join("sessions"));
                    back_up(&repository, &request(&cluster), &Interrupt::never(), &unobserved())
                        .await
                        .unwrap();
                    is_sound(&repository).await;
                }
                std::fs::remove_dir_all(place).unwrap();
                if calls < n {
                    break;
                }
                assert!(n < 200, "the backup never gets through");
            }
            assert!(failures > 10, "{failures} failures of {n} calls");
        }
    });
}

/// The patience of a backup in these tests.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

#[test]
fn a_patient_backup_does_not_see_one_failure_of_any_call() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::builder(17).setting("wal_level", "replica").start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        for fault in [Fault::Refused, Fault::LostAcknowledgement] {
            // Each is a whole backup: some of the calls tell as much as all.
            for n in (1..).step_by(6) {
                let place = directory.path().join(format!("{fault:?}-{n}"));
                let healthy = storage_at(place.to_str().unwrap()).unwrap();
                let created = create(healthy.clone()).await.unwrap();
                let faulty = Arc::new(FaultyStorage::new(healthy, n, true, fault));
                let patient = PatientStorage::new(faulty.clone(), PATIENCE, Interrupt::never());
                let repository = Arc::new(created.through(Arc::new(patient)));
                back_up(&repository, &request(&cluster), &Interrupt::never(), &unobserved())
                    .await
                    .unwrap_or_else(|error| panic!("{fault:?} at call {n}: {error}"));
                is_sound(&repository).await;
                std::fs::remove_dir_all(place).unwrap();
                if faulty.calls() < n {
                    break;
                }
            }
        }
    });
}

#[test]
fn what_a_failed_backup_has_stored_is_found_by_the_next() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::builder(17).setting("wal_level", "replica").start();
    cluster.psql("CREATE TABLE t AS SELECT gen_random_uuid() FROM generate_series(1, 100000)");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("r");
        let storage = storage_at(place.to_str().unwrap()).unwrap();
        let slot =
            NewSlot { credential: credential(), label: "test".into(), cost: Default::default() };
        let packing = Packing { minimum: 64 * 1024, maximum: 1024 * 1024 };
        let created = Repository::create(storage, &slot, Default::default(), packing);
        let repository = Arc::new(created.await.unwrap());
        let packs = || walk(&place.join("packs"));
        let slowly = Request { max_rate: Some(4096), ..request(&cluster) };
        let (never, nobody) = (Interrupt::never(), unobserved());
        let end = async {
            while packs() < 5 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            cluster.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE query LIKE 'BASE_BACKUP%'",
            );
        };
        let (failed, ()) = tokio::join!(back_up(&repository, &slowly, &never, &nobody), end);
        let failed = failed.unwrap_err();
        assert!(failed.to_string().contains("terminating connection"), "{failed}");
        let stored = packs();
        let request = request(&cluster);
        let made = back_up(&repository, &request, &never, &nobody).await.unwrap();
        let statistics = made.snapshot.statistics;
        let found = statistics.bytes - statistics.zero_bytes - statistics.new_bytes;
        assert!(found >= 4 * 64 * 1024, "{found} bytes were found in {stored} packs");
        is_sound(&repository).await;
    });
}

/// How many files there are below a directory.
fn walk(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|p| if p.is_dir() { walk(&p) } else { 1 }).sum()
}

#[test]
fn a_wal_file_survives_a_failure_of_every_call() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let name = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (fault, once) in FAULTS {
            for n in 1.. {
                let directory = tempfile::tempdir().unwrap();
                let healthy = storage_at(directory.path().join("r").to_str().unwrap()).unwrap();
                create(healthy.clone()).await.unwrap();
                let faulty = Arc::new(FaultyStorage::new(healthy.clone(), n, once, fault));
                let outcome = archive(faulty.clone(), &path).await;
                let repository = open(healthy).await;
                let stored = barman::repository::wal::of_server(&repository, "main").await.unwrap();
                if outcome.is_ok() {
                    assert_eq!(stored.len(), 1, "acknowledged, and there");
                }
                // PostgreSQL asks again, and then it is there.
                let again = barman::wal::archive::archive(
                    &repository,
                    "main",
                    Arrival::read(&path).unwrap(),
                )
                .await;
                again.unwrap();
                let stored = barman::repository::wal::of_server(&repository, "main").await.unwrap();
                assert_eq!(stored.len(), 1);
                is_sound(&repository).await;
                if faulty.calls() < n {
                    assert!(outcome.is_ok());
                    break;
                }
            }
        }
    });
}

async fn archive(storage: Arc<dyn Storage>, path: &Path) -> barman::error::Result<()> {
    let repository = Repository::open(storage, &credential(), Access::Write).await?;
    barman::wal::archive::archive(&Arc::new(repository), "main", Arrival::read(path)?).await?;
    Ok(())
}

#[test]
fn a_creation_fails_or_gives_a_repository() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (fault, once) in FAULTS {
            for n in 1.. {
                let directory = tempfile::tempdir().unwrap();
                let healthy = storage_at(directory.path().join("r").to_str().unwrap()).unwrap();
                let faulty = Arc::new(FaultyStorage::new(healthy.clone(), n, once, fault));
                let created = create(faulty.clone()).await;
                if created.is_ok() {
                    is_sound(&open(healthy).await).await;
                }
                if faulty.calls() < n {
                    break;
                }
            }
        }
    });
}

#[test]
fn what_only_reads_survives_a_failure_of_every_call() {
    let barman = super::golden_copy::sandbox();
    let place = barman.repository();
    let key = barman::repository::key_file::read(&barman.key_file()).unwrap();
    let credential = Credential::KeyFile(key);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (fault, once) in [(Fault::Refused, true), (Fault::Refused, false)] {
            for n in 1.. {
                let healthy = storage_at(place.to_str().unwrap()).unwrap();
                let faulty = Arc::new(FaultyStorage::new(healthy, n, once, fault));
                let outcome = async {
                    let repository =
                        Repository::open(faulty.clone(), &credential, Access::Read).await?;
                    check::check(&Arc::new(repository), true, &unobserved()).await
                };
                match outcome.await {
                    // Damage is only what the store answered, never that it did not.
                    Ok(report) => assert_eq!(report.problems, [], "call {n}"),
                    Err(error) => assert!(error.to_string().contains("cannot"), "{n}: {error}"),
                }
                if faulty.calls() < n {
                    break;
                }
            }
        }
        let mut failures = 0;
        for n in 1.. {
            let healthy = storage_at(place.to_str().unwrap()).unwrap();
            let faulty = Arc::new(FaultyStorage::new(healthy, n, true, Fault::Refused));
            let directory = tempfile::tempdir().unwrap();
            let destination = directory.path().join("restored");
            let outcome =
                restore_latest(faulty.clone(), &credential, &destination, Onto::Nothing).await;
            let is_server = destination.join("global/pg_control").exists();
            assert_eq!(outcome.is_ok(), is_server, "call {n}: {outcome:?}");
            if let Err(error) = outcome {
                failures += 1;
                assert!(error.to_string().contains("injected fault"), "{n}: {error}");
                // What was begun is gone on with; before that nothing was written.
                let onto = if destination.exists() { Onto::Unfinished } else { Onto::Nothing };
                let is_told = error.hint_text().is_some_and(|hint| hint.contains("--resume"));
                assert_eq!(is_told, onto == Onto::Unfinished, "{n}: {error:?}");
                if n % 4 == 0 {
                    let healthy = storage_at(place.to_str().unwrap()).unwrap();
                    restore_latest(healthy, &credential, &destination, onto).await.unwrap();
                    assert!(destination.join("global/pg_control").exists());
                }
            }
            if faulty.calls() < n {
                break;
            }
        }
        assert!(failures > 10, "{failures}");

        // Where everything is right, only what describes it is read.
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("restored");
        let mut calls = vec![];
        for onto in [Onto::Nothing, Onto::DataDirectory { of_any: false }] {
            let healthy = storage_at(place.to_str().unwrap()).unwrap();
            let counting = Arc::new(FaultyStorage::new(healthy, u64::MAX, true, Fault::Refused));
            restore_latest(counting.clone(), &credential, &destination, onto).await.unwrap();
            calls.push(counting.calls());
        }
        assert!(calls[1] < calls[0] / 2, "{calls:?}");
    });
}

#[test]
fn a_newer_configuration_that_cannot_be_read_stops_only_who_writes() {
    let barman = super::golden_copy::sandbox();
    let place = barman.repository();
    std::fs::write(place.join("config/2"), b"not what it should be").unwrap();
    let key = barman::repository::key_file::read(&barman.key_file()).unwrap();
    let credential = Credential::KeyFile(key);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut refused, mut found) = (false, false);
        for n in 1.. {
            let faulty = || {
                let healthy = storage_at(place.to_str().unwrap()).unwrap();
                Arc::new(FaultyStorage::new(healthy, n, true, Fault::Unreadable))
            };
            let is_of_it = |error: &str| error.contains("config/2");
            if let Err(error) = Repository::open(faulty(), &credential, Access::Write).await {
                refused |= is_of_it(&error.to_string());
            }
            let storage = faulty();
            if let Ok(repository) =
                Repository::open(storage.clone(), &credential, Access::Read).await
            {
                let report = check::check(&Arc::new(repository), false, &unobserved()).await;
                let report = report.as_ref().map(|report| report.problems.as_slice());
                let names = |problem: &check::Problem| is_of_it(&problem.object);
                assert!(report.map_or(true, |problems| problems.iter().any(names)), "{report:?}");
                found |= report.is_ok();
            }
            if storage.calls() < n {
                break;
            }
        }
        assert!(refused && found);
    });
}

async fn restore_latest(
    storage: Arc<dyn Storage>,
    credential: &Credential,
    destination: &Path,
    onto: Onto,
) -> barman::error::Result<()> {
    let repository = Arc::new(Repository::open(storage, credential, Access::Read).await?);
    let catalog = Catalog::load(&repository, "main").await?;
    let backup = catalog.find("latest")?;
    let request = restore::Request { onto, threads: 2, ..restore::Request::to(destination) };
    restore::restore(&repository, backup.usable()?, &request, &unobserved()).await?;
    Ok(())
}
