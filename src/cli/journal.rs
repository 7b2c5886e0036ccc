//! Priorities of messages, for the journal of systemd: sd-daemon(3).

use std::os::unix::fs::MetadataExt;

use tracing::Level;

/// Whether standard error goes to the journal: systemd says in `JOURNAL_STREAM` which stream does, and a
/// redirection would be another one.
pub fn has_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // This follows to what the descriptor is open on.
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    names(&stream, stderr.dev(), stderr.ino())
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream == format!("{device}:{inode}")
}

/// What stands in front of a message of this level.
pub fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_is_the_journal() {
        assert!(names("9:1234", 9, 1234));
        for other in ["", "9", "9:1235", "8:1234", "9:1234 "] {
            assert!(!names(other, 9, 1234), "{other:?}");
        }
        assert_eq!(priority(Level::WARN), "<4>");
    }
}
