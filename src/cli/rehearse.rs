//! `barman rehearse`.

mod report;

use std::path::PathBuf;
use std::time::Duration;

use repo_format::note::Fact;

use super::Session;
use super::open::Repositories;
use super::target::{self, Target, choose};
use crate::catalog::{Backup, Catalog};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::conninfo::ConnInfo;
use crate::rehearsal::found::Found;
use crate::rehearsal::scratch::Scratch;
use crate::rehearsal::{self, Wish};
use crate::repository::{Access, host, notes};
use crate::restore::hold::Hold;
use crate::restore::target as moment;

/// Restore a backup for trial, and see whether it works.
///
/// Restores the backup into a scratch directory, starts PostgreSQL on it, lets it recover to the end of the WAL or
/// to a target, connects to every database, asks what it is told to ask, and removes everything again. The outcome is
/// noted with the backup, where show-backup, list-backups and check show it. The exit code is 0 if all is well, and 1
/// if not.
///
/// The server is on a Unix socket that nobody else gets to, and keeps to itself whatever its configuration says: it
/// archives nothing, connects to no other server, and runs no background workers of extensions. It has little memory,
/// so that recovery takes longer than on the real server.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    pub server_name: String,
    /// Id or name of the backup; also first, last, latest, oldest or auto
    pub backup_id: String,
    /// Follow this timeline: a number, 'latest' or 'current'
    #[arg(long, value_name = "TARGET_TLI")]
    pub target_tli: Option<String>,
    /// Where recovery ends.
    #[command(flatten)]
    pub target: Target,
    /// Stop just before the target instead of just after it
    #[arg(long)]
    pub exclusive: bool,
    /// Ask this, and show the answer; may be given several times. An error fails the rehearsal
    #[arg(long, value_name = "SQL")]
    pub query: Vec<String>,
    /// Ask it in this database
    #[arg(long, value_name = "DATABASE", default_value = "postgres")]
    pub dbname: String,
    /// Check every table and B-tree index with pg_amcheck, which reads all of them
    #[arg(long)]
    pub amcheck: bool,
    /// Make the scratch directory in this one, instead of TMPDIR or /var/tmp
    #[arg(long, value_name = "DIRECTORY")]
    pub scratch_directory: Option<PathBuf>,
    /// Leave what was restored where it is, with the server's log, and only stop the server
    #[arg(long)]
    pub keep_scratch: bool,
    /// Give up on recovery and checks after so many seconds; 0 never does
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub time_limit: u32,
    /// Use so many workers. Overrides parallel_jobs
    #[arg(short, long, value_name = "NJOBS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman rehearse main latest
  barman rehearse main latest --amcheck --scratch-directory /srv/scratch
  barman rehearse main auto --target-time '2026-01-01 12:00:00+01'
  barman rehearse main latest --dbname shop --query 'SELECT count(*), max(placed) FROM orders'
  barman -f json rehearse main latest";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let target = args.target()?;
    let (output, interrupt) = (&session.output, &session.interrupt);
    let mut repositories = Repositories::new(output);
    let server = session.server_or_known(&args.server_name, &mut repositories);
    let server = interrupt.unless(server).await?.into_owned();
    let repository = interrupt.unless(repositories.of(&server, Access::Read)).await?;
    let catalog = interrupt.unless(Catalog::load(&repository, &server.name)).await?;
    let backup = choose(&args.backup_id, &catalog, &target, output, "rehearse")?;
    let snapshot = backup.usable()?;
    let place = args.scratch_directory.clone().unwrap_or_else(rehearsal::usual_place);
    let mut scratch = Scratch::make(&place, args.keep_scratch)?;
    let directory = scratch.directory().to_owned();
    output.info(format!(
        "Rehearsing a restore of backup {} of server {} in {}",
        backup.id,
        server.name,
        directory.display()
    ));
    let wish = Wish {
        target,
        roles: roles(&server),
        database: args.dbname.clone(),
        queries: args.query.clone(),
        amcheck: args.amcheck,
        limit: Some(Duration::from_secs(args.time_limit.into())).filter(|limit| !limit.is_zero()),
        threads: server.workers(args.jobs),
    };
    let bar = session.progress("looking");
    let hold = Hold::begin(&repository, snapshot).await;
    let tell = |prepared: &_| report::need(output, prepared);
    let progress = bar.observer();
    let work = rehearsal::rehearse(&repository, snapshot, &wish, &mut scratch, &progress, &tell);
    let ended = interrupt.unless(Box::pin(work)).await;
    bar.finish();
    if let Err(error) = scratch.clear().await {
        output.warning(error);
    }
    let noted = match &ended {
        Ok(found) => note(&server, backup, found, &repositories).await,
        Err(_) => Ok(()),
    };
    hold.end().await;
    let found = ended?;
    report::report(output, &server.name, &backup.id, &found);
    if args.keep_scratch {
        output.info(format!("What was restored is kept in {}", directory.display()));
    }
    if let Err(error) = noted {
        output.warning(format!("the outcome is not noted with the backup: {error}"));
    }
    if found.is_good() {
        return Ok(());
    }
    let message = format!("the rehearsal of backup {} failed", backup.id);
    Err(Error::new(Kind::Damaged, message).context(format!("server {}", server.name)))
}

/// Notes the outcome with the backup.
async fn note(
    server: &Server,
    backup: &Backup,
    found: &Found,
    repositories: &Repositories<'_>,
) -> Result<()> {
    let repository = repositories.of(server, Access::Write).await?;
    let fact = Fact::Rehearsed { good: found.is_good(), report: found.report() };
    Ok(notes::add(&repository, &server.name, &backup.id, fact).await?)
}

/// Names of roles of which one is likely to exist: that of initdb is the user of the system who ran it, as a rule
/// `postgres`; and backups are made as somebody.
fn roles(server: &Server) -> Vec<String> {
    let of = |info: &Option<String>| Some(ConnInfo::parse(info.as_deref()?).ok()?.user);
    let configured = [of(&server.conninfo), of(&server.streaming_conninfo)];
    let mut roles = vec!["postgres".to_owned()];
    for role in configured.into_iter().flatten().chain([host::user()]) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles
}

impl Args {
    fn target(&self) -> Result<moment::Target> {
        let timeline = target::timeline(self.target_tli.as_deref())?;
        let moment = self.target.moment()?;
        Ok(moment::Target { moment, timeline, exclusive: self.exclusive, action: None })
    }
}
