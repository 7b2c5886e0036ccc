//! PostgreSQL's protocol as a stream of events: startup, login, simple queries and all COPY modes.
//!
//! Made for replication connections, which tokio-postgres cannot open. A server is not trusted:
//! message sizes have a limit, and whatever does not belong is an error.

mod login;

use super::conninfo::{ConnInfo, Host};
use super::error::{Error, ServerError};
use super::transport::{self, Session, Transport};
use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use std::collections::BTreeMap;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroize;

/// The longest message accepted. The longest legitimate ones are rows with a timeline history and
/// COPY data of at most 128 KiB and a header.
const MAX_MESSAGE: usize = 64 << 20;
/// Bytes asked of the socket at once.
const READ_SIZE: usize = 128 << 10;
/// postgres-protocol does not know CopyBothResponse.
const COPY_BOTH_RESPONSE: u8 = b'W';

/// What a server says after login.
#[derive(Clone, Debug)]
pub enum Event {
    /// A result set begins; the names of its columns.
    Columns(Vec<String>),
    /// A row of it.
    Row(Row),
    /// A statement ended; its command tag.
    Complete(String),
    /// The server will send COPY data.
    CopyOut,
    /// The server takes COPY data.
    CopyIn,
    /// Both.
    CopyBoth,
    /// COPY data.
    CopyData(Bytes),
    /// The server sends no more COPY data.
    CopyDone,
    /// The query is done; the next may be sent.
    Ready,
}

/// A row of text values.
#[derive(Clone, Debug)]
pub struct Row(Vec<Option<Bytes>>);

impl Row {
    /// The bytes of a column; `None` for NULL and for columns that are not there.
    pub fn bytes(&self, column: usize) -> Option<&Bytes> {
        self.0.get(column)?.as_ref()
    }

    /// The text of a column.
    pub fn text(&self, column: usize) -> Result<Option<&str>, Error> {
        self.bytes(column)
            .map(|bytes| {
                std::str::from_utf8(bytes)
                    .map_err(|_| Error::Protocol(format!("column {column} is not UTF-8")))
            })
            .transpose()
    }

    /// A column parsed; NULL is an error.
    pub fn parse<T: std::str::FromStr>(&self, column: usize, what: &str) -> Result<T, Error> {
        self.parse_or_null(column, what)?
            .ok_or_else(|| Error::Protocol(format!("the server did not say {what}")))
    }

    /// A column parsed, unless it is NULL.
    pub fn parse_or_null<T: std::str::FromStr>(
        &self,
        column: usize,
        what: &str,
    ) -> Result<Option<T>, Error> {
        self.text(column)?
            .map(|text| {
                text.parse().map_err(|_| Error::Protocol(format!("{text:?} is no valid {what}")))
            })
            .transpose()
    }
}

/// A connection to a server, logged in.
pub struct Wire {
    transport: Transport,
    incoming: BytesMut,
    outgoing: BytesMut,
    parameters: BTreeMap<String, String>,
    host: Host,
    backend: Option<(i32, i32)>,
    busy: bool,
    /// An error whose answer has not been read to its end.
    failure: Option<ServerError>,
}

impl Wire {
    /// Opens a connection for physical replication.
    pub async fn connect_replication(info: &ConnInfo) -> Result<Wire, Error> {
        transport::connect(info, async |transport: Transport, host: &Host| {
            login::log_in(Wire::new(transport, host.clone()), info).await
        })
        .await
    }

    fn new(transport: Transport, host: Host) -> Wire {
        Wire {
            transport,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            parameters: BTreeMap::new(),
            host,
            backend: None,
            busy: false,
            failure: None,
        }
    }

    /// A parameter the server reported, for example `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server connected to.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// Sends a query. The answer of the one before must have been read up to [`Event::Ready`].
    pub async fn query(&mut self, sql: &str) -> Result<(), Error> {
        if self.busy {
            return Err(Error::Request("the connection is busy with an earlier command".into()));
        }
        frontend::query(sql, &mut self.outgoing).map_err(|e| Error::Request(e.to_string()))?;
        self.busy = true;
        self.flush().await
    }

    /// Runs a query and gives all rows of all its results.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.query(sql).await?;
        let mut rows = Vec::new();
        loop {
            match self.next().await? {
                Event::Row(row) => rows.push(row),
                Event::Ready => return Ok(rows),
                Event::Columns(_) | Event::Complete(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Sends COPY data.
    pub async fn copy_data(&mut self, data: &[u8]) -> Result<(), Error> {
        frontend::CopyData::new(data)
            .map_err(|error| Error::Request(error.to_string()))?
            .write(&mut self.outgoing);
        self.flush().await
    }

    /// Ends the COPY data from our side.
    pub async fn copy_done(&mut self) -> Result<(), Error> {
        frontend::copy_done(&mut self.outgoing);
        self.flush().await
    }

    /// The next event. Cancel-safe: a call that was dropped has lost nothing.
    ///
    /// After an error of the server during a query, the connection is ready for the next one.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if self.failure.is_some() {
                return Err(self.fail().await);
            }
            let Some(message) = self.message().await? else { return Ok(Event::CopyBoth) };
            return Ok(match message {
                Message::RowDescription(body) => {
                    let names = body.fields().map(|field| Ok(field.name().to_owned())).collect();
                    Event::Columns(names.map_err(malformed)?)
                }
                Message::DataRow(body) => {
                    let bytes = body.buffer_bytes().clone();
                    let values =
                        body.ranges().map(|range| Ok(range.map(|range| bytes.slice(range))));
                    Event::Row(Row(values.collect().map_err(malformed)?))
                }
                Message::CommandComplete(body) => {
                    Event::Complete(body.tag().map_err(malformed)?.to_owned())
                }
                Message::CopyOutResponse(_) => Event::CopyOut,
                Message::CopyInResponse(_) => Event::CopyIn,
                Message::CopyData(body) => Event::CopyData(body.into_bytes()),
                Message::CopyDone => Event::CopyDone,
                Message::ReadyForQuery(_) => {
                    self.busy = false;
                    Event::Ready
                }
                Message::ErrorResponse(body) => {
                    self.failure = Some(server_error(body.fields()));
                    continue;
                }
                Message::EmptyQueryResponse => continue,
                other if self.absorb(&other)? => continue,
                _ => return Err(Error::Protocol("a message that does not belong here".into())),
            });
        }
    }

    /// Says goodbye. Merely dropping a connection is fine too, and ends what the server was doing.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.outgoing);
        // The server may be gone already, which is what is wanted.
        let _ = self.flush().await;
        let _ = self.transport.shutdown().await;
    }

    /// A handle to cancel what the connection is doing, from elsewhere.
    pub fn canceller(&self, info: &ConnInfo) -> Option<Canceller> {
        let (process, secret) = self.backend?;
        let (info, host) = (info.clone(), self.host.clone());
        Some(Canceller { info, host, encrypted: self.is_encrypted(), process, secret })
    }

    /// Gives the error reported, after reading on to ReadyForQuery where the server sends one: not
    /// after a fatal error.
    async fn fail(&mut self) -> Error {
        let fatal = |error: &ServerError| matches!(error.severity.as_str(), "FATAL" | "PANIC");
        while self.busy && !self.failure.as_ref().is_some_and(fatal) {
            match self.message().await {
                Ok(Some(Message::ReadyForQuery(_))) => self.busy = false,
                // The connection is of no use then; it stays marked busy.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        self.failure.take().map_or(Error::Closed, Error::Server)
    }

    /// Takes in messages that may come at any time; false if this is not one of them.
    fn absorb(&mut self, message: &Message) -> Result<bool, Error> {
        match message {
            Message::ParameterStatus(body) => {
                let name = body.name().map_err(malformed)?.to_owned();
                let value = body.value().map_err(malformed)?.to_owned();
                if self.parameters.len() < 1000 {
                    self.parameters.insert(name, value);
                }
            }
            Message::NoticeResponse(body) => {
                let notice = server_error(body.fields());
                match notice.severity.as_str() {
                    "WARNING" => tracing::warn!(host = %self.host, "{}", notice.message),
                    _ => tracing::debug!(host = %self.host, "{notice}"),
                }
            }
            Message::NotificationResponse(_) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// One message; `None` is a CopyBothResponse.
    async fn message(&mut self) -> Result<Option<Message>, Error> {
        loop {
            let missing = match Header::parse(&self.incoming).map_err(malformed)? {
                Some(header) => {
                    let total =
                        usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
                    if total > MAX_MESSAGE {
                        return Err(Error::Protocol(format!("a message of {total} bytes")));
                    }
                    if self.incoming.len() >= total {
                        if header.tag() == COPY_BOTH_RESPONSE {
                            self.incoming.advance(total);
                            return Ok(None);
                        }
                        return match Message::parse(&mut self.incoming).map_err(malformed)? {
                            Some(message) => Ok(Some(message)),
                            None => Err(Error::Protocol("a message with a wrong length".into())),
                        };
                    }
                    total - self.incoming.len()
                }
                None => 0,
            };
            let room = self.incoming.capacity() - self.incoming.len();
            if room < missing.clamp(READ_SIZE / 4, READ_SIZE) {
                self.incoming.reserve(READ_SIZE);
            }
            match self.transport.read_buf(&mut self.incoming).await {
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Error::Closed);
                }
                Err(error) => return Err(Error::Lost(error)),
            }
        }
    }

    /// Sends a message with a secret in it, and wipes it.
    async fn send_secret(&mut self, mut message: BytesMut) -> Result<(), Error> {
        let sent = self.transport.write_all(&message).await;
        message.zeroize();
        sent.map_err(Error::Lost)
    }

    /// Sends what is waiting. Cancel-safe: what was sent is no longer waiting.
    async fn flush(&mut self) -> Result<(), Error> {
        while !self.outgoing.is_empty() {
            let sent = self.transport.write_buf(&mut self.outgoing).await.map_err(Error::Lost)?;
            if sent == 0 {
                return Err(Error::Closed);
            }
        }
        self.transport.flush().await.map_err(Error::Lost)
    }
}

impl std::fmt::Debug for Wire {
    /// Without the buffers: they may hold anything.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("host", &self.host).field("busy", &self.busy).finish()
    }
}

impl Session for Wire {
    fn parameter(&self, name: &str) -> Option<&str> {
        Wire::parameter(self, name)
    }
}

/// Cancels what a connection is doing.
#[derive(Clone, Debug)]
pub struct Canceller {
    info: ConnInfo,
    host: Host,
    encrypted: bool,
    process: i32,
    secret: i32,
}

impl Canceller {
    /// Asks the server to cancel. It answers on the connection concerned, if at all.
    pub async fn cancel(&self) -> Result<(), Error> {
        let mut transport = transport::open_like(&self.info, &self.host, self.encrypted).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(self.process, self.secret, &mut request);
        transport.write_all(&request).await.map_err(Error::Lost)?;
        transport.flush().await.map_err(Error::Lost)?;
        // The server closes when it has passed the request on.
        let _ = transport.read(&mut [0]).await;
        Ok(())
    }
}

/// The error for an event that has no place in an answer.
pub(super) fn unexpected(event: &Event) -> Error {
    let name = match event {
        Event::Columns(_) | Event::Row(_) => "a result set",
        Event::Complete(_) => "the end of a command",
        Event::CopyOut | Event::CopyIn | Event::CopyBoth => "the start of a COPY",
        Event::CopyData(_) => "COPY data",
        Event::CopyDone => "the end of a COPY",
        Event::Ready => "the end of the answer",
    };
    Error::Protocol(format!("{name} came unexpectedly"))
}

fn malformed(error: io::Error) -> Error {
    Error::Protocol(format!("a malformed message: {error}"))
}

fn server_error(mut fields: ErrorFields<'_>) -> ServerError {
    let mut error = ServerError {
        severity: String::new(),
        code: String::new(),
        message: String::new(),
        detail: None,
        hint: None,
    };
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            // 'V' is never translated; it comes after 'S'.
            b'S' | b'V' => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            _ => {}
        }
    }
    error
}
