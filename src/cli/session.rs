//! What every command works with: the configuration and the output.

use std::borrow::Cow;

use super::names;
use super::open::Repositories;
use super::output::Output;
use super::progress::Bar;
use crate::catalog::servers;
use crate::config::{Config, RepositorySettings, Server};
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::repository::Access;

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

    /// The server called `name`; without any configuration file, the one that the repository knows.
    pub async fn server_or_known(
        &self,
        name: &str,
        repositories: &mut Repositories<'_>,
    ) -> Result<Cow<'_, Server>> {
        match self.known_servers(repositories).await? {
            None => self.server(name).map(Cow::Borrowed),
            Some(mut known) => match known.iter().position(|server| server.name == name) {
                Some(at) => Ok(Cow::Owned(known.swap_remove(at))),
                None => Err(unknown_to_repository(name, &known)),
            },
        }
    }

    /// As [`Self::servers`]; without any configuration file, those that the repository knows.
    pub async fn servers_or_known(
        &self,
        names: &[String],
        repositories: &mut Repositories<'_>,
    ) -> Result<Vec<Cow<'_, Server>>> {
        let Some(known) = self.known_servers(repositories).await? else {
            return Ok(self.servers(names).into_iter().map(Cow::Borrowed).collect());
        };
        for name in names.iter().filter(|name| *name != "all") {
            if known.iter().all(|server| server.name != *name) {
                self.output.failure(&unknown_to_repository(name, &known));
            }
        }
        let is_meant = |server: &Server| names.iter().any(|n| *n == server.name || n == "all");
        Ok(known.into_iter().filter(is_meant).map(Cow::Owned).collect())
    }

    /// Without any configuration file, the servers that the repository knows: enough to restore them.
    pub async fn known_servers(
        &self,
        repositories: &mut Repositories<'_>,
    ) -> Result<Option<Vec<Server>>> {
        if self.config.path.is_some() {
            return Ok(None);
        }
        let repository = repositories.at(&self.config.global.repository, Access::Read).await?;
        let names = servers::known(&repository).await?;
        Ok(Some(names.iter().map(|name| self.config.bare_server(name)).collect()))
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

fn unknown_to_repository(name: &str, known: &[Server]) -> Error {
    let error = Error::new(Kind::NotFound, format!("the repository has no server '{name}'"));
    let known: Vec<&str> = known.iter().map(|server| server.name.as_str()).collect();
    match known.as_slice() {
        [] => error.hint("it has none at all"),
        known => error.hint(format!("it has: {}", known.join(", "))),
    }
}
