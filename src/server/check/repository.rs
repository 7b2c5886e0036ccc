//! The checks of a repository: whether it can be reached, opened, written to, and has room.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use repo_format::session::Activity;

use super::patience::Patience;
use super::report::Report;
use crate::error::{Error, Kind, Result};
use crate::human;
use crate::repository::sessions::{self, OwnSession};
use crate::repository::{Repository, slots};

/// Below this a backup that stores anything new fails: it writes two packs at once.
const LEAST_SPACE: u64 = 64 << 20;

/// So far the clocks of this host and of the repository may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A repository, which is looked at once, however many servers have their backups in it.
#[derive(Clone)]
pub struct Place<'a>(Shared<LocalBoxFuture<'a, Arc<Look>>>);

/// What was found at a place.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The repository, if it could be opened.
    pub repository: Option<Arc<Repository>>,
    /// The backups that are being made, by server and id.
    pub running: BTreeSet<(String, String)>,
    /// By how much the store's clock is ahead of this host's, in microseconds, if they are apart: ages are
    /// by the store's.
    pub ahead: i64,
    /// The lines about it.
    pub report: Report,
}

impl<'a> Place<'a> {
    /// The repository that `opening` opens, where each line may take as long as `patience` has.
    pub fn new(
        opening: impl Future<Output = Result<Arc<Repository>>> + 'a,
        patience: Patience,
    ) -> Self {
        Place(async move { Arc::new(look(opening, patience).await) }.boxed_local().shared())
    }

    /// Looks at it, unless that was done.
    pub(super) async fn look(&self) -> Arc<Look> {
        self.0.clone().await
    }
}

async fn look(opening: impl Future<Output = Result<Arc<Repository>>>, patience: Patience) -> Look {
    let mut report = Report::default();
    let repository = match patience.wait(opening).await {
        Ok(repository) => repository,
        Err(error) => {
            let is_key = error.kind() == Kind::Key;
            let name = if is_key { "repository key" } else { "repository" };
            report.must(name, false, error.in_one_line());
            return Look { report, ..Look::default() };
        }
    };
    report.must("repository", true, repository.location());
    report.must("repository key", true, "");
    let (space, clock, written, slots, dead, running) = futures::join!(
        patience.wait(async { repository.storage().space().await.map_err(from_store) }),
        patience.wait(clock(&repository)),
        patience.wait(write(&repository)),
        patience.wait(async { Ok(slots::list(repository.storage().as_ref()).await?.len()) }),
        patience.wait(async { Ok(sessions::dead(&repository).await?) }),
        patience.wait(async { Ok(sessions::running_backups(&repository).await?) }),
    );
    report.outcome("repository writable", written);
    match space {
        Ok(None) => {}
        Ok(Some(space)) => {
            let hint = format!("{} free", human::size(space.available));
            report.should("repository free space", space.available >= LEAST_SPACE, hint);
        }
        Err(error) => report.should("repository free space", false, error.in_one_line()),
    }
    let clock = match clock {
        Ok(clock) => {
            report.should("clock skew", clock.hint.is_empty(), &*clock.hint);
            Some(clock.ahead)
        }
        Err(error) => {
            report.should("clock skew", false, error.in_one_line());
            None
        }
    };
    match slots {
        Ok(count) => {
            // One is enough until it is lost: that is told, and no failure.
            let hint = match count {
                1 => "1 key slot: if its key is lost, so are the backups; 'barman repo key add' adds \
                      another"
                    .to_owned(),
                _ => format!("{count} key slots"),
            };
            report.should("repository key slots", count > 0, hint);
        }
        Err(error) => report.should("repository key slots", false, error.in_one_line()),
    }
    match dead {
        Ok(dead) => {
            let hint = match dead.len() {
                0 => String::new(),
                count => format!(
                    "{count} of processes that are gone: 'barman cron', to be run every minute, \
                     removes them"
                ),
            };
            report.should("unfinished sessions", dead.is_empty(), hint);
        }
        Err(error) => report.should("unfinished sessions", false, error.in_one_line()),
    }
    // Without an answer backups that are being made pass for finished ones; the line above tells.
    let running = running.unwrap_or_default().into_keys().collect();
    Look { repository: Some(repository), running, ahead: clock.unwrap_or_default(), report }
}

/// How this host's clock and the store's compare.
struct Clock {
    /// By how much the store's is ahead, in microseconds.
    ahead: i64,
    /// What is wrong with that, if anything is.
    hint: String,
}

/// Compares this host's clock with the store's.
async fn clock(repository: &Repository) -> Result<Clock> {
    let before = SystemTime::now();
    let now = repository.storage().now().await.map_err(from_store)?;
    // Asking takes time: this host's clock agrees with all of it.
    let (ahead, behind) = (before.duration_since(now), now.duration_since(SystemTime::now()));
    let micros = |skew: Duration| i64::try_from(skew.as_micros()).unwrap_or(i64::MAX);
    let (how, skew, ahead) = match (ahead, behind) {
        (Ok(skew), _) if skew > CLOCK_SKEW => ("ahead of", skew, -micros(skew)),
        (_, Ok(skew)) if skew > CLOCK_SKEW => ("behind", skew, micros(skew)),
        _ => return Ok(Clock { ahead: 0, hint: String::new() }),
    };
    let skew = human::duration(skew);
    let hint = format!("this host's clock is {skew} {how} the repository's: set both by NTP");
    Ok(Clock { ahead, hint })
}

/// An error of the store as the repository tells it.
fn from_store(error: crate::storage::Error) -> Error {
    Error::from(crate::repository::Error::from(error))
}

/// Writes a session and deletes it: that is what every writer does first and last.
async fn write(repository: &Arc<Repository>) -> Result<()> {
    let activity = Activity::Read { purpose: "barman check".to_owned(), backups: vec![] };
    let session = OwnSession::begin(repository.clone(), activity).await.map_err(Error::from)?;
    Ok(session.end().await?)
}
