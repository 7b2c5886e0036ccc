//! Configuration files that a base backup does not bring: those outside the data directory, and those
//! that the data directory only links to.
//!
//! They are read over SQL before the copy, if the role may do that; otherwise files are made of what the
//! server shows ([`super::shown`]). Neither fails a backup, or holds it up for long: what is missing is
//! named. Keys and certificates are no configuration: they are not read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use repo_format::chunk::ChunkKind;
use repo_format::keys::NamingKeys;
use repo_format::limits::MAX_UNREAD;
use repo_format::snapshot::{ConfigFiles, Configuration};
use repo_format::tree::File;
use zeroize::Zeroizing;

use super::shown::Shown;
use super::tree::TreeBuilder;
use crate::chunking::Grid;
use crate::chunking::writer::store_bytes;
use crate::postgres::authentication_file;
use crate::postgres::configuration_file::{self, Reference, directory_of, resolve};
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::error::Error;
use crate::postgres::sql::{FILES, SqlConnection};
use crate::repository::writer::Writer;

/// The largest configuration file, in bytes.
const MAX_FILE: usize = 1 << 20;

/// All configuration files together, in bytes.
const MAX_ALL: usize = 16 << 20;

/// So many files are asked for.
const MAX_FILES: usize = 500;

/// PostgreSQL opens no longer path, in bytes.
const MAX_PATH: usize = 1024;

/// So many included files are named in a snapshot.
const MAX_INCLUDED: usize = 100;

/// All of it may take so long.
const ALL: Duration = Duration::from_secs(10);

/// What Debian keeps beside `postgresql.conf` for its own tools, with the permission bits that it gets. Variables of
/// the environment are where commands find their secrets; everybody's tools read the others.
const BESIDE: [(&str, u32); 3] =
    [("environment", 0o600), ("pg_ctl.conf", 0o644), ("start.conf", 0o644)];

/// A server's configuration, as it was before the copy. It may hold passwords, and is never shown.
#[derive(Default)]
pub struct Found {
    data_directory: String,
    known: Option<ConfigFiles>,
    /// Content by path.
    files: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// Directories that are included.
    directories: BTreeSet<String>,
    /// What Debian has beside, by path, with its permission bits.
    beside: BTreeMap<String, (Zeroizing<Vec<u8>>, u32)>,
    /// What the server has, and was not read.
    unread: BTreeSet<String>,
    /// What it shows of that.
    shown: Shown,
    /// What went wrong.
    failure: Option<String>,
}

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// That of `postgresql.conf`.
    Settings,
    /// That of `pg_hba.conf`.
    Authentication,
}

/// Reads the configuration at `known` over a session of its own.
pub async fn ask(info: &ConnInfo, data_directory: &str, known: &ConfigFiles) -> Found {
    let own = [&known.config, &known.hba, &known.ident].map(Clone::clone);
    let mut found = Found {
        data_directory: data_directory.to_owned(),
        known: Some(known.clone()),
        // Until they are read.
        unread: own.into(),
        ..Found::default()
    };
    let asking = async {
        let sql = Box::pin(SqlConnection::connect(info)).await?;
        let asked = found.ask(&sql, known).await;
        sql.close().await;
        asked
    };
    let failure = match tokio::time::timeout(ALL, asking).await {
        Ok(Ok(())) => return found,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    found.failure = Some(failure);
    found
}

impl Found {
    async fn ask(&mut self, sql: &SqlConnection, known: &ConfigFiles) -> Result<(), Error> {
        self.shown.settings = sql.file_settings().await?;
        sql.prepare_to_ask(ALL).await?;
        if sql.has_all(&FILES).await? {
            self.read(sql, known).await?;
        } else {
            self.unread.extend(self.shown.settings.iter().map(|setting| setting.file.clone()));
            // That one is always in the data directory.
            self.unread.remove(&format!("{}/postgresql.auto.conf", self.data_directory));
        }
        if self.unread.contains(&known.hba) {
            self.shown.rules = sql.hba_rules().await?;
        }
        if self.unread.contains(&known.ident) {
            self.shown.mappings = sql.ident_mappings().await?;
        }
        Ok(())
    }

    /// Reads the files, and those that they name.
    async fn read(&mut self, sql: &SqlConnection, known: &ConfigFiles) -> Result<(), Error> {
        let mut waiting = VecDeque::from([
            (known.config.clone(), Syntax::Settings),
            (known.hba.clone(), Syntax::Authentication),
            (known.ident.clone(), Syntax::Authentication),
        ]);
        let mut bytes = 0;
        while let Some((path, syntax)) = waiting.pop_front() {
            let Some(content) = self.read_file(sql, &path).await? else { continue };
            bytes += content.len();
            if bytes > MAX_ALL {
                self.failure = Some(format!("all together they have more than {MAX_ALL} bytes"));
                break;
            }
            let references = match syntax {
                Syntax::Settings => configuration_file::references(&content),
                Syntax::Authentication => authentication_file::references(&content),
            };
            self.unread.remove(&path);
            self.files.insert(path.clone(), content);
            for reference in references {
                for named in self.named(sql, &path, reference).await? {
                    let is_new = !self.files.contains_key(&named) && !self.unread.contains(&named);
                    if is_new && self.files.len() + self.unread.len() < MAX_FILES {
                        self.unread.insert(named.clone());
                        waiting.push_back((named, syntax));
                    }
                }
            }
        }
        for (name, mode) in BESIDE {
            let path = format!("{}/{name}", directory_of(&known.config));
            if !self.is_inside(&path)
                && !self.files.contains_key(&path)
                && let Some(content) = self.read_file(sql, &path).await?
            {
                self.beside.insert(path, (content, mode));
            }
        }
        Ok(())
    }

    /// The content of a file, if it is there, may be read, and is no larger than any is.
    async fn read_file(
        &mut self,
        sql: &SqlConnection,
        path: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match sql.read_file(path, MAX_FILE as i64 + 1).await {
            Ok(Some(content)) if content.len() <= MAX_FILE => Ok(Some(Zeroizing::new(content))),
            Ok(Some(_)) => {
                tracing::warn!("{path} is not backed up: it has more than {MAX_FILE} bytes");
                Ok(None)
            }
            // A server needs no pg_ident.conf, and an include may be one `if_exists`.
            Ok(None) => {
                self.unread.remove(path);
                Ok(None)
            }
            Err(Error::Server(error)) => {
                tracing::warn!("{path} is not backed up: {}", error.message);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The files that the one at `path` means by `reference`.
    async fn named(
        &mut self,
        sql: &SqlConnection,
        path: &str,
        reference: Reference,
    ) -> Result<Vec<String>, Error> {
        let mut named = match reference {
            Reference::File(named) => vec![resolve(path, &named)],
            Reference::Directory(named) => {
                let directory = resolve(path, &named);
                let names = match sql.included_files(&directory, MAX_FILES as i64).await {
                    Ok(names) => names,
                    Err(Error::Server(error)) => {
                        tracing::warn!("{directory} is not backed up: {}", error.message);
                        return Ok(vec![]);
                    }
                    Err(error) => return Err(error),
                };
                let paths = names.iter().map(|name| format!("{directory}/{name}")).collect();
                if self.directories.len() < MAX_FILES {
                    self.directories.insert(directory);
                }
                paths
            }
        };
        named.retain(|path| path.len() <= MAX_PATH);
        Ok(named)
    }

    /// The files beside the three that settings name, as far as there is room for them.
    pub fn included(&self) -> Vec<String> {
        let Some(ConfigFiles { config, hba, ident, .. }) = &self.known else { return vec![] };
        let all: BTreeSet<&String> = self.files.keys().chain(&self.unread).collect();
        let included = all.into_iter().filter(|path| ![config, hba, ident].contains(path));
        included.take(MAX_INCLUDED).cloned().collect()
    }

    /// Stores what `data`, the data directory as it was copied, does not have; nothing if it has all.
    pub fn store(
        mut self,
        data: &TreeBuilder,
        writer: &mut Writer,
        keys: &NamingKeys,
    ) -> crate::error::Result<Option<Configuration>> {
        let Some(known) = self.known.take() else { return Ok(None) };
        let (mut files, mut unread) =
            (std::mem::take(&mut self.files), std::mem::take(&mut self.unread));
        let has = |path: &str| self.inside(path).is_some_and(|name| data.has_file(name.as_bytes()));
        files.retain(|path, _| !has(path));
        unread.retain(|path| !has(path));
        if files.is_empty() && unread.is_empty() {
            return Ok(None);
        }
        if let Some(failure) = &self.failure {
            tracing::warn!("configuration outside the data directory could not be read: {failure}");
        }
        files.extend(self.shown.files(&known, &unread));
        let mut tree = TreeBuilder::new(0o755);
        let in_tree = |path: &str| path.trim_start_matches('/').as_bytes().to_vec();
        for path in self.directories.iter().filter(|path| !self.is_inside(path)) {
            if let Err(error) = tree.directory(&in_tree(path), 0o755) {
                tracing::warn!("{path} is not backed up: {error}");
            }
        }
        // Whoever reads a setting may find a password in it.
        let files = files.iter().map(|(path, content)| (path, content, 0o600));
        let beside = self.beside.iter().map(|(path, (content, mode))| (path, content, *mode));
        for (path, content, mode) in files.chain(beside) {
            let stored = store_bytes(writer, keys, Grid::Stream, ChunkKind::Data, content)?;
            let (size, digest, content) = (stored.length, stored.digest, stored.content);
            // SQL does not tell when it was modified, and so the same files are the same tree.
            let file = File { mode, mtime: 0, size, digest, content };
            if let Err(error) = tree.file(&in_tree(path), file) {
                tracing::warn!("{path} is not backed up: {error}");
                unread.insert(path.clone());
            }
        }
        let files = tree.finish(writer, keys)?;
        let unread = unread.into_iter().filter(|path| path.len() <= MAX_PATH).take(MAX_UNREAD);
        Ok(Some(Configuration { files, unread: unread.collect() }))
    }

    /// The path within the data directory.
    fn inside<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(self.data_directory.as_str())?.strip_prefix('/')
    }

    fn is_inside(&self, path: &str) -> bool {
        self.inside(path).is_some()
    }
}
