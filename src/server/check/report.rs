//! What a check found.

use crate::error::Result;

/// One line of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Barman's name for it.
    pub name: &'static str,
    /// What was found, or what to do; may be empty.
    pub hint: String,
    /// Whether all is well.
    pub passed: bool,
    /// Whether there can be no backup when it is not.
    pub blocks: bool,
}

/// The lines about the server's own archiving, without which WAL can still be streamed.
const ARCHIVING: [&str; 4] =
    ["archive_mode", "archive_command", "continuous archiving", "WAL archive"];

impl Check {
    /// Whether it is about the server's own archiving, which a backup that streams its WAL can do without.
    pub fn is_about_archiving(&self) -> bool {
        ARCHIVING.contains(&self.name)
    }
}

/// All checks of a server, or some of them.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The lines, in order.
    pub checks: Vec<Check>,
    /// The size of the last backup, in bytes.
    pub backup_bytes: u64,
    /// What all WAL takes in the archive, in bytes.
    pub wal_bytes: u64,
}

impl Report {
    /// Whether everything passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// What keeps the server from being backed up.
    pub fn blockers(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed && check.blocks)
    }

    /// A line that a backup depends on.
    pub(super) fn must(&mut self, name: &'static str, passed: bool, hint: impl Into<String>) {
        self.checks.push(Check { name, hint: hint.into(), passed, blocks: true });
    }

    /// A line that only tells of trouble.
    pub(super) fn should(&mut self, name: &'static str, passed: bool, hint: impl Into<String>) {
        self.checks.push(Check { name, hint: hint.into(), passed, blocks: false });
    }

    /// The result of something that a backup depends on.
    pub(super) fn outcome<T>(&mut self, name: &'static str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.must(name, true, "");
                Some(value)
            }
            Err(error) => {
                self.must(name, false, error.in_one_line());
                None
            }
        }
    }

    /// Puts the lines of `more` behind these.
    pub(super) fn append(&mut self, mut more: Report) {
        self.checks.append(&mut more.checks);
        self.backup_bytes = self.backup_bytes.max(more.backup_bytes);
        self.wal_bytes = self.wal_bytes.max(more.wal_bytes);
    }
}
