//! `barman setup-sql`.

use std::time::Duration;

use serde_json::json;

use super::{Session, remote};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::server::setup::{self, Known};

/// How long the server may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Print the SQL that prepares a server to be backed up.
///
/// The roles that the configuration names, what they may do and why, and as comments the lines of
/// pg_hba.conf and the settings, with those that need a restart. It changes nothing by itself. If the server
/// can be asked, the script tells how its settings are now. A superuser pipes it into
/// 'psql -v ON_ERROR_STOP=1 -d postgres'.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the server
    #[arg(value_name = "SERVER_NAME")]
    pub server_name: String,
    /// Write it for this major version, without connecting
    #[arg(long, value_name = "VERSION")]
    pub pg_version: Option<u32>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman setup-sql main
  barman setup-sql main --pg-version 17
  barman setup-sql main > prepare.sql";

/// Runs the command.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let server = session.server(&args.server_name)?;
    let known = match args.pg_version {
        Some(version) => Known { version: Some(version), ..Known::default() },
        None => match ask(server).await {
            Ok(known) => known,
            // Before its roles exist, a server lets nobody in.
            Err(error) => {
                tracing::info!("written without asking server '{}': {error}", server.name);
                Known::default()
            }
        },
    };
    let script = setup::script(server, &known, &program())?;
    session.output.print(script.trim_end());
    session.output.result(&server.name, json!({ "sql": script }));
    Ok(())
}

async fn ask(server: &Server) -> Result<Known> {
    let asked = async {
        let sql = remote::connect(server).await?;
        let known = Known::ask(&sql).await;
        sql.close().await;
        known
    };
    tokio::time::timeout(PATIENCE, Box::pin(asked))
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Postgres, format!("no answer in {PATIENCE:?}"))))
}

/// How PostgreSQL shall call this program: by its whole path, where that needs no quoting.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let path = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.starts_with('/') && path.chars().all(is_plain) {
        path.into_owned()
    } else {
        "barman".to_owned()
    }
}
