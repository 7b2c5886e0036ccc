//! Where log events go: warnings to standard error, more to the log file.
//!
//! No log may make a command fail: a file that cannot be opened or written to, a full disk, a pipe without a
//! reader and a standard error that is closed cost lines of the log and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::Zoned;
use rustix::fs::OFlags;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::journal;
use super::output::LOG_TARGET;
use super::progress::Terminal;

/// Starts logging: to standard error from `level` on, to `file` from its own level on.
///
/// A log file that cannot be opened is no failure: a restore must work on a host that has no
/// `/var/log/barman`.
pub fn start(terminal: &Terminal, level: LevelFilter, file: Option<(&Path, LevelFilter)>) {
    let format = fmt::format().without_time().with_target(false).with_ansi(false);
    let screen = fmt::layer()
        .event_format(Prioritised { format, is_journal: journal::has_stderr() })
        .with_writer(Screen(terminal.clone()))
        .log_internal_errors(false)
        // What the output says is on the screen already.
        .with_filter(ours(level).with_target(LOG_TARGET, LevelFilter::OFF));
    let (log, trouble) = match file.map(|(path, level)| (open(path), path, level)) {
        Some((Ok(file), _, level)) => {
            let layer = fmt::layer()
                .with_timer(Stamp)
                .with_ansi(false)
                .with_writer(Arc::new(file))
                .log_internal_errors(false)
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

/// Never waits: not for the reader of a pipe either.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)
}

/// Local time with offset, and the process: several write to one file.
struct Stamp;

impl FormatTime for Stamp {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let now = Zoned::now();
        write!(w, "{} [{}]", now.strftime("%Y-%m-%d %H:%M:%S%.3f%:z"), std::process::id())
    }
}

/// A format of events, with the priority in front where the journal reads it.
struct Prioritised<F> {
    format: F,
    is_journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        if self.is_journal {
            writer.write_str(journal::priority(*event.metadata().level()))?;
        }
        self.format.format_event(context, writer, event)
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
