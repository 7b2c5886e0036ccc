//! Configuration: `barman.conf`, servers, secrets.
//!
//! [`Config::load`] finds the files (`file`), parses them (`ini`), and resolves for every server
//! what holds for it (`resolve`, `server`); [`options`] is the table of all options there are. A
//! file that cannot be parsed is an error. A value that cannot be understood disables its server and
//! stays with it as a message, so that the other servers go on being backed up.

mod environment;
mod file;
mod global;
mod ini;
mod interpolate;
mod location;
pub mod options;
pub mod redact;
mod repository;
mod resolve;
pub mod secret;
mod server;
mod show;
pub mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use environment::Environment;
pub use global::Global;
pub use ini::{IniError, Origin};
pub use location::Location;
pub use repository::RepositorySettings;
pub use resolve::{Effective, Message, Source};
pub use secret::{Key, KeySource, Secret};
pub use server::Server;

use ini::{Document, Section};
use options::State;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main file; `None` when the environment alone says what to do.
    pub path: Option<PathBuf>,
    /// The section `[barman]`.
    pub global: Global,
    /// The servers by name.
    pub servers: BTreeMap<String, Server>,
    /// The models by name.
    pub models: BTreeMap<String, Model>,
    /// What is doubtful in the files, apart from what is noted with a server.
    pub warnings: Vec<Warning>,
    /// Options that have no meaning here, and why: worth a line when debugging.
    pub notes: Vec<Warning>,
    document: Document,
    environment: Environment,
}

/// A set of options to put over those of a server (`model = true`). Kept, but not usable yet.
#[derive(Clone)]
pub struct Model {
    /// The name of its section.
    pub name: String,
    /// The cluster whose servers it is for.
    pub cluster: Option<String>,
    /// Its options as they were written; with secrets.
    pub options: BTreeMap<String, String>,
}

impl Model {
    /// Its options, safe to show.
    pub fn shown(&self) -> BTreeMap<&str, String> {
        self.options.iter().map(|(k, value)| (k.as_str(), redact::option(k, value))).collect()
    }
}

impl fmt::Debug for Model {
    /// Without the values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}: {:?})", self.name, self.options.keys())
    }
}

/// Something doubtful in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub origin: Option<Origin>,
    /// What.
    pub text: String,
}

/// A configuration that cannot be used at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no file at any of the places where it may lie.
    #[error("no configuration file: looked for {}", paths(candidates))]
    NoFile {
        /// The places.
        candidates: Vec<PathBuf>,
    },
    /// A file or directory cannot be read.
    #[error("cannot read the configuration '{path}'")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not a configuration file.
    #[error("'{path}' is not a configuration file: it is not UTF-8 text, or larger than 4 MiB")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A line that cannot be understood.
    #[error(transparent)]
    Ini(#[from] IniError),
    /// A section that cannot be a server.
    #[error("{origin}: [{name}] cannot be the name of a server: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Where it stands.
        origin: Origin,
        /// Why.
        reason: String,
    },
    /// An environment variable that cannot be understood. Its value may be secret.
    #[error("the environment variable {variable} is wrong: {expected}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What it should be.
        expected: String,
    },
    /// Two sources of the repository's key in the environment.
    #[error("the environment variables {one} and {other} are both set: set only one of them")]
    TwoKeys {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
}

impl From<ConfigError> for crate::error::Error {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            ConfigError::NoFile { .. } => Some(
                "name one with -c or BARMAN_CONFIG_FILE; BARMAN_REPOSITORY alone is enough for \
                      commands that need no server's connection",
            ),
            ConfigError::Read { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run barman as the user the configuration belongs to")
            }
            _ => None,
        };
        let result = crate::error::Error::new(crate::error::Kind::Config, error.to_string());
        let result = match error {
            ConfigError::Read { source, .. } => result.because(source),
            _ => result,
        };
        match hint {
            Some(hint) => result.hint(hint),
            None => result,
        }
    }
}

impl Config {
    /// Reads the file `explicit` (the argument of `-c`), or the first one found.
    pub fn load(explicit: Option<&Path>, environment: Environment) -> Result<Config, ConfigError> {
        let files = file::read(explicit, &environment)?;
        let mut config = Config::from_document(files.document, environment)?;
        config.path = files.main;
        config.warnings.splice(0..0, files.warnings);
        Ok(config)
    }

    /// The server `name` without a section of its own: what the environment, `[barman]` and the
    /// defaults say. For the commands a database host runs without any configuration file.
    pub fn bare_server(&self, name: &str) -> Server {
        Server::read(name, None, self.document.sections.get(GLOBAL), &self.environment)
    }

    /// Whether another process finds the repository and its key by the configuration file alone.
    pub fn is_enough(&self) -> bool {
        let Environment { repository, key, .. } = &self.environment;
        self.path.is_some() && repository.is_none() && key.is_none()
    }

    fn from_document(document: Document, environment: Environment) -> Result<Config, ConfigError> {
        let section = document.sections.get(GLOBAL);
        let mut config = Config {
            path: None,
            global: Global::read(section, &environment),
            servers: BTreeMap::new(),
            models: BTreeMap::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
            document: Document::default(),
            environment: environment.clone(),
        };
        for (name, own) in &document.sections {
            config.check_options(name, own);
            if name == GLOBAL {
                continue;
            }
            values::server_name(name).map_err(|reason| ConfigError::Name {
                name: name.clone(),
                origin: own.origin.clone(),
                reason,
            })?;
            if is_model(own) {
                config.add_model(name, own);
            } else {
                let server = Server::read(name, Some(own), section, &environment);
                config.servers.insert(name.clone(), server);
            }
        }
        config.document = document;
        Ok(config)
    }

    fn add_model(&mut self, name: &str, section: &Section) {
        let options: BTreeMap<String, String> =
            section.options.iter().map(|(k, entry)| (k.clone(), entry.value.clone())).collect();
        let cluster = options.get("cluster").and_then(|v| interpolate::meaning(v));
        let cluster = cluster.map(str::to_owned);
        if cluster.is_none() {
            let text = format!("model [{name}] has no 'cluster': it fits no server");
            self.warnings.push(Warning::new(Some(section.origin.clone()), text));
        }
        self.models.insert(name.to_owned(), Model { name: name.to_owned(), cluster, options });
    }

    /// Compares a section with the table of options.
    fn check_options(&mut self, name: &str, section: &Section) {
        let is_global = name == GLOBAL;
        for (option, entry) in &section.options {
            let mut warn =
                |text| self.warnings.push(Warning::new(Some(entry.origin.clone()), text));
            let Some(spec) = options::find(option) else {
                let known = options::OPTIONS.iter().map(|o| o.name);
                let hint = did_you_mean(nearest(option, known));
                warn(format!("unknown option '{option}' in [{name}] is ignored{hint}"));
                continue;
            };
            let in_scope = if is_global { spec.scope.global() } else { spec.scope.server() };
            if !in_scope {
                let place = if is_global { "a server's section" } else { "[barman]" };
                warn(format!("'{option}' has no effect in [{name}]: it belongs in {place}"));
                continue;
            }
            let Some(value) = interpolate::meaning(&entry.value) else { continue };
            match spec.state {
                State::Ignored(reason) => {
                    let text = format!("'{option}' has no meaning here: {reason}");
                    self.notes.push(Warning::new(Some(entry.origin.clone()), text));
                }
                // Those that protect something are errors of each server they hold for.
                State::NotYet { protects: false, .. } if spec.is_missing(value) => {
                    warn(format!("'{option}' is not supported yet and has no effect"));
                }
                _ => {}
            }
        }
    }
}

impl Warning {
    pub(crate) fn new(origin: Option<Origin>, text: impl Into<String>) -> Self {
        Warning { origin, text: text.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The question to put behind a message about an unknown word.
pub fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|word| format!("; did you mean '{word}'?")).unwrap_or_default()
}

/// The section of the program itself.
const GLOBAL: &str = "barman";

fn is_model(section: &Section) -> bool {
    let value = section.options.get("model").and_then(|entry| interpolate::meaning(&entry.value));
    value.is_some_and(|value| values::boolean(value) == Ok(true))
}

fn paths(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
