//! `barman switch-wal`.

use std::time::Duration;

use tokio::time::Instant;

use super::open::Repositories;
use super::output::Output;
use super::{Session, remote};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::sql::{SqlConnection, Write};
use crate::repository::{Access, wal};

/// How often the archive is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Make servers begin a new WAL segment.
///
/// The segment being written is completed, so that it can be archived. PostgreSQL does nothing when
/// nothing was written since the last switch; --force runs a checkpoint first, so that there is something.
/// With --archive the command waits until a segment has arrived in the repository.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Run a checkpoint first
    #[arg(long)]
    pub force: bool,
    /// Wait for one WAL segment to be archived
    #[arg(long)]
    pub archive: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub archive_timeout: u32,
}

const EXAMPLES: &str = "EXAMPLES:
  barman switch-wal main
  barman switch-wal main --force --archive --archive-timeout 60";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let mut repositories = Repositories::new(output);
    for server in session.servers(&args.server_name) {
        if let Err(error) = switch(&args, server, &mut repositories, output).await {
            output.failure(&error.context(format!("server {}", server.name)));
        }
    }
    Ok(())
}

async fn switch(
    args: &Args,
    server: &Server,
    repositories: &mut Repositories<'_>,
    output: &Output,
) -> Result<()> {
    server.ready_for_backup()?;
    let sql = remote::connect(server).await?;
    let switched = switch_over(&sql, args, server, repositories, output).await;
    sql.close().await;
    switched
}

async fn switch_over(
    sql: &SqlConnection,
    args: &Args,
    server: &Server,
    repositories: &mut Repositories<'_>,
    output: &Output,
) -> Result<()> {
    let name = &server.name;
    if sql.is_in_recovery().await? {
        output.info(format!("No switch performed because server '{name}' is a standby."));
        return Ok(());
    }
    // Opened first: a segment should not be closed in vain.
    let repository = match args.archive {
        true => Some(repositories.of(server, Access::Read).await?),
        false => None,
    };
    let before = if args.force { Write::Checkpoint } else { Write::Nothing };
    let Some(closed) = sql.switch_wal(before).await? else {
        output.info(format!("No switch required for server '{name}'"));
        return Ok(());
    };
    output.info(format!("The WAL file {closed} has been closed on server '{name}'"));
    let Some(repository) = repository else { return Ok(()) };
    let seconds = args.archive_timeout;
    output.info(format!(
        "Waiting for the WAL file {closed} from server '{name}' (max: {seconds} seconds)"
    ));
    let system_id = sql.system_id().await?.0;
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let file = closed.to_string();
    loop {
        let timeline = closed.timeline.0;
        let found = wal::of_file(&repository, name, system_id, timeline, &file).await?;
        if !found.is_empty() {
            output.info(format!("The WAL file {closed} of server '{name}' has been archived"));
            return Ok(());
        }
        if Instant::now() >= until {
            let message = format!("the WAL file {closed} was not archived in {seconds} seconds");
            return Err(Error::new(Kind::Postgres, message)
                .hint(format!("see that archive_command works: barman check {name}")));
        }
        tokio::time::sleep(POLL).await;
    }
}
