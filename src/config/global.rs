//! The section `[barman]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

use super::environment::Environment;
use super::ini::Section;
use super::repository::RepositorySettings;
use super::resolve::{Effective, Message, Reader};
use super::values::{self, LogLevel};

/// What holds for the program itself, and for every server that does not say otherwise.
#[derive(Debug, Clone)]
pub struct Global {
    /// Barman's main directory.
    pub barman_home: PathBuf,
    /// Where more configuration files lie.
    pub configuration_files_directory: Option<PathBuf>,
    /// The log file, if there is to be one.
    pub log_file: Option<PathBuf>,
    /// What goes into it.
    pub log_level: LevelFilter,
    /// Where local state lies: all of it can be lost without harm. Not in `barman_home`, unless it is
    /// told to: that may be a Barman's.
    pub state_directory: PathBuf,
    /// The repository of every server that names no other.
    pub repository: RepositorySettings,
    /// What is wrong with all this.
    pub messages: Vec<Message>,
    /// Every option with the value that holds, as text; with secrets.
    pub effective: BTreeMap<&'static str, Effective>,
}

impl Global {
    pub(super) fn read(section: Option<&Section>, env: &Environment) -> Global {
        let mut r = Reader::global(section);
        let barman_home =
            r.get("barman_home", values::path).unwrap_or_else(|| PathBuf::from("/var/lib/barman"));
        let global = Global {
            configuration_files_directory: r.get("configuration_files_directory", values::path),
            log_file: r.get("log_file", values::path),
            log_level: r
                .get("log_level", str::parse::<LogLevel>)
                .map_or(LevelFilter::INFO, |l| l.0),
            state_directory: r
                .get("state_directory", values::path)
                .unwrap_or_else(|| env.state_directory(&barman_home)),
            barman_home,
            repository: RepositorySettings::read(&mut r, env),
            messages: Vec::new(),
            effective: BTreeMap::new(),
        };
        Global { messages: r.messages, effective: r.effective, ..global }
    }

    /// Every option of interest, safe to show.
    pub fn shown(&self) -> BTreeMap<String, Value> {
        let mut shown = super::show::texts(&self.effective);
        let level = json!(self.repository.compression_level);
        shown.insert("repository_compression_level".to_owned(), level);
        shown.insert("state_directory".to_owned(), json!(self.state_directory));
        self.repository.show(&mut shown);
        shown
    }
}
