//! Reading only what changed: whether a server may be asked for it, and how it is asked (PostgreSQL 17 and later).
//!
//! The server knows from summaries of its WAL which pages changed since the parent began. Pages that these do not name are
//! not read, so that what they miss would be lost for every backup that builds on this one.

use std::fs::File;
use std::io::{self, BufWriter, Seek};
use std::sync::Arc;

use repo_format::snapshot::Snapshot;
use repo_format::tree::{DirectoryRef, Node};

use super::ServerFacts;
use super::parent::Parent;
use crate::error::{Error, Kind, Result};
use crate::postgres::backup_manifest::{ManifestWriter, WalRange};
use crate::postgres::lsn::{Lsn, SystemId, TimelineId};
use crate::postgres::relation_file::{FileKind, classify};
use crate::repository::{self, host, reader::Reader};

/// What is read of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// What changed, where the server's summaries of its WAL can be relied on; everything elsewhere.
    #[default]
    Auto,
    /// Everything.
    Full,
    /// What changed, also where the summaries may miss something: the backup, and those that build on it, are tainted
    /// until everything is read again.
    Changed,
}

/// What is to be read, and what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// What changed since the parent.
    Changed {
        /// Whether nothing can be missed.
        is_safe: bool,
    },
    /// Everything, for a reason that the user did not give; nothing if there is none to tell.
    Full(Option<String>),
}

/// Plans what is read of a server that is compared with `parent`.
pub(super) fn plan(
    wanted: Reading,
    parent: Option<(&Snapshot, &Parent)>,
    facts: &ServerFacts,
) -> Plan {
    let Some((snapshot, parent)) = parent.filter(|_| wanted != Reading::Full) else {
        return Plan::Full(None);
    };
    if let Some(why) = cannot(snapshot, parent, facts) {
        return Plan::Full(Some(why));
    }
    match (should_not(snapshot, facts), wanted) {
        (None, _) => Plan::Changed { is_safe: true },
        (Some(_), Reading::Changed) => Plan::Changed { is_safe: false },
        (Some(why), _) => Plan::Full(Some(why)),
    }
}

/// Why the server cannot be asked.
fn cannot(snapshot: &Snapshot, parent: &Parent, facts: &ServerFacts) -> Option<String> {
    if facts.version / 10_000 < 17 {
        return Some("only PostgreSQL 17 and later can send what changed".to_owned());
    }
    if facts.summarize_wal != Some(true) {
        return Some("summarize_wal is off on the server".to_owned());
    }
    if snapshot.cluster.version / 10_000 != facts.version / 10_000 {
        return Some(format!("backup {} is of another major version", snapshot.backup_id));
    }
    if !parent.has_page_map() {
        return Some(format!(
            "this host has no page map of backup {}, the one before",
            snapshot.backup_id
        ));
    }
    None
}

/// Why the server should not be asked: its summaries may miss changes.
fn should_not(parent: &Snapshot, facts: &ServerFacts) -> Option<String> {
    for version in [parent.cluster.version, facts.version] {
        if !has_complete_summaries(version) {
            return Some(format!(
                "summaries of WAL by PostgreSQL {}.{} miss changes of visibility maps",
                version / 10_000,
                version % 10_000
            ));
        }
    }
    if !parent.trusted {
        return Some(format!("not everything was read for backup {}", parent.backup_id));
    }
    if (parent.cluster.data_checksums != 0) != facts.checksums {
        return Some("checksums were switched on or off".to_owned());
    }
    None
}

/// Whether changes of visibility maps are in the WAL (fixed in 17.11 and 18.6, on 2026-08-13).
fn has_complete_summaries(version: u32) -> bool {
    match version / 10_000 {
        ..17 => false,
        17 => version >= 170_011,
        18 => version >= 180_006,
        _ => true,
    }
}

/// Writes the manifest of `parent` that a server asks for: its relation files, and its WAL.
pub fn manifest(reader: &Arc<Reader>, parent: &Snapshot) -> Result<File> {
    let unwritable = |e: io::Error| {
        let directory = host::scratch_directory();
        let message = format!("no temporary file can be written in {}", directory.display());
        Error::new(Kind::Io, message).because(e).hint("TMPDIR names another directory")
    };
    let file = tempfile::tempfile_in(host::scratch_directory()).map_err(unwritable)?;
    let major = parent.cluster.version / 10_000;
    let mut writer = ManifestWriter::new(BufWriter::new(file), major, SystemId(parent.system_id))
        .map_err(unwritable)?;
    let mut failed = None;
    let add = |path: &[u8], size: u64| {
        if failed.is_none() {
            failed = writer.file(path, size, jiff::Timestamp::UNIX_EPOCH, None).err();
        }
    };
    relation_files(reader, &parent.root, &[], &mut { add })?;
    if let Some(error) = failed {
        return Err(unwritable(error));
    }
    let wal = &parent.wal;
    let range = WalRange {
        timeline: TimelineId(wal.start_timeline),
        start: Lsn(wal.start_lsn),
        end: Lsn(wal.stop_lsn),
    };
    let written = writer.finish(&[range]).map_err(unwritable)?;
    let mut file = written.into_inner().map_err(|e| unwritable(e.into_error()))?;
    file.rewind().map_err(unwritable)?;
    Ok(file)
}

/// Calls `add` for each relation file below a directory, with its path and length in bytes.
fn relation_files(
    reader: &Reader,
    directory: &DirectoryRef,
    path: &[u8],
    add: &mut impl FnMut(&[u8], u64),
) -> Result<(), repository::Error> {
    for entry in reader.entries(directory)? {
        let entry = entry?;
        let path = match path {
            [] => entry.name,
            path => [path, b"/", &entry.name].concat(),
        };
        match entry.node {
            Node::Directory { entries, .. } => relation_files(reader, &entries, &path, add)?,
            Node::File(file) => {
                if let FileKind::Relation(_) = classify(&String::from_utf8_lossy(&path)) {
                    add(&path, file.size);
                }
            }
            Node::Symlink { .. } => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_complete_since_the_releases_that_mended_them() {
        for (version, is_complete) in [
            (160_099, false),
            (170_010, false),
            (170_011, true),
            (180_005, false),
            (180_006, true),
            (190_000, true),
        ] {
            assert_eq!(has_complete_summaries(version), is_complete, "{version}");
        }
    }
}
