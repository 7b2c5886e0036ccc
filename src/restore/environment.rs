//! Compares the server that was backed up with the machine that it is restored to.
//!
//! A data directory only works on machines of one architecture, and its indexes of text only where the
//! libraries sort as they did. PostgreSQL notices either too late, or in its log only.

use std::process::Command;

use borsh::{BorshDeserialize, BorshSerialize};
use repo_format::environment::{Database, Environment};
use repo_format::snapshot::Snapshot;

/// What may be wrong with a server that was restored from `snapshot` to a machine, and what to do.
pub fn warnings(snapshot: &Snapshot, machine: &Machine) -> Vec<String> {
    let environment = snapshot.environment.as_ref();
    environment.map_or_else(Vec::new, |environment| compare(environment, machine))
}

/// The platform in the text of `version()`, such as `x86_64-pc-linux-gnu`.
pub fn platform(version: &str) -> Option<&str> {
    let (_, after) = version.split_once(" on ")?;
    after.split([',', ' ']).next().filter(|platform| !platform.is_empty())
}

/// What matters of a machine.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Machine {
    /// The architecture, by the name that Rust has for it.
    pub architecture: String,
    /// The operating system, likewise.
    pub system: String,
    /// The version of glibc, which is that of its collations.
    pub libc: Option<String>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        Machine {
            architecture: std::env::consts::ARCH.to_owned(),
            system: std::env::consts::OS.to_owned(),
            libc: glibc_version(),
        }
    }
}

/// The version of this machine's glibc. This program may be linked with another one, or with none.
fn glibc_version() -> Option<String> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    said.trim().strip_prefix("glibc ").map(str::to_owned)
}

fn compare(was: &Environment, machine: &Machine) -> Vec<String> {
    let mut warnings = vec![];
    if let Some(platform) = platform(&was.version) {
        let (architecture, _) = platform.split_once('-').unwrap_or((platform, ""));
        let (architecture, here) = (common_name(architecture), &machine.architecture);
        if architecture != here {
            warnings.push(format!(
                "the server ran on {architecture}, and this machine is {here}: PostgreSQL cannot use \
                 a data directory of another architecture; start it on a machine like the server's"
            ));
        }
        if !platform.contains(system_in_platforms(&machine.system)) {
            warnings.push(format!(
                "the server ran on another operating system ({platform}) and may have sorted text in \
                 another order: REINDEX all databases after the start"
            ));
        }
    }
    warnings.extend(collations(was, machine));
    warnings
}

/// What was sorted by another C library; and what ICU sorted, if the libraries here are other ones.
fn collations(was: &Environment, machine: &Machine) -> Vec<String> {
    let here = machine.libc.as_deref();
    let differs = |version: &str| Some(version) != here;
    let found = here.map_or_else(|| "none".to_owned(), |version| format!("glibc {version}"));
    let mut warnings = vec![];
    let of_libc = |provider: &str, version: Option<&str>| {
        version.filter(|version| provider == "libc" && differs(version)).map(str::to_owned)
    };
    for database in &was.databases {
        let name = identifier(&database.name);
        if let Some(version) = of_libc(&database.provider, database.collation_version.as_deref()) {
            warnings.push(format!(
                "database {} was sorted by glibc {version}, and this machine has {found}: if they \
                 sort differently, its indexes are wrong; after the start, in that database: REINDEX \
                 DATABASE {name}; ALTER DATABASE {name} REFRESH COLLATION VERSION",
                database.name
            ));
        }
        let collations = database.contents.iter().flat_map(|contents| &contents.collations);
        for collation in collations {
            let Some(version) = of_libc(&collation.provider, Some(&collation.version)) else {
                continue;
            };
            let [schema, collation] = [&collation.schema, &collation.name].map(|it| identifier(it));
            warnings.push(format!(
                "collation {schema}.{collation} in database {} is of glibc {version}, and this \
                 machine has {found}; after the start, in that database: REINDEX what uses it (or \
                 REINDEX DATABASE {name}); ALTER COLLATION {schema}.{collation} REFRESH VERSION",
                database.name
            ));
        }
    }
    // Which ICU a server here will use is not to be known; where glibc is the same, so is the rest.
    let is_same_system = was.libc_version.as_deref().is_some_and(|version| !differs(version));
    let of_icu: Vec<&Database> = was.databases.iter().filter(|it| uses_icu(it)).collect();
    if !is_same_system
        && let Some(version) = &was.icu_version
        && !of_icu.is_empty()
    {
        let names: Vec<&str> = of_icu.iter().map(|database| database.name.as_str()).collect();
        warnings.push(format!(
            "ICU sorted in these databases, with collations of version {version}: {}. After the \
             start, compare: SELECT max(pg_collation_actual_version(oid)) FROM pg_collation WHERE \
             collname = 'und-x-icu'. If it differs, in each: REINDEX DATABASE, then ALTER DATABASE … \
             REFRESH COLLATION VERSION",
            names.join(", ")
        ));
    }
    warnings
}

fn uses_icu(database: &Database) -> bool {
    let mut collations = database.contents.iter().flat_map(|contents| &contents.collations);
    database.provider == "icu" || collations.any(|collation| collation.provider == "icu")
}

/// An architecture by the name that Rust has for it.
fn common_name(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "powerpc64le" | "ppc64le" => "powerpc64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        other => other,
    }
}

/// An operating system by the name that platforms have for Rust's.
fn system_in_platforms(system: &str) -> &str {
    match system {
        "macos" => "darwin",
        other => other,
    }
}

/// A name as SQL has it.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use repo_format::environment::{Collation, Contents};

    use super::*;

    fn machine(architecture: &str, libc: Option<&str>) -> Machine {
        Machine {
            architecture: architecture.into(),
            system: "linux".into(),
            libc: libc.map(str::to_owned),
        }
    }

    fn database(name: &str, provider: &str, version: Option<&str>) -> Database {
        Database {
            oid: 5,
            name: name.into(),
            encoding: "UTF8".into(),
            provider: provider.into(),
            collate: "de_DE.UTF-8".into(),
            ctype: "de_DE.UTF-8".into(),
            locale: None,
            collation_version: version.map(str::to_owned),
            actual_version: version.map(str::to_owned),
            contents: None,
        }
    }

    fn environment(platform: &str, databases: Vec<Database>) -> Environment {
        Environment {
            version: format!(
                "PostgreSQL 17.2 (Debian 17.2-1) on {platform}, compiled by gcc, 64-bit"
            ),
            libc_version: Some("2.36".into()),
            icu_version: Some("153.120".into()),
            preload_libraries: None,
            databases,
            left_out: 0,
        }
    }

    const PLATFORM: &str = "x86_64-pc-linux-gnu";

    #[test]
    fn the_same_machine_is_fine() {
        let mut german = database("german", "libc", Some("2.36"));
        german.contents = Some(Contents {
            extensions: vec![],
            collations: vec![Collation {
                schema: "pg_catalog".into(),
                name: "de-x-icu".into(),
                provider: "icu".into(),
                version: "153.120".into(),
            }],
        });
        let plain = database("plain", "libc", None);
        let was = environment(PLATFORM, vec![german, plain]);
        assert_eq!(compare(&was, &machine("x86_64", Some("2.36"))), [""; 0]);
    }

    #[test]
    fn another_architecture_is_named_and_other_names_of_one_are_not() {
        let was = environment("aarch64-unknown-linux-gnu", vec![]);
        let warnings = compare(&was, &machine("x86_64", Some("2.36")));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("ran on aarch64, and this machine is x86_64"), "{warnings:?}");
        let was = environment("powerpc64le-unknown-linux-gnu", vec![]);
        assert_eq!(compare(&was, &machine("powerpc64", Some("2.36"))), [""; 0]);
        let was = environment("arm64-apple-darwin23", vec![]);
        let warnings = compare(&was, &machine("aarch64", None));
        assert!(warnings[0].contains("another operating system"), "{warnings:?}");
    }

    #[test]
    fn what_another_glibc_sorted_is_named_with_its_remedy() {
        let mut was = environment(PLATFORM, vec![database("a \"b\"", "libc", Some("2.28"))]);
        was.databases[0].contents = Some(Contents {
            extensions: vec![],
            collations: vec![Collation {
                schema: "public".into(),
                name: "mine".into(),
                provider: "libc".into(),
                version: "2.28".into(),
            }],
        });
        for libc in [Some("2.36"), None] {
            let warnings = compare(&was, &machine("x86_64", libc));
            assert_eq!(warnings.len(), 2, "{warnings:?}");
            assert!(
                warnings[0].ends_with(
                    "REINDEX DATABASE \"a \"\"b\"\"\"; \
                     ALTER DATABASE \"a \"\"b\"\"\" REFRESH COLLATION VERSION"
                ),
                "{warnings:?}"
            );
            assert!(warnings[1].ends_with("ALTER COLLATION \"public\".\"mine\" REFRESH VERSION"));
        }
    }

    #[test]
    fn icu_is_doubted_where_the_rest_differs() {
        let was = environment(PLATFORM, vec![database("icu", "icu", Some("153.120"))]);
        assert_eq!(compare(&was, &machine("x86_64", Some("2.36"))), [""; 0]);
        let warnings = compare(&was, &machine("x86_64", Some("2.41")));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("of version 153.120: icu."), "{warnings:?}");
    }

    #[test]
    fn platforms_are_found_in_what_servers_say() {
        let said = "PostgreSQL 15.18 on x86_64-pc-linux-musl, compiled by gcc (Alpine) 13, 64-bit";
        assert_eq!(platform(said), Some("x86_64-pc-linux-musl"));
        assert_eq!(platform("EnterpriseDB"), None);
    }
}
