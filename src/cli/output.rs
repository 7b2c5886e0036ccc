//! Everything a command says goes through [`Output`]: text for people, or one JSON document.
//!
//! On the console, results and information go to standard output as they come, warnings and errors to
//! standard error. As JSON, results are collected under the names of their servers and printed as one
//! document at the end, with all messages in `_INFO`, `_WARNING`, `_ERROR`, `_DEBUG` and `_EXCEPTION`.
//! An error sets the exit code and does not stop the command, which goes on with the next server.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use serde_json::{Map, Value};
use tracing::Level;

use super::journal;
use super::progress::Terminal;
use crate::error::{Error, Kind, Result};

/// The target of the log events made here: the log file takes them, standard error has them already.
pub const LOG_TARGET: &str = "barman::output";

/// `--format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Console,
    /// One JSON document for programs.
    Json,
}

/// `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// No colours.
    Never,
    /// Colours, wherever the output goes.
    Always,
    /// Colours on a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
}

/// What a piece of text says about the state of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Doubtful.
    Doubtful,
    /// Wrong.
    Bad,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// `--format`.
    pub format: Format,
    /// `--color`.
    pub color: Color,
    /// `--quiet`: only warnings and errors.
    pub quiet: bool,
    /// `--debug`: debug messages too.
    pub debug: bool,
}

/// The writer.
pub struct Output {
    options: Options,
    terminal: Terminal,
    paints_out: bool,
    paints_err: bool,
    is_journal: bool,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    document: Map<String, Value>,
    exit_code: u8,
}

impl Output {
    /// Prints to the standard streams.
    pub fn new(options: Options, terminal: Terminal) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let paints = |is_terminal: bool| match options.color {
            Color::Never => false,
            Color::Always => true,
            Color::Auto => is_terminal && !plain,
        };
        let (paints_out, paints_err) =
            (paints(io::stdout().is_terminal()), paints(io::stderr().is_terminal()));
        let mut output = Output::to(options, Box::new(io::stdout()), Box::new(io::stderr()));
        (output.paints_out, output.paints_err, output.terminal) =
            (paints_out, paints_err, terminal);
        output.is_journal = journal::has_stderr();
        output
    }

    /// Prints to `out` and `err`, without colours and bars.
    pub fn to(options: Options, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Output {
            options,
            terminal: Terminal::new(false),
            paints_out: options.color == Color::Always,
            paints_err: options.color == Color::Always,
            is_journal: false,
            state: Mutex::new(State { out, err, document: Map::new(), exit_code: 0 }),
        }
    }

    /// Whether the result is JSON.
    pub fn is_json(&self) -> bool {
        self.options.format == Format::Json
    }

    /// Whether only warnings and errors are wanted.
    pub fn is_quiet(&self) -> bool {
        self.options.quiet
    }

    /// The terminal that bars and messages share.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// One line, or several, of a result on the console. Nothing in JSON, where [`Self::result`]
    /// counts.
    pub fn print(&self, text: impl Display) {
        if !self.is_json() && !self.options.quiet {
            self.write_out(&format!("{text}\n"));
        }
    }

    /// The result for `key`, usually a server, in JSON. Nothing on the console.
    pub fn result(&self, key: impl Into<String>, value: impl Into<Value>) {
        if self.is_json() {
            self.state().document.insert(key.into(), value.into());
        }
    }

    /// A message of interest in any case.
    pub fn info(&self, text: impl Display) {
        tracing::info!(target: LOG_TARGET, "{text}");
        if self.options.quiet {
        } else if self.is_json() {
            self.collect("_INFO", text.to_string());
        } else {
            self.write_out(&format!("{text}\n"));
        }
    }

    /// One of many lines of a result that has no shape of its own: `_INFO` in JSON, and not logged.
    pub fn listing(&self, line: impl Display) {
        if self.is_json() {
            self.collect("_INFO", line.to_string());
        } else {
            self.print(line);
        }
    }

    /// A message for who asked for `--debug`.
    pub fn debug(&self, text: impl Display) {
        tracing::debug!(target: LOG_TARGET, "{text}");
        if self.options.debug {
            self.message("_DEBUG", Level::DEBUG, None, &text.to_string());
        }
    }

    /// Something doubtful that does not stop the command.
    pub fn warning(&self, text: impl Display) {
        tracing::warn!(target: LOG_TARGET, "{text}");
        self.message("_WARNING", Level::WARN, Some(Tone::Doubtful), &text.to_string());
    }

    /// Something that failed. The command may go on; its exit code will be 1.
    pub fn error(&self, text: impl Display) {
        self.say_error(&text.to_string());
        self.set_exit_code(1);
    }

    /// An error with its hint, and its exit code.
    pub fn failure(&self, error: &Error) {
        match error.hint_text() {
            Some(hint) if self.is_json() => self.say_error(&format!("{error}; hint: {hint}")),
            Some(hint) => {
                self.say_error(&error.to_string());
                self.write_err(Level::ERROR, &format!("HINT: {hint}\n"));
            }
            None => self.say_error(&error.to_string()),
        }
        self.set_exit_code(error.exit_code());
    }

    /// Bytes on standard output, as they are, in any format. Unlike with text, a reader that has gone
    /// away is an error: somebody relies on getting all of them.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        state
            .out
            .write_all(bytes)
            .and_then(|()| state.out.flush())
            .map_err(|e| Error::new(Kind::Io, "cannot write to standard output").because(e))
    }

    /// Raises the exit code to `code`. What only waits is less than what failed, whatever the numbers.
    pub fn set_exit_code(&self, code: u8) {
        let rank = |code: u8| (code != 0, code != Error::WAITING, code);
        let mut state = self.state();
        state.exit_code = std::cmp::max_by_key(state.exit_code, code, |code| rank(*code));
    }

    /// `text` in the colour of `tone`, if standard output shows colours.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.paints_out, tone, text)
    }

    /// Prints the JSON document, and returns the exit code.
    pub fn finish(self) -> u8 {
        if self.is_json() {
            let document = Value::Object(std::mem::take(&mut self.state().document));
            self.write_out(&format!("{document}\n"));
        }
        self.state().exit_code
    }

    fn say_error(&self, text: &str) {
        tracing::error!(target: LOG_TARGET, "{text}");
        self.message("_ERROR", Level::ERROR, Some(Tone::Bad), text);
    }

    fn message(&self, key: &str, level: Level, tone: Option<Tone>, text: &str) {
        if self.is_json() {
            self.collect(key, text.to_owned());
        } else {
            let label = key.trim_start_matches('_');
            let label = match tone {
                Some(tone) => paint(self.paints_err, tone, &format!("{label}:")),
                None => format!("{label}:"),
            };
            self.write_err(level, &format!("{label} {text}\n"));
        }
    }

    fn collect(&self, key: &str, text: String) {
        let mut state = self.state();
        if let Value::Array(messages) =
            state.document.entry(key).or_insert_with(|| Value::Array(Vec::new()))
        {
            messages.push(Value::String(text));
        }
    }

    fn write_out(&self, text: &str) {
        let result = self.terminal.without_bars(|| {
            let mut state = self.state();
            state.out.write_all(text.as_bytes()).and_then(|()| state.out.flush())
        });
        match result {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.set_exit_code(1);
                let text = format!("ERROR: cannot write to standard output: {error}\n");
                self.write_err(Level::ERROR, &text);
            }
            _ => {}
        }
    }

    fn write_err(&self, level: Level, text: &str) {
        let priority = if self.is_journal { journal::priority(level) } else { "" };
        let text = format!("{priority}{text}");
        // There is nowhere left to say that standard error is gone.
        let _ = self.terminal.without_bars(|| self.state().err.write_all(text.as_bytes()));
    }

    /// The state is a plain collection: what a panic leaves of it is still good.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The JSON key of a label for people: `WAL archive` → `wal_archive`.
pub fn mangle(label: &str) -> String {
    label
        .chars()
        .filter(|&c| c != '.')
        .map(|c| if matches!(c, ' ' | '-') { '_' } else { c.to_ascii_lowercase() })
        .collect()
}

/// A value as Barman shows it on the console: Python's words for true, false and nothing.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn paint(paints: bool, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Good => 32,
        Tone::Doubtful => 33,
        Tone::Bad => 31,
    };
    if paints { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    /// A stream whose content can be read back, or that is closed.
    #[derive(Clone, Default)]
    struct Stream(Arc<Mutex<Vec<u8>>>, Option<ErrorKind>);

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.1 {
                return Err(kind.into());
            }
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn say_everything(options: Options) -> (u8, String, String) {
        let (out, err) = (Stream::default(), Stream::default());
        let output = Output::to(options, Box::new(out.clone()), Box::new(err.clone()));
        output.print("a result");
        output.result("pg", json!({"b": 1, "a": null}));
        output.info("an information");
        output.debug("a detail");
        output.warning("a doubt");
        output.failure(&Error::new(Kind::Io, "a failure").hint("do this"));
        (output.finish(), out.text(), err.text())
    }

    #[test]
    fn the_console_gets_it_as_it_comes() {
        let (code, out, err) = say_everything(Options::default());
        assert_eq!(out, "a result\nan information\n");
        assert_eq!(err, "WARNING: a doubt\nERROR: a failure\nHINT: do this\n");
        assert_eq!(code, 1);
    }

    #[test]
    fn json_is_one_sorted_document() {
        let (code, out, err) =
            say_everything(Options { format: Format::Json, debug: true, ..Options::default() });
        let expected = concat!(
            r#"{"_DEBUG":["a detail"],"_ERROR":["a failure; hint: do this"],"#,
            r#""_INFO":["an information"],"_WARNING":["a doubt"],"pg":{"a":null,"b":1}}"#,
            "\n"
        );
        assert_eq!(out, expected);
        assert_eq!((code, err.as_str()), (1, ""));
    }

    #[test]
    fn quiet_leaves_warnings_and_errors() {
        let (_, out, err) = say_everything(Options { quiet: true, ..Options::default() });
        assert_eq!(out, "");
        assert!(err.contains("WARNING") && err.contains("ERROR"));
    }

    #[test]
    fn colours_come_when_asked_for() {
        let (_, _, err) = say_everything(Options { color: Color::Always, ..Options::default() });
        assert!(err.starts_with("\u{1b}[33mWARNING:\u{1b}[0m a doubt\n"), "{err:?}");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_but_for_raw_bytes() {
        let broken = Stream(Arc::default(), Some(ErrorKind::BrokenPipe));
        let output = Output::to(Options::default(), Box::new(broken), Box::new(io::sink()));
        output.print("x");
        assert!(output.raw(b"x").is_err());
        assert_eq!(output.finish(), 0);

        let full = Stream(Arc::default(), Some(ErrorKind::StorageFull));
        let err = Stream::default();
        let output = Output::to(Options::default(), Box::new(full), Box::new(err.clone()));
        output.print("x");
        assert_eq!(output.finish(), 1);
        assert!(err.text().contains("cannot write to standard output"));
    }

    #[test]
    fn usage_errors_exit_with_two() {
        let output = Output::to(Options::default(), Box::new(io::sink()), Box::new(io::sink()));
        output.failure(&Error::new(Kind::Usage, "what"));
        assert_eq!(output.finish(), 2);
    }

    #[test]
    fn what_failed_counts_more_than_what_waits() {
        let code = |kinds: &[Kind]| {
            let output = Output::to(Options::default(), Box::new(io::sink()), Box::new(io::sink()));
            kinds.iter().for_each(|kind| output.failure(&Error::new(*kind, "what")));
            output.finish()
        };
        assert_eq!(code(&[Kind::Waiting]), 3);
        assert_eq!(code(&[Kind::Waiting, Kind::Postgres, Kind::Waiting]), 1);
        assert_eq!(code(&[Kind::Waiting, Kind::Usage]), 2);
    }

    #[test]
    fn labels_become_keys() {
        assert_eq!(mangle("WAL archive"), "wal_archive");
        assert_eq!(mangle("receive-wal running"), "receive_wal_running");
        assert_eq!(mangle("No. of files"), "no_of_files");
    }
}
