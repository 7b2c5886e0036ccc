//! The system account that servers and `barman` run as, and directories that belong to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// A line of `/etc/passwd`, as far as needed here.
#[derive(Debug, Clone)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The numeric user.
    pub uid: u32,
    /// The numeric primary group.
    pub gid: u32,
}

/// True where the tests run as root and so must hand everything to `postgres`.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The account under which servers and `barman` run.
pub fn current() -> &'static Account {
    static ACCOUNT: OnceLock<Account> = OnceLock::new();
    ACCOUNT.get_or_init(|| {
        let uid = rustix::process::geteuid().as_raw();
        if is_root() {
            find(|account| account.name == "postgres").unwrap_or_else(|| {
                panic!("there is no system user 'postgres' to run servers as: run `make test`")
            })
        } else {
            find(|account| account.uid == uid)
                .unwrap_or_else(|| panic!("user id {uid} is not in /etc/passwd"))
        }
    })
}

/// Makes `command` run under [`current`], in a clean environment with its HOME in `home`.
pub fn prepare(command: &mut Command, home: &Path) {
    let account = current();
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("USER", &account.name)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .current_dir(home);
    if is_root() {
        command.uid(account.uid).gid(account.gid);
    }
}

/// Gives `path` and all below it to [`current`]; symbolic links are not followed.
pub fn hand_over(path: &Path) {
    if !is_root() {
        return;
    }
    let account = current();
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        return;
    }
    chown(path, Some(account.uid), Some(account.gid)).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            hand_over(&entry.unwrap().path());
        }
    }
}

/// Makes a directory that belongs to [`current`] and may be entered only by it, as PostgreSQL asks of its own.
pub fn make_dir(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    hand_over(path);
}

/// Writes a file that belongs to [`current`] and only it may read.
pub fn write_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    hand_over(path);
}

/// A fresh directory of [`current`], removed when dropped.
///
/// Its path is short: a Unix socket's whole path may not exceed 107 bytes.
pub fn temp_dir() -> TempDir {
    let mut parent = std::env::temp_dir();
    if parent.as_os_str().len() > 60 || !reachable_by_all(&parent) {
        parent = PathBuf::from("/tmp");
    }
    let dir = tempfile::Builder::new().prefix("bm-").tempdir_in(parent).unwrap();
    hand_over(dir.path());
    dir
}

/// True where any user may go through every directory above `path`.
pub fn reachable_by_all(path: &Path) -> bool {
    path.ancestors().skip(1).all(|directory| {
        directory.as_os_str().is_empty()
            || fs::metadata(directory).is_ok_and(|m| m.permissions().mode() & 0o001 != 0)
    })
}

fn find(wanted: impl Fn(&Account) -> bool) -> Option<Account> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    passwd.lines().filter_map(parse).find(wanted)
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid })
}
