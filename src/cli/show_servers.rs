//! `barman show-servers`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::remote::Remote;
use super::{Session, output};
use crate::config::Server;
use crate::error::Result;

/// Show all that holds for one or more servers.
///
/// Every option with the value in force, whether it comes from the server's section, from 'barman' or
/// is a default, and what is wrong with the configuration; and, if it can be asked, what the running
/// server says of itself. Passwords are hidden.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of servers, or 'all'
    #[arg(required = true, value_name = "SERVER_NAME")]
    pub server_name: Vec<String>,
}

const EXAMPLES: &str = "EXAMPLES:
  barman show-servers main
  barman show-servers all
  barman -f json show-servers main replica";

/// Shows them.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    for server in session.servers(&args.server_name) {
        let mut shown = describe(server);
        if server.active && !server.disabled {
            match Remote::ask(server).await {
                Ok(remote) => shown.extend(remote.shown()),
                Err(error) => {
                    shown.insert("connection_error".to_owned(), json!(error.to_string()));
                }
            }
        }
        session.output.print(format!("Server {}:", server.name));
        for (option, value) in &shown {
            session.output.print(format!("\t{option}: {}", output::shown(value)));
        }
        session.output.result(&server.name, shown.into_iter().collect::<Map<_, _>>());
    }
    Ok(())
}

/// The options and what is wrong with them.
fn describe(server: &Server) -> BTreeMap<String, Value> {
    let mut shown = server.shown();
    let messages: Vec<&str> = server.messages.iter().map(|m| m.text.as_str()).collect();
    if !messages.is_empty() {
        shown.insert("msg_list".to_owned(), json!(messages));
    }
    shown
}
