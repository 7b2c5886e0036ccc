//! Pruning that is broken off, by a store that fails or a process that is killed.

use std::path::Path;
use std::sync::Arc;

use barman::catalog::deletion;
use barman::progress::{Progress, Unobserved};
use barman::repository::prune::Pruner;
use barman::repository::{Access, Repository, check, key_file, snapshots};
use barman::storage::Storage;
use barman::storage::faulty::{Fault, FaultyStorage};
use barman::storage::location::storage_at;
use repo_format::slot::Credential;

use super::golden_copy;
use crate::support::Barman;

fn unobserved() -> Progress {
    Arc::new(Unobserved)
}

async fn prune(
    storage: Arc<dyn Storage>,
    credential: &Credential,
) -> Result<(), barman::error::Error> {
    let repository = Arc::new(Repository::open(storage, credential, Access::Prune).await?);
    let pruner = Pruner::begin(&repository).await?;
    pruner.run(&unobserved(), false, async || deletion::leftovers(&repository).await).await?;
    Ok(())
}

/// The golden repository without its older backup, and with packs that nobody needs.
fn with_garbage() -> (Barman, Credential) {
    let barman = golden_copy::sandbox();
    barman.ok(&["delete", "main", "oldest"]);
    let credential = Credential::KeyFile(key_file::read(&barman.key_file()).unwrap());
    (barman, credential)
}

#[test]
fn a_store_that_fails_on_any_call_loses_nothing() {
    let (barman, credential) = with_garbage();
    let original = barman.repository();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let faults =
            [(Fault::Refused, true), (Fault::Refused, false), (Fault::LostAcknowledgement, true)];
        let done = packs_when_done(&original, &credential).await;
        for (fault, once) in faults {
            let mut failures = 0;
            for n in 1.. {
                let directory = tempfile::tempdir().unwrap();
                let place = directory.path().join("repository");
                let mut copy = std::process::Command::new("cp");
                assert!(copy.arg("-R").args([&original, &place]).status().unwrap().success());
                let healthy = storage_at(place.to_str().unwrap()).unwrap();
                let faulty = Arc::new(FaultyStorage::new(healthy.clone(), n, once, fault));
                let outcome = prune(faulty.clone(), &credential).await;
                let what = format!("{fault:?} at call {n}: {outcome:?}");
                failures += u32::from(outcome.is_err());
                is_whole(healthy.clone(), &credential, &what).await;
                // The session of a command that failed is over; this process, which had it, is not.
                let _ = std::fs::remove_dir_all(place.join("sessions"));
                prune(healthy.clone(), &credential).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                is_whole(healthy, &credential, &what).await;
                assert_eq!(packs(&place), done, "{what}");
                if faulty.calls() < n {
                    assert!(outcome.is_ok(), "{what}");
                    break;
                }
            }
            assert!(failures > 10, "{failures}");
        }
    });
}

/// One snapshot is left, and everything that it needs.
async fn is_whole(storage: Arc<dyn Storage>, credential: &Credential, what: &str) {
    let repository = Arc::new(Repository::open(storage, credential, Access::Read).await.unwrap());
    let report = check::check(&repository, true, &unobserved()).await.unwrap();
    assert_eq!(report.problems, [], "{what}");
    assert_eq!(report.snapshots, 1, "{what}");
    assert!(!snapshots::names(&repository, None).await.unwrap().is_empty(), "{what}");
}

/// How many bytes are in packs.
fn packs(place: &Path) -> u64 {
    let files = golden_copy::files(&place.join("packs"));
    files.iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// The same when nothing fails.
async fn packs_when_done(original: &Path, credential: &Credential) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("repository");
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg("-R").arg(original).arg(&place).status().unwrap().success());
    prune(storage_at(place.to_str().unwrap()).unwrap(), credential).await.unwrap();
    packs(&place)
}

#[test]
fn a_pruner_that_is_killed_leaves_a_whole_repository() {
    for milliseconds in [1, 5, 10, 15, 20, 30, 40, 60] {
        let (barman, credential) = with_garbage();
        let pruner = barman.spawn(&["repo", "prune"]);
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        pruner.kill();
        let check = barman.ok(&["repo", "check", "--read-data"]);
        assert!(check.stdout.contains("No problems found"), "{check}");
        barman.ok(&["repo", "prune"]);
        barman.ok(&["repo", "check", "--read-data"]);
        drop(credential);
    }
}
