//! `barman repo`: the repository itself.

mod check;
mod info;
mod init;
mod key;
mod prune;
mod recovery;
mod repair;
mod secret;
mod server;
mod share;
mod upgrade;

use clap::Subcommand;

use super::Session;
use crate::error::Result;

/// Create and look after the repository.
///
/// The repository is the one of the section 'barman', or of BARMAN_REPOSITORY; with --server it is that
/// server's own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use the repository of this server
    #[arg(long, value_name = "SERVER_NAME", global = true)]
    pub server: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo init
  barman repo info
  barman repo check --read-data
  barman repo prune
  barman repo key list --server main";

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Info(info::Args),
    Check(check::Args),
    Prune(prune::Args),
    Repair(repair::Args),
    Key(key::Args),
    Share(share::Args),
    #[command(name = "server-accept")]
    ServerAccept(server::AcceptArgs),
    #[command(name = "server-rename")]
    ServerRename(server::RenameArgs),
    Upgrade(upgrade::Args),
}

/// Runs one of its commands; `server` names the server whose repository is meant.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let server = args.server.as_deref();
    match args.command {
        Command::Init(args) => init::run(args, server, session).await,
        Command::Info(args) => info::run(args, server, session).await,
        Command::Check(args) => check::run(args, server, session).await,
        Command::Prune(args) => prune::run(args, server, session).await,
        Command::Repair(args) => repair::run(args, server, session).await,
        Command::Key(args) => key::run(args, server, session).await,
        Command::Share(args) => share::run(args, server, session).await,
        Command::ServerAccept(args) => server::accept(args, session).await,
        Command::ServerRename(args) => server::rename(args, server, session).await,
        Command::Upgrade(args) => upgrade::run(args, server, session).await,
    }
}
