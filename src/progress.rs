//! How far a long operation is, told to whoever wants to know.

use std::sync::Arc;

/// Hears of progress, from any thread.
pub trait Observer: Send + Sync {
    /// Another part of the work begins; `total` bytes of it are expected, if that is known.
    fn phase(&self, name: &str, total: Option<u64>);

    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
}

/// A handle on an observer, cheap to clone.
pub type Progress = Arc<dyn Observer>;

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn phase(&self, _: &str, _: Option<u64>) {}

    fn advance(&self, _: u64) {}
}
