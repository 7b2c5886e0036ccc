//! Key files: 256 random bits in a file that only its owner can read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use repo_format::keys::Secret;
use zeroize::Zeroizing;

use super::error::{Error, Result};
use crate::storage::local::create_file;

/// Makes a key file with a new secret, durable before this returns.
///
/// # Errors
/// If there is a file of this name: a key file is never overwritten.
pub fn create(path: &Path) -> Result<Secret> {
    let secret = Secret::random()?;
    let text = repo_format::keyfile::encode(&secret);
    // Whole or not at all: half a key file, left by a program that died, would be taken for somebody's.
    create_file(path, text.as_bytes(), 0o600)
        .map_err(|e| error(path, format!("cannot be written: {e}")))?;
    Ok(secret)
}

/// Reads a key file.
///
/// # Errors
/// If others than its owner (and root) can read it, or it is not a key file.
pub fn read(path: &Path) -> Result<Secret> {
    let metadata = fs::metadata(path).map_err(|e| error(path, format!("cannot be read: {e}")))?;
    if metadata.mode() & 0o077 != 0 {
        let reason =
            format!("others can access it (mode {:04o}); chmod 0600", metadata.mode() & 0o7777);
        return Err(error(path, reason));
    }
    let text = fs::read(path).map_err(|e| error(path, format!("cannot be read: {e}")))?;
    repo_format::keyfile::decode(&Zeroizing::new(text))
        .map_err(|_| error(path, "it is not a key file of a barman repository".into()))
}

fn error(path: &Path, reason: String) -> Error {
    Error::KeyFile { path: path.display().to_string(), reason }
}
