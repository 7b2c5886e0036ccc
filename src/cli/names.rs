//! Server names on the command line: one, several, or `all`.

use crate::config::{Config, Server, did_you_mean, nearest};
use crate::error::{Error, Kind, Result};

/// The server called `name`.
pub fn one<'a>(config: &'a Config, name: &str) -> Result<&'a Server> {
    if let Some(server) = config.servers.get(name) {
        return Ok(server);
    }
    if config.models.contains_key(name) {
        return Err(Error::new(Kind::NotFound, format!("'{name}' is a model, not a server")));
    }
    let hint = did_you_mean(nearest(name, config.servers.keys().map(String::as_str)));
    let error = Error::new(Kind::NotFound, format!("unknown server '{name}'{hint}"));
    Err(match config.path {
        Some(_) => error.hint("'barman list-servers' shows the servers there are"),
        None => error.hint("no configuration file is used: name one with -c"),
    })
}

/// The servers with these names, in this order and each once; `all` is every server there is. A name
/// that is unknown has an error in its place, so that the command can go on with the others.
pub fn many<'a>(config: &'a Config, names: &[String]) -> Vec<Result<&'a Server>> {
    if names.iter().any(|name| name == "all") {
        return config.servers.values().map(Ok).collect();
    }
    let first = |at: usize| !names[..at].contains(&names[at]);
    (0..names.len()).filter(|&at| first(at)).map(|at| one(config, &names[at])).collect()
}
