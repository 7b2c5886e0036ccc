//! The programs of a database host that has no key: `barman-wal-archive` and `barman-wal-restore`.
//!
//! They are this program under another name, read no configuration, and run `barman put-wal` and
//! `barman get-wal` on the backup host over SSH. Their options are those of Barman's programs.

mod ssh;
pub mod wal_archive;
pub mod wal_restore;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use super::output::{Color, Format, Options, Output};
use super::progress::Terminal;

/// A command line of one of these programs that was understood.
pub enum Invocation {
    /// `barman-wal-archive`.
    Archive(wal_archive::Args),
    /// `barman-wal-restore`.
    Restore(wal_restore::Args),
}

impl Invocation {
    /// The exit code if it fails, for whatever reason.
    pub fn failure_code(&self) -> u8 {
        match self {
            Invocation::Archive(_) => 1,
            Invocation::Restore(args) => args.failure_code(),
        }
    }
}

/// What `arguments` ask for, if the program was called by one of these names; an exit code where they cannot
/// be understood, or where only help was wanted.
pub fn parse(arguments: &[OsString]) -> Option<Result<Invocation, ExitCode>> {
    let name = Path::new(arguments.first()?).file_name()?.to_str()?;
    let parsed = match name {
        wal_archive::NAME => wal_archive::Args::try_parse_from(arguments).map(Invocation::Archive),
        wal_restore::NAME => wal_restore::Args::try_parse_from(arguments).map(Invocation::Restore),
        _ => return None,
    };
    Some(parsed.map_err(|error| {
        // Nobody is left to tell when the help cannot be printed.
        let _ = error.print();
        ExitCode::from(match u8::try_from(error.exit_code()).unwrap_or(1) {
            1.. if name == wal_restore::NAME => wal_restore::usage_code(arguments),
            code => code,
        })
    }))
}

/// Does what the command line says, and returns its exit code.
pub async fn run(invocation: Invocation) -> ExitCode {
    let options =
        Options { format: Format::Console, color: Color::Auto, quiet: false, debug: false };
    let output = Output::new(options, Terminal::new(false));
    let code = match invocation {
        Invocation::Archive(args) => wal_archive::run(&args, &output).await,
        Invocation::Restore(args) => wal_restore::run(&args, &output).await,
    };
    output.finish();
    ExitCode::from(code)
}
