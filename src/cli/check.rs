//! `barman check`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::Session;
use super::open::Places;
use super::output::{Output, Tone, mangle};
use crate::config::Server;
use crate::error::Result;
use crate::server::check::{self, Check, Patience, Report};

/// Check whether servers can be backed up.
///
/// Connects to the servers and the repository and checks all that a backup and WAL archiving need. Many
/// servers are checked at once; each line waits no longer than a third of the time limit. The exit code is 0
/// when every check passes. With --nagios it prints one line for all servers and exits with 2 when any check
/// fails.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
    /// Print one line that Nagios and its kin understand
    #[arg(long)]
    pub nagios: bool,
    /// Give up on a server after so many seconds; 0 never does. Overrides check_timeout
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u32>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman check all
  barman check main --nagios
  barman -f json check main";

/// How many servers are checked at once: they cost little but time, and three descriptors each.
const PARALLEL: usize = 100;

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let mut places = Places::new(output);
    let mut nagios = Nagios::default();
    let mut checks = vec![];
    for server in session.servers(&args.server_name) {
        let is_off = server.disabled && server.errors().next().is_none();
        if is_off || !server.active {
            let how = if is_off { "temporarily disabled" } else { "inactive" };
            if !args.nagios {
                output.info(format!("Skipping {how} server '{}'", server.name));
            }
            nagios.ignored.push(&server.name);
            continue;
        }
        let timeout = timeout(args.check_timeout, server);
        let place = places.of(&server.repository, Patience::of(timeout));
        let at = checks.len();
        checks.push(async move { (at, server, check::run(server, &place, timeout).await) });
    }
    let mut reports = stream::iter(checks).buffer_unordered(PARALLEL).boxed_local();
    // They are shown in their order, each as soon as it can be.
    let mut early = BTreeMap::new();
    while let Some((at, server, report)) = reports.next().await {
        early.insert(at, (server, report));
        while let Some((server, report)) = early.remove(&nagios.servers.len()) {
            if !args.nagios {
                print(&server.name, &report, output);
            }
            output.result(&server.name, describe(&report));
            if !report.passed() {
                output.set_exit_code(if args.nagios { 2 } else { 1 });
            }
            nagios.servers.push((&server.name, report));
        }
    }
    if args.nagios {
        if session.servers_unknown(&args.server_name) {
            output.print("BARMAN CRITICAL - Global configuration errors");
            output.set_exit_code(2);
        } else {
            output.print(nagios.lines().join("\n"));
        }
    }
    Ok(())
}

/// The time limit of the command line, or else the server's; 0 is none.
pub fn timeout(argument: Option<u32>, server: &Server) -> Option<Duration> {
    match argument {
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds.into())),
        None => server.check_timeout,
    }
}

fn print(server: &str, report: &Report, output: &Output) {
    output.print(format!("Server {server}:"));
    for Check { name, hint, passed, .. } in &report.checks {
        let result = if *passed {
            output.paint(Tone::Good, "OK")
        } else {
            output.paint(Tone::Bad, "FAILED")
        };
        let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
        output.print(format!("\t{name}: {result}{hint}"));
    }
}

/// The lines by their keys, as Barman has them.
pub fn describe(report: &Report) -> Value {
    let mut shown = Map::new();
    for Check { name, hint, passed, .. } in &report.checks {
        let status = if *passed { "OK" } else { "FAILED" };
        // Of two results of one check the bad one counts.
        if *passed && shown.contains_key(&mangle(name)) {
            continue;
        }
        shown.insert(mangle(name), json!({ "status": status, "hint": hint }));
    }
    Value::Object(shown)
}

/// What Nagios and its kin get: one line, and one more for each failed check of a server.
#[derive(Default)]
struct Nagios<'s> {
    servers: Vec<(&'s str, Report)>,
    ignored: Vec<&'s str>,
}

impl Nagios<'_> {
    fn lines(&self) -> Vec<String> {
        let bad: Vec<&(&str, Report)> =
            self.servers.iter().filter(|(_, report)| !report.passed()).collect();
        let mut lines = vec![match (bad.as_slice(), self.servers.as_slice()) {
            ([], []) if self.ignored.is_empty() => "BARMAN OK - No server configured".to_owned(),
            ([], [(one, _)]) => format!("BARMAN OK - Ready to serve the Espresso backup for {one}"),
            ([], all) => {
                let names: Vec<String> = all.iter().map(|(name, _)| format!("* {name}")).collect();
                let count = all.len();
                let names = names.join(" ");
                format!(
                    "BARMAN OK - Ready to serve the Espresso backup for {count} servers {names}"
                )
            }
            ([(one, report)], [_]) => format!(
                "BARMAN CRITICAL - server {one} has issues * {one} FAILED: {}",
                failed(report).join(", ")
            ),
            (bad, all) => {
                let each: Vec<String> = bad
                    .iter()
                    .map(|(name, report)| format!("* {name} FAILED: {}", failed(report).join(", ")))
                    .collect();
                let (count, total, each) = (bad.len(), all.len(), each.join(" "));
                format!("BARMAN CRITICAL - {count} server out of {total} have issues {each}")
            }
        }];
        if let Some(first) = lines.first_mut() {
            if !self.ignored.is_empty() {
                first.push_str(&format!(" * IGNORING: {}", self.ignored.join(", ")));
            }
            if !self.servers.is_empty() {
                first.push_str(&format!("|{}", self.performance()));
            }
        }
        for (name, report) in bad {
            for check in report.checks.iter().filter(|check| !check.passed) {
                let hint = if check.hint.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", check.hint)
                };
                lines.push(format!("{name}.{}: FAILED{hint}", check.name));
            }
        }
        lines
    }

    fn performance(&self) -> String {
        let each = self.servers.iter().map(|(name, report)| {
            format!("{name}={}B {name}_wals={}B", report.backup_bytes, report.wal_bytes)
        });
        each.collect::<Vec<_>>().join(" ")
    }
}

fn failed(report: &Report) -> Vec<&'static str> {
    report.checks.iter().filter(|check| !check.passed).map(|check| check.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(failed: &[&'static str]) -> Report {
        let check = |name, passed| Check { name, hint: String::new(), passed, blocks: true };
        let mut checks = vec![check("PostgreSQL", true)];
        checks.extend(failed.iter().map(|name| check(name, false)));
        Report { checks, backup_bytes: 12, wal_bytes: 3 }
    }

    #[test]
    fn nagios_gets_the_lines_it_knows() {
        let mut nagios = Nagios::default();
        assert_eq!(nagios.lines(), ["BARMAN OK - No server configured"]);
        nagios.servers.push(("pg", report(&[])));
        assert_eq!(
            nagios.lines(),
            ["BARMAN OK - Ready to serve the Espresso backup for pg|pg=12B pg_wals=3B"]
        );
        nagios.servers.push(("b", report(&[])));
        nagios.ignored.push("c");
        assert_eq!(
            nagios.lines(),
            ["BARMAN OK - Ready to serve the Espresso backup for 2 servers * pg * b * IGNORING: \
              c|pg=12B pg_wals=3B b=12B b_wals=3B"]
        );
        nagios = Nagios { servers: vec![("pg", report(&["wal_level", "ssh"]))], ignored: vec![] };
        assert_eq!(
            nagios.lines(),
            [
                "BARMAN CRITICAL - server pg has issues * pg FAILED: wal_level, ssh|pg=12B pg_wals=3B",
                "pg.wal_level: FAILED",
                "pg.ssh: FAILED",
            ]
        );
        nagios.servers.push(("b", report(&[])));
        assert!(nagios.lines()[0].starts_with(
            "BARMAN CRITICAL - 1 server out of 2 have issues * pg FAILED: wal_level, ssh|pg="
        ));
    }
}
