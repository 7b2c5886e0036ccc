//! Where the files of a server are after a restore.

use std::path::{Path, PathBuf};

use repo_format::snapshot::{ConfigFiles, Snapshot};

use super::Request;
use crate::postgres::configuration_file::{directory_of, resolve};

/// In the directory for configuration: what was neither in the data directory nor below the directory of
/// `postgresql.conf`, by the path that it had.
const ELSEWHERE: &str = "elsewhere";

/// Where what was on the server is after the restore.
#[derive(Debug, Clone)]
pub struct Places {
    /// The data directory as it was.
    data_directory: String,
    /// The files that settings name, as they were.
    pub known: ConfigFiles,
    /// The data directory as it will be.
    pub destination: PathBuf,
    /// The directory whose files go directly into the one for configuration, and that one.
    outside: Option<(String, PathBuf)>,
}

impl Places {
    /// Those of a restore of `snapshot`.
    pub fn of(snapshot: &Snapshot, request: &Request) -> Places {
        let cluster = &snapshot.cluster;
        let (Some(data_directory), Some(known)) = (&cluster.data_directory, &cluster.config_files)
        else {
            return Places::in_place(&request.destination);
        };
        let mut places = Places {
            data_directory: data_directory.clone(),
            known: known.clone(),
            destination: request.destination.clone(),
            outside: None,
        };
        let own = [&known.config, &known.hba, &known.ident];
        let first = own.into_iter().find(|path| places.is_outside(path));
        let base = directory_of(first.unwrap_or(&known.config)).to_owned();
        places.outside = request.config_dir.clone().map(|directory| (base, directory));
        places
    }

    /// Those of a server that did not tell where its files were: as if all was at `destination`.
    pub fn in_place(destination: &Path) -> Places {
        let data_directory = destination.to_string_lossy().into_owned();
        let file = |name: &str| format!("{data_directory}/{name}");
        let known = ConfigFiles {
            config: file("postgresql.conf"),
            hba: file("pg_hba.conf"),
            ident: file("pg_ident.conf"),
            included: vec![],
        };
        Places { data_directory, known, destination: destination.to_owned(), outside: None }
    }

    /// What a file of the data directory was called on the server.
    pub fn original(&self, name: &str) -> String {
        format!("{}/{name}", self.data_directory)
    }

    /// The path within the data directory of what was at `path`, if it was there.
    pub fn inside<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(self.data_directory.as_str())?.strip_prefix('/')
    }

    /// Whether a path of the server is outside its data directory.
    pub fn is_outside(&self, path: &str) -> bool {
        self.inside(path).is_none()
    }

    /// The name of what was at `path`: its path within the data directory, or an absolute one; nothing if it
    /// is not restored. Whatever the path, it is below one of the two directories.
    pub fn name(&self, path: &str) -> Option<String> {
        let path = resolve("", path);
        if let Some(inside) = self.inside(&path) {
            return Some(inside.to_owned());
        }
        let (base, directory) = self.outside.as_ref()?;
        let below = path.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let place = match below {
            Some(rest) => directory.join(rest),
            None => directory.join(ELSEWHERE).join(path.trim_start_matches('/')),
        };
        Some(place.to_string_lossy().into_owned())
    }

    /// The absolute path of what was at `path`; nothing if it is not restored.
    pub fn path(&self, path: &str) -> Option<PathBuf> {
        // An absolute name replaces the destination.
        self.name(path).map(|name| self.destination.join(name))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A server of `/var/lib/pg` and `/etc/pg/main` that is restored to `/new`.
    pub fn places() -> Places {
        Places {
            data_directory: "/var/lib/pg".into(),
            known: ConfigFiles {
                config: "/etc/pg/main/postgresql.conf".into(),
                hba: "/etc/pg/main/pg_hba.conf".into(),
                ident: "/etc/idents".into(),
                included: vec![],
            },
            destination: "/new/data".into(),
            outside: Some(("/etc/pg/main".into(), "/new/conf".into())),
        }
    }

    #[test]
    fn everything_has_one_place() {
        let places = places();
        for (was, is) in [
            ("/var/lib/pg/a/pg_hba.conf", "a/pg_hba.conf"),
            ("/etc/pg/main/conf.d/x.conf", "/new/conf/conf.d/x.conf"),
            ("/etc/idents", "/new/conf/elsewhere/etc/idents"),
            ("/etc/pg/main2/x", "/new/conf/elsewhere/etc/pg/main2/x"),
            ("/etc/pg/main/../../../../x", "/new/conf/elsewhere/x"),
            ("/var/lib/pg/../other", "/new/conf/elsewhere/var/lib/other"),
            ("relative", "/new/conf/elsewhere/relative"),
        ] {
            assert_eq!(places.name(was).as_deref(), Some(is), "{was}");
        }
        assert_eq!(places.path("/var/lib/pg/x"), Some("/new/data/x".into()));
        assert_eq!(places.path("/etc/pg/main/x"), Some("/new/conf/x".into()));
        let without = Places { outside: None, ..places };
        assert_eq!(without.name("/etc/idents"), None);
    }
}
