//! From connection parameters to a byte stream to one server, plain or encrypted.
//!
//! [`connect`] goes through the hosts and, per host, through the encryptions `sslmode` allows, and
//! leaves the PostgreSQL handshake on the stream to its caller: replication and SQL sessions shake
//! hands differently and choose servers alike.

use super::conninfo::{Address, ConnInfo, Host, SslMode, SslNegotiation, TargetSessionAttrs};
use super::error::{Error, ServerError};
use super::tls;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A session with a server, as far as choosing between servers goes.
pub(super) trait Session {
    /// A parameter the server reported.
    fn parameter(&self, name: &str) -> Option<&str>;
}

/// Opens a session with the first server that will do. `handshake` logs in on a fresh stream.
pub(super) async fn connect<S: Session>(
    info: &ConnInfo,
    handshake: impl AsyncFn(Transport, &Host) -> Result<S, Error>,
) -> Result<S, Error> {
    let mut hosts: Vec<&Host> = info.hosts.iter().collect();
    if info.load_balance_hosts {
        shuffle(&mut hosts);
    }
    let passes = match info.target_session_attrs {
        TargetSessionAttrs::PreferStandby => {
            vec![TargetSessionAttrs::Standby, TargetSessionAttrs::Any]
        }
        wanted => vec![wanted],
    };
    let mut errors = Vec::new();
    for wanted in passes {
        errors.clear();
        for host in &hosts {
            let attempt = connect_host(info, host, &handshake).await;
            match attempt.and_then(|session| check(session, host, wanted)) {
                Ok(session) => return Ok(session),
                Err(error) if tries_next(&error) => errors.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    if errors.len() > 1 {
        return Err(Error::AllHosts(errors));
    }
    Err(errors.pop().unwrap_or_else(|| Error::Request("no host to connect to".into())))
}

/// Whether another host may be better. One that answers and refuses ends the search, as in libpq.
fn tries_next(error: &Error) -> bool {
    match error {
        Error::Server(_) | Error::Login { .. } => {
            error.server().is_some_and(|it| it.code == ServerError::CANNOT_CONNECT_NOW)
        }
        Error::Authentication { .. } | Error::ConnInfo(_) | Error::Request(_) => false,
        _ => true,
    }
}

fn check<S: Session>(session: S, host: &Host, wanted: TargetSessionAttrs) -> Result<S, Error> {
    let on = |name| session.parameter(name) == Some("on");
    let standby = on("in_hot_standby");
    let read_only = standby || on("default_transaction_read_only");
    let refuse =
        |found, wanted| Err(Error::SessionAttributes { target: host.to_string(), found, wanted });
    match wanted {
        TargetSessionAttrs::ReadWrite if read_only => refuse("read-only", "read-write"),
        TargetSessionAttrs::ReadOnly if !read_only => refuse("read-write", "read-only"),
        TargetSessionAttrs::Primary if standby => refuse("a standby", "a primary"),
        TargetSessionAttrs::Standby if !standby => refuse("a primary", "a standby"),
        _ => Ok(session),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    IfOffered,
    Required,
}

async fn connect_host<S>(
    info: &ConnInfo,
    host: &Host,
    handshake: &impl AsyncFn(Transport, &Host) -> Result<S, Error>,
) -> Result<S, Error> {
    let local = matches!(host.address, Address::Unix(_));
    let attempts: &[Encryption] = match info.ssl_mode {
        _ if local => &[Encryption::Plain],
        SslMode::Disable => &[Encryption::Plain],
        SslMode::Allow => &[Encryption::Plain, Encryption::Required],
        SslMode::Prefer => &[Encryption::IfOffered, Encryption::Plain],
        _ => &[Encryption::Required],
    };
    let mut first_error = None;
    for encryption in attempts {
        let attempt = async {
            let transport = open(info, host, *encryption).await?;
            handshake(transport, host).await.map_err(|error| match error {
                Error::Server(source) => {
                    let (target, user) = (host.to_string(), info.user.clone());
                    Error::Login { target, user, source: Box::new(source) }
                }
                other => other,
            })
        };
        let result = match info.connect_timeout {
            None => attempt.await,
            Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
                Err(Error::Timeout { target: host.to_string(), seconds: limit.as_secs() })
            }),
        };
        match result {
            Ok(session) => return Ok(session),
            // pg_hba.conf, or a broken TLS set-up, may let the other encryption in.
            Err(error)
                if matches!(error, Error::Tls { .. } | Error::Closed | Error::Lost(_))
                    || error.server().is_some_and(ServerError::is_authentication) =>
            {
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(first_error.unwrap_or(error)),
        }
    }
    Err(first_error.unwrap_or(Error::Closed))
}

/// Opens a stream to `host`, for a cancel request.
pub(super) async fn open_like(
    info: &ConnInfo,
    host: &Host,
    encrypted: bool,
) -> Result<Transport, Error> {
    open(info, host, if encrypted { Encryption::Required } else { Encryption::Plain }).await
}

async fn open(info: &ConnInfo, host: &Host, encryption: Encryption) -> Result<Transport, Error> {
    let failed = |source| Error::Connect { target: host.to_string(), source };
    let tls_error = |reason| Error::Tls { target: host.to_string(), reason };
    let (name, address) = match &host.address {
        Address::Unix(_) => {
            let path = host.socket_path().unwrap_or_default();
            let stream = UnixStream::connect(&path).await;
            let stream = stream.map_err(|source| Error::Socket { path, source })?;
            return Ok(Transport { stream: Stream::Unix(stream), end_point: None });
        }
        Address::Tcp { name, address } => (name, address),
    };
    // `connect` goes through all addresses of a name.
    let socket = match address {
        Some(address) => TcpStream::connect((*address, host.port)).await,
        None => TcpStream::connect((name.as_str(), host.port)).await,
    };
    let mut socket = socket.map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;

    if encryption == Encryption::Plain {
        return Ok(Transport { stream: Stream::Tcp(socket), end_point: None });
    }
    if info.ssl_negotiation == SslNegotiation::Postgres && !offers_tls(&mut socket).await? {
        if encryption == Encryption::IfOffered {
            return Ok(Transport { stream: Stream::Tcp(socket), end_point: None });
        }
        return Err(tls_error("the server does not speak TLS, and sslmode asks for it".into()));
    }
    let stream = tls::connect(info, name, socket).await.map_err(tls_error)?;
    let end_point = tls::server_end_point(&stream);
    Ok(Transport { stream: Stream::Tls(Box::new(stream)), end_point })
}

/// Asks the server whether it speaks TLS. Nothing is read beyond its one byte, so that nothing
/// sent before the encryption can be taken for what comes after.
async fn offers_tls(socket: &mut TcpStream) -> Result<bool, Error> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(Error::Lost)?;
    match socket.read_u8().await {
        Ok(b'S') => Ok(true),
        Ok(b'N') => Ok(false),
        Ok(other) => Err(Error::Protocol(format!("byte {other} in answer to the TLS request"))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Closed),
        Err(error) => Err(Error::Lost(error)),
    }
}

/// Puts the hosts in random order; without randomness the order stays.
fn shuffle(hosts: &mut [&Host]) {
    for last in (1..hosts.len()).rev() {
        let Ok(random) = getrandom::u64() else { return };
        hosts.swap(last, (random % (last as u64 + 1)) as usize);
    }
}

/// A stream to a server.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    end_point: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Whether it is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// What SCRAM can be bound to.
    pub(super) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
