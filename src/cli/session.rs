//! What every command works with: the configuration and the output.

use std::borrow::Cow;

use super::names;
use super::output::Output;
use super::progress::Bar;
use crate::config::{Config, RepositorySettings, Server};
use crate::error::Result;
use crate::interrupt::Interrupt;

/// One run of the program.
pub struct Session {
    /// The configuration.
    pub config: Config,
    /// Where everything is said.
    pub output: Output,
    /// Tells when someone wants the program to end.
    pub interrupt: Interrupt,
}

impl Session {
    /// The server called `name`.
    pub fn server(&self, name: &str) -> Result<&Server> {
        names::one(&self.config, name)
    }

    /// The server called `name`; without any configuration file, what the environment makes of it. For
    /// the commands that a database host runs.
    pub fn server_or_bare(&self, name: &str) -> Result<Cow<'_, Server>> {
        if self.config.path.is_none() && !self.config.servers.contains_key(name) {
            return Ok(Cow::Owned(self.config.bare_server(name)));
        }
        self.server(name).map(Cow::Borrowed)
    }

    /// The servers that `names` (or `all`) mean. Unknown names are reported here; the others stay.
    pub fn servers(&self, names: &[String]) -> Vec<&Server> {
        let mut servers = Vec::new();
        for server in names::many(&self.config, names) {
            match server {
                Ok(server) => servers.push(server),
                Err(error) => self.output.failure(&error),
            }
        }
        servers
    }

    /// Whether any of `names` is unknown.
    pub fn servers_unknown(&self, names: &[String]) -> bool {
        names::many(&self.config, names).iter().any(Result::is_err)
    }

    /// The repository of a server, or the global one.
    pub fn repository(&self, server: Option<&str>) -> Result<&RepositorySettings> {
        Ok(match server {
            Some(name) => &self.server(name)?.repository,
            None => &self.config.global.repository,
        })
    }

    /// A bar on the terminal, if anybody sees it.
    pub fn progress(&self, phase: &str) -> Bar {
        self.output.terminal().progress(phase)
    }
}
