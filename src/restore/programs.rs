//! The PostgreSQL programs of the host that is restored to, and the libraries that a server loads.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Programs {
    /// The major version.
    pub major: u32,
    /// The directory that they are in.
    pub directory: PathBuf,
}

/// Where packages put the programs of a version: before and behind its number.
const PACKAGES: [(&str, &str); 2] = [("/usr/lib/postgresql/", "/bin"), ("/usr/pgsql-", "/bin")];

/// The versions whose server is installed: where packages put it, and in the directories of `path`.
pub fn installed(path: Option<&OsStr>) -> Vec<Programs> {
    let mut found = BTreeSet::new();
    for (before, behind) in PACKAGES {
        for version in versions(before) {
            found.insert(PathBuf::from(format!("{before}{version}{behind}")));
        }
    }
    found.extend(path.into_iter().flat_map(std::env::split_paths));
    let mut installed: Vec<Programs> = found.into_iter().filter_map(programs_in).collect();
    installed.sort();
    installed.dedup();
    installed
}

/// The numbers with which `before` goes on in the file system.
fn versions(before: &str) -> Vec<u32> {
    let (directory, start) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix(start)?.parse().ok()).collect()
}

fn programs_in(directory: PathBuf) -> Option<Programs> {
    // What a link in PATH leads to has its libraries beside it, not beside the link.
    let server = directory.join("postgres").canonicalize().ok()?;
    let output = Command::new(&server)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Programs { major, directory: server.parent()?.to_owned() })
}

/// From what `postgres --version` says, as `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`.
fn major_version(said: &str) -> Option<u32> {
    let version = said.split(") ").nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Programs {
    /// The directory of the libraries that this version loads.
    fn libraries(&self) -> Option<PathBuf> {
        let above = self.directory.parent()?;
        let candidates = ["lib", "lib/postgresql", "lib64", "lib64/pgsql", "lib/pgsql"];
        let mut candidates = candidates.into_iter().map(|name| above.join(name));
        // Every server has this one.
        candidates.find(|directory| directory.join("plpgsql.so").exists())
    }

    /// Those of some libraries to be loaded that are not there; nothing where that cannot be known.
    pub fn missing_libraries(&self, names: &[String], search_path: Option<&str>) -> Vec<String> {
        let Some(own) = self.libraries() else { return vec![] };
        let in_own = |name: &str| name.replace("$libdir", &own.to_string_lossy());
        let mut directories = vec![own.clone()];
        directories.extend(search_path.into_iter().flat_map(|path| {
            path.split(':').filter(|part| !part.is_empty()).map(|part| PathBuf::from(in_own(part)))
        }));
        let exists = |path: PathBuf| {
            path.exists() || PathBuf::from(format!("{}.so", path.display())).exists()
        };
        let is_missing = |name: &&String| {
            let name = in_own(name);
            if name.contains('/') {
                !exists(PathBuf::from(name))
            } else {
                !directories.iter().any(|directory| exists(directory.join(&name)))
            }
        };
        names.iter().filter(is_missing).cloned().collect()
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The programs of a version, of all that are installed.
pub fn of_version(installed: &[Programs], major: u32) -> Option<&Programs> {
    installed.iter().find(|programs| programs.major == major)
}

/// A path as a word that a shell understands.
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,=@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_say() {
        assert_eq!(
            major_version("postgres (PostgreSQL) 17.2 (Debian 17.2-1.pgdg120+1)\n"),
            Some(17)
        );
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_version("postgres: command not found\n"), None);
    }

    #[test]
    fn libraries_are_looked_for_where_the_server_does() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["bin", "lib", "elsewhere"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        let programs = Programs { major: 17, directory: root.join("bin") };
        let names = ["here", "$libdir/here", "there", "none", "/nonexistent/x.so"];
        let names = names.map(str::to_owned);
        assert!(programs.missing_libraries(&names, None).is_empty(), "its libraries are unknown");
        for name in ["lib/plpgsql.so", "lib/here.so", "elsewhere/there.so"] {
            fs::write(root.join(name), "").unwrap();
        }
        assert_eq!(
            programs.missing_libraries(&names, None),
            ["there", "none", "/nonexistent/x.so"]
        );
        let path = format!("{}:$libdir", root.join("elsewhere").display());
        assert_eq!(programs.missing_libraries(&names, Some(&path)), ["none", "/nonexistent/x.so"]);
    }
}
