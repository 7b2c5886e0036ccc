//! tokio-postgres on our own transport: the same hosts, TLS and passwords as replication.

use super::SqlConnection;
use crate::postgres::conninfo::{self, ConnInfo, Host};
use crate::postgres::error::{Error, ServerError};
use crate::postgres::transport::{self, Session, Transport};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding as Binding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Connection};

impl SqlConnection {
    /// Connects.
    pub async fn connect(info: &ConnInfo) -> Result<SqlConnection, Error> {
        let opened = transport::connect(info, async |transport: Transport, host: &Host| {
            let config = config(info, host, transport.is_encrypted());
            let session = config.connect_raw(transport, AsItIs).await;
            let (client, connection) = session.map_err(|cause| login_error(cause, host))?;
            Ok(Opened { client, connection })
        });
        let Opened { client, connection } = Box::pin(opened).await?;
        let mut parameters = BTreeMap::new();
        for name in ["server_version", "server_encoding", "in_hot_standby"] {
            if let Some(value) = connection.parameter(name) {
                parameters.insert(name, value.to_owned());
            }
        }
        // Ends when the client is dropped.
        let connection = tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(error = %error(cause), "SQL connection ended");
            }
        });
        Ok(SqlConnection { client, connection, parameters })
    }
}

fn config(info: &ConnInfo, host: &Host, encrypted: bool) -> Config {
    let mut config = Config::new();
    config.user(&info.user).dbname(&info.dbname).application_name(&info.application_name);
    if let Some(password) = info.password_for(host, &info.dbname) {
        config.password(password.expose());
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    // The transport is encrypted already, or shall not be: nothing is left to negotiate.
    config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
    config.ssl_negotiation(SslNegotiation::Direct);
    config.channel_binding(match info.channel_binding {
        conninfo::ChannelBinding::Disable => ChannelBinding::Disable,
        conninfo::ChannelBinding::Prefer => ChannelBinding::Prefer,
        conninfo::ChannelBinding::Require => ChannelBinding::Require,
    });
    config
}

struct Opened {
    client: Client,
    connection: Connection<Transport, Transport>,
}

impl Session for Opened {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.connection.parameter(name)
    }
}

/// "Opens TLS" on a transport that has it.
struct AsItIs;

impl TlsConnect<Transport> for AsItIs {
    type Stream = Transport;
    type Error = Infallible;
    type Future = Ready<Result<Transport, Infallible>>;

    fn connect(self, transport: Transport) -> Self::Future {
        ready(Ok(transport))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> Binding {
        match self.end_point() {
            Some(hash) => Binding::tls_server_end_point(hash.to_vec()),
            None => Binding::none(),
        }
    }
}

/// A failure before the session is up: what is not the server's error or the network's concerns the
/// login.
fn login_error(cause: tokio_postgres::Error, host: &Host) -> Error {
    match error(cause) {
        Error::Protocol(reason) => Error::Authentication { target: host.to_string(), reason },
        other => other,
    }
}

/// Translates tokio-postgres's errors.
pub(super) fn error(cause: tokio_postgres::Error) -> Error {
    if let Some(reported) = cause.as_db_error() {
        return Error::Server(ServerError {
            severity: reported.severity().to_owned(),
            code: reported.code().code().to_owned(),
            message: reported.message().to_owned(),
            detail: reported.detail().map(str::to_owned),
            hint: reported.hint().map(str::to_owned),
        });
    }
    if cause.is_closed() {
        return Error::Closed;
    }
    let text = match std::error::Error::source(&cause) {
        Some(source) => match source.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => return Error::Closed,
            Some(io) => {
                return Error::Lost(std::io::Error::new(io.kind(), io.to_string()));
            }
            None => format!("{cause}: {source}"),
        },
        None => cause.to_string(),
    };
    Error::Protocol(text)
}
