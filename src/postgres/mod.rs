//! PostgreSQL: connections, replication protocol, file formats.
