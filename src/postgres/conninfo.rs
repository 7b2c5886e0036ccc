//! Connection parameters, as libpq understands them.
//!
//! A connection string is completed from a service file, `PG*` variables and defaults, in that order of
//! precedence, and checked. Passwords may also come from a password file, asked for each host when it
//! is connected to. Parameters that could weaken security if ignored are refused by name.

mod environment;
mod options;
mod passfile;
mod syntax;

pub use environment::Environment;
pub use options::{ChannelBinding, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion};

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// What is wrong with connection parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// The string does not follow the syntax.
    #[error("invalid connection string: {0}")]
    Syntax(String),
    /// No such parameter.
    #[error("unknown connection parameter {0:?}")]
    UnknownKeyword(String),
    /// A parameter libpq has, and which is not implemented here.
    #[error("connection parameter {0:?} is not supported")]
    Unsupported(String),
    /// A parameter's value makes no sense.
    #[error("invalid value for connection parameter {keyword:?}: {value:?}")]
    Value {
        /// The parameter.
        keyword: &'static str,
        /// Its value.
        value: String,
    },
    /// The service file or the service in it is missing or wrong.
    #[error("service {service:?}: {reason}")]
    Service {
        /// The service's name.
        service: String,
        /// What is wrong.
        reason: String,
    },
}

/// A secret word. It is wiped from memory when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password.
    pub fn new(password: impl Into<String>) -> Password {
        Password(Zeroizing::new(password.into()))
    }

    /// The password itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket in this directory.
    Unix(PathBuf),
    /// TCP.
    Tcp {
        /// The name certificates and password files know it by.
        name: String,
        /// The address, if given, so that the name need not be looked up.
        address: Option<IpAddr>,
    },
}

/// One of the servers to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where.
    pub address: Address,
    /// The port, part of a socket's name too.
    pub port: u16,
}

impl Host {
    /// The socket's file, for a Unix socket.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Unix(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            Address::Tcp { .. } => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(directory) => write!(f, "host={}", directory.display())?,
            Address::Tcp { name, .. } => write!(f, "host={name}")?,
        }
        write!(f, " port={}", self.port)
    }
}

/// Everything needed to connect.
#[derive(Clone)]
pub struct ConnInfo {
    /// The servers to try, in order; at least one.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database; the role's name if none was given.
    pub dbname: String,
    /// The password, if it was given outside of a password file.
    pub password: Option<Password>,
    /// How the connection names itself.
    pub application_name: String,
    /// Settings for the session, as for `postgres -c …`.
    pub options: Option<String>,
    /// How long one attempt at one host may take; `None` waits as long as the system does.
    pub connect_timeout: Option<Duration>,
    /// Which of the servers will do.
    pub target_session_attrs: TargetSessionAttrs,
    /// Whether the hosts are tried in random order.
    pub load_balance_hosts: bool,
    /// Whether SCRAM is bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// TLS: whether, and what is verified.
    pub ssl_mode: SslMode,
    /// How TLS begins.
    pub ssl_negotiation: SslNegotiation,
    /// Whether the server name is sent in the clear (SNI).
    pub ssl_sni: bool,
    /// The lowest TLS version allowed.
    pub ssl_min_version: TlsVersion,
    /// The highest TLS version allowed.
    pub ssl_max_version: TlsVersion,
    /// Authorities to trust: `system`, or a file; `None` for the default file, if it exists.
    pub ssl_root_cert: Option<String>,
    /// A client certificate; `None` for the default file, if it exists.
    pub ssl_cert: Option<PathBuf>,
    /// Its key.
    pub ssl_key: Option<PathBuf>,
    pass_file: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl ConnInfo {
    /// Reads a connection string in the environment of this process.
    pub fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::parse_in(text, &Environment::of_process())
    }

    /// Reads a connection string (`key=value …` or `postgresql://…`) in a given environment.
    pub fn parse_in(text: &str, environment: &Environment) -> Result<ConnInfo, ConnInfoError> {
        let mut given = Parameters::default();
        for (keyword, value) in syntax::parse(text)? {
            given.set(&keyword, value)?;
        }
        environment.complete(&mut given)?;
        options::build(&given, environment)
    }

    /// The same connection with another application name.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> ConnInfo {
        self.application_name = name.to_owned();
        self
    }

    /// The same connection to another database.
    #[must_use]
    pub fn with_dbname(mut self, dbname: &str) -> ConnInfo {
        self.dbname = dbname.to_owned();
        self
    }

    /// The same connection to no other server than `host`, if it is one of those to try.
    #[must_use]
    pub fn at(&self, host: &Host) -> ConnInfo {
        let mut pinned = self.clone();
        if self.hosts.contains(host) {
            pinned.hosts = vec![host.clone()];
        }
        pinned
    }

    /// The password for `host`: the one given, or the password file's. Replication connections look
    /// for the database `replication`.
    pub fn password_for(&self, host: &Host, dbname: &str) -> Option<Password> {
        self.password.clone().or_else(|| {
            let file = self.pass_file.as_deref()?;
            passfile::find(file, host, dbname, &self.user)
        })
    }

    /// Who is connected to where, without secrets, for messages.
    pub fn describe(&self) -> String {
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for host in &self.hosts {
            names.push(match &host.address {
                Address::Unix(directory) => directory.display().to_string(),
                Address::Tcp { name, .. } => name.clone(),
            });
            ports.push(host.port.to_string());
        }
        ports.dedup();
        let (hosts, ports) = (names.join(","), ports.join(","));
        format!("host={hosts} port={ports} user={} dbname={}", self.user, self.dbname)
    }

    /// A file in `~/.postgresql`, if it exists.
    pub(super) fn default_file(&self, name: &str) -> Option<PathBuf> {
        let path = self.home.as_ref()?.join(".postgresql").join(name);
        path.exists().then_some(path)
    }

    /// The file of the password file in use, for hints.
    pub fn pass_file(&self) -> Option<&Path> {
        self.pass_file.as_deref()
    }
}

impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({})", self.describe())
    }
}

/// Parameters by keyword. Values are wiped when dropped: one may be the password.
#[derive(Clone, Default)]
struct Parameters(BTreeMap<&'static str, Zeroizing<String>>);

impl Parameters {
    /// Sets a parameter, replacing an earlier value.
    fn set(&mut self, keyword: &str, value: Zeroizing<String>) -> Result<(), ConnInfoError> {
        match KEYWORDS.iter().find(|(known, _)| *known == keyword) {
            Some((known, Use::Honoured)) => {
                self.0.insert(known, value);
                Ok(())
            }
            Some((_, Use::Ignored)) => Ok(()),
            Some((_, Use::Refused)) if value.is_empty() => Ok(()),
            Some((_, Use::Refused)) => Err(ConnInfoError::Unsupported(keyword.to_owned())),
            None => Err(ConnInfoError::UnknownKeyword(keyword.to_owned())),
        }
    }

    fn set_default(
        &mut self,
        keyword: &str,
        value: Zeroizing<String>,
    ) -> Result<(), ConnInfoError> {
        if self.0.contains_key(keyword) { Ok(()) } else { self.set(keyword, value) }
    }

    /// A parameter's value; an empty one counts as absent, as in libpq.
    fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(|value| value.as_str()).filter(|value| !value.is_empty())
    }
}

#[derive(Clone, Copy)]
enum Use {
    /// Means here what it means in libpq.
    Honoured,
    /// Tuning, or of no meaning here.
    Ignored,
    /// Ignoring it would give less security than was asked for.
    Refused,
}

const KEYWORDS: &[(&str, Use)] = &[
    ("application_name", Use::Honoured),
    ("channel_binding", Use::Honoured),
    ("client_encoding", Use::Ignored),
    ("connect_timeout", Use::Honoured),
    ("dbname", Use::Honoured),
    ("fallback_application_name", Use::Honoured),
    ("gssdelegation", Use::Ignored),
    ("gssencmode", Use::Ignored),
    ("gsslib", Use::Ignored),
    ("host", Use::Honoured),
    ("hostaddr", Use::Honoured),
    ("keepalives", Use::Ignored),
    ("keepalives_count", Use::Ignored),
    ("keepalives_idle", Use::Ignored),
    ("keepalives_interval", Use::Ignored),
    ("krbsrvname", Use::Ignored),
    ("load_balance_hosts", Use::Honoured),
    ("max_protocol_version", Use::Ignored),
    ("min_protocol_version", Use::Ignored),
    ("options", Use::Honoured),
    ("passfile", Use::Honoured),
    ("password", Use::Honoured),
    ("port", Use::Honoured),
    // Which kind of connection it is follows from what it is opened for.
    ("replication", Use::Ignored),
    ("require_auth", Use::Refused),
    ("requirepeer", Use::Refused),
    ("service", Use::Honoured),
    ("servicefile", Use::Honoured),
    ("sslcert", Use::Honoured),
    ("sslcertmode", Use::Refused),
    ("sslcompression", Use::Ignored),
    ("sslcrl", Use::Refused),
    ("sslcrldir", Use::Refused),
    ("sslkey", Use::Honoured),
    ("sslmode", Use::Honoured),
    ("sslnegotiation", Use::Honoured),
    ("sslpassword", Use::Refused),
    ("sslrootcert", Use::Honoured),
    ("sslsni", Use::Honoured),
    ("ssl_max_protocol_version", Use::Honoured),
    ("ssl_min_protocol_version", Use::Honoured),
    ("target_session_attrs", Use::Honoured),
    ("tcp_user_timeout", Use::Ignored),
    ("user", Use::Honoured),
];

#[cfg(test)]
mod tests;
