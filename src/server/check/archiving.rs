//! The checks of WAL archiving: that it is on, works, and leads here.

use std::time::{Duration, SystemTime};

use repo_format::names::{ObjectName, escape};

use super::patience::Patience;
use super::postgres::Running;
use super::report::Report;
use crate::config::Server;
use crate::error::Result;
use crate::human;
use crate::postgres::lsn::TimelineId;
use crate::postgres::sql::Write;
use crate::postgres::wal_name::{SegmentName, SegmentSize, WalName};
use crate::repository::{self, Repository, servers};
use crate::server::remote::Remote;

/// How long the first WAL file of a server may take to arrive.
const FIRST_WAL: Duration = Duration::from_secs(10);

/// How often it is looked for.
const POLL: Duration = Duration::from_millis(200);

/// What the server says of its archiving; `has_caught_up` is the answer of that function.
pub(super) fn check_settings(
    server: &Server,
    remote: &Remote,
    has_caught_up: bool,
    report: &mut Report,
) {
    let mode = remote.setting("archive_mode");
    if remote.in_recovery && mode != "always" {
        report.must("archive_mode", true, "a standby: its primary archives");
        return;
    }
    let on = matches!(mode, "on" | "always");
    report.must("archive_mode", on, if on { "" } else { "set it to 'on' and restart PostgreSQL" });
    let hint = format!("set it to: barman wal-archive {} %p", server.name);
    if !remote.has_archiver() {
        report.must("archive_command", false, hint);
    } else {
        let leads_here = !remote.setting("archive_library").is_empty()
            || may_lead_to(&server.name, remote.setting("archive_command"));
        // What a shell makes of a command is guessed here, and keeps nobody from making a backup.
        report.should("archive_command", leads_here, if leads_here { "" } else { &hint });
    }
    let archiver = &remote.archiver;
    let hint = match (&archiver.last_failed_wal, archiver.is_failing()) {
        (Some(file), true) if has_caught_up => {
            format!("archiving {file} failed at first, and all that the server closed has arrived")
        }
        (Some(file), true) => format!("archiving {file} fails: see PostgreSQL's log"),
        _ => String::new(),
    };
    let works = remote.is_archiving() || remote.is_archiver_on() && has_caught_up;
    report.must("continuous archiving", works, hint);
}

/// Whether a command may archive WAL as that of the server `name`. What is no command of barman's, a script for
/// example, may do anything.
fn may_lead_to(name: &str, command: &str) -> bool {
    if matches!(command.trim(), "" | "false" | "/bin/false" | "/usr/bin/false") {
        return false;
    }
    let mut words =
        command.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ';' | '&' | '|'));
    let is_ours =
        |word: &str| word == "wal-archive" || word.rsplit('/').next() == Some("barman-wal-archive");
    // Up to the word that names the command, so that a host before it is not taken for the server.
    if !words.any(is_ours) {
        return true;
    }
    // A variable may stand for the name, and for the path.
    words.clone().any(|word| word.contains('$'))
        || command.contains("%p") && words.any(|word| word == name)
}

/// Whether all segments that a failing server has closed are in the repository all the same, and since then it has
/// not failed again: it tries until it succeeds. PostgreSQL tells of its last failure until it archives something,
/// which a server without work may not do for long.
pub(super) async fn has_caught_up(
    server: &Server,
    repository: &Repository,
    remote: &Remote,
    patience: Patience,
) -> bool {
    let archiver = &remote.archiver;
    let Some(file) = archiver.last_failed_wal.as_ref().filter(|_| archiver.is_failing()) else {
        return false;
    };
    let Ok(name @ WalName::Segment(_)) = file.parse::<WalName>() else { return false };
    // The next one is being written.
    if segments_ahead(remote, &name) != Some(1) {
        return false;
    }
    let arrived = patience.wait(arrival(server, repository, remote, &name)).await;
    matches!(arrived, Ok(Some(arrived)) if archiver.last_failed_time < Some(arrived))
}

/// When a file of a cluster came into the repository, if it did.
async fn arrival(
    server: &Server,
    repository: &Repository,
    of: &Remote,
    name: &WalName,
) -> Result<Option<SystemTime>> {
    let (timeline, file) = (name.timeline().0, name.to_string());
    let found =
        repository::wal::of_file(repository, &server.name, of.system_id, timeline, &file).await?;
    Ok(found.iter().map(|stored| stored.archived_at).max())
}

/// Whether what `archiver`, the server or its primary, says to have archived last is in the repository. A
/// command that leads elsewhere succeeds too.
pub(super) async fn check_lag(
    server: &Server,
    repository: &Repository,
    archiver: &Remote,
    patience: Patience,
    report: &mut Report,
) {
    const LINE: &str = "WAL lag";
    let Some(file) = &archiver.archiver.last_archived_wal else {
        report.should(LINE, true, "the server has archived nothing since its statistics began");
        return;
    };
    let Ok(name) = file.parse::<WalName>() else { return };
    let found = patience.wait(arrival(server, repository, archiver, &name));
    match found.await {
        Ok(Some(_)) => {
            let ahead = distance(archiver, &name).unwrap_or_default();
            report.should(LINE, true, format!("{file} has arrived{ahead}"));
        }
        Ok(None) => {
            let hint = format!(
                "the server says that it archived {file}, which is not in the repository: see \
                 that archive_command is 'barman wal-archive {} %p', and of this repository",
                server.name
            );
            report.should(LINE, false, hint);
        }
        Err(error) => report.should(LINE, false, error.in_one_line()),
    }
}

/// How far the server's WAL is ahead of what it archived last.
fn distance(archiver: &Remote, last: &WalName) -> Option<String> {
    let size = SegmentSize::new(archiver.segment_size).ok()?;
    let ahead = segments_ahead(archiver, last)?;
    let bytes = human::size(ahead.saturating_mul(size.bytes()));
    Some(format!(", and the server is {ahead} segments ({bytes}) further"))
}

/// How many segments behind `last` a server writes.
fn segments_ahead(remote: &Remote, last: &WalName) -> Option<u64> {
    let size = SegmentSize::new(remote.segment_size).ok()?;
    let current: SegmentName = remote.current_wal.as_deref()?.parse().ok()?;
    let last = last.segment()?;
    current.number(size).ok()?.0.checked_sub(last.number(size).ok()?.0)
}

/// Makes a new server send WAL by its `writer`, the server itself or its primary, since nothing else shows
/// that it does; whether some came. Then the writer is asked again: that may have ended an older failure.
pub(super) async fn first_wal(
    server: &Server,
    repository: &Repository,
    writer: &mut Running,
    patience: Patience,
) -> Result<bool> {
    if !writer.remote.is_archiver_on() || writer.remote.in_recovery {
        return Ok(false);
    }
    let (sql, system_id) = (&writer.sql, writer.remote.system_id);
    let sent = async {
        sql.switch_wal(Write::Checkpoint).await?;
        loop {
            let wal = repository::wal::of_system(repository, &server.name, system_id).await?;
            if !wal.is_empty() && !sql.archiver_status().await?.is_failing() {
                return Ok(Some(Remote::ask_over(server, sql).await?));
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let limit = patience.limit().map_or(FIRST_WAL, |limit| limit.min(FIRST_WAL));
    // That nothing came in time is the answer.
    let sent: Result<_> = tokio::time::timeout(limit, Box::pin(sent)).await.unwrap_or(Ok(None));
    match sent? {
        Some(remote) => {
            writer.remote = remote;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Whether the archive has a timeline that the server does not know of: a copy of it archives in its place, or it
/// was left behind by a failover.
pub(super) fn check_timeline(remote: &Remote, newest: Option<TimelineId>, report: &mut Report) {
    let current = remote.current_wal.as_deref().and_then(|file| file.parse::<SegmentName>().ok());
    let (Some(SegmentName { timeline, .. }), Some(newest)) = (current, newest) else { return };
    let hint = match newest > timeline {
        false => format!("{timeline}"),
        true => format!(
            "the server is on {timeline}, and the archive has WAL of timeline {newest}: another server \
             archives as this one, or has taken over; restores follow {newest} unless --target-tli says \
             otherwise"
        ),
    };
    report.should("timeline", newest <= timeline, hint);
}

/// Files that came with other content than the archive has under their names.
pub(super) async fn check_conflicts(
    server: &Server,
    repository: &Repository,
    patience: Patience,
    report: &mut Report,
) {
    let listed = patience.wait(async {
        let stored = servers::stored_name(repository, &server.name).await?;
        let prefix = format!("conflicts/{}/", escape(&stored));
        let listed = repository.storage().list(&prefix).await;
        Ok((listed.map_err(repository::Error::from)?, prefix))
    });
    match listed.await {
        Ok((objects, prefix)) => {
            let conflicts =
                objects.iter().filter(|object| ObjectName::parse(&object.name).is_some()).count();
            let hint = match conflicts {
                0 => String::new(),
                count => format!("{count} WAL files came with other content, kept in {prefix}"),
            };
            report.should("archiver errors", conflicts == 0, hint);
        }
        Err(error) => report.should("archiver errors", false, error.in_one_line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_archive_to_the_server_is_known() {
        for command in [
            "false",
            "/bin/false",
            " ",
            "barman wal-archive mian %p",
            "barman wal-archive main",
            "main wal-archive other %p",
            "/usr/bin/barman-wal-archive backup-host mian %p",
            "envdir /etc/main /usr/local/bin/barman -c '/etc/b.conf' wal-archive mainly \"%p\"",
        ] {
            assert!(!may_lead_to("main", command), "{command}");
        }
        for command in [
            "barman wal-archive main %p",
            "/usr/local/bin/barman -c '/etc/b.conf' wal-archive 'main' \"%p\"",
            "barman wal-archive --test main %p && cp %p /also/%f",
            "barman-wal-archive backup-host main %p",
            "barman wal-archive \"$SERVER\" %p",
            "/usr/local/bin/my-wal-archive.sh %p",
            "barman-cloud-wal-archive s3://bucket/ other %p",
            "ssh backup barman put-wal main < %p",
            "/bin/true",
        ] {
            assert!(may_lead_to("main", command), "{command}");
        }
    }
}
