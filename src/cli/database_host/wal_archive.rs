//! `barman-wal-archive`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::ssh::BackupHost;
use crate::cli::output::Output;
use crate::error::{Error, Kind, Result};
use crate::wal::arrival::Arrival;
use crate::wal::shipment::{self, Compression};

/// The name of the program.
pub const NAME: &str = "barman-wal-archive";

/// Archive one WAL file on a backup host: the archive_command of PostgreSQL.
///
/// Sends the file to 'barman put-wal' over SSH, and returns 0 only when it is safe in the repository there. This host
/// needs no key and no configuration of barman. Every failure is exit code 1 and one line; PostgreSQL tries again.
#[derive(Debug, Parser)]
#[command(name = NAME, version, disable_version_flag = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    host: BackupHost,
    /// Name of the server there
    server_name: String,
    /// Path of the WAL file: %p of archive_command
    #[arg(required_unless_present = "test")]
    wal_path: Option<PathBuf>,
    /// Only check that the backup host would take WAL
    #[arg(short, long)]
    test: bool,
    /// Give up after so many seconds; PostgreSQL tries again
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Compress the file with gzip on its way
    #[arg(short = 'z', long, group = "compression")]
    gzip: bool,
    /// Compress the file with bzip2 on its way
    #[arg(short = 'j', long, group = "compression")]
    bzip2: bool,
    /// Compress the file with Zstandard on its way
    #[arg(long, group = "compression")]
    zstd: bool,
    /// Exit as Barman's program does: 3 if there is no connection, 2 for other failures here, and else the code of
    /// 'barman put-wal'
    #[arg(long)]
    barman_exit_codes: bool,
    /// Taken for Barman's sake: files have SHA-256 sums
    #[arg(long, hide = true)]
    md5: bool,
    /// Taken for Barman's sake: one file is sent at a time
    #[arg(short, long, hide = true)]
    parallel: Option<u32>,
    /// Taken for Barman's sake
    #[arg(long, hide = true)]
    prefetch_cache_dir: Option<PathBuf>,
    /// Taken for Barman's sake
    #[arg(long, hide = true)]
    compression_level: Option<String>,
    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

const EXAMPLES: &str = "EXAMPLES:
  archive_command = 'barman-wal-archive backup-host main %p'    # postgresql.conf
  barman-wal-archive --test backup-host main";

/// Runs the program, and returns its exit code: never above 125, with which PostgreSQL would end its archiver.
pub async fn run(args: &Args, output: &Output) -> u8 {
    let limit = Duration::from_secs(args.timeout);
    let sent = tokio::time::timeout(limit, send(args, output)).await.unwrap_or_else(|_| {
        let host = &args.host.barman_host;
        let message = format!("not archived on {host} within --timeout ({} s)", limit.as_secs());
        Err(Error::new(Kind::Storage, message))
    });
    let (error, code) = match sent {
        Ok(0) => return 0,
        Ok(code) => return if args.barman_exit_codes { code } else { 1 },
        Err(error) if error.kind() == Kind::Storage => (error, 3),
        Err(error) => (error, 2),
    };
    output.error(error.in_one_line());
    if args.barman_exit_codes { code } else { 1 }
}

/// The exit code of `barman put-wal`, whose complaint is printed.
async fn send(args: &Args, output: &Output) -> Result<u8> {
    let (mut arguments, mut input) = (vec!["put-wal"], vec![]);
    if let (Some(path), false) = (&args.wal_path, args.test) {
        let arrival = Arrival::read_aside(path).await?;
        let how = match (args.gzip, args.bzip2, args.zstd) {
            (true, ..) => Some(Compression::Gzip),
            (_, true, _) => Some(Compression::Bzip2),
            (.., true) => Some(Compression::Zstd),
            _ => None,
        };
        let packed = match how {
            None => shipment::pack(&arrival.file, &arrival.content),
            Some(how) => shipment::compress(&arrival.content, how)
                .and_then(|compressed| shipment::pack(&arrival.file, &compressed)),
        };
        input = packed.map_err(|e| Error::new(Kind::Io, "cannot pack the file").because(e))?;
    } else {
        arguments.push("--test");
    }
    arguments.push(&args.server_name);
    let limit = Duration::from_secs(args.timeout);
    let answer = args.host.run(&arguments, &input, limit, 64 * 1024).await?;
    if answer.code == 0 {
        if args.test {
            output.print(String::from_utf8_lossy(&answer.stdout).trim_end());
        }
        return Ok(0);
    }
    output.error(format!("{}: {}", args.host.barman_host, answer.complaint));
    Ok(u8::try_from(answer.code).unwrap_or(1))
}
