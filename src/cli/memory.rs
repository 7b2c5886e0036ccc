//! What this host remembers of repositories: which one was at a place.
//!
//! An empty directory may be a disk that is not mounted. A new repository in its mount point would look like a good one,
//! and take backups that nobody finds again when the disk is back.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::repository::Repository;
use crate::storage::local::create_file;
use crate::storage::sharing::Rights;

/// The id of the repository that was at `location` when it was used last; nothing if none is known.
pub fn of_place(state_directory: &Path, location: &str) -> Option<String> {
    let text = fs::read_to_string(file(state_directory, location)).ok()?;
    Some(text.split_whitespace().next()?.to_owned())
}

/// Remembers that `repository` is where it is.
pub fn remember(state_directory: &Path, repository: &Repository) -> io::Result<()> {
    let (id, location) = (repository.config().repository.to_string(), repository.location());
    if of_place(state_directory, &location).is_some_and(|known| known == id) {
        return Ok(());
    }
    replace(&file(state_directory, &location), &format!("{id} {location}\n"))
}

/// As [`remember`], for commands that can do without: what cannot be remembered is only not warned of one day.
pub fn try_to_remember(state_directory: &Path, repository: &Repository) {
    if let Err(error) = remember(state_directory, repository) {
        tracing::debug!("no memory in {}: {error}", state_directory.display());
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create_file(path, text.as_bytes(), Rights::PRIVATE_FILE)
}

/// Places have names of any length and with any characters; a file's name has neither.
fn file(state_directory: &Path, location: &str) -> PathBuf {
    let name = blake3::hash(location.as_bytes()).to_hex();
    state_directory.join("repositories").join(&name.as_str()[..32])
}
