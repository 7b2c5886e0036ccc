//! What the integration tests stand on: real PostgreSQL servers and a sandbox for the `barman` command.
//!
//! ```ignore
//! let cluster = Cluster::builder(17).setting("wal_level", "replica").start();
//! let barman = Barman::new();
//! barman.server("main", &cluster, "backup_method = postgres\n");
//! barman.ok(&["repo", "init"]);
//! barman.ok(&["backup", "main", "--wait"]);
//! ```
//!
//! PostgreSQL refuses to run as root. When the tests do (containers), servers *and* `barman` run
//! as the system user `postgres`, so that an archive_command and a backup share one owner;
//! otherwise everything runs as whoever runs the tests.

#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod account;
pub mod barman;
pub mod clock;
pub mod cluster;
pub mod postgres;
pub mod process;
pub mod sshd;
pub mod tls;

pub use self::barman::Barman;
pub use self::cluster::{Auth, Cluster, Shutdown};
pub use self::postgres::Postgres;
pub use self::process::{Background, Output, wait_until};

/// The Python interpreter that has what `repo-format/reader.py` imports; `make test` makes it.
#[track_caller]
pub fn python() -> std::path::PathBuf {
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("BARMAN_TEST_PYTHON")
        .map_or_else(|| project.join(".cache/python/bin/python3"), std::path::PathBuf::from);
    assert!(python.exists(), "{} is missing: run `make test`", python.display());
    python
}
