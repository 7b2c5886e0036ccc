//! Who this process is, for sessions and notes, and where it runs.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, test_kill_process};

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

/// The number of a group that is named, or given by its number.
pub fn group_id(group: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let by_name = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(by_name).or_else(|| group.parse().ok())
}

/// What tells this boot of this host from all others, and in it the container whose process ids count here; empty
/// where the system does not say.
pub fn boot_id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    match (boot.trim(), fs::read_link("/proc/self/ns/pid")) {
        ("", _) | (_, Err(_)) => String::new(),
        (boot, Ok(namespace)) => format!("{boot} {}", namespace.display()),
    }
}

/// Whether there is no process of this number, or it is another one than started at `start`.
pub fn is_gone(process: u32, start: u64) -> bool {
    match process_start(process) {
        Some(found) => found != start,
        // Of other users' processes the system may show nothing; a signal that is not sent tells all the same.
        None => i32::try_from(process)
            .ok()
            .and_then(Pid::from_raw)
            .is_none_or(|process| test_kill_process(process) == Err(rustix::io::Errno::SRCH)),
    }
}

/// When a process started, in the system's own unit; nothing if there is no such process.
pub fn process_start(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything; the start is the 22nd field, the
    // 20th after the name.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_it_ended_or_its_number_is_anothers() {
        let process = std::process::id();
        let start = process_start(process).unwrap();
        assert!(!is_gone(process, start));
        assert!(is_gone(process, start + 1));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        assert!(is_gone(ended.id(), start));
    }

    #[test]
    fn groups_have_names_and_numbers() {
        assert_eq!((group_id("root"), group_id("0")), (Some(0), Some(0)));
        assert_eq!(group_id("no such group"), None);
    }
}
