//! Key files: 256 random bits in a file that only its owner can read, or also the group that shares the repository.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use repo_format::keys::Secret;
use zeroize::Zeroizing;

use super::error::{Error, Result};
use crate::storage::local::create_file;
use crate::storage::sharing::Rights;

/// Makes a key file with a new secret, durable before this returns. The users of `group` may read it.
///
/// # Errors
/// If there is a file of this name: a key file is never overwritten.
pub fn create(path: &Path, group: Option<u32>) -> Result<Secret> {
    let secret = Secret::random()?;
    write(path, &secret, group)?;
    Ok(secret)
}

/// Makes a key file with this secret, durable before this returns. The users of `group` may read it.
///
/// # Errors
/// If there is a file of this name: a key file is never overwritten.
pub fn write(path: &Path, secret: &Secret, group: Option<u32>) -> Result<()> {
    let text = repo_format::keyfile::encode(secret);
    // Whole or not at all: half a key file, left by a program that died, would be taken for somebody's.
    let rights = group.map_or(Rights::PRIVATE_FILE, readable_by);
    create_file(path, text.as_bytes(), rights)
        .map_err(|e| error(path, format!("cannot be written: {e}")))
}

/// Lets the users of `group` read a key file.
pub fn share(path: &Path, group: u32) -> Result<()> {
    File::open(path)
        .and_then(|file| readable_by(group).give(&file))
        .map_err(|e| error(path, format!("cannot be given to group {group}: {e}")))
}

fn readable_by(group: u32) -> Rights {
    Rights { bits: 0o640, group: Some(group) }
}

/// Reads a key file.
///
/// # Errors
/// If others than its owner and its group can read it, others than its owner can write it, or it is not a key file.
pub fn read(path: &Path) -> Result<Secret> {
    let metadata = fs::metadata(path).map_err(|e| error(path, format!("cannot be read: {e}")))?;
    if metadata.mode() & 0o037 != 0 {
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
