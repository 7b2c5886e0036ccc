//! `barman list-servers`.

use serde_json::{Value, json};

use super::Session;
use super::open::Repositories;
use crate::error::Result;

/// List the configured servers.
///
/// Without any configuration file, it lists those that the repository knows (BARMAN_REPOSITORY, or --repository).
///
/// One line a server, with its description. A server that is disabled (by 'disabled', or because of a
/// value that cannot be understood) or not active says so.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print the names only
    #[arg(long)]
    pub minimal: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman list-servers
  barman list-servers --minimal
  barman -f json list-servers";

/// Lists them.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let Session { config, output, .. } = &*session;
    let known = session.known_servers(&mut Repositories::new(output)).await?;
    let known = known.iter().flatten().map(|server| (&server.name, server));
    for (name, server) in config.servers.iter().chain(known) {
        let description = server.description.clone().unwrap_or_default();
        if args.minimal {
            output.print(name);
            output.result(name, Value::Object(serde_json::Map::new()));
            continue;
        }
        let mut line = name.clone();
        if !description.is_empty() {
            line = format!("{line} - {description}");
        }
        if server.disabled {
            line.push_str(" (WARNING: disabled)");
        } else if !server.active {
            line.push_str(" (inactive)");
        }
        output.print(line);
        output.result(name, json!({ "description": description }));
    }
    Ok(())
}
