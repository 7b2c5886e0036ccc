//! The installed PostgreSQL versions and their programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::account;

/// The programs of one PostgreSQL major version.
#[derive(Debug, Clone)]
pub struct Postgres {
    version: u32,
    bin: PathBuf,
}

impl Postgres {
    /// The major versions that the tests are run against.
    pub const VERSIONS: [u32; 3] = [15, 17, 18];

    /// Finds the programs of major version `version`, or says where they were looked for.
    ///
    /// The first of these that has an `initdb` is taken: the folder in `BARMAN_TEST_PG_<version>`,
    /// Debian's, the one that `make test` fills.
    pub fn installed(version: u32) -> Result<Postgres, String> {
        let places = places(version);
        match places.iter().find(|bin| bin.join("initdb").exists()) {
            Some(bin) => Ok(Postgres { version, bin: bin.clone() }),
            None => Err(format!(
                "PostgreSQL {version} is not installed (looked in {places:?}): run `make test`, \
                 which fetches it, or name its bin folder in BARMAN_TEST_PG_{version}"
            )),
        }
    }

    /// As [`Postgres::installed`]; a test whose server is missing fails, it is never skipped.
    #[track_caller]
    pub fn require(version: u32) -> Postgres {
        Postgres::installed(version).unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// A search path on which every version's programs are.
    pub fn path() -> String {
        let installed = Postgres::VERSIONS.iter().filter_map(|v| Postgres::installed(*v).ok());
        let bins = installed.map(|postgres| format!(":{}", postgres.bin.display()));
        format!("/usr/local/bin:/usr/bin:/bin{}", bins.collect::<String>())
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// One of its programs, to be run as the servers' account with `home` as HOME.
    pub fn command(&self, name: &str, home: &Path) -> Command {
        let mut command = Command::new(self.program(name));
        account::prepare(&mut command, home);
        command
    }
}

fn places(version: u32) -> Vec<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places: Vec<PathBuf> = std::env::var_os(format!("BARMAN_TEST_PG_{version}"))
        .map(PathBuf::from)
        .into_iter()
        .collect();
    places.push(format!("/usr/lib/postgresql/{version}/bin").into());
    places.push(project.join(format!(".cache/postgres/{version}/bin")));
    places
}
