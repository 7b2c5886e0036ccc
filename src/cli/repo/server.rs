//! `barman repo server-accept` and `barman repo server-rename`.

use serde_json::json;

use crate::cli::{Session, open, remote};
use crate::config::RepositorySettings;
use crate::error::{Error, Kind, Result};
use crate::repository::{Access, servers};

/// Accept that a server is another cluster now.
///
/// A server is bound to the system identifier of its cluster by its first backup: backups and WAL of another
/// one are refused, because two servers of one name would spoil each other's history. After pg_upgrade, or
/// a new initdb, the system identifier is another one, and this accepts it. What there is of the one before
/// can be restored as ever. Asks the server for its identifier, unless it is given.
#[derive(Debug, clap::Args)]
#[command(after_help = ACCEPT_EXAMPLES)]
pub struct AcceptArgs {
    /// Name of the server
    pub server_name: String,
    /// Accept this system identifier, without asking the server
    #[arg(long, value_name = "ID")]
    pub system_id: Option<u64>,
}

const ACCEPT_EXAMPLES: &str = "EXAMPLES:
  barman repo server-accept main
  barman repo server-accept main --system-id 7300000000000000001";

/// Give a server's history a new name.
///
/// Nothing is copied: from now on a section NEW in the configuration has all backups and WAL of OLD. OLD leads
/// there too, so that archive_command and restore_command can be changed at leisure; but no other server can
/// be called so. NEW must not have a history of its own. To rename it back, exchange the two names.
#[derive(Debug, clap::Args)]
#[command(after_help = RENAME_EXAMPLES)]
pub struct RenameArgs {
    /// The name that the server has had
    pub old: String,
    /// The name that it gets
    pub new: String,
}

const RENAME_EXAMPLES: &str = "EXAMPLES:
  barman repo server-rename main production";

/// Runs `barman repo server-accept`.
pub async fn accept(args: AcceptArgs, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let server = session.server(&args.server_name)?;
    let repository =
        open::repository(&server.repository, Access::Write, |text| output.warning(text)).await?;
    let system_id = match args.system_id {
        Some(id) => id,
        None => {
            let sql = remote::connect(server).await?;
            let id = sql.system_id().await;
            sql.close().await;
            id?.0
        }
    };
    let before = servers::accept(&repository, &server.name, system_id).await?;
    output.print(match before {
        Some(before) if before == system_id => {
            format!("Server {} stands for system {system_id} already", server.name)
        }
        Some(before) => format!(
            "Server {} stands for system {system_id} from now on; what there is of system {before} stays",
            server.name
        ),
        None => format!("Server {} stands for system {system_id} from now on", server.name),
    });
    let before = before.map(|id| id.to_string());
    output.result(
        "server",
        json!({ "name": server.name, "system_id": system_id.to_string(), "before": before }),
    );
    Ok(())
}

/// Runs `barman repo server-rename`; `server` names the server whose repository is meant.
pub async fn rename(args: RenameArgs, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let RenameArgs { old, new } = &args;
    if old == new {
        return Err(Error::new(Kind::Usage, "the two names are the same"));
    }
    let settings = match server {
        Some(_) => session.repository(server)?,
        None => repository_of(&args, session),
    };
    let repository = open::repository(settings, Access::Write, |text| output.warning(text)).await?;
    servers::rename(&repository, old, new).await?;
    output.print(format!("What is stored of server {old} is found as {new} from now on"));
    if !session.config.servers.contains_key(new) {
        output.print(format!("Call its section [{new}] in the configuration"));
    }
    let stored = servers::stored_name(&repository, new).await?;
    output.result("server", json!({ "old": old, "new": new, "stored_as": stored }));
    Ok(())
}

/// The repository of whichever of the two has a section yet, or the global one.
fn repository_of<'s>(args: &RenameArgs, session: &'s Session) -> &'s RepositorySettings {
    let of = |name: &String| Some(&session.config.servers.get(name)?.repository);
    of(&args.old).or(of(&args.new)).unwrap_or(&session.config.global.repository)
}
