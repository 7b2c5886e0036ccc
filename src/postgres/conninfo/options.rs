//! From keywords and values to a checked [`ConnInfo`].

use super::{Address, ConnInfo, ConnInfoError, Environment, Host, Parameters, Password};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Defines an enum of a parameter's values and how they are written.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$item_doc])* $item,)+ }

        impl $name {
            fn from_value(value: &str) -> Option<$name> {
                match value { $($text => Some($name::$item),)+ _ => None }
            }
        }
    };
}

choices! {
    /// Whether TLS is used and what it proves, weakest first.
    SslMode {
        /// Never.
        Disable = "disable",
        /// Only if the server insists.
        Allow = "allow",
        /// If the server can.
        Prefer = "prefer",
        /// Always; the server's certificate is verified only if there is a root certificate.
        Require = "require",
        /// And the certificate must be signed by a trusted authority.
        VerifyCa = "verify-ca",
        /// And it must be for this host.
        VerifyFull = "verify-full",
    }
}

choices! {
    /// How TLS begins.
    SslNegotiation {
        /// After asking whether the server speaks it.
        Postgres = "postgres",
        /// At once (PostgreSQL 17 and later).
        Direct = "direct",
    }
}

choices! {
    /// A version of TLS.
    TlsVersion {
        /// TLS 1.2, the lowest ever used.
        Tls12 = "TLSv1.2",
        /// TLS 1.3.
        Tls13 = "TLSv1.3",
    }
}

choices! {
    /// Whether SCRAM is bound to the TLS channel.
    ChannelBinding {
        /// Never.
        Disable = "disable",
        /// If both sides can.
        Prefer = "prefer",
        /// No connection without.
        Require = "require",
    }
}

choices! {
    /// Which of several servers will do.
    TargetSessionAttrs {
        /// Any.
        Any = "any",
        /// One that takes writes by default.
        ReadWrite = "read-write",
        /// One that does not.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One that is.
        Standby = "standby",
        /// One in recovery, or else any.
        PreferStandby = "prefer-standby",
    }
}

/// Checks all values and puts in the defaults.
pub(super) fn build(
    given: &Parameters,
    environment: &Environment,
) -> Result<ConnInfo, ConnInfoError> {
    let home = environment.home();
    let user = match given.get("user") {
        Some(user) => user.to_owned(),
        None => environment.user().ok_or_else(|| value("user", ""))?,
    };
    let ssl_root_cert = given.get("sslrootcert").map(str::to_owned);
    // Trusting the system's authorities proves nothing unless the name is checked too.
    let system = ssl_root_cert.as_deref() == Some("system");
    let default_mode = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let ssl_mode = choice(given, "sslmode", SslMode::from_value, default_mode)?;
    if system && ssl_mode != SslMode::VerifyFull {
        return Err(ConnInfoError::Syntax(
            "sslrootcert=system is for sslmode=verify-full only".into(),
        ));
    }
    let ssl_negotiation =
        choice(given, "sslnegotiation", SslNegotiation::from_value, SslNegotiation::Postgres)?;
    if ssl_negotiation == SslNegotiation::Direct && ssl_mode < SslMode::Require {
        return Err(ConnInfoError::Syntax(
            "sslnegotiation=direct needs sslmode=require or stronger".into(),
        ));
    }
    let load_balance_hosts = match given.get("load_balance_hosts") {
        None | Some("disable") => false,
        Some("random") => true,
        Some(other) => return Err(value("load_balance_hosts", other)),
    };
    let application_name = ["application_name", "fallback_application_name"]
        .iter()
        .find_map(|keyword| given.get(keyword))
        .unwrap_or("barman");
    let pass_file = match given.get("passfile") {
        Some(file) => Some(PathBuf::from(file)),
        None => home.as_ref().map(|home| home.join(".pgpass")),
    };
    Ok(ConnInfo {
        hosts: hosts(given)?,
        dbname: given.get("dbname").unwrap_or(&user).to_owned(),
        user,
        password: given.get("password").map(Password::new),
        application_name: application_name.to_owned(),
        options: given.get("options").map(str::to_owned),
        connect_timeout: timeout(given)?,
        target_session_attrs: choice(
            given,
            "target_session_attrs",
            TargetSessionAttrs::from_value,
            TargetSessionAttrs::Any,
        )?,
        load_balance_hosts,
        channel_binding: choice(
            given,
            "channel_binding",
            ChannelBinding::from_value,
            ChannelBinding::Prefer,
        )?,
        ssl_mode,
        ssl_negotiation,
        ssl_sni: given.get("sslsni") != Some("0"),
        ssl_min_version: tls_version(given, "ssl_min_protocol_version", TlsVersion::Tls12)?,
        ssl_max_version: tls_version(given, "ssl_max_protocol_version", TlsVersion::Tls13)?,
        ssl_root_cert,
        ssl_cert: given.get("sslcert").map(PathBuf::from),
        ssl_key: given.get("sslkey").map(PathBuf::from),
        pass_file,
        home,
    })
}

fn hosts(given: &Parameters) -> Result<Vec<Host>, ConnInfoError> {
    let list = |keyword| -> Vec<&str> {
        given.get(keyword).map(|text| text.split(',').collect()).unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len());
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(ConnInfoError::Syntax(format!(
            "{} host names do not match {} addresses",
            names.len(),
            addresses.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count.max(1) {
        return Err(ConnInfoError::Syntax(format!(
            "{} ports do not match {} hosts",
            ports.len(),
            count.max(1)
        )));
    }
    let mut hosts = Vec::new();
    for index in 0..count.max(1) {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or("");
        let port = match port.trim() {
            "" => 5432,
            text => match text.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return Err(value("port", text)),
            },
        };
        let name = names.get(index).copied().unwrap_or("");
        let address: Option<IpAddr> = match addresses.get(index).copied().unwrap_or("") {
            "" => None,
            text => Some(text.parse().map_err(|_| value("hostaddr", text))?),
        };
        match (name, address) {
            ("", None) => {
                for directory in DEFAULT_SOCKET_DIRECTORIES {
                    hosts.push(Host { address: Address::Unix(directory.into()), port });
                }
            }
            ("", Some(address)) => hosts.push(Host {
                address: Address::Tcp { name: address.to_string(), address: Some(address) },
                port,
            }),
            (name, None) if name.starts_with('/') => {
                hosts.push(Host { address: Address::Unix(name.into()), port });
            }
            (name, _) if name.starts_with('@') => return Err(value("host", name)),
            (name, address) => {
                let name = name.to_owned();
                hosts.push(Host { address: Address::Tcp { name, address }, port });
            }
        }
    }
    Ok(hosts)
}

fn timeout(given: &Parameters) -> Result<Option<Duration>, ConnInfoError> {
    let Some(text) = given.get("connect_timeout") else { return Ok(None) };
    let seconds: i32 = text.trim().parse().map_err(|_| value("connect_timeout", text))?;
    // One second would be too close to none at all; libpq makes two of it.
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.max(2))))
}

fn tls_version(
    given: &Parameters,
    keyword: &'static str,
    default: TlsVersion,
) -> Result<TlsVersion, ConnInfoError> {
    match given.get(keyword) {
        // Older versions are not spoken; as a lower bound they allow all that are.
        Some("TLSv1" | "TLSv1.1") if keyword == "ssl_min_protocol_version" => Ok(default),
        _ => choice(given, keyword, TlsVersion::from_value, default),
    }
}

fn choice<T>(
    given: &Parameters,
    keyword: &'static str,
    parse: fn(&str) -> Option<T>,
    default: T,
) -> Result<T, ConnInfoError> {
    match given.get(keyword) {
        None => Ok(default),
        Some(text) => parse(text).ok_or_else(|| value(keyword, text)),
    }
}

fn value(keyword: &'static str, value: &str) -> ConnInfoError {
    ConnInfoError::Value { keyword, value: value.to_owned() }
}

/// Debian's, then PostgreSQL's own.
const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
