//! Who shall own the files of a restored server: PostgreSQL runs as nobody but their owner, and
//! refuses to run as root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// The user and group that files are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// Who shall own what is restored to `destination`: nobody else but this process's user, unless
    /// that is root; then the owner of the destination if it exists, or the user `postgres`.
    pub fn of(destination: &Path) -> Option<Owner> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let existing = fs::metadata(destination).ok();
        let existing = existing.map(|of| Owner { user: of.uid(), group: of.gid() });
        existing.filter(|owner| owner.user != 0).or_else(|| by_name("postgres"))
    }

    /// Gives a file or directory to the owner.
    pub fn give(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.user), Some(self.group))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {}, group {}", self.user, self.group)
    }
}

fn by_name(name: &str) -> Option<Owner> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Owner { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}
