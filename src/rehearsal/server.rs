//! The server of a rehearsal: how it is started, when it has recovered, and how one talks to it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::scratch::Scratch;
use super::settings::{self, PORT};
use crate::error::{Error, Kind, Result};
use crate::postgres::conninfo::{ConnInfo, Environment};
use crate::postgres::sql::SqlConnection;
use crate::restore::programs::Programs;

/// A server that was started. The keeper of its directories stops it.
#[derive(Debug)]
pub struct Server {
    /// Its programs.
    pub programs: Programs,
    process: Child,
    info: ConnInfo,
}

/// How a server is started.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// Its programs.
    pub programs: &'a Programs,
    /// Its `postgresql.conf`, if the backup has one.
    pub main: Option<&'a Path>,
    /// Whether it loads the libraries that the configuration names.
    pub with_libraries: bool,
}

/// The file that the server writes to, in the scratch directory.
const LOG: &str = "log";

/// Only who gets to the socket is let in, and that is its user and root.
const HBA: &str = "local all all trust\n";

/// How often a server is looked at that recovers.
const PAUSE: Duration = Duration::from_millis(100);

/// So many lines of a log tell why a server ended.
const REASONS: usize = 4;

impl Server {
    /// Starts it, on what was restored.
    pub async fn start(start: &Start<'_>, scratch: &mut Scratch) -> Result<Server> {
        let data = scratch.data();
        let (hba, ident) = (scratch.write("hba.conf", HBA)?, scratch.write("ident.conf", "")?);
        let main = match start.main {
            Some(path) => path.to_owned(),
            None => scratch.write("postgresql.conf", "")?,
        };
        let log = scratch.write(LOG, "")?;
        let log = fs::File::options().append(true).open(&log);
        let program = start.programs.program("postgres");
        let cannot = |error| {
            Error::new(Kind::Io, format!("cannot run {}", program.display())).because(error)
        };
        let log = log.and_then(|log| Ok((log.try_clone()?, log))).map_err(cannot)?;
        let mut command = scratch.command(&program);
        command.arg("-D").arg(&data);
        let files = [("config_file", &main), ("data_directory", &data), ("hba_file", &hba)];
        for (name, path) in files.into_iter().chain([("ident_file", &ident)]) {
            command.arg("-c").arg(format!("{name}={}", path.display()));
        }
        let major = start.programs.major;
        for setting in settings::server(major, scratch.sockets(), start.with_libraries) {
            command.arg("-c").arg(setting);
        }
        command.stdout(log.0).stderr(log.1);
        let mut command = Command::from(command);
        // A terminal's Ctrl-C is not for it.
        command.process_group(0);
        let process = command.spawn().map_err(cannot)?;
        scratch.tell(process.id()).await?;
        let info = format!("host={} port={PORT} user=postgres", scratch.sockets().display());
        let info = ConnInfo::parse_in(&info, &Environment::default())
            .map_err(crate::postgres::Error::ConnInfo)?
            .with_application_name("barman rehearsal");
        Ok(Server { programs: start.programs.clone(), process, info })
    }

    /// Waits until it has recovered; otherwise says why it has not.
    pub async fn wait(&mut self, scratch: &mut Scratch) -> Result<Result<(), String>> {
        loop {
            let ended = self.process.try_wait();
            let ended = ended.map_err(|e| Error::new(Kind::Io, "cannot see the server").because(e));
            if let Some(status) = ended? {
                scratch.tell(None).await?;
                let why = reasons(&log(scratch));
                return Ok(Err(format!(
                    "PostgreSQL ended before it had recovered ({status}): {why}"
                )));
            }
            if is_ready(&scratch.data()) {
                return Ok(Ok(()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether it ended because its WAL has records that a library must read.
    pub fn lacks_library(&self, scratch: &Scratch) -> bool {
        log(scratch).contains("resource manager with ID")
    }

    /// Goes on as a superuser, whom the first of some roles that exists tells of.
    ///
    /// # Errors
    /// If none of them exists.
    pub async fn become_superuser(&mut self, roles: &[String]) -> Result<()> {
        let mut refused = String::new();
        for role in roles {
            for database in ["template1", "postgres"] {
                let mut info = self.info.clone().with_dbname(database);
                info.user = role.clone();
                match Box::pin(SqlConnection::connect(&info)).await {
                    Ok(sql) => {
                        let superuser = sql.superuser().await;
                        sql.close().await;
                        self.info.user = superuser?;
                        self.info.options = Some(settings::session(self.programs.major));
                        return Ok(());
                    }
                    Err(error) => refused = error.to_string(),
                }
            }
        }
        let message =
            format!("the restored server knows none of these roles: {}", roles.join(", "));
        Err(Error::new(Kind::Postgres, message).because(refused))
    }

    /// A session in a database.
    pub async fn connect(&self, database: &str) -> Result<SqlConnection> {
        let info = self.info.clone().with_dbname(database);
        Ok(Box::pin(SqlConnection::connect(&info)).await?)
    }

    /// A program that will connect to it.
    pub fn client(&self, program: &str, scratch: &Scratch) -> Command {
        let mut command = scratch.command(&self.programs.program(program));
        command.env("PGHOST", scratch.sockets()).env("PGPORT", PORT).env("PGUSER", &self.info.user);
        let options = self.info.options.as_deref().unwrap_or_default();
        // What is wrong is an error too.
        command.env("PGOPTIONS", format!("{options} -c client_min_messages=error"));
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }
}

/// The postmaster's own word: its status is the eighth line of `postmaster.pid`.
fn is_ready(data: &Path) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
}

fn log(scratch: &Scratch) -> String {
    let log = fs::read(scratch.path(LOG)).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}

/// Why a server ended, in its own words.
fn reasons(log: &str) -> String {
    const TELLING: [&str; 4] = ["FATAL:  ", "PANIC:  ", "DETAIL:  ", "HINT:  "];
    let tells = |line: &&str| TELLING.iter().any(|word| line.contains(word));
    let mut lines: Vec<&str> = log.lines().filter(tells).collect();
    if lines.is_empty() {
        lines = log.lines().collect();
    }
    let words = |line: &&str| match TELLING.iter().find_map(|word| line.split_once(word)) {
        Some((_, words)) => words.to_owned(),
        None => (*line).to_owned(),
    };
    let first = lines.len().saturating_sub(REASONS);
    lines.iter().skip(first).map(words).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_why_a_server_ended() {
        let log = "2026-01-01 LOG:  starting\n\
            2026-01-01 FATAL:  could not access file \"x\": No such file or directory\n\
            2026-01-01 HINT:  Install it.\n\
            2026-01-01 LOG:  database system is shut down\n";
        let expected = "could not access file \"x\": No such file or directory; Install it.";
        assert_eq!(reasons(log), expected);
        assert_eq!(reasons("postgres: invalid option\n"), "postgres: invalid option");
        assert_eq!(reasons(""), "");
    }
}
