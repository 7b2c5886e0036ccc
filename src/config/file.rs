//! Which files make up the configuration, and in which order they count.
//!
//! One main file: the one named by `-c`, else by `BARMAN_CONFIG_FILE`, else the first that exists of
//! `~/.barman.conf`, `/etc/barman.conf`, `/etc/barman/barman.conf`. Then the `*.conf` files of its
//! `configuration_files_directory` in order of their names, then what `barman config-update` left in
//! `<barman_home>/.barman.auto.conf`. For every option the last file wins.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::ini::Document;
use super::interpolate::{interpolate, meaning};
use super::{ConfigError, Environment, Warning, options};

/// No configuration is larger than this; anything that is, is another file.
const MAX_FILE: u64 = 4 << 20;

/// The merged text of all files.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The main file; `None` if there is none, and none is needed.
    pub main: Option<PathBuf>,
    pub document: Document,
    pub warnings: Vec<Warning>,
}

/// Finds and reads them.
pub(super) fn read(explicit: Option<&Path>, env: &Environment) -> Result<Files, ConfigError> {
    let Some(main) = search(explicit, env)? else { return Ok(Files::default()) };
    let mut files = Files { document: parse(&main)?, main: Some(main), warnings: Vec::new() };
    if let Some(directory) = global(&files.document, "configuration_files_directory") {
        merge_directory(&mut files, Path::new(&directory))?;
    }
    if let Some(home) = global(&files.document, "barman_home") {
        let generated = Path::new(&home).join(".barman.auto.conf");
        // Unreadable is no error: it lies in a directory that need not be there on this host.
        if fs::metadata(&generated).is_ok_and(|m| m.is_file()) {
            files.document.merge(parse(&generated)?);
        }
    }
    Ok(files)
}

fn search(explicit: Option<&Path>, env: &Environment) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(named) = explicit.or(env.config_file.as_deref()) {
        return Ok(Some(named.to_owned()));
    }
    let candidates: Vec<PathBuf> = env
        .home
        .iter()
        .map(|home| home.join(".barman.conf"))
        .chain(["/etc/barman.conf", "/etc/barman/barman.conf"].map(PathBuf::from))
        .collect();
    for candidate in &candidates {
        match fs::metadata(candidate) {
            Ok(_) => return Ok(Some(candidate.clone())),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(source) => return Err(ConfigError::Read { path: candidate.clone(), source }),
        }
    }
    // The environment can say all that some commands need.
    if env.repository.is_some() { Ok(None) } else { Err(ConfigError::NoFile { candidates }) }
}

fn merge_directory(files: &mut Files, directory: &Path) -> Result<(), ConfigError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            files.warnings.push(Warning::new(
                None,
                format!("configuration_files_directory '{}' does not exist", directory.display()),
            ));
            return Ok(());
        }
        Err(source) => return Err(ConfigError::Read { path: directory.to_owned(), source }),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry =
            entry.map_err(|source| ConfigError::Read { path: directory.to_owned(), source })?;
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "conf") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        files.document.merge(parse(&path)?);
    }
    Ok(())
}

fn parse(path: &Path) -> Result<Document, ConfigError> {
    let error = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(error)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(error)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigError::NotText { path: path.to_owned() });
    }
    let text =
        String::from_utf8(bytes).map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
    Ok(Document::parse(&text, path)?)
}

/// An option of `[barman]` before anything is checked; errors show up when it is checked.
fn global(document: &Document, name: &str) -> Option<String> {
    let section = document.sections.get("barman");
    let lookup = |key: &str| {
        let written = section.and_then(|s| s.options.get(key)).map(|entry| entry.value.clone());
        written.or_else(|| options::find(key)?.default.map(str::to_owned))
    };
    let value = interpolate(&lookup(name)?, &lookup).ok()?;
    meaning(&value).map(str::to_owned)
}
