//! Who this process is, for sessions and notes, and where it runs.

use std::fs;
use std::path::PathBuf;

/// Where large temporary files go: `TMPDIR`, or `/var/tmp`, which is on a disk where `/tmp` may not be. A
/// host that has neither, as one that is just being rescued, has the current directory.
pub fn scratch_directory() -> PathBuf {
    if let Some(chosen) = std::env::var_os("TMPDIR").filter(|directory| !directory.is_empty()) {
        return chosen.into();
    }
    let mut usual = ["/var/tmp", "/tmp", "."].into_iter().map(PathBuf::from);
    usual.find(|directory| directory.is_dir()).unwrap_or_else(std::env::temp_dir)
}

/// The name of this host.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The user that runs this process, by name where the system knows it.
pub fn user() -> String {
    let id = rustix::process::geteuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let by_id = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    };
    passwd.lines().find_map(by_id).unwrap_or_else(|| id.to_string())
}

/// What tells this boot of this host from all others; empty where the system does not say.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process started, in the system's own unit; nothing if there is no such process.
pub fn process_start(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything; the start is the 22nd field, the
    // 20th after the name.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
