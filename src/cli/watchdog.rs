//! Ends the process in time, whatever hangs.
//!
//! PostgreSQL waits for the commands that handle WAL. A file system that hangs instead of failing stops whatever thread
//! touches it, so that a thread of its own watches the time.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How a command ends whose time is over.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The option that sets the limit.
    pub option: &'static str,
    /// The limit unless that option sets another.
    pub limit: Duration,
    /// What was not done.
    pub message: &'static str,
    /// The exit code.
    pub code: u8,
}

/// Watches the time until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    limits: Sender<Duration>,
}

impl Watchdog {
    /// Ends the process when its time is over, counted from now.
    pub fn start(end: End) -> Self {
        let (limits, changes) = mpsc::channel();
        let begun = Instant::now();
        std::thread::spawn(move || {
            let End { option, mut limit, message, code } = end;
            loop {
                match changes.recv_timeout(limit.saturating_sub(begun.elapsed())) {
                    Ok(change) => limit = change,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        let seconds = limit.as_secs();
                        let line = format!("ERROR: {message} within {option} ({seconds} s)\n");
                        // There is nowhere left to say that standard error is gone.
                        let _ = std::io::stderr().write_all(line.as_bytes());
                        std::process::exit(code.into());
                    }
                }
            }
        });
        Watchdog { limits }
    }

    /// Sets another limit, counted from the start too.
    pub fn change(&self, limit: Duration) {
        // Its thread ends only with the process.
        let _ = self.limits.send(limit);
    }
}
