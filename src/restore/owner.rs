//! Who shall own the files of a restored server: PostgreSQL runs as nobody but their owner, and
//! refuses to run as root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Result};

/// The user and group that files are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

/// The user who owns servers, as a rule.
const USUAL: &str = "postgres";

impl Owner {
    /// Who shall own what is restored to `destination`: this process's user, unless that is root; then
    /// `wanted`, or the owner of the destination if it exists, or the user `postgres`. Nothing stands for
    /// the user of this process.
    ///
    /// # Errors
    /// If nobody can own it, or not the one who is wanted.
    pub fn of(destination: &Path, wanted: Option<&str>) -> Result<Option<Owner>> {
        let own = rustix::process::geteuid();
        let named = wanted.map(|name| (name, find(name)));
        if let Some((name, None)) = named {
            return Err(Error::new(Kind::Refused, format!("there is no user {name:?} here"))
                .hint("name another one with --owner, or give a number"));
        }
        if !own.is_root() {
            return match named {
                Some((name, Some(owner))) if owner.user != own.as_raw() => Err(Error::new(
                    Kind::Refused,
                    format!("only root can make {name} the owner of what is restored"),
                )
                .hint(format!("run barman as root, or as {name} without --owner"))),
                _ => Ok(None),
            };
        }
        let existing = fs::metadata(destination).ok();
        let existing = existing.map(|of| Owner { user: of.uid(), group: of.gid() });
        let owner = match named {
            Some((_, owner)) => owner,
            None => existing.filter(|owner| owner.user != 0).or_else(|| find(USUAL)),
        };
        let owner = owner.ok_or_else(|| {
            Error::new(
                Kind::Refused,
                "there is no user 'postgres' here who could own what is restored",
            )
            .hint("name one with --owner; a number does too, for a host that has the user")
        })?;
        if owner.user == 0 {
            return Err(Error::new(Kind::Refused, "PostgreSQL does not run as root")
                .hint("name another user with --owner"));
        }
        Ok(Some(owner))
    }

    /// Gives a file or directory to the owner.
    pub fn give(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.user), Some(self.group))
    }

    /// Has a program run as this user.
    pub fn run(self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        command.uid(self.user).gid(self.group);
    }

    /// The name of the user, or its number.
    pub fn name(self) -> String {
        let number = self.user.to_string();
        let line = passwd(|fields| fields.get(2) == Some(&number.as_str()));
        line.and_then(|line| line.split(':').next().map(str::to_owned)).unwrap_or(number)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {}, group {}", self.user, self.group)
    }
}

/// The user with a name or number. A number need not be known here: the files may be for another host.
fn find(name: &str) -> Option<Owner> {
    let known = passwd(|fields| fields.first() == Some(&name) || fields.get(2) == Some(&name));
    let known = known.or_else(|| ask_directory(name));
    let of_line = |line: String| {
        let mut fields = line.trim().split(':').skip(2);
        Some(Owner { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    };
    let number = || name.parse().ok().map(|user| Owner { user, group: user });
    known.and_then(of_line).or_else(number)
}

/// The first line of `/etc/passwd` whose fields are the right ones.
fn passwd(is_it: impl Fn(&[&str]) -> bool) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find(|line| is_it(&line.split(':').collect::<Vec<_>>())).map(str::to_owned)
}

/// The line of a user that is in no file, but in a directory service.
fn ask_directory(name: &str) -> Option<String> {
    let mut getent = Command::new("getent");
    getent.args(["passwd", "--", name]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = getent.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(find("root"), Some(Owner { user: 0, group: 0 }));
        assert_eq!(find("0"), find("root"));
        assert_eq!(find("no such user"), None);
        let unknown = Owner { user: 4_000_000, group: 4_000_000 };
        assert_eq!(find("4000000"), Some(unknown));
        assert_eq!(unknown.name(), "4000000");
        assert_eq!(find("root").map(Owner::name).as_deref(), Some("root"));
    }
}
