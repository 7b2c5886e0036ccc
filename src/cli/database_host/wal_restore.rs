//! `barman-wal-restore`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use repo_format::limits::MAX_WAL_FILE;

use super::ssh::BackupHost;
use crate::cli::output::Output;
use crate::cli::wal_restore::{FAILED, OnError, Patience, system_id_here};
use crate::error::{Error, Kind, Result};
use crate::postgres::wal_name::WalName;
use crate::wal::arrival::Arrival;
use crate::wal::fetch;

/// The name of the program.
pub const NAME: &str = "barman-wal-restore";

/// Fetch one WAL file from a backup host: the restore_command of PostgreSQL.
///
/// Gets the file from 'barman get-wal' over SSH. The exit code is 1 only when the backup host certainly does not have
/// it, which tells PostgreSQL that the archive ends there. When the host cannot be asked, it is asked again for a while;
/// then the exit code is 126, with which PostgreSQL stops instead of taking an earlier end for the end, or, on a standby,
/// 1: a standby asks again by itself, however long the outage is. Do not promote a standby during an outage unless you
/// know that it has all WAL. This host needs no key and no configuration of barman.
#[derive(Debug, Parser)]
#[command(name = NAME, version, disable_version_flag = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    host: BackupHost,
    /// Name of the server there
    server_name: String,
    /// Name of the WAL file: %f of restore_command
    #[arg(required_unless_present = "test")]
    wal_name: Option<String>,
    /// Where to write it: %p of restore_command
    #[arg(required_unless_present = "test")]
    wal_dest: Option<PathBuf>,
    /// Only check that the backup host would give WAL
    #[arg(short, long)]
    test: bool,
    /// Ask again for so many seconds when the backup host cannot be asked
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// What to do then
    #[arg(long, value_enum, value_name = "WHAT")]
    on_error: Option<OnError>,
    /// Wait so many seconds before a failure is told
    #[arg(short, long, value_name = "SECONDS", default_value_t = 0)]
    sleep: u64,
    /// Compress on the way
    #[arg(short = 'z', long, alias = "bzip2", short_alias = 'j', alias = "keep-compression")]
    gzip: bool,
    /// Exit as Barman's program does: 2 for failures, 3 if the destination cannot be written. PostgreSQL takes both
    /// for the end of the archive
    #[arg(long)]
    barman_exit_codes: bool,
    /// Taken for Barman's sake: partial segments have names of their own
    #[arg(short = 'P', long, hide = true)]
    partial: bool,
    /// Taken for Barman's sake: one file is fetched at a time
    #[arg(short, long, hide = true)]
    parallel: Option<u32>,
    /// Taken for Barman's sake
    #[arg(long, hide = true)]
    spool_dir: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

const EXAMPLES: &str = "EXAMPLES:
  restore_command = 'barman-wal-restore backup-host main %f %p'    # postgresql.conf
  barman-wal-restore --test backup-host main";

/// What `get-wal` says of a file that is not there: Barman's words, too.
const ABSENT: &str = "not found in server";

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(60);

/// The exit code for a command line that cannot be understood.
pub fn usage_code(arguments: &[OsString]) -> u8 {
    if arguments.iter().any(|argument| argument == "--barman-exit-codes") { 2 } else { FAILED }
}

/// Runs the program, and returns its exit code.
pub async fn run(args: &Args, output: &Output) -> u8 {
    let patience = Patience { limit: Duration::from_secs(args.timeout), on_error: args.on_error };
    let outcome = if args.test {
        test(args, output).await.map(|()| true)
    } else {
        patience.ask(output, async || fetch_file(args).await).await
    };
    match outcome {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            output.error(error.in_one_line());
            tokio::time::sleep(Duration::from_secs(args.sleep)).await;
            match (args.barman_exit_codes, error.kind()) {
                (false, _) => FAILED,
                (true, Kind::Io) => 3,
                (true, _) => 2,
            }
        }
    }
}

async fn test(args: &Args, output: &Output) -> Result<()> {
    let answer = args.get(&["get-wal", "--test", &args.server_name]).await?;
    let said = answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    output.print(said.unwrap_or_default().trim_end());
    Ok(())
}

/// Writes the file; whether there is one.
async fn fetch_file(args: &Args) -> Result<bool> {
    let (Some(file), Some(destination)) = (&args.wal_name, &args.wal_dest) else {
        return Err(Error::new(Kind::Usage, "the name or the destination is missing"));
    };
    file.parse::<WalName>().map_err(|error| {
        Error::new(Kind::Usage, format!("{file:?} is not a WAL file"))
            .because(error)
            .hint("restore_command must pass %f and %p")
    })?;
    let Some(mut arrival) = args.file(file, None).await? else { return Ok(false) };
    // A server may have had several clusters; a segment of another one would end the recovery.
    if let (Some(wanted), Some(found)) = (system_id_here(), arrival.system_id)
        && wanted != found.0
    {
        let Some(other) = args.file(file, Some(wanted)).await? else { return Ok(false) };
        arrival = other;
    }
    fetch::write_whole(destination, &arrival.content).map(|()| true)
}

impl Args {
    /// The exit code if nothing is known of the file.
    pub fn failure_code(&self) -> u8 {
        if self.barman_exit_codes { 2 } else { FAILED }
    }

    /// Gets a file from the backup host, and sees that it is what it should be; nothing if it has none.
    async fn file(&self, file: &str, system_id: Option<u64>) -> Result<Option<Arrival>> {
        let system = system_id.map(|id| id.to_string());
        let mut arguments = vec!["get-wal"];
        if let Some(system) = &system {
            arguments.extend(["--system-id", system]);
        }
        arguments.extend([self.server_name.as_str(), file]);
        let Some(content) = self.get(&arguments).await? else { return Ok(None) };
        let arrival = Arrival::received(file, content).map_err(|error| {
            // What was cut off on its way; another attempt may bring all of it.
            Error::new(Kind::Storage, format!("{} sent something else", self.host.barman_host))
                .because(error)
        })?;
        Ok(Some(arrival))
    }

    /// What a command on the backup host says; nothing where it ends with 1.
    async fn get(&self, arguments: &[&str]) -> Result<Option<Vec<u8>>> {
        let mut host = self.host.clone();
        if self.gzip {
            host.ssh_command.push_str(" -C");
        }
        let answer = host.run(arguments, &[], ATTEMPT, MAX_WAL_FILE).await?;
        match answer.code {
            0 => Ok(Some(answer.stdout)),
            // A login that is refused, or a wrapper, may end with 1 too.
            1 if answer.complaint.contains(ABSENT) => Ok(None),
            _ => Err(Error::new(
                Kind::Storage,
                format!("{}: {}", self.host.barman_host, answer.complaint),
            )),
        }
    }
}
