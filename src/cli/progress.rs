//! Progress bars on the terminal, and keeping them out of the way of everything else printed there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Observer, Progress};

/// The terminal behind standard error, which bars and messages share.
#[derive(Clone)]
pub struct Terminal {
    bars: MultiProgress,
    draws: bool,
}

impl Terminal {
    /// `draws` says whether there is anybody to see bars.
    pub fn new(draws: bool) -> Self {
        let target = if draws {
            ProgressDrawTarget::stderr_with_hz(5)
        } else {
            ProgressDrawTarget::hidden()
        };
        Terminal { bars: MultiProgress::with_draw_target(target), draws }
    }

    /// Runs `print` while no bar is in the way.
    pub fn without_bars<R>(&self, print: impl FnOnce() -> R) -> R {
        if self.draws { self.bars.suspend(print) } else { print() }
    }

    /// Starts a bar.
    pub fn progress(&self, phase: &str) -> Bar {
        if !self.draws {
            return Bar { bar: ProgressBar::hidden() };
        }
        let bar = self.bars.add(ProgressBar::no_length().with_style(style(false)));
        bar.set_message(phase.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar { bar }
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("draws", &self.draws).finish_non_exhaustive()
    }
}

/// How far a copy has come. Cheap to clone and to call from many threads; all clones are one bar.
#[derive(Debug, Clone)]
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar that nobody sees.
    pub fn hidden() -> Self {
        Bar { bar: ProgressBar::hidden() }
    }

    /// Says whose it is, where several are side by side.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        self.bar.set_prefix(format!("{name}: "));
        self
    }

    /// Counts bytes that are done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Says how many bytes there will be; may be corrected at any time.
    pub fn set_total(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(style(true));
    }

    /// Says what is being done now.
    pub fn phase(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// How many bytes are done.
    pub fn done(&self) -> u64 {
        self.bar.position()
    }

    /// The bar as what the library tells of its progress.
    pub fn observer(&self) -> Progress {
        Arc::new(self.clone())
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Bar {
    fn phase(&self, name: &str, total: Option<u64>) {
        self.bar.reset();
        Bar::phase(self, name);
        match total {
            Some(bytes) => self.set_total(bytes),
            None => {
                self.bar.unset_length();
                self.bar.set_style(style(false));
            }
        }
    }

    fn advance(&self, bytes: u64) {
        self.add(bytes);
    }
}

fn style(has_total: bool) -> ProgressStyle {
    let template = if has_total {
        "{prefix}{msg}  {wide_bar} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  \
         {binary_bytes_per_sec}  ETA {eta}"
    } else {
        "{prefix}{msg}  {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_valid() {
        for has_total in [true, false] {
            let bar = ProgressBar::hidden().with_style(style(has_total));
            bar.inc(1);
        }
        assert!(ProgressStyle::with_template("{msg}  {wide_bar} {binary_total_bytes}").is_ok());
    }

    #[test]
    fn clones_from_many_threads_count_together() {
        let progress = Terminal::new(false).progress("copying");
        progress.set_total(4000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let progress = progress.clone();
                scope.spawn(move || (0..1000).for_each(|_| progress.add(1)));
            }
        });
        assert_eq!(progress.done(), 4000);
        progress.phase("waiting for WAL");
        let observer = progress.observer();
        observer.phase("copying again", Some(100));
        observer.advance(7);
        assert_eq!(progress.done(), 7);
        progress.finish();
    }
}
