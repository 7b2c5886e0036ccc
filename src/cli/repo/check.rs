//! `barman repo check`.

use serde_json::json;

use crate::cli::{Session, human, open};
use crate::error::Result;
use crate::repository::{Access, check};

/// Check that the repository is whole.
///
/// Checks that everything a backup refers to is there. With --read-data it also reads, decrypts and
/// compares all data, which takes as long as reading the whole repository.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Read and verify all data too
    #[arg(long)]
    pub read_data: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo check
  barman repo check --read-data";

/// Runs the command.
pub async fn run(args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let repository = open::repository(settings, Access::Read, |text| output.warning(text)).await?;
    let bar = session.progress("checking");
    let report = check::check(&repository, args.read_data, &bar.observer()).await;
    bar.finish();
    let report = report?;
    for problem in &report.problems {
        let touched = match problem.backups.as_slice() {
            [] => String::new(),
            backups => format!("; it touches {}", backups.join(", ")),
        };
        output.error(format!("{}: {}{touched}", problem.object, problem.detail));
    }
    for notice in &report.notices {
        output.warning(notice);
    }
    output.print(format!(
        "Checked {} backups, {} packs and {} WAL files in {}",
        report.snapshots,
        report.packs,
        report.wal_files,
        repository.location()
    ));
    if args.read_data {
        output.print(format!("Read {}", human::size(report.bytes_read)));
    }
    output.print(match report.problems.len() {
        0 => "No problems found".to_owned(),
        1 => "1 problem found".to_owned(),
        count => format!("{count} problems found"),
    });
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| {
            json!({
                "object": problem.object,
                "detail": problem.detail,
                "backups": problem.backups,
            })
        })
        .collect();
    output.result(
        "repository",
        json!({
            "backups": report.snapshots,
            "packs": report.packs,
            "wal_files": report.wal_files,
            "bytes_read": report.bytes_read,
            "problems": problems,
            "notices": report.notices,
        }),
    );
    Ok(())
}
