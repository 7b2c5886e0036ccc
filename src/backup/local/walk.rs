//! Which files of a data directory belong to a backup: those that a server streams (`basebackup.c`).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::unreadable;
use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::MappedTablespace;
use crate::postgres::relation_file::{FileKind, Fork, classify};

/// Directories of which only the directory itself belongs to a backup: what is in them is made anew.
const EMPTIED: [&str; 7] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// So many tenths of a second may pass between the directory of a tablespace that is dropped, and its link.
const DROPPING: u32 = 20;

const WAL: &str = "pg_wal";

/// Files that belong to a running server, and would harm a restored one.
const LEFT_OUT: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];

/// What such names begin with.
const LEFT_OUT_PREFIXES: [&str; 2] = ["pg_internal.init", "pgsql_tmp"];

/// What is found.
pub enum Found {
    /// A directory, with its permission bits.
    Directory { path: Vec<u8>, mode: u32 },
    /// A directory that has those of the data directory.
    OwnDirectory { path: Vec<u8> },
    /// A regular file.
    File { path: Vec<u8>, from: PathBuf },
    /// A tablespace outside the data directory.
    Tablespace(MappedTablespace),
}

/// A walk through a data directory.
pub struct Walk<'w> {
    major: u32,
    /// The directory that a tablespace has for this version.
    tablespace_version: OsString,
    /// Tablespaces within the data directory: what is in them comes with them.
    inside: HashSet<PathBuf>,
    found: &'w mut dyn FnMut(Found) -> Result<()>,
}

impl Walk<'_> {
    /// Walks through the data directory of a server of PostgreSQL `major`, whose tablespaces have a directory called
    /// `tablespace_version`. `found` is given what is found, directories before what is in them.
    pub fn through(
        data: &Path,
        major: u32,
        tablespace_version: OsString,
        found: &mut dyn FnMut(Found) -> Result<()>,
    ) -> Result<()> {
        let spaces = data.join("pg_tblspc");
        let names = names(&spaces).map_err(|error| unreadable(&spaces, &error))?;
        let links = names.iter().filter_map(|name| fs::read_link(spaces.join(name)).ok());
        let inside = links.filter(|location| location.starts_with(data)).collect();
        Walk { major, tablespace_version, inside, found }.directory(b"", data)
    }

    /// Walks through the directory `from`, which is `path` within the data directory.
    fn directory(&mut self, path: &[u8], from: &Path) -> Result<()> {
        let names = match names(from) {
            // A database was dropped.
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_empty() => return Ok(()),
            names => names.map_err(|error| unreadable(from, &error))?,
        };
        for name in &names {
            if is_left_out(name.as_bytes()) {
                continue;
            }
            let (path, from) = (join(path, name.as_bytes()), from.join(name));
            if is_temporary(&path) || is_of_unlogged(&path, &from) || path == b"global/pg_control" {
                continue;
            }
            match from.symlink_metadata() {
                Ok(metadata) => self.entry(path, from, &metadata)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&from, &error)),
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: Vec<u8>, from: PathBuf, metadata: &Metadata) -> Result<()> {
        let text = String::from_utf8_lossy(&path).into_owned();
        let (is_directory, mode) = (metadata.is_dir(), metadata.mode() & 0o7777);
        if (text == WAL || EMPTIED.contains(&text.as_str()))
            && (is_directory || metadata.is_symlink())
        {
            let directory = match is_directory {
                true => Found::Directory { path, mode },
                false => Found::OwnDirectory { path },
            };
            (self.found)(directory)?;
            if text == WAL {
                self.directories_of_wal()?;
            }
            return Ok(());
        }
        if is_directory {
            (self.found)(Found::Directory { path: path.clone(), mode })?;
            return if self.inside.contains(&from) { Ok(()) } else { self.directory(&path, &from) };
        }
        if metadata.is_file() {
            return (self.found)(Found::File { path, from });
        }
        let oid = text.strip_prefix("pg_tblspc/").and_then(|oid| oid.parse().ok());
        if let Some(oid) = oid.filter(|_| metadata.is_symlink()) {
            return self.tablespace(oid, &path, &from);
        }
        if is_data(&text) {
            let message =
                format!("{} is no file and no directory, and cannot be backed up", from.display());
            return Err(Error::new(Kind::Postgres, message).hint(
                "put what it leads to in its place; only pg_wal and tablespaces may be links",
            ));
        }
        tracing::warn!("{} is no file and no directory, and not backed up", from.display());
        Ok(())
    }

    fn directories_of_wal(&mut self) -> Result<()> {
        (self.found)(Found::OwnDirectory { path: b"pg_wal/archive_status".to_vec() })?;
        if self.major >= 17 {
            (self.found)(Found::OwnDirectory { path: b"pg_wal/summaries".to_vec() })?;
        }
        Ok(())
    }

    /// Walks through the part of a tablespace that is of this version.
    fn tablespace(&mut self, oid: u32, path: &[u8], link: &Path) -> Result<()> {
        let location = match fs::read_link(link) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            location => location.map_err(|error| unreadable(link, &error))?,
        };
        let bytes = location.clone().into_os_string().into_vec();
        (self.found)(Found::Tablespace(MappedTablespace { oid, location: bytes }))?;
        (self.found)(Found::OwnDirectory { path: path.to_vec() })?;
        let from = link.join(&self.tablespace_version);
        let mut tries = 0;
        loop {
            match from.metadata() {
                Ok(metadata) => {
                    let path = join(path, self.tablespace_version.as_bytes());
                    return self.entry(path, from, &metadata);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if link.symlink_metadata().is_err() {
                        // It was dropped.
                        return Ok(());
                    }
                    if tries == DROPPING {
                        let place = location.display();
                        let message = format!("the tablespace in {place} cannot be seen here");
                        return Err(Error::new(Kind::Io, message).because(error).hint(
                            "barman must see all file systems that the server sees: see that it is mounted, and \
                             not hidden from barman by a container or a sandbox",
                        ));
                    }
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(unreadable(&from, &error)),
            }
        }
    }
}

/// The names in a directory, in order.
fn names(directory: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn is_left_out(name: &[u8]) -> bool {
    LEFT_OUT.iter().any(|left_out| name == left_out.as_bytes())
        || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// Whether it is of a relation that is emptied by recovery: that one has the form that it is emptied to beside it.
fn is_of_unlogged(path: &[u8], from: &Path) -> bool {
    match std::str::from_utf8(path).map(classify) {
        Ok(FileKind::Relation(file)) if file.fork != Fork::Init => {
            from.with_file_name(format!("{}_init", file.relation)).symlink_metadata().is_ok()
        }
        _ => false,
    }
}

/// Whether something there is data of the cluster, whatever it is.
fn is_data(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or_default();
    matches!(
        top,
        "base"
            | "global"
            | "pg_tblspc"
            | "pg_xact"
            | "pg_multixact"
            | "pg_commit_ts"
            | "pg_twophase"
            | "pg_logical"
    )
}

/// Whether it is of a temporary relation: `t<process>_<relation>` in the directory of a database.
fn is_temporary(path: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(path) else { return false };
    let Some((directory, name)) = path.rsplit_once('/') else { return false };
    let Some((process, relation)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_'))
    else {
        return false;
    };
    let is_process = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    let is_relation = |path: &str| matches!(classify(path), FileKind::Relation(_));
    is_process && is_relation(&format!("{directory}/{relation}"))
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        [] => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_relations_are_only_in_directories_of_databases() {
        for (path, is) in [
            ("base/5/t3_16384", true),
            ("base/5/t3_16384_fsm.1", true),
            ("pg_tblspc/16400/PG_17_202406281/5/t12_1", true),
            ("base/5/t3_", false),
            ("base/5/t_16384", false),
            ("base/5/16384", false),
            ("t3_16384", false),
            ("log/t3_16384", false),
        ] {
            assert_eq!(is_temporary(path.as_bytes()), is, "{path}");
        }
    }

    #[test]
    fn what_belongs_to_a_running_server_is_left_out_by_its_name() {
        for name in ["postmaster.pid", "pg_internal.init", "pg_internal.init.123", "pgsql_tmp"] {
            assert!(is_left_out(name.as_bytes()), "{name}");
        }
        for name in ["postgresql.auto.conf", "backup_label.old", "log", "PG_VERSION"] {
            assert!(!is_left_out(name.as_bytes()), "{name}");
        }
    }
}
