//! From what the configuration says of a repository to an opened one.

use std::sync::Arc;

use repo_format::slot::Credential;
use zeroize::Zeroizing;

use super::Session;
use crate::config::secret::{Key, KeySource};
use crate::error::Result;
use crate::repository::{Access, Repository, key_file};
use crate::storage::location::storage_at;

/// Opens the repository of a server, or the global one.
pub async fn repository(
    session: &Session,
    server: Option<&str>,
    access: Access,
) -> Result<Arc<Repository>> {
    let settings = session.repository(server)?;
    let storage = storage_at(&settings.location()?.to_string())?;
    let credential = credential(session, settings.key()?).await?;
    Ok(Arc::new(Repository::open(storage, &credential, access).await?))
}

/// Reads the password or key file that opens a repository.
pub async fn credential(session: &Session, source: &KeySource) -> Result<Credential> {
    let owned = source.clone();
    let read = tokio::task::spawn_blocking(move || owned.read());
    let (key, warning) =
        read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    if let Some(warning) = warning {
        session.output.warning(warning);
    }
    Ok(match key {
        Key::File(path) => Credential::KeyFile(key_file::read(&path)?),
        Key::Password(secret) => Credential::Password(Zeroizing::new(secret.expose().to_vec())),
    })
}
