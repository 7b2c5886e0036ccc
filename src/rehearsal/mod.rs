//! Rehearsals: a backup is restored for trial, PostgreSQL is started on it, and asked.
//!
//! What proves a backup is a server that has recovered from it. This one lives in directories of its own
//! ([`scratch`]), keeps to itself whatever its configuration says ([`settings`]), and is gone with them when the
//! rehearsal is over, however that ends. What speaks against the backup is *found* ([`found`]); an error is what
//! kept it from being tried.

pub mod checks;
pub mod found;
pub mod scratch;
pub mod server;
pub mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use repo_format::snapshot::Snapshot;

use crate::error::{Error, Kind, Result};
use crate::human;
use crate::postgres::configuration_file;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::destination::{Destination, ThisHost};
use crate::restore::places::Places;
use crate::restore::programs::Programs;
use crate::restore::target::{Action, Moment, Target};
use crate::restore::{Prepared, Request, Restored};
use found::Found;
use scratch::Scratch;
use server::{Server, Start};

/// A rehearsal that is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The moment that is recovered to.
    pub target: Target,
    /// Names of roles that may exist: the first one that does tells who is superuser.
    pub roles: Vec<String>,
    /// The database that is asked.
    pub database: String,
    /// What it is asked.
    pub queries: Vec<String>,
    /// Whether all tables and indexes are checked with pg_amcheck.
    pub amcheck: bool,
    /// How long recovery and checks may take; `None` is for ever.
    pub limit: Option<Duration>,
    /// Threads that decompress.
    pub threads: usize,
}

/// What the server writes besides what is restored, and besides what recovery adds to tables: that is no more than
/// the WAL.
const ROOM: u64 = 256 << 20;

/// Restores `snapshot` into `scratch`, and tries it. `tell` hears what will be restored before anything is written.
///
/// # Errors
/// For what keeps the rehearsal from being carried out, and says nothing of the backup.
pub async fn rehearse(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    wish: &Wish,
    scratch: &mut Scratch,
    progress: &Progress,
    tell: &(dyn Fn(&Prepared) + Sync),
) -> Result<Found> {
    let mut found = Found::default();
    let begun = Instant::now();
    let request = request(snapshot, wish, scratch);
    let restored = restore(repository, snapshot, &request, wish, progress, tell).await;
    found.times.restore = begun.elapsed();
    let (prepared, restored) = match restored {
        Ok(done) => done,
        Err(error) if speaks_against_backup(&error, &wish.target.moment) => {
            found.problems.push(format!("it cannot be restored: {error}"));
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    found.restored = restored;
    found.warnings = prepared.warnings.clone();
    let programs = programs(&prepared)?;
    let trial = Box::pin(try_out(&prepared, programs, wish, scratch, progress, &mut found));
    let is_over = match wish.limit {
        None => trial.await.map(|()| true)?,
        Some(limit) => match tokio::time::timeout(limit, trial).await {
            Ok(tried) => tried.map(|()| true)?,
            Err(_) => false,
        },
    };
    if let (false, Some(limit)) = (is_over, wish.limit) {
        let limit = human::duration(limit);
        found.problems.push(format!("recovery and checks were not over within {limit}"));
    }
    Ok(found)
}

/// The restore by which everything is inside the scratch directory.
fn request(snapshot: &Snapshot, wish: &Wish, scratch: &Scratch) -> Request {
    let mut target = wish.target.clone();
    // Nobody could look at it while it waits at the target.
    target.action = (target.moment != Moment::Latest).then_some(Action::Promote);
    let tablespaces = snapshot.tablespaces.iter();
    let to = Request::to(scratch.data());
    let places = Places::of(snapshot, &to);
    let files = &places.known;
    let mut files = [&files.config, &files.hba, &files.ident].into_iter().chain(&files.included);
    let has_outside = snapshot.configuration.is_some() && files.any(|path| places.is_outside(path));
    Request {
        tablespaces: tablespaces
            .map(|space| (space.name.clone(), scratch.path(&format!("tablespaces/{}", space.oid))))
            .collect(),
        target,
        config_dir: has_outside.then(|| scratch.path("configuration")),
        threads: wish.threads,
        ..to
    }
}

async fn restore(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    request: &Request,
    wish: &Wish,
    progress: &Progress,
    tell: &(dyn Fn(&Prepared) + Sync),
) -> Result<(Prepared, Restored)> {
    let here: Arc<dyn Destination> = Arc::new(ThisHost::default());
    let mut prepared = Prepared::new(repository, snapshot, request, &here, progress).await?;
    let programs = programs(&prepared)?;
    if wish.amcheck && !programs.program(checks::AMCHECK).exists() {
        return Err(checks::no_amcheck(programs));
    }
    let more = ROOM + prepared.wal.bytes;
    if let Some(part) = prepared.layout.part_of(&request.destination) {
        part.count(more);
    }
    prepared.layout.check_space().map_err(|error| {
        error.hint("free some space there, or name another file system: --scratch-directory")
    })?;
    tell(&prepared);
    let restored = prepared.write(progress).await?;
    Ok((prepared, restored))
}

/// Whether an error says that the backup is no good: a moment that the archive does not reach says nothing of it.
fn speaks_against_backup(error: &Error, moment: &Moment) -> bool {
    match error.kind() {
        Kind::Damaged => true,
        Kind::NotFound => matches!(moment, Moment::Latest | Moment::Immediate),
        _ => false,
    }
}

fn programs(prepared: &Prepared) -> Result<&Programs> {
    prepared.programs.as_ref().ok_or_else(|| {
        let major = crate::restore::host::major_version(&prepared.snapshot);
        let message = format!("PostgreSQL {major} is not installed here: nothing can be tried");
        Error::new(Kind::Refused, message).hint("install it, or put its programs into PATH")
    })
}

/// Starts the server, and asks it.
async fn try_out(
    prepared: &Prepared,
    programs: &Programs,
    wish: &Wish,
    scratch: &mut Scratch,
    progress: &Progress,
    found: &mut Found,
) -> Result<()> {
    let begun = Instant::now();
    progress.phase("recovering", None);
    let recovered = recover(prepared, programs, scratch, found).await;
    found.times.recovery = begun.elapsed();
    let Some(mut server) = recovered? else { return Ok(()) };
    let begun = Instant::now();
    progress.phase("checking", None);
    let checked = checks::check(&mut server, wish, scratch, found).await;
    found.times.checks = begun.elapsed();
    checked
}

/// Starts the server and waits until it has recovered; nothing where it has not.
async fn recover(
    prepared: &Prepared,
    programs: &Programs,
    scratch: &mut Scratch,
    found: &mut Found,
) -> Result<Option<Server>> {
    let main = prepared.main.as_deref();
    let start = Start { programs, main, with_libraries: false };
    let mut server = Server::start(&start, scratch).await?;
    let Err(mut reason) = server.wait(scratch).await? else { return Ok(Some(server)) };
    if server.lacks_library(scratch) {
        let libraries = preloaded(&prepared.snapshot);
        let missing = programs.missing_libraries(&libraries, None);
        if missing.is_empty() && !libraries.is_empty() {
            found.remarks.push(format!(
                "its WAL has records of an extension: it was started with {}",
                libraries.join(", ")
            ));
            let start = Start { with_libraries: true, ..start };
            let mut server = Server::start(&start, scratch).await?;
            match server.wait(scratch).await? {
                Ok(()) => return Ok(Some(server)),
                Err(again) => reason = again,
            }
        } else if !missing.is_empty() {
            reason.push_str(&format!("; not installed here: {}", missing.join(", ")));
        }
    }
    found.problems.push(reason);
    Ok(None)
}

/// The libraries that the server which was backed up had loaded.
fn preloaded(snapshot: &Snapshot) -> Vec<String> {
    let environment = snapshot.environment.as_ref();
    let libraries = environment.and_then(|environment| environment.preload_libraries.as_deref());
    configuration_file::list(libraries.unwrap_or_default())
}

/// The directory in which scratch directories are made, unless another one is named.
pub fn usual_place() -> std::path::PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| Path::new("/var/tmp").to_owned(), Into::into)
}
