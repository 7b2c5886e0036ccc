//! The command line: arguments in, one call of the library, its result out.
//!
//! Commands, options and exit codes are Barman's where they mean the same. One file a command: its
//! `Args`, and a `run` that gets them and the [`Session`]. What Barman knows and this version does not
//! is taken by the parser and refused in words (`not_yet`), never ignored.

mod journal;
mod logging;
mod memory;
mod not_yet;

mod session;

pub mod backup_info;
pub mod names;
pub mod open;
pub mod output;
pub mod progress;
pub mod remote;
pub mod table;
pub mod target;
pub mod watchdog;

pub mod agent;
pub mod backup;
pub mod check;
pub mod cron;
pub mod database_host;
pub mod delete;
pub mod diagnose;
pub mod get_wal;
pub mod keep;
pub mod list_backups;
pub mod list_files;
pub mod list_servers;
pub mod put_wal;
pub mod rehearse;
pub mod repo;
pub mod restore;
pub mod setup_sql;
pub mod show_backup;
pub mod show_servers;
pub mod status;
pub mod switch_wal;
pub mod verify_backup;
pub mod wal_archive;
pub mod wal_restore;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use futures::FutureExt;
use tracing::level_filters::LevelFilter;

pub use session::Session;

pub use crate::human;

use crate::config::values::LogLevel;
use crate::config::{Config, Environment};
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use output::{Color, Format, Output};
use progress::Terminal;
use watchdog::Watchdog;

/// Back up PostgreSQL servers into a deduplicating, encrypted repository.
///
/// Takes base backups and WAL of PostgreSQL servers and restores any moment of them. Servers are
/// described in barman.conf; commands, options and exit codes are those of Barman wherever they mean
/// the same.
#[derive(Parser)]
#[command(
    name = "barman",
    version,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "EXAMPLES:
  barman check all                   Is every server configured so that it can be backed up?
  barman backup main --wait          Back up server 'main' and wait for the WAL it needs
  barman list-backups main           Show its backups
  barman restore main latest /srv/pg Restore the latest one
  barman rehearse main latest        Prove that it can be restored: restore it for trial
  barman help backup                 Tell all about one command";

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Read this configuration file
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Use the repository at this place, a directory or URL, whatever the configuration says
    #[arg(long, value_name = "URL", global = true)]
    repository: Option<OsString>,
    /// Open it with this key file
    #[arg(long, value_name = "FILE", global = true)]
    repository_key_file: Option<PathBuf>,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say what is going on inside
    #[arg(short, long, global = true)]
    debug: bool,
    /// How to print results
    #[arg(short, long, value_enum, default_value_t, global = true)]
    format: Format,
    /// When to use colours
    #[arg(long, visible_alias = "colour", value_enum, default_value_t, global = true)]
    color: Color,
    /// What goes into the log file, instead of log_level
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true, global = true)]
    log_level: Option<Level>,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// `--log-level`, in the words of Barman.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Level {
    Notset,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

#[derive(Subcommand)]
enum Command {
    #[command(name = "list-servers", visible_alias = "list-server")]
    ListServers(list_servers::Args),
    #[command(name = "show-servers", visible_alias = "show-server")]
    ShowServers(show_servers::Args),
    Status(status::Args),
    #[command(name = "setup-sql")]
    SetupSql(setup_sql::Args),
    Check(check::Args),
    Backup(backup::Args),
    #[command(name = "list-backups", visible_alias = "list-backup")]
    ListBackups(list_backups::Args),
    #[command(name = "show-backup", visible_alias = "show-backups")]
    ShowBackup(show_backup::Args),
    #[command(name = "list-files")]
    ListFiles(list_files::Args),
    Delete(delete::Args),
    Keep(keep::Args),
    #[command(visible_alias = "recover")]
    Restore(Box<restore::Args>),
    Rehearse(rehearse::Args),
    #[command(name = "verify-backup", visible_alias = "verify")]
    VerifyBackup(verify_backup::Args),
    #[command(name = "switch-wal", visible_alias = "switch-xlog")]
    SwitchWal(switch_wal::Args),
    #[command(name = "wal-archive")]
    WalArchive(wal_archive::Args),
    #[command(name = "wal-restore")]
    WalRestore(wal_restore::Args),
    #[command(name = "get-wal")]
    GetWal(get_wal::Args),
    #[command(name = "put-wal")]
    PutWal(put_wal::Args),
    Cron(cron::Args),
    Diagnose(diagnose::Args),
    Repo(repo::Args),
    #[command(hide = true)]
    Agent(agent::Args),
}

/// A command line that was understood.
pub struct Invocation(Program);

enum Program {
    /// The command, or the answer that it uses what is Barman's and not ours yet; and its exit code when it fails.
    Barman(GlobalArgs, Box<Result<Command>>, u8),
    DatabaseHost(Box<database_host::Invocation>),
}

impl Invocation {
    /// The exit code if it fails, for whatever reason.
    pub fn failure_code(&self) -> u8 {
        match &self.0 {
            Program::Barman(_, _, code) => *code,
            Program::DatabaseHost(invocation) => invocation.failure_code(),
        }
    }
}

/// Understands the command line; otherwise says why, or prints the help that was asked for, and gives
/// the exit code.
pub fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Invocation, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    if let Some(parsed) = database_host::parse(&arguments) {
        return parsed.map(|asked| Invocation(Program::DatabaseHost(Box::new(asked))));
    }
    let understood = understand(&arguments);
    let failure = if gives_wal(&arguments) { wal_restore::FAILED } else { 1 };
    let understood = understood
        .map(|(global, command)| Invocation(Program::Barman(global, Box::new(command), failure)));
    understood.map_err(|error| {
        let code = usage_code(&error, &arguments);
        let is_for_postgres =
            arguments.iter().any(|word| FOR_POSTGRES.iter().any(|name| word == name));
        if code != 0 && is_for_postgres {
            // One line, because it goes to PostgreSQL's log.
            let text = usage_in_one_line(&error, &arguments);
            Output::new(output::Options::default(), Terminal::new(false)).error(text);
        } else {
            // Nobody is left to tell when the help cannot be printed.
            let _ = error.print();
        }
        ExitCode::from(code)
    })
}

/// What is wrong with the command line of a command that PostgreSQL runs, for its log.
fn usage_in_one_line(error: &clap::Error, arguments: &[OsString]) -> String {
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing))
            if error.kind() == ErrorKind::MissingRequiredArgument =>
        {
            missing
        }
        _ => {
            let text = error.to_string();
            return text
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
        }
    };
    let calls = |name: &str| arguments.iter().any(|argument| argument == name);
    let missing = missing.iter().map(String::as_str).collect::<Vec<_>>();
    let what = match missing.as_slice() {
        ["<WAL_PATH>"] => "the path of the WAL file is".to_owned(),
        [one] => format!("{one} is"),
        several => format!("{} are", several.join(", ")),
    };
    // With the path alone missing, the name is the last that was said.
    let server =
        arguments.last().and_then(|last| last.to_str()).filter(|last| !last.starts_with('-'));
    let server = server.filter(|_| missing == ["<WAL_PATH>"]).unwrap_or("SERVER");
    let usage = if calls(wal_archive::NAME) {
        format!(": archive_command = 'barman wal-archive {server} %p'")
    } else if calls(wal_restore::NAME) {
        ": restore_command = 'barman wal-restore SERVER %f %p'".to_owned()
    } else {
        String::new()
    };
    format!("{what} missing{usage}")
}

/// Does what the command line says, and returns its exit code.
pub async fn run(invocation: Invocation) -> ExitCode {
    let (global, command, failure) = match invocation.0 {
        Program::Barman(global, command, failure) => (global, *command, failure),
        Program::DatabaseHost(invocation) => return database_host::run(*invocation).await,
    };
    let output = global.output();
    let command = match command {
        Ok(command) => command,
        Err(error) => {
            output.set_exit_code(failure);
            return end(output, Err(error));
        }
    };
    let is_nagios = matches!(command, Command::Check(check::Args { nagios: true, .. }));
    if let Command::Agent(_) = command {
        // Its standard output belongs to the restore, and it needs no configuration.
        return end(output, agent::run());
    }
    let is_for_postgres = is_for_postgres(&command);
    let watchdog = watch(&command);
    let (output, result) = match global.load() {
        Ok(config) => {
            if let Some((watchdog, limit)) = watchdog.as_ref().zip(limit(&command, &config)) {
                watchdog.change(limit);
            }
            global.start_logging(&output, Some(&config));
            report_doubts(&config, &output, &command);
            let interrupt = listen(&command, &output);
            let mut session = Session { config, output, interrupt: interrupt.clone() };
            let ends_itself =
                matches!(command, Command::Backup(_) | Command::Restore(_) | Command::Rehearse(_));
            let run = AssertUnwindSafe(dispatch(command, &mut session)).catch_unwind();
            let run = Box::pin(async { run.await.unwrap_or_else(|_| Err(bug())) });
            let result = if ends_itself { run.await } else { interrupt.unless(run).await };
            if let Some(signal) = interrupt.signal() {
                session.output.set_exit_code(signal.exit_code());
            }
            (session.output, result)
        }
        Err(error) => {
            global.start_logging(&output, None);
            if is_nagios {
                output.print(format!("BARMAN CRITICAL - {}", error.in_one_line()));
                output.set_exit_code(2);
                return ExitCode::from(output.finish());
            }
            (output, Err(error))
        }
    };
    if result.is_err() {
        output.set_exit_code(failure);
    }
    if let (Err(error), true) = (&result, is_for_postgres) {
        output.error(error.in_one_line());
        return ExitCode::from(output.finish());
    }
    end(output, result)
}

/// What PostgreSQL runs, here or from a database host.
const FOR_POSTGRES: [&str; 4] =
    [wal_archive::NAME, put_wal::NAME, wal_restore::NAME, get_wal::NAME];

/// Begins to watch the time of a command that must not hang, even where reading the configuration does.
fn watch(command: &Command) -> Option<Watchdog> {
    let end = match command {
        Command::WalArchive(_) | Command::PutWal(_) => wal_archive::TOO_LATE,
        Command::GetWal(_) => get_wal::TOO_LATE,
        _ => return None,
    };
    Some(Watchdog::start(end))
}

/// How long the command may take, as its server is configured.
fn limit(command: &Command, config: &Config) -> Option<Duration> {
    let (Command::WalArchive(wal_archive::Args { server_name, .. })
    | Command::PutWal(put_wal::Args { server_name, .. })
    | Command::GetWal(get_wal::Args { server_name, .. })) = command
    else {
        return None;
    };
    let server = config.servers.get(server_name)?;
    Some(match command {
        Command::GetWal(_) => server.wal_restore_timeout.max(get_wal::TOO_LATE.limit),
        _ => server.wal_archive_timeout.max(Duration::from_secs(1)),
    })
}

/// Whether PostgreSQL runs the command, for each WAL file.
fn is_for_postgres(command: &Command) -> bool {
    use Command::{GetWal, PutWal, WalArchive, WalRestore};
    matches!(command, WalArchive(_) | WalRestore(_) | GetWal(_) | PutWal(_))
}

/// Listens to signals, but for the commands that PostgreSQL runs: it has to see them end by the signals
/// that it sends them, and what they leave is whole at any moment.
fn listen(command: &Command, output: &Output) -> Interrupt {
    if is_for_postgres(command) {
        return Interrupt::never();
    }
    Interrupt::listen().unwrap_or_else(|error| {
        output.warning(format!("signals will end this command at once: {error}"));
        Interrupt::never()
    })
}

/// Whether a command line asks for WAL, so that PostgreSQL may act on the exit code.
fn gives_wal(arguments: &[OsString]) -> bool {
    const NAMES: [&str; 3] = [wal_restore::NAME, get_wal::NAME, "cloud-wal-restore"];
    arguments.iter().any(|argument| NAMES.iter().any(|name| argument == name))
}

/// Says that the program cannot even begin.
pub fn cannot_start(error: &std::io::Error, failure: u8) -> ExitCode {
    let output = Output::new(output::Options::default(), Terminal::new(false));
    output.set_exit_code(failure);
    end(output, Err(Error::new(Kind::Io, "cannot start worker threads").because(error.to_string())))
}

/// The answer of a command that is still to be written.
pub fn not_built(command: &str) -> Error {
    Error::new(Kind::Refused, format!("'barman {command}' is not built yet"))
}

/// The error of a command that panicked. What happened is on standard error already.
fn bug() -> Error {
    Error::new(Kind::Internal, "barman stopped because of a bug in itself")
        .hint("run it again with --debug and report what it says")
}

async fn dispatch(command: Command, session: &mut Session) -> Result<()> {
    match command {
        Command::ListServers(args) => list_servers::run(args, session).await,
        Command::ShowServers(args) => show_servers::run(args, session).await,
        Command::Status(args) => status::run(args, session).await,
        Command::SetupSql(args) => setup_sql::run(args, session).await,
        Command::Check(args) => check::run(args, session).await,
        Command::Backup(args) => backup::run(args, session).await,
        Command::ListBackups(args) => list_backups::run(args, session).await,
        Command::ShowBackup(args) => show_backup::run(args, session).await,
        Command::ListFiles(args) => list_files::run(args, session).await,
        Command::Delete(args) => delete::run(args, session).await,
        Command::Keep(args) => keep::run(args, session).await,
        Command::Restore(args) => restore::run(*args, session).await,
        Command::Rehearse(args) => rehearse::run(args, session).await,
        Command::VerifyBackup(args) => verify_backup::run(args, session).await,
        Command::SwitchWal(args) => switch_wal::run(args, session).await,
        Command::WalArchive(args) => wal_archive::run(args, session).await,
        Command::WalRestore(args) => wal_restore::run(args, session).await,
        Command::GetWal(args) => get_wal::run(args, session).await,
        Command::PutWal(args) => put_wal::run(args, session).await,
        Command::Cron(args) => cron::run(args, session).await,
        Command::Diagnose(args) => diagnose::run(args, session).await,
        Command::Repo(args) => repo::run(args, session).await,
        Command::Agent(_) => agent::run(),
    }
}

/// The global options, and the command or the answer that it uses what is missing.
fn understand(arguments: &[OsString]) -> Result<(GlobalArgs, Result<Command>), clap::Error> {
    let matches = not_yet::command::<Cli>().try_get_matches_from(arguments)?;
    let global = GlobalArgs::from_arg_matches(&matches)?;
    let command = match not_yet::used(&matches) {
        Some(error) => Err(error),
        None => Ok(Command::from_arg_matches(&matches)?),
    };
    Ok((global, command))
}

/// 0 for help that was asked for, else 2, but for the command whose codes PostgreSQL acts on.
fn usage_code(error: &clap::Error, arguments: &[OsString]) -> u8 {
    match u8::try_from(error.exit_code()).unwrap_or(1) {
        1.. if gives_wal(arguments) => wal_restore::FAILED,
        code => code,
    }
}

fn end(output: Output, result: Result<()>) -> ExitCode {
    if let Err(error) = result {
        output.failure(&error);
    }
    ExitCode::from(output.finish())
}

/// Says what is doubtful in the configuration. PostgreSQL runs the WAL commands thousands of times a
/// day, and `cron` is run every minute: there it goes to the log only.
fn report_doubts(config: &Config, output: &Output, command: &Command) {
    let is_frequent = is_for_postgres(command) || matches!(command, Command::Cron(_));
    for warning in &config.warnings {
        if is_frequent {
            tracing::info!("{warning}");
        } else {
            output.warning(warning);
        }
    }
    for note in &config.notes {
        tracing::debug!("{note}");
    }
}

impl GlobalArgs {
    fn output(&self) -> Output {
        let GlobalArgs { format, color, quiet, debug, .. } = *self;
        let draws = format == Format::Console
            && !quiet
            && std::io::IsTerminal::is_terminal(&std::io::stderr());
        Output::new(output::Options { format, color, quiet, debug }, Terminal::new(draws))
    }

    fn load(&self) -> Result<Config> {
        Ok(Config::load(self.config.as_deref(), self.environment()?)?)
    }

    /// The environment, with what the command line says in its place.
    fn environment(&self) -> Result<Environment> {
        let key = self.repository_key_file.as_ref();
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Ok(Environment::from(|name| match name {
            "BARMAN_REPOSITORY" if self.repository.is_some() => self.repository.clone(),
            "BARMAN_REPOSITORY_KEY_FILE" if key.is_some() => {
                key.map(|path| absolute(path).into_os_string())
            }
            // There is one source of the key, and it is that one.
            name if key.is_some() && name.starts_with("BARMAN_REPOSITORY_") => None,
            name => std::env::var_os(name),
        })?)
    }

    fn start_logging(&self, output: &Output, config: Option<&Config>) {
        let screen = if self.debug { LevelFilter::DEBUG } else { LevelFilter::WARN };
        let file = config.and_then(|config| {
            let level = match self.log_level {
                Some(level) => level.filter(),
                None if self.debug => LevelFilter::DEBUG,
                None => config.global.log_level,
            };
            Some((config.global.log_file.as_deref()?, level))
        });
        logging::start(output.terminal(), screen, file);
    }
}

impl Level {
    fn filter(self) -> LevelFilter {
        let name = format!("{self:?}");
        name.parse::<LogLevel>().map_or(LevelFilter::INFO, |level| level.0)
    }
}

#[cfg(test)]
mod tests;
