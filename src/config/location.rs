//! Where a repository lies: `repository = /srv/backup`, `file:///srv/backup`, `s3://bucket/prefix`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::redact;
use super::values::Expected;

/// Schemes of object stores, and their names.
const OBJECT_STORES: [(&str, &str); 3] =
    [("s3", "S3"), ("az", "Azure Blob Storage"), ("gs", "Google Cloud Storage")];

/// The place of a repository.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory, on a disk of this host or mounted.
    Local(PathBuf),
    /// An object store: understood, but this version cannot use it yet.
    Remote {
        /// `s3`, `az` or `gs`.
        scheme: &'static str,
        /// The URL as it was written; may carry credentials, so it is never shown whole.
        url: String,
    },
}

impl Location {
    /// What keeps this version from using the place, if anything does.
    pub fn unusable(&self) -> Option<String> {
        match self {
            Location::Local(_) => None,
            Location::Remote { scheme, .. } => {
                let name = OBJECT_STORES.iter().find(|(s, _)| s == scheme).map_or("", |(_, n)| n);
                Some(format!("repositories in {name} ({scheme}://) are not supported yet"))
            }
        }
    }
}

impl FromStr for Location {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return local(text);
        };
        if scheme == "file" {
            if rest.contains('%') {
                return Err("a file:// URL must not have %-escapes; write the path alone".into());
            }
            return local(rest);
        }
        match OBJECT_STORES.iter().find(|(known, _)| *known == scheme) {
            Some((scheme, _)) if !rest.trim_matches('/').is_empty() => {
                Ok(Location::Remote { scheme, url: text.to_owned() })
            }
            Some((scheme, _)) => Err(format!("expected a bucket or container after {scheme}://")),
            None => Err("expected an absolute path, or a URL with file://, s3://, az:// or \
                         gs://"
                .into()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Local(path) => write!(f, "{}", path.display()),
            Location::Remote { url, .. } => f.write_str(&redact::url(url)),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

fn local(path: &str) -> Result<Location, Expected> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(Location::Local(path))
    } else {
        Err("expected an absolute path, or a URL such as file:///srv/backup".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls_are_local() {
        for text in ["/srv/backup", "file:///srv/backup"] {
            assert_eq!(text.parse(), Ok(Location::Local("/srv/backup".into())), "{text}");
        }
        for text in ["", "backup", "file://host/share", "file:///a%20b", "ftp://x/y", "s3://"] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }

    #[test]
    fn object_stores_are_understood_but_not_yet_usable() {
        let place: Location = "s3://key:hunter2@bucket/pg".parse().unwrap();
        assert!(place.unusable().unwrap().contains("not supported yet"));
        assert!(!format!("{place} {place:?}").contains("hunter2"));
    }
}
