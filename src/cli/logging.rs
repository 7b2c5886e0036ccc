//! Where log events go: warnings to standard error, more to the log file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use jiff::Zoned;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;

use super::output::LOG_TARGET;
use super::progress::Terminal;

/// Starts logging: to standard error from `level` on, to `file` from its own level on.
///
/// A log file that cannot be opened is no failure: a restore must work on a host that has no
/// `/var/log/barman`.
pub fn start(terminal: &Terminal, level: LevelFilter, file: Option<(&Path, LevelFilter)>) {
    let screen = fmt::layer()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(Screen(terminal.clone()))
        // What the output says is on the screen already.
        .with_filter(ours(level).with_target(LOG_TARGET, LevelFilter::OFF));
    let (log, trouble) = match file.map(|(path, level)| (open(path), path, level)) {
        Some((Ok(file), _, level)) => {
            let layer = fmt::layer()
                .with_timer(Stamp)
                .with_ansi(false)
                .with_writer(Mutex::new(file))
                .with_filter(ours(level));
            (Some(layer), None)
        }
        Some((Err(error), path, _)) => (None, Some((path, error))),
        None => (None, None),
    };
    // It fails only when somebody has started logging before: then that holds.
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(screen).with(log),
    );
    if let Some((path, error)) = trouble {
        tracing::debug!("cannot open the log file '{}': {error}", path.display());
    }
}

/// Our own events from `level` on. Other crates know nothing of secrets in what they trace, so
/// of theirs only warnings.
fn ours(level: LevelFilter) -> Targets {
    Targets::new().with_default(LevelFilter::WARN).with_target("barman", level)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Local time with offset, and the process: several write to one file.
struct Stamp;

impl FormatTime for Stamp {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let now = Zoned::now();
        write!(w, "{} [{}]", now.strftime("%Y-%m-%d %H:%M:%S%.3f%:z"), std::process::id())
    }
}

/// Standard error, with the bars out of the way.
struct Screen(Terminal);

impl<'a> MakeWriter<'a> for Screen {
    type Writer = ScreenWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        ScreenWriter(&self.0)
    }
}

/// Writes one event; the subscriber hands it over in one piece.
struct ScreenWriter<'a>(&'a Terminal);

impl Write for ScreenWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.without_bars(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
