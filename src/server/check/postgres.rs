//! The checks of a running PostgreSQL, and of its primary if it is a standby.

use super::patience::Patience;
use super::report::Report;
use crate::config::Server;
use crate::error::Error;
use crate::postgres::sql::SqlConnection;
use crate::server::connect;
use crate::server::remote::Remote;

/// A server that answered.
pub(super) struct Running {
    /// The connection.
    pub sql: SqlConnection,
    /// What it said.
    pub remote: Remote,
}

/// Connects to a server, and asks it what it is.
pub(super) async fn check(
    server: &Server,
    patience: Patience,
    report: &mut Report,
) -> Option<Running> {
    let asked = patience.wait(async {
        let sql = connect::connect(server).await?;
        let remote = Remote::ask_over(server, &sql).await?;
        Ok(Running { sql, remote })
    });
    let running = report.outcome("PostgreSQL", asked.await)?;
    check_privileges(&running.remote, report);
    Some(running)
}

fn check_privileges(remote: &Remote, report: &mut Report) {
    let privileges = &remote.privileges;
    if privileges.can_backup() {
        report.must("superuser or standard user with backup privileges", true, "");
    } else {
        let statements = privileges.missing.join("; ");
        let hint = format!("run as superuser in database {}: {statements}", privileges.database);
        report.must("no access to backup functions", false, hint);
    }
}

/// Sees that there can be a connection for replication; the system that it leads to.
pub(super) async fn check_streaming(
    server: &Server,
    patience: Patience,
    report: &mut Report,
) -> Option<u64> {
    let asked = patience.wait(connect::streaming_system_id(server)).await;
    report.outcome("PostgreSQL streaming", asked)
}

/// What the settings and the version of a server must be.
pub(super) fn check_settings(remote: &Remote, report: &mut Report) {
    let level = remote.setting("wal_level");
    let hint = if level == "minimal" { "set it to 'replica' or 'logical' and restart" } else { "" };
    report.must("wal_level", level != "minimal", hint);
    let hint = format!("the server has {}, and 15 or later is needed", remote.version);
    let supported = remote.version_num >= 150_000;
    report.must("postgres minimal version", supported, if supported { "" } else { &hint });
}

/// Connects to the primary of a standby, if one is configured, and sees that it is what it is called.
pub(super) async fn check_primary(
    server: &Server,
    remote: &Remote,
    patience: Patience,
    report: &mut Report,
) -> Option<Running> {
    server.primary_conninfo.as_ref()?;
    let hint = "it is no standby any more: take primary_conninfo away, or change conninfo";
    let standby = remote.in_recovery;
    report.should("PostgreSQL server is standby", standby, if standby { "" } else { hint });
    let asked = patience.wait(async {
        let Some(sql) = connect::connect_to_primary(server).await? else { return Ok(None) };
        let remote = Remote::ask_over(server, &sql).await?;
        Ok::<_, Error>(Some(Running { sql, remote }))
    });
    match asked.await {
        Ok(None) => None,
        Ok(Some(primary)) => {
            let Remote { in_recovery, system_id, .. } = primary.remote;
            let hint = if in_recovery { "primary_conninfo leads to a standby" } else { "" };
            report.must("Primary server is not a standby", !in_recovery, hint);
            let same = system_id == remote.system_id;
            let hint = format!(
                "primary_conninfo leads to system {system_id}, and conninfo to {}",
                remote.system_id
            );
            let name = "Primary and standby have same system ID";
            report.must(name, same, if same { "" } else { &hint });
            Some(primary).filter(|_| same && !in_recovery)
        }
        Err(error) => {
            report.must("Primary server is not a standby", false, error.in_one_line());
            None
        }
    }
}

/// Both connections must lead to one cluster, and to the one that the server stands for: nothing of another
/// one is taken.
pub(super) fn check_system(
    server: &Server,
    remote: &Remote,
    streaming: Option<u64>,
    accepted: &[u64],
    report: &mut Report,
) {
    let id = remote.system_id;
    if let Some(other) = streaming.filter(|other| *other != id) {
        let hint = format!("conninfo leads to system {id}, and streaming_conninfo to {other}");
        report.must("systemid coherence", false, hint);
        return;
    }
    match accepted.last() {
        Some(other) if !accepted.contains(&id) => {
            let hint = format!(
                "the server is system {id}, and its backups are of system {other}: after pg_upgrade or \
                 a new initdb run: barman repo server-accept {}; otherwise conninfo leads to the \
                 wrong server",
                server.name
            );
            report.must("systemid coherence", false, hint);
        }
        Some(_) => report.must("systemid coherence", true, ""),
        None => report.must("systemid coherence", true, "no system Id stored on disk"),
    }
}
