//! From the configuration to an open repository.

use std::path::Path;
use std::sync::Arc;

use repo_format::keys::Secret;
use repo_format::slot::Credential;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::output::Output;
use crate::config::{Key, KeySource, Location, RepositorySettings, Server};
use crate::error::{Error, Result};
use crate::repository::{Access, Repository, key_file};
use crate::server::check::{Patience, Place};
use crate::storage::Storage;
use crate::storage::location::storage_at;
use crate::storage::spending::SpendingStorage;

/// The repositories of one command. Servers that share one share the work of opening it: a password
/// takes a second to try.
pub struct Repositories<'o> {
    output: &'o Output,
    opened: Mutex<Vec<(RepositorySettings, Access, Arc<Repository>)>>,
}

impl<'o> Repositories<'o> {
    /// None opened yet; warnings go to `output`.
    pub fn new(output: &'o Output) -> Self {
        Repositories { output, opened: Mutex::default() }
    }

    /// The repository of `server`.
    pub async fn of(&self, server: &Server, access: Access) -> Result<Arc<Repository>> {
        self.at(&server.repository, access).await
    }

    /// The repository that `settings` describe.
    pub async fn at(
        &self,
        settings: &RepositorySettings,
        access: Access,
    ) -> Result<Arc<Repository>> {
        let same = |(known, how, _): &&(RepositorySettings, Access, Arc<Repository>)| {
            known.location == settings.location && known.key == settings.key && *how == access
        };
        // Held while one is opened: who wants the same waits for it.
        let mut opened = self.opened.lock().await;
        if let Some((_, _, repository)) = opened.iter().find(same) {
            return Ok(repository.clone());
        }
        let repository = repository(settings, access, |text| self.output.warning(text)).await?;
        opened.push((settings.clone(), access, repository.clone()));
        Ok(repository)
    }
}

/// The repositories of one command that checks servers: each is opened and looked at once, when the first
/// of its servers asks.
pub struct Places<'a> {
    output: &'a Output,
    known: Vec<(&'a RepositorySettings, Place<'a>)>,
}

impl<'a> Places<'a> {
    /// None known yet; warnings go to `output`.
    pub fn new(output: &'a Output) -> Self {
        Places { output, known: Vec::new() }
    }

    /// The place that `settings` describe.
    pub fn of(&mut self, settings: &'a RepositorySettings, patience: Patience) -> Place<'a> {
        let same = |(known, _): &&(&RepositorySettings, Place<'a>)| {
            known.location == settings.location && known.key == settings.key
        };
        if let Some((_, place)) = self.known.iter().find(same) {
            return place.clone();
        }
        let output = self.output;
        let opening = repository(settings, Access::Write, |text| output.warning(text));
        let place = Place::new(opening, patience);
        self.known.push((settings, place.clone()));
        place
    }
}

/// Opens the repository that `settings` describe. What is doubtful about its key goes to `warn`.
pub async fn repository(
    settings: &RepositorySettings,
    access: Access,
    warn: impl FnOnce(String),
) -> Result<Arc<Repository>> {
    let mut storage = storage(settings)?;
    if access == Access::Prune {
        storage = Arc::new(SpendingStorage::new(storage));
    }
    let credential = credential(settings.key()?, warn).await?;
    Ok(Arc::new(Repository::open(storage, &credential, access).await?))
}

/// As [`repository`], for commands that PostgreSQL runs thousands of times a day: what is doubtful goes
/// to the log only.
pub async fn quietly(settings: &RepositorySettings, access: Access) -> Result<Arc<Repository>> {
    repository(settings, access, |text| tracing::info!("{text}")).await
}

/// The place that `settings` name.
pub fn storage(settings: &RepositorySettings) -> Result<Arc<dyn Storage>> {
    match settings.location()? {
        // As a URL, so that no path is taken for one.
        Location::Local(path) => storage_at(&format!("file://{}", path.display())),
        Location::Remote { url, .. } => storage_at(url),
    }
}

/// Reads the key file, or gets the password. What is doubtful goes to `warn`.
pub async fn credential(source: &KeySource, warn: impl FnOnce(String)) -> Result<Credential> {
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || {
        let (key, warning) = source.read()?;
        let credential = match key {
            Key::File(path) => Credential::KeyFile(read_key_file(&path)?),
            Key::Password(secret) => Credential::Password(Zeroizing::new(secret.expose().to_vec())),
        };
        Ok::<_, Error>((credential, warning))
    });
    let (credential, warning) =
        read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    if let Some(warning) = warning {
        warn(warning);
    }
    Ok(credential)
}

fn read_key_file(path: &Path) -> Result<Secret> {
    key_file::read(path).map_err(|error| {
        let error = Error::from(error);
        if path.exists() {
            return error;
        }
        error.hint(
            "see that the path is right, and bring back your copy of it, or make it from the recovery code: \
             barman repo key recover; only where there is no repository yet: barman repo init",
        )
    })
}
