//! The file by which an unfinished restore is known.
//!
//! It is there before anything else changes, and goes when `pg_control` is in place. A directory with it
//! and without `pg_control` is what an interrupted restore has left; where both are, either nothing was
//! changed yet, or all is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use repo_format::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::Request;

/// The name of the file, in the data directory.
pub const MARKER: &str = "barman_restore_in_progress";

/// What is being restored, and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// For whoever finds the file.
    note: String,
    /// The server that was backed up.
    pub server: String,
    /// Its system identifier.
    pub system_id: u64,
    /// The backup.
    pub backup_id: String,
    /// The directories that are written to.
    pub places: Directories,
}

/// Where the parts of a restore are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directories {
    /// The data directory.
    pub data: String,
    /// The tablespaces, by their object ids.
    pub tablespaces: BTreeMap<u32, String>,
    /// What `pg_wal` points to, if it is a link.
    pub wal: Option<String>,
    /// The directory for configuration.
    pub configuration: Option<String>,
}

impl Marker {
    /// The marker of a restore.
    pub fn of(
        snapshot: &Snapshot,
        request: &Request,
        destination: &Path,
        tablespaces: &BTreeMap<u32, PathBuf>,
    ) -> Marker {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        Marker {
            note: "A restore writes into this directory, or was interrupted: no server can start on it. \
                   The same command with --resume goes on."
                .to_owned(),
            server: snapshot.server.clone(),
            system_id: snapshot.system_id,
            backup_id: snapshot.backup_id.clone(),
            places: Directories {
                data: destination.to_string_lossy().into_owned(),
                tablespaces: tablespaces.iter().map(|(oid, path)| (*oid, text(path))).collect(),
                wal: request.wal_directory.as_ref().map(text),
                configuration: request.config_dir.as_ref().map(text),
            },
        }
    }

    /// Reads a marker; nothing if it is none.
    pub fn parse(bytes: &[u8]) -> Option<Marker> {
        serde_json::from_slice(bytes).ok()
    }

    /// The content of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl Directories {
    /// Those beside the data directory.
    pub fn outside(&self) -> impl Iterator<Item = &Path> {
        let others = self.wal.iter().chain(&self.configuration);
        self.tablespaces.values().chain(others).map(Path::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_come_back_as_they_were_written() {
        let marker = Marker {
            note: "x".into(),
            server: "main".into(),
            system_id: u64::MAX,
            backup_id: "20260101T000000".into(),
            places: Directories {
                data: "/d".into(),
                tablespaces: [(16_384, "/t".into())].into(),
                wal: None,
                configuration: Some("/c".into()),
            },
        };
        assert_eq!(Marker::parse(&marker.encode()).as_ref(), Some(&marker));
        let outside: Vec<_> = marker.places.outside().collect();
        assert_eq!(outside, [Path::new("/t"), Path::new("/c")]);
        assert_eq!(Marker::parse(b"{}"), None);
        assert_eq!(Marker::parse(b"\xff"), None);
    }
}
