//! `barman repo init`.

use std::path::{Path, PathBuf};

use repo_format::config::{Chunking, Packing};
use repo_format::slot::Credential;
use serde_json::json;

use super::secret::{self, KeyFile};
use super::{recovery, share};
use crate::cli::{Session, memory, open};
use crate::config::KeySource;
use crate::error::{Error, Kind, Result};
use crate::repository::slots::NewSlot;
use crate::repository::{self, Repository};
use crate::storage::Storage;

/// Create the repository.
///
/// Makes a new repository at the configured place, opened by the configured key file or password. A key
/// file that does not exist yet is created; keep a copy of it elsewhere, because without it nothing can
/// be restored. On a terminal its recovery code is shown, for a copy on paper; it is never written to a
/// log, a file or JSON. A place that holds a repository already is left alone, and so is one that held one when this
/// host used it last and is empty now: its disk may not be mounted.
///
/// With --group, all users of that group share the repository: one archives WAL, another backs up. Everything in it, now
/// and later, is for the group, whatever the umask of who writes it, and the group may read the key file. Without it,
/// others than the owner can change nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use this key file, or create it. Overrides the configured key
    #[arg(long, value_name = "PATH")]
    pub key_file: Option<PathBuf>,
    /// Share the repository and its key file with the users of this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Make a new repository where the one with this id was, which is gone for good
    #[arg(long, value_name = "ID")]
    pub instead_of: Option<String>,
    /// Do not show the recovery code of a new key file
    #[arg(long)]
    pub no_recovery_code: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo init
  barman repo init --key-file /etc/barman/repository.key
  barman repo init --group backup-writers
  BARMAN_REPOSITORY=/srv/backup BARMAN_REPOSITORY_KEY_FILE=/etc/barman.key barman repo init";

/// Runs the command.
pub async fn run(args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let storage = open::storage(settings)?;
    let source = match args.key_file {
        Some(path) => KeySource::KeyFile(std::path::absolute(&path).unwrap_or(path)),
        None => settings.key()?.clone(),
    };
    let group = args.group.as_deref().map(share::group_id).transpose()?;
    let state = &session.config.global.state_directory;
    refuse_to_replace(storage.as_ref(), state, args.instead_of.as_deref()).await?;
    if let Some(name) = &args.group {
        // What is there already is not given to anybody by the way.
        if storage.list("keys/").await.is_ok_and(|keys| !keys.is_empty()) {
            let error = Error::from(repository::Error::Exists { location: storage.location() });
            return Err(error.hint(format!("to share it with the group: barman repo share {name}")));
        }
        storage.prepare(group).await?;
    }
    let (credential, key_file) = match &source {
        KeySource::KeyFile(path) => {
            let file = KeyFile::read_or_make(path, group)?;
            (file.credential(), Some(file))
        }
        password => (open::credential(password, |text| output.warning(text)).await?, None),
    };
    let slot = NewSlot { credential, label: secret::label(), cost: secret::cost() };
    let created =
        Repository::create(storage.clone(), &slot, Chunking::default(), Packing::default()).await;
    if created.is_err()
        && let Some(file) = &key_file
    {
        file.discard(storage.as_ref()).await;
    }
    let repository = created?;
    if let Err(error) = memory::remember(state, &repository) {
        output.warning(format!(
            "it cannot be remembered in {} that this repository is here, should its disk not be mounted one day: \
             {error}; set state_directory to a directory that is yours",
            state.display()
        ));
    }
    if let Err(error) = storage.ensure_reserve(settings.reserve).await {
        output.warning(format!(
            "no space is set aside for emptying a full disk: {}",
            Error::from(error)
        ));
    }
    let (id, location) = (repository.config().repository.to_string(), repository.location());
    output.print(format!("Created repository {id}\n  in {location}"));
    match &key_file {
        Some(KeyFile { path, made, .. }) => {
            let how = if *made { "which was created" } else { "which existed" };
            output.print(format!("  opened by key file {}, {how}", path.display()));
            if !*made {
                output.warning(format!(
                    "if a repository with this key file should be in {location} already, its disk is \
                     not mounted: then remove this new one"
                ));
            }
        }
        None => output.print(format!("  opened by {}", source.describe())),
    }
    if let (Some(name), Some(group)) = (&args.group, group) {
        output.print(format!("  shared by the users of group {name}"));
        share::warn_of_closed_ways(Path::new(&location), group, name, output);
        if let Some(file) = &key_file {
            share::warn_of_closed_ways(&file.path, group, name, output);
        }
    }
    output.result(
        "repository",
        json!({
            "id": id,
            "location": location,
            "key": repository.slot().to_string(),
            "key_file": key_file.as_ref().map(|file| file.path.display().to_string()),
            "group": args.group,
            "key_file_created": key_file.as_ref().is_some_and(|file| file.made),
        }),
    );
    output.info(match slot.credential {
        Credential::KeyFile(_) => {
            "Keep a copy of the key file in another place: without it the backups are lost."
        }
        Credential::Password(_) => {
            "Keep the password in another place too: without it the backups are lost."
        }
    });
    if let Some(file) = key_file.as_ref().filter(|_| !args.no_recovery_code) {
        recovery::offer(file, output);
    }
    if settings.key.as_ref() != Some(&source) {
        let place = key_file.map(|file| file.path.display().to_string()).unwrap_or_default();
        output.info(format!("Now put 'repository_key_file = {place}' into barman.conf."));
    }
    Ok(())
}

/// A place that held a repository and is empty now may be the mount point of a disk that is not mounted.
async fn refuse_to_replace(
    storage: &dyn Storage,
    state: &Path,
    instead_of: Option<&str>,
) -> Result<()> {
    let location = storage.location();
    let Some(id) = memory::of_place(state, &location) else { return Ok(()) };
    let is_empty = match storage.list("keys/").await {
        Ok(keys) => keys.is_empty(),
        Err(error) => error.is_no_place(),
    };
    if !is_empty || instead_of == Some(&id) {
        return Ok(());
    }
    let message = format!(
        "repository {id} was in {location}, and nothing is there: its disk may not be mounted"
    );
    Err(Error::new(Kind::Refused, message)
        .hint(format!("mount it; if it is gone for good, the same again with --instead-of {id}")))
}
