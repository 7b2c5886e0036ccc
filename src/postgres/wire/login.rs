//! Startup and authentication.

use super::{Wire, malformed, server_error};
use crate::postgres::conninfo::{ChannelBinding, ConnInfo, Password};
use crate::postgres::error::Error;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use zeroize::Zeroizing;

/// What password files and servers call the database of replication connections.
const REPLICATION: &str = "replication";

/// Sends the startup message of a physical replication connection and logs in.
pub(super) async fn log_in(mut wire: Wire, info: &ConnInfo) -> Result<Wire, Error> {
    let mut parameters = vec![
        ("user", info.user.as_str()),
        ("database", REPLICATION),
        (REPLICATION, "true"),
        ("application_name", &info.application_name),
        ("client_encoding", "UTF8"),
    ];
    if let Some(options) = &info.options {
        parameters.push(("options", options));
    }
    frontend::startup_message(parameters, &mut wire.outgoing)
        .map_err(|error| Error::Request(error.to_string()))?;
    wire.flush().await?;

    authenticate(&mut wire, info).await?;
    loop {
        match wire.message().await? {
            Some(Message::BackendKeyData(body)) => {
                wire.backend = Some((body.process_id(), body.secret_key()));
            }
            Some(Message::ReadyForQuery(_)) => return Ok(wire),
            Some(Message::ErrorResponse(body)) => return Err(server_error(body.fields()).into()),
            Some(other) if wire.absorb(&other)? => {}
            _ => return Err(Error::Protocol("an unexpected message after login".into())),
        }
    }
}

/// How far authentication has come.
enum Progress {
    Begun,
    Scram {
        exchange: Box<ScramSha256>,
        bound: bool,
    },
    /// The server proved that it knows the password too.
    ScramProven {
        bound: bool,
    },
}

async fn authenticate(wire: &mut Wire, info: &ConnInfo) -> Result<(), Error> {
    let must_bind = info.channel_binding == ChannelBinding::Require;
    let failed = |wire: &Wire, reason: &str| Error::Authentication {
        target: wire.host.to_string(),
        reason: reason.to_owned(),
    };
    let mut progress = Progress::Begun;
    loop {
        let Some(message) = wire.message().await? else {
            return Err(Error::Protocol("a COPY before login".into()));
        };
        if wire.absorb(&message)? {
            continue;
        }
        progress = match (message, progress) {
            (
                Message::AuthenticationOk,
                Progress::Begun | Progress::ScramProven { bound: false },
            ) if must_bind => {
                return Err(failed(wire, "channel_binding=require, and the server binds nothing"));
            }
            (Message::AuthenticationOk, Progress::Scram { .. }) => {
                return Err(failed(wire, "the server did not prove that it knows the password"));
            }
            (Message::AuthenticationOk, _) => return Ok(()),
            (
                Message::AuthenticationCleartextPassword | Message::AuthenticationMd5Password(_),
                Progress::Begun,
            ) if must_bind => {
                return Err(failed(wire, "channel_binding=require, but the server uses no SCRAM"));
            }
            (Message::AuthenticationCleartextPassword, Progress::Begun) => {
                let password = password(wire, info)?;
                send_password(wire, password.expose()).await?;
                Progress::Begun
            }
            (Message::AuthenticationMd5Password(body), Progress::Begun) => {
                let password = password(wire, info)?;
                let (user, secret) = (info.user.as_bytes(), password.expose().as_bytes());
                let hash = Zeroizing::new(md5_hash(user, secret, body.salt()));
                send_password(wire, &hash).await?;
                Progress::Begun
            }
            (Message::AuthenticationSasl(body), Progress::Begun) => begin_scram(wire, info, &body)?,
            (
                Message::AuthenticationSaslContinue(body),
                Progress::Scram { mut exchange, bound },
            ) => {
                exchange.update(body.data()).map_err(malformed)?;
                frontend::sasl_response(exchange.message(), &mut wire.outgoing)
                    .map_err(malformed)?;
                Progress::Scram { exchange, bound }
            }
            (Message::AuthenticationSaslFinal(body), Progress::Scram { mut exchange, bound }) => {
                exchange.finish(body.data()).map_err(|error| failed(wire, &error.to_string()))?;
                Progress::ScramProven { bound }
            }
            (Message::ErrorResponse(body), _) => return Err(server_error(body.fields()).into()),
            (
                Message::AuthenticationGss
                | Message::AuthenticationSspi
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential,
                _,
            ) => {
                return Err(failed(
                    wire,
                    "the server asks for a method that is not supported (GSSAPI, SSPI or Kerberos)",
                ));
            }
            _ => return Err(Error::Protocol("authentication out of order".into())),
        };
        wire.flush().await?;
    }
}

fn begin_scram(
    wire: &mut Wire,
    info: &ConnInfo,
    body: &AuthenticationSaslBody,
) -> Result<Progress, Error> {
    let failed = |wire: &Wire, reason: &str| Error::Authentication {
        target: wire.host.to_string(),
        reason: reason.to_owned(),
    };
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = body.mechanisms();
    while let Some(mechanism) = mechanisms.next().map_err(malformed)? {
        plain |= mechanism == SCRAM_SHA_256;
        plus |= mechanism == SCRAM_SHA_256_PLUS;
    }
    let end_point = wire.transport.end_point().map(<[u8]>::to_vec);
    let wanted = info.channel_binding != ChannelBinding::Disable;
    let (mechanism, binding, bound) = match end_point {
        Some(hash) if plus && wanted => {
            (SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(hash), true)
        }
        _ if info.channel_binding == ChannelBinding::Require => {
            return Err(failed(wire, "channel_binding=require is not possible on this connection"));
        }
        // "We could, you cannot": lets the server notice if someone in between removed its offer.
        Some(_) if plain && wanted => (SCRAM_SHA_256, Binding::unrequested(), false),
        _ if plain => (SCRAM_SHA_256, Binding::unsupported(), false),
        _ => return Err(failed(wire, "the server offers no SASL mechanism that is supported")),
    };
    let password = password(wire, info)?;
    let exchange = Box::new(ScramSha256::new(password.expose().as_bytes(), binding));
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut wire.outgoing)
        .map_err(malformed)?;
    Ok(Progress::Scram { exchange, bound })
}

async fn send_password(wire: &mut Wire, password: &str) -> Result<(), Error> {
    // Large enough from the start: growing would leave a copy behind.
    let mut message = BytesMut::with_capacity(password.len() + 16);
    frontend::password_message(password.as_bytes(), &mut message).map_err(malformed)?;
    wire.send_secret(message).await
}

fn password(wire: &Wire, info: &ConnInfo) -> Result<Password, Error> {
    info.password_for(&wire.host, REPLICATION).ok_or_else(|| Error::Authentication {
        target: wire.host.to_string(),
        reason: "the server asks for a password, and none was given or found".into(),
    })
}
