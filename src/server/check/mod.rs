//! The checks of a server: what a backup and WAL archiving need, under Barman's names.
//!
//! The server, its streaming connection and the repository are asked side by side (`postgres`,
//! `repository`), and then what takes an answer of several (`catalog`, `archiving`). Each line has a time
//! limit of its own ([`Patience`]), so that a part that gives no answer leaves all others their lines. Nothing
//! grows with the history of a server but the listing of names (`shelf`).

mod archiving;
mod catalog;
mod patience;
mod postgres;
mod report;
mod repository;
mod shelf;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

pub use patience::Patience;
pub use report::{Check, Report};
pub use repository::Place;

use crate::config::Server;
use crate::error::Result;
use crate::human;
use crate::postgres::lsn::TimelineId;
use crate::repository::{Repository, servers};
use crate::wal::inventory::Inventory;
use postgres::Running;
use repository::Look;
use shelf::Shelf;

/// What the parts of a check found, in the order in which it is shown.
#[derive(Default)]
struct Parts {
    postgres: Report,
    streaming: Report,
    settings: Report,
    repository: Report,
    primary: Report,
    catalog: Report,
    archiving: Report,
}

/// Checks `server`, whose repository is at `place`, for at most `timeout`.
pub async fn run(server: &Server, place: &Place<'_>, timeout: Option<Duration>) -> Report {
    let mut report = Report::default();
    for message in server.errors() {
        report.must("configuration", false, message);
    }
    if !report.checks.is_empty() {
        return report;
    }
    let mut parts = Parts::default();
    let all = Box::pin(check(server, place, Patience::of(timeout), &mut parts));
    let is_over = match timeout {
        None => {
            all.await;
            None
        }
        Some(limit) => tokio::time::timeout(limit, all).await.err().map(|_| limit),
    };
    let Parts { postgres, streaming, settings, repository, primary, catalog, archiving } = parts;
    for part in [postgres, streaming, settings, repository, primary, catalog, archiving] {
        report.append(part);
    }
    if let Some(limit) = is_over {
        let hint = format!("the checks took more than {}", human::duration(limit));
        report.must("check timeout", false, hint);
    }
    report
}

async fn check(server: &Server, place: &Place<'_>, patience: Patience, parts: &mut Parts) {
    let (mut running, streaming, look) = futures::join!(
        Box::pin(postgres::check(server, patience, &mut parts.postgres)),
        Box::pin(postgres::check_streaming(server, patience, &mut parts.streaming)),
        async {
            let look = place.look().await;
            parts.repository.append(look.report.clone());
            look
        },
    );
    if let Some(Running { remote, .. }) = &running {
        postgres::check_settings(remote, &mut parts.settings);
    }
    parts.catalog.must("retention policy settings", true, "");
    let listed = match &look.repository {
        Some(repository) => {
            let looked = check_catalog(server, repository, &look, &mut parts.catalog);
            match patience.wait(looked).await {
                Ok(listed) => Some(listed),
                Err(error) => {
                    parts.catalog.must("repository", false, error.in_one_line());
                    None
                }
            }
        }
        None => None,
    };
    let mut primary = match &running {
        Some(Running { remote, .. }) => {
            postgres::check_primary(server, remote, patience, &mut parts.primary).await
        }
        None => None,
    };
    let report = &mut parts.archiving;
    let lacks_wal = listed.as_ref().is_some_and(|listed| listed.lacks_wal);
    let writer = primary.as_mut().or(running.as_mut());
    let first_wal = match (&look.repository, writer) {
        (Some(repository), Some(writer)) if lacks_wal => {
            Some(archiving::first_wal(server, repository, writer, patience).await)
        }
        _ => None,
    };
    if let Some(Running { remote, .. }) = &running {
        let accepted = listed.as_ref().map_or(&[][..], |listed| &listed.accepted);
        postgres::check_system(server, remote, streaming, accepted, report);
        let has_caught_up = match &look.repository {
            Some(repository) => {
                archiving::has_caught_up(server, repository, remote, patience).await
            }
            None => false,
        };
        archiving::check_settings(server, remote, has_caught_up, report);
        let newest = listed.as_ref().and_then(|listed| listed.newest.get(&remote.system_id));
        archiving::check_timeline(remote, newest.copied(), report);
    }
    match first_wal {
        None | Some(Ok(true)) => {}
        Some(Ok(false)) => {
            report.must("WAL archive", false, "please make sure WAL shipping is setup");
        }
        Some(Err(error)) => report.must("WAL archive", false, error.in_one_line()),
    }
    if let Some(repository) = &look.repository {
        let archiver = primary.as_ref().or(running.as_ref()).map(|running| &running.remote);
        if let Some(archiver) = archiver.filter(|archiver| archiver.archives_itself()) {
            archiving::check_lag(server, repository, archiver, patience, report).await;
        }
        archiving::check_conflicts(server, repository, patience, report).await;
    }
    for Running { sql, .. } in running.into_iter().chain(primary) {
        sql.close().await;
    }
}

/// What the later questions ask of a server's catalogue.
struct Listed {
    /// The clusters that the server stands for; any, if there are none.
    accepted: Vec<u64>,
    /// The newest timeline of each cluster that the archive has WAL of.
    newest: BTreeMap<u64, TimelineId>,
    /// Whether no WAL has ever come, and none is waited for.
    lacks_wal: bool,
}

async fn check_catalog(
    server: &Server,
    repository: &Repository,
    look: &Look,
    report: &mut Report,
) -> Result<Listed> {
    let mut shelf = Shelf::list(repository, &server.name, &look.running).await?;
    let skew = Duration::from_micros(look.ahead.unsigned_abs());
    let now = match look.ahead < 0 {
        true => SystemTime::now() - skew,
        false => SystemTime::now() + skew,
    };
    catalog::check(server, &mut shelf, now, report).await?;
    let accepted = servers::systems(repository, &server.name).await.unwrap_or_default();
    let newest = |(system, wal): (&u64, &Inventory)| Some((*system, *wal.timelines().last()?));
    let newest = shelf.wal.iter().filter_map(newest).collect();
    let lacks_wal = shelf.wal.is_empty() && shelf.len() == 0;
    Ok(Listed { accepted, newest, lacks_wal })
}
