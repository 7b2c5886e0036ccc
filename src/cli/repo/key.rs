//! `barman repo key`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use jiff::Timestamp;
use repo_format::ids::SlotId;
use repo_format::slot::{Credential, Unlock};
use serde_json::{Value, json};

use super::recovery;
use super::secret::{self, KeyFile};
use crate::cli::table::{Align, Table};
use crate::cli::{Session, human, open};
use crate::config::KeySource;
use crate::error::{Error, Kind, Result};
use crate::repository::slots::{self, NewSlot, SlotInfo};
use crate::repository::{self, Access, Repository};

/// Add, list, remove and recover the keys that open the repository.
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
  barman repo key change-password
  barman repo key recover";

#[derive(Debug, Subcommand)]
enum Command {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
    ChangePassword(ChangePasswordArgs),
    RecoveryCode(recovery::ShowArgs),
    Recover(recovery::RecoverArgs),
}

/// Add a key file or a password.
///
/// With --key-file that key file is added; it is created if it does not exist, and the group that shares the
/// repository may read it. Otherwise a password is added, read from --new-password-file or asked for.
#[derive(Debug, clap::Args)]
#[command(after_help = ADD_EXAMPLES)]
struct AddArgs {
    /// Add this key file, and create it if it does not exist
    #[arg(long, value_name = "PATH", conflicts_with = "new_password_file")]
    key_file: Option<PathBuf>,
    /// Take the new password from the first line of this file
    #[arg(long, value_name = "PATH")]
    new_password_file: Option<PathBuf>,
    /// What to call it; otherwise user and host
    #[arg(long)]
    label: Option<String>,
    /// Do not show the recovery code of a new key file
    #[arg(long)]
    no_recovery_code: bool,
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
    /// Id of the key, as 'barman repo key list' shows it; its beginning is enough
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
        Command::RecoveryCode(args) => recovery::show(args, server, session),
        Command::Recover(args) => recovery::recover(args, server, session).await,
    }
}

async fn add(args: AddArgs, server: Option<&str>, session: &mut Session) -> Result<()> {
    let repository = unlock(server, session).await?;
    let (credential, key_file) = match &args.key_file {
        Some(path) => {
            // A key file that is there is somebody's, and stays as it is.
            let group = if path.exists() { None } else { repository.storage().group().await? };
            let file = KeyFile::read_or_make(path, group)?;
            (file.credential(), Some(file))
        }
        None => {
            let password = secret::new_password(args.new_password_file.as_deref()).await?;
            (Credential::Password(password), None)
        }
    };
    let label = args.label.unwrap_or_else(secret::label);
    let slot = NewSlot { credential, label, cost: secret::cost() };
    let added = repository.add_slot(&slot).await;
    if added.is_err()
        && let Some(file) = &key_file
    {
        file.discard(repository.storage().as_ref()).await;
    }
    let id = added?;
    session.output.info(match &key_file {
        Some(file) if file.made => format!("Added key {id}, in the new {}", file.path.display()),
        Some(file) => format!("Added key {id}, in {}", file.path.display()),
        None => format!("Added key {id}, the new password"),
    });
    if let Some(file) = key_file.as_ref().filter(|_| !args.no_recovery_code) {
        recovery::offer(file, &session.output);
    }
    session.output.result("key", id.to_string());
    Ok(())
}

/// Lists the slots, which are readable without a key: whoever has the wrong key wants to see them.
async fn list(_args: ListArgs, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let storage = open::storage(settings)?;
    let found = slots::list(storage.as_ref()).await?;
    if found.is_empty() {
        return Err(repository::Error::NotARepository { location: storage.location() }.into());
    }
    let opened = open::repository(settings, Access::Read, |text| output.warning(text)).await;
    let used = opened.map(|repository| repository.slot());
    if let Err(error) = &used {
        output.warning(format!("the configured key opens none of these: {error}"));
    }
    let used = used.ok();
    let columns = ["Id", "Kind", "Created", "Label", ""].map(|title| (title, Align::Left));
    let mut table = Table::new(&columns);
    for SlotInfo { id, header } in &found {
        table.row([
            id.to_string(),
            kind(&header.unlock).to_owned(),
            human::time_with_offset(time(header.created_at)),
            header.label.clone(),
            if used == Some(*id) { "in use".to_owned() } else { String::new() },
        ]);
    }
    for line in table.lines() {
        output.print(line);
    }
    let keys: Vec<Value> = found
        .iter()
        .map(|SlotInfo { id, header }| {
            json!({
                "id": id.to_string(),
                "kind": kind(&header.unlock),
                "label": header.label,
                "created": human::time(time(header.created_at)),
                "created_timestamp": human::epoch(time(header.created_at)),
                "in_use": used == Some(*id),
            })
        })
        .collect();
    output.result("keys", keys);
    Ok(())
}

async fn remove(args: RemoveArgs, server: Option<&str>, session: &mut Session) -> Result<()> {
    let repository = unlock(server, session).await?;
    let id = find(&repository, &args.id).await?;
    slots::remove(&repository, id).await?;
    session.output.info(format!("Removed key {id}"));
    Ok(())
}

async fn change_password(
    args: ChangePasswordArgs,
    server: Option<&str>,
    session: &mut Session,
) -> Result<()> {
    let source = session.repository(server)?.key()?.clone();
    if matches!(source, KeySource::KeyFile(_)) {
        return Err(Error::new(
            Kind::Refused,
            format!("the repository is opened with {}, not with a password", source.describe()),
        )
        .hint("add another key and remove this one: barman repo key add, barman repo key remove"));
    }
    let repository = unlock(server, session).await?;
    let current = open::credential(&source, |_| {}).await?;
    let password = secret::new_password(args.new_password_file.as_deref()).await?;
    if matches!(&current, Credential::Password(current) if **current == *password) {
        return Err(Error::new(Kind::Refused, "the new password is the current one"));
    }
    let old = repository.slot();
    let known = slots::list(repository.storage().as_ref()).await?;
    let label = known.into_iter().find(|slot| slot.id == old).map(|slot| slot.header.label);
    let slot = NewSlot {
        credential: Credential::Password(password),
        label: label.unwrap_or_else(secret::label),
        cost: secret::cost(),
    };
    let new = repository.add_slot(&slot).await?;
    // Only a repository that opens with the new password lets go of the old one.
    let reopened =
        Repository::open(repository.storage().clone(), &slot.credential, Access::Write).await?;
    slots::remove(&reopened, old).await?;
    session.output.info(format!("Changed the password: key {new} replaces {old}"));
    session
        .output
        .info(format!("Now put the new password where barman reads it: {}", source.describe()));
    session.output.result("key", new.to_string());
    Ok(())
}

async fn unlock(server: Option<&str>, session: &Session) -> Result<Arc<Repository>> {
    let settings = session.repository(server)?;
    open::repository(settings, Access::Write, |text| session.output.warning(text)).await
}

/// The one slot whose id begins with `wanted`.
async fn find(repository: &Repository, wanted: &str) -> Result<SlotId> {
    let known = slots::list(repository.storage().as_ref()).await?;
    let mut found =
        known.iter().map(|slot| slot.id).filter(|id| id.to_string().starts_with(wanted));
    match (found.next(), found.next()) {
        (Some(id), None) if !wanted.is_empty() => Ok(id),
        (Some(_), _) => Err(Error::new(Kind::Usage, format!("several keys begin with {wanted:?}"))
            .hint("give more of the id: barman repo key list")),
        (None, _) => Err(repository::Error::NoSuchSlot(wanted.to_owned()).into()),
    }
}

fn kind(unlock: &Unlock) -> &'static str {
    match unlock {
        Unlock::Password(_) => "password",
        Unlock::KeyFile => "key file",
        Unlock::PublicKey { .. } => "public key",
    }
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}
