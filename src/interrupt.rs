//! The wish of someone outside that this process ends: a signal.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Kind, Result};

/// A signal that asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u8,
}

/// The signals that are listened to.
const SIGNALS: [Signal; 3] = [
    Signal { name: "SIGHUP", number: 1 },
    Signal { name: "SIGINT", number: 2 },
    Signal { name: "SIGTERM", number: 15 },
];

impl Signal {
    /// The exit code of a process that ended because of it, as shells have it.
    pub fn exit_code(self) -> u8 {
        128 + self.number
    }

    /// The error of what was interrupted.
    pub fn error(self) -> Error {
        Error::new(Kind::Interrupted, format!("interrupted by {}", self.name))
    }
}

/// Tells of the first signal that asks this process to end; cheap to clone.
#[derive(Debug, Clone)]
pub struct Interrupt(Option<watch::Receiver<Option<Signal>>>);

impl Interrupt {
    /// Listens to signals from now on. The first one is told to whoever waits; a second one ends the
    /// process at once, for people who have no patience. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the system does not let the process listen.
    pub fn listen() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(None);
        let ignored = ignored_signals();
        for its in SIGNALS {
            // What runs under nohup is to survive its terminal.
            if ignored & (1 << (its.number - 1)) != 0 {
                continue;
            }
            let mut arrived = signal(SignalKind::from_raw(its.number.into()))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while arrived.recv().await.is_some() {
                    if sender.borrow().is_some() {
                        std::process::exit(its.exit_code().into());
                    }
                    sender.send_replace(Some(its));
                }
            });
        }
        Ok(Interrupt(Some(receiver)))
    }

    /// Never tells of any.
    pub fn never() -> Self {
        Interrupt(None)
    }

    /// Waits for the first signal; returns at once if it has come already.
    pub async fn wait(&self) -> Signal {
        if let Some(mut receiver) = self.0.clone()
            && let Ok(signal) = receiver.wait_for(Option::is_some).await
            && let Some(signal) = *signal
        {
            return signal;
        }
        std::future::pending().await
    }

    /// The signal that came, if any did.
    pub fn signal(&self) -> Option<Signal> {
        self.0.as_ref().and_then(|receiver| *receiver.borrow())
    }

    /// Does `work`, or drops it when a signal comes.
    ///
    /// # Errors
    /// Those of the work, and [`Kind::Interrupted`].
    pub async fn unless<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            signal = self.wait() => Err(signal.error()),
        }
    }
}

/// The set of signals that this process was started to ignore, the lowest bit for signal 1.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
