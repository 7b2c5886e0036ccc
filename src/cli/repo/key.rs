//! `barman repo key`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::cli::{Session, not_built};
use crate::error::Result;

/// Add, list and remove the keys that open the repository.
///
/// Every key opens the whole repository. Adding, removing and changing keys needs one that works
/// already: the configured one. The last key cannot be removed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo key list
  barman repo key add --key-file /etc/barman/archive.key
  barman repo key add --new-password-file /root/new-password
  barman repo key remove 1f2e3d4c
  barman repo key change-password";

#[derive(Debug, Subcommand)]
enum Command {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
    ChangePassword(ChangePasswordArgs),
}

/// Add a key file or a password.
///
/// With --key-file a new key file is written there. Otherwise a password is added, read from
/// --new-password-file or asked for.
#[derive(Debug, clap::Args)]
#[command(after_help = ADD_EXAMPLES)]
struct AddArgs {
    /// Write a new key file here
    #[arg(long, value_name = "PATH", conflicts_with = "new_password_file")]
    key_file: Option<PathBuf>,
    /// Take the new password from the first line of this file
    #[arg(long, value_name = "PATH")]
    new_password_file: Option<PathBuf>,
}

const ADD_EXAMPLES: &str = "EXAMPLES:
  barman repo key add
  barman repo key add --key-file /etc/barman/archive.key";

/// List the keys.
///
/// Their ids, kinds, and when and where they were made; never the keys themselves.
#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
struct ListArgs {}

const LIST_EXAMPLES: &str = "EXAMPLES:
  barman repo key list
  barman -f json repo key list";

/// Remove a key.
///
/// Whoever has kept a copy of the repository and the key can still open that copy.
#[derive(Debug, clap::Args)]
#[command(after_help = REMOVE_EXAMPLES)]
struct RemoveArgs {
    /// Id of the key, as 'barman repo key list' shows it
    id: String,
}

const REMOVE_EXAMPLES: &str = "EXAMPLES:
  barman repo key remove 1f2e3d4c";

/// Replace the configured password by a new one.
///
/// Adds the new password and then removes the one that was used to open the repository.
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGE_EXAMPLES)]
struct ChangePasswordArgs {
    /// Take the new password from the first line of this file
    #[arg(long, value_name = "PATH")]
    new_password_file: Option<PathBuf>,
}

const CHANGE_EXAMPLES: &str = "EXAMPLES:
  barman repo key change-password
  barman repo key change-password --new-password-file /root/new-password";

/// Runs one of its commands.
pub async fn run(args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    match args.command {
        Command::Add(args) => add(args, server, session).await,
        Command::List(args) => list(args, server, session).await,
        Command::Remove(args) => remove(args, server, session).await,
        Command::ChangePassword(args) => change_password(args, server, session).await,
    }
}

async fn add(_args: AddArgs, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo key add"))
}

async fn list(_args: ListArgs, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo key list"))
}

async fn remove(_args: RemoveArgs, _server: Option<&str>, _session: &mut Session) -> Result<()> {
    Err(not_built("repo key remove"))
}

async fn change_password(
    _args: ChangePasswordArgs,
    _server: Option<&str>,
    _session: &mut Session,
) -> Result<()> {
    Err(not_built("repo key change-password"))
}
