//! What the environment says: which configuration file, which repository, which key.
//!
//! The environment overrides the files: whoever sets a variable for one command means that command.
//! It also works alone, without any configuration file, as on a database host that only archives WAL.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::location::Location;
use super::secret::{KeySource, Secret};
use super::values;

/// The variables, empty ones left out.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `HOME`, where `.barman.conf` may lie.
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// `BARMAN_CONFIG_FILE`.
    pub config_file: Option<PathBuf>,
    /// `BARMAN_REPOSITORY`.
    pub repository: Option<Location>,
    /// One of `BARMAN_REPOSITORY_KEY_FILE`, `…_PASSWORD`, `…_PASSWORD_FILE`, `…_PASSWORD_COMMAND`.
    pub key: Option<KeySource>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Result<Self, ConfigError> {
        Self::from(|name| std::env::var_os(name))
    }

    /// Where local state lies unless it is told: where the user keeps state, as the XDG base directory
    /// specification has it. A user whose home is the `barman_home`, as Debian's `barman` is, gets a directory
    /// outside of it: there all is Barman's.
    pub fn state_directory(&self, barman_home: &Path) -> PathBuf {
        let of_home = || self.home.as_ref().map(|home| home.join(".local/state"));
        self.state_home
            .clone()
            .or_else(of_home)
            .filter(|state| state.is_absolute() && !state.starts_with(barman_home))
            .map_or_else(|| PathBuf::from(STATE), |state| state.join("barman-repository"))
    }

    /// The environment that `variable` describes.
    pub fn from(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let path = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let text = |name: &'static str| match variable(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(value) => value.into_string().map(Some).map_err(|_| ConfigError::Environment {
                variable: name,
                expected: "expected UTF-8".to_owned(),
            }),
        };
        let repository =
            match text(REPOSITORY)? {
                None => None,
                Some(value) => Some(value.parse::<Location>().map_err(|expected| {
                    ConfigError::Environment { variable: REPOSITORY, expected }
                })?),
            };
        let file = |name: &'static str| match text(name)? {
            None => Ok(None),
            Some(value) => values::path(&value)
                .map(Some)
                .map_err(|expected| ConfigError::Environment { variable: name, expected }),
        };
        let sources = [
            (KEY_FILE, file(KEY_FILE)?.map(KeySource::KeyFile)),
            (PASSWORD, text(PASSWORD)?.map(|value| KeySource::Password(Secret::new(value)))),
            (PASSWORD_FILE, file(PASSWORD_FILE)?.map(KeySource::PasswordFile)),
            (PASSWORD_COMMAND, text(PASSWORD_COMMAND)?.map(KeySource::PasswordCommand)),
        ];
        let mut set = sources.into_iter().filter_map(|(name, source)| Some((name, source?)));
        let first = set.next();
        if let (Some((one, _)), Some((other, _))) = (&first, set.next()) {
            return Err(ConfigError::TwoKeys { one, other });
        }
        Ok(Environment {
            home: path("HOME"),
            state_home: path("XDG_STATE_HOME").filter(|path| path.is_absolute()),
            config_file: path("BARMAN_CONFIG_FILE"),
            repository,
            key: first.map(|(_, source)| source),
        })
    }
}

/// The state directory of a user who has no place for it.
const STATE: &str = "/var/lib/barman-repository/state";

const REPOSITORY: &str = "BARMAN_REPOSITORY";
const KEY_FILE: &str = "BARMAN_REPOSITORY_KEY_FILE";
const PASSWORD: &str = "BARMAN_REPOSITORY_PASSWORD";
const PASSWORD_FILE: &str = "BARMAN_REPOSITORY_PASSWORD_FILE";
const PASSWORD_COMMAND: &str = "BARMAN_REPOSITORY_PASSWORD_COMMAND";

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<Environment, ConfigError> {
        Environment::from(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn one_source_of_the_key_is_taken() {
        let e = environment(&[(REPOSITORY, "/r"), (PASSWORD, "hunter2"), (PASSWORD_FILE, "")]);
        let e = e.unwrap();
        assert_eq!(e.repository, Some(Location::Local("/r".into())));
        assert_eq!(e.key, Some(KeySource::Password(Secret::new("hunter2"))));
        assert!(!format!("{e:?}").contains("hunter2"));
    }

    #[test]
    fn state_never_lies_in_the_home_of_a_barman() {
        let directory = |variables: &[(&str, &str)]| {
            environment(variables).unwrap().state_directory(Path::new("/var/lib/barman"))
        };
        let usual = Path::new("/home/b/.local/state/barman-repository");
        assert_eq!(directory(&[("HOME", "/home/b")]), usual);
        let xdg = [("HOME", "/home/b"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(directory(&xdg), Path::new("/s/barman-repository"));
        for variables in [
            &[("HOME", "/var/lib/barman")][..],
            &[("HOME", "/home/b"), ("XDG_STATE_HOME", "/var/lib/barman/state")],
            &[("HOME", "relative")],
            &[],
        ] {
            assert_eq!(directory(variables), Path::new(STATE), "{variables:?}");
        }
    }

    #[test]
    fn two_sources_and_bad_places_are_errors() {
        let both = environment(&[(PASSWORD, "x"), (KEY_FILE, "/k")]).unwrap_err().to_string();
        assert!(both.contains(PASSWORD) && both.contains(KEY_FILE), "{both}");
        assert!(environment(&[(REPOSITORY, "relative")]).is_err());
        assert!(environment(&[(KEY_FILE, "relative")]).is_err());
    }
}
