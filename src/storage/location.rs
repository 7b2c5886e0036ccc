//! From what the configuration says to a place that keeps objects.

use std::path::PathBuf;
use std::sync::Arc;

use super::Storage;
use super::local::LocalStorage;
use crate::error::{Error, Kind, Result};

/// The place that `location` names: a path, or a `file://` URL.
///
/// # Errors
/// If `location` is none of the kinds of places that are known.
pub fn storage_at(location: &str) -> Result<Arc<dyn Storage>> {
    let path = match location.split_once("://") {
        None => location,
        Some(("file", path)) if path.starts_with('/') => path,
        Some((scheme, _)) => {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "repository {location:?}: {scheme}:// is not a kind of place that is supported"
                ),
            )
            .hint("give a path such as /var/lib/barman/repository, or file:///…"));
        }
    };
    if path.is_empty() {
        return Err(Error::new(Kind::Config, "the location of the repository is empty"));
    }
    Ok(Arc::new(LocalStorage::new(PathBuf::from(path))))
}
