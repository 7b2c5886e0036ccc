//! `barman repo init`.

use std::path::PathBuf;

use repo_format::config::{Chunking, Packing};
use repo_format::slot::Credential;
use serde_json::json;

use super::secret::{self, KeyFile};
use crate::cli::{Session, open};
use crate::config::KeySource;
use crate::error::Result;
use crate::repository::Repository;
use crate::repository::slots::NewSlot;

/// Create the repository.
///
/// Makes a new repository at the configured place, opened by the configured key file or password. A key
/// file that does not exist yet is created; keep a copy of it elsewhere, because without it nothing can
/// be restored. A place that holds a repository already is left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use this key file, or create it. Overrides the configured key
    #[arg(long, value_name = "PATH")]
    pub key_file: Option<PathBuf>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo init
  barman repo init --key-file /etc/barman/repository.key
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
    let (credential, key_file) = match &source {
        KeySource::KeyFile(path) => {
            let file = KeyFile::read_or_make(path)?;
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
    let (id, location) = (repository.config().repository.to_string(), repository.location());
    output.print(format!("Created repository {id}\n  in {location}"));
    match &key_file {
        Some(KeyFile { path, made, .. }) => {
            let how = if *made { "which was created" } else { "which existed" };
            output.print(format!("  opened by key file {}, {how}", path.display()));
        }
        None => output.print(format!("  opened by {}", source.describe())),
    }
    output.result(
        "repository",
        json!({
            "id": id,
            "location": location,
            "key": repository.slot().to_string(),
            "key_file": key_file.as_ref().map(|file| file.path.display().to_string()),
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
    if settings.key.as_ref() != Some(&source) {
        let place = key_file.map(|file| file.path.display().to_string()).unwrap_or_default();
        output.info(format!("Now put 'repository_key_file = {place}' into barman.conf."));
    }
    Ok(())
}
