//! From a server of the configuration to a connection.

use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::postgres::ConnInfo;
use crate::postgres::error::ServerError;
use crate::postgres::replication::ReplicationConnection;
use crate::postgres::sql::{SqlConnection, quote_identifier};

/// How to connect to `server` for SQL.
pub fn sql_conninfo(server: &Server) -> Result<ConnInfo> {
    parse(server, "conninfo", server.conninfo.as_deref())
}

/// How to connect to `server` for replication.
pub fn streaming_conninfo(server: &Server) -> Result<ConnInfo> {
    let text = server.streaming_conninfo.as_deref();
    Ok(parse(server, "streaming_conninfo", text)?
        .with_application_name(&server.streaming_backup_name))
}

/// Connects to `server` for SQL.
pub async fn connect(server: &Server) -> Result<SqlConnection> {
    Ok(Box::pin(SqlConnection::connect(&sql_conninfo(server)?)).await?)
}

/// Connects to the primary that `server`, a standby, names; nothing if it names none.
pub async fn connect_to_primary(server: &Server) -> Result<Option<SqlConnection>> {
    let Some(text) = server.primary_conninfo.as_deref() else { return Ok(None) };
    let info = parse(server, "primary_conninfo", Some(text))?;
    Ok(Some(Box::pin(SqlConnection::connect(&info)).await?))
}

/// The system identifier that the streaming connection leads to.
///
/// # Errors
/// If there is no such connection; of a role that may not have one, the statement that lets it.
pub async fn streaming_system_id(server: &Server) -> Result<u64> {
    let info = streaming_conninfo(server)?;
    let connected = Box::pin(ReplicationConnection::connect(&info)).await;
    let mut connection = connected.map_err(|error| {
        let is_refused = error.is_code(ServerError::INSUFFICIENT_PRIVILEGE);
        let error = Error::from(error);
        if is_refused {
            let role = quote_identifier(&info.user);
            error.hint(format!("run as superuser: ALTER ROLE {role} REPLICATION"))
        } else {
            error
        }
    })?;
    let system = connection.identify_system().await?;
    connection.close().await;
    Ok(system.system_id.0)
}

fn parse(server: &Server, option: &str, text: Option<&str>) -> Result<ConnInfo> {
    let text = text.ok_or_else(|| {
        Error::new(Kind::Config, format!("{option} of server '{}' is not set", server.name))
    })?;
    ConnInfo::parse(text).map_err(|error| {
        Error::new(Kind::Config, format!("{option} of server '{}'", server.name)).because(error)
    })
}
