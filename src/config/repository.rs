//! Which repository a server's backups go to, and how it is opened.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::environment::Environment;
use super::location::Location;
use super::resolve::Reader;
use super::secret::KeySource;
use super::values::{self, Delta};
use crate::error::{Error, Kind};

/// The compression level unless set: zstd's own default, fast enough to keep up with most disks.
const DEFAULT_LEVEL: i32 = 3;

/// The repository's part of a server's, or of the global, configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Where it lies: `repository`, or `BARMAN_REPOSITORY`.
    pub location: Option<Location>,
    /// Where its key comes from. See [`super::secret`] for the order.
    pub key: Option<KeySource>,
    /// zstd's level, 1 to 19.
    pub compression_level: i32,
    /// Whether of pages that changed only the difference is stored.
    pub delta: Delta,
    /// What is set aside so that a full disk can be emptied, in bytes; `None` is what is usual.
    pub reserve: Option<u64>,
}

impl RepositorySettings {
    pub(super) fn read(r: &mut Reader<'_>, env: &Environment) -> RepositorySettings {
        let key = read_key(r);
        let location = env.repository.clone().or_else(|| r.get("repository", str::parse));
        if let Some(reason) = location.as_ref().and_then(Location::unusable) {
            r.error(format!("repository: {reason}"));
        }
        RepositorySettings {
            location,
            key: env.key.clone().or(key),
            delta: r.get("delta", str::parse).unwrap_or_default(),
            reserve: r.get("repository_reserve", values::size),
            compression_level: r
                .get("repository_compression_level", |v| values::integer(v, 1, 19))
                .and_then(|level| i32::try_from(level).ok())
                .unwrap_or(DEFAULT_LEVEL),
        }
    }

    /// The place, or what to do to have one.
    pub fn location(&self) -> Result<&Location, Error> {
        let location = self.location.as_ref().ok_or_else(|| {
            Error::new(Kind::Config, "no repository is configured")
                .hint("set 'repository' in barman.conf, or BARMAN_REPOSITORY")
        })?;
        match location.unusable() {
            Some(reason) => Err(Error::new(Kind::Config, reason)
                .hint("use a directory: 'repository = /srv/backup'")),
            None => Ok(location),
        }
    }

    /// The source of its key, or what to do to have one.
    pub fn key(&self) -> Result<&KeySource, Error> {
        self.key.as_ref().ok_or_else(|| {
            Error::new(Kind::Key, "no key or password for the repository is configured").hint(
                "set repository_key_file, repository_password_file or \
                 repository_password_command in barman.conf, or BARMAN_REPOSITORY_KEY_FILE or \
                 BARMAN_REPOSITORY_PASSWORD… in the environment",
            )
        })
    }

    /// Replaces what the environment overrides, so that what is shown is what holds.
    pub(super) fn show(&self, shown: &mut BTreeMap<String, Value>) {
        shown.insert("repository".into(), json!(self.location.as_ref().map(ToString::to_string)));
        shown.insert("repository_key".into(), json!(self.key.as_ref().map(KeySource::describe)));
    }
}

/// The key as the files name it: the server's own section decides alone if it names any source.
fn read_key(r: &mut Reader<'_>) -> Option<KeySource> {
    const OPTIONS: [&str; 3] =
        ["repository_key_file", "repository_password_file", "repository_password_command"];
    let own = OPTIONS.iter().any(|option| r.is_own(option));
    let mut found: Vec<(&str, KeySource)> = Vec::new();
    for option in OPTIONS {
        if own && !r.is_own(option) {
            continue;
        }
        let source = match option {
            "repository_key_file" => r.get(option, values::path).map(KeySource::KeyFile),
            "repository_password_file" => r.get(option, values::path).map(KeySource::PasswordFile),
            _ => r.text(option).map(KeySource::PasswordCommand),
        };
        found.extend(source.map(|source| (option, source)));
    }
    if let [(one, _), (other, _), ..] = &found[..] {
        let text = format!("{one} and {other} are both set: set only one of them");
        r.broken(text);
        return None;
    }
    found.pop().map(|(_, source)| source)
}
