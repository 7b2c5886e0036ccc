//! What Barman has and this version does not: taken by the parser, refused in words.
//!
//! An option counts as such when it stands under the help heading [`HEADING`]; the commands are listed
//! here. Somebody whose script uses one learns that it is missing, and not that it is unknown.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory};

use crate::error::{Error, Kind};

/// The help heading of options that are not supported yet.
pub(super) const HEADING: &str = "Not supported yet";

/// Barman's commands that are missing, and what to use in their place.
const COMMANDS: &[(&str, &str)] = &[
    ("archive-wal", "WAL goes into the repository as soon as it comes"),
    ("check-archived-wal-range", ""),
    ("check-backup", ""),
    ("check-wal-archive", ""),
    ("cloud-wal-archive", "use 'barman wal-archive'"),
    ("cloud-wal-restore", "use 'barman wal-restore'"),
    ("config-switch", ""),
    ("config-update", ""),
    ("export-backup", ""),
    ("generate-manifest", "every restore writes a backup_manifest"),
    ("import-backup", ""),
    ("list-process", ""),
    ("list-processes", ""),
    ("lock-directory-cleanup", "there are no lock files to clean up"),
    ("rebuild-xlogdb", "there is no WAL database that could be rebuilt"),
    ("receive-wal", "use 'barman wal-archive' in archive_command"),
    ("replication-status", ""),
    ("sync-backup", ""),
    ("sync-info", ""),
    ("sync-wals", ""),
    ("terminate-process", ""),
];

/// The parser of `C`, which knows the missing commands too, and tells of missing options only in the
/// long help.
pub(super) fn command<C: CommandFactory>() -> clap::Command {
    let command = C::command().mut_subcommands(|sub| {
        sub.mut_args(|argument| {
            let is_missing = argument.get_help_heading() == Some(HEADING);
            if is_missing { argument.hide_short_help(true) } else { argument }
        })
    });
    COMMANDS.iter().fold(command, |command, (name, _)| {
        let anything = Arg::new("arguments")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .value_parser(clap::value_parser!(std::ffi::OsString));
        command
            .subcommand(clap::Command::new(*name).hide(true).disable_help_flag(true).arg(anything))
    })
}

/// What the command line uses that is missing.
pub(super) fn used(matches: &ArgMatches) -> Option<Error> {
    let (name, arguments) = matches.subcommand()?;
    if let Some((name, instead)) = COMMANDS.iter().find(|(missing, _)| *missing == name) {
        return Some(refusal(&format!("the command '{name}'"), instead));
    }
    let parser = command::<super::Cli>();
    let missing = parser.find_subcommand(name)?.get_arguments().find(|argument| {
        let id = argument.get_id().as_str();
        argument.get_help_heading() == Some(HEADING)
            && arguments.value_source(id) == Some(ValueSource::CommandLine)
    })?;
    let instead = missing.get_help().map(ToString::to_string).unwrap_or_default();
    Some(refusal(&format!("the option --{}", missing.get_long().unwrap_or_default()), &instead))
}

fn refusal(what: &str, instead: &str) -> Error {
    let error = Error::new(Kind::Refused, format!("not supported yet: {what}"));
    if instead.is_empty() { error } else { error.hint(instead) }
}
