//! What is done for the WAL of a backup whose files are stored: its last segment is closed, and it is waited for.

use std::time::Duration;

use repo_format::snapshot::Snapshot;

use super::{Run, WalRange};
use crate::backup::wait::{self, missing_wal, too_late, wait_for_wal, waits_for};
use crate::backup::{Made, Request};
use crate::config::Server;
use crate::error::{Error, Kind, Result};
use crate::human;
use crate::postgres::sql::{SqlConnection, Write};
use crate::repository::Repository;
use crate::server::primary::{ANSWER, Switch, in_time, switch_wal};
use crate::wal::inventory::Gap;

impl Run<'_> {
    /// Sees to the WAL of a backup, and waits for it where that is wanted.
    pub(super) async fn see_to_wal(
        &self,
        server: &Server,
        repository: &Repository,
        request: &Request,
        made: &mut Made,
    ) -> Result<()> {
        let output = &self.session.output;
        let standby = made.snapshot.cluster.from_standby;
        if standby {
            self.close_primary_segment(server, &made.snapshot, Write::Record).await;
        } else {
            restore_point(request, &made.snapshot).await;
        }
        let limit = self.wait_limit();
        if let Some(limit) = limit {
            let end = WalRange::of(&made.snapshot).end;
            let limit = human::duration(limit);
            let name = &server.name;
            output.info(format!(
                "Waiting for the WAL file {end} from server '{name}' (max: {limit})"
            ));
        }
        let begun = tokio::time::Instant::now();
        if let Some(patience) = server.primary_checkpoint_timeout
            && standby
            && server.primary_conninfo.is_some()
        {
            let patience = limit.map_or(patience, |limit| limit.min(patience));
            if self.wait(repository, made, patience).await?.is_none() {
                return Ok(());
            }
            self.close_primary_segment(server, &made.snapshot, Write::Checkpoint).await;
        }
        let Some(limit) = limit else { return Ok(()) };
        match self.wait(repository, made, limit.saturating_sub(begun.elapsed())).await? {
            None => Ok(()),
            Some(gap) => Err(too_late(&made.snapshot, &gap, limit)),
        }
    }

    /// How long the WAL is waited for, if it is.
    fn wait_limit(&self) -> Option<Duration> {
        let seconds = self.args.wait_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        self.args.waits().then(|| seconds.unwrap_or(wait::LIMIT))
    }

    /// Waits for the WAL, or for the failure of its stream.
    async fn wait(
        &self,
        repository: &Repository,
        made: &mut Made,
        limit: Duration,
    ) -> Result<Option<Gap>> {
        let snapshot = &made.snapshot;
        let bar = self.session.progress("waiting for WAL");
        let bar = if self.several { bar.named(&snapshot.server) } else { bar };
        let progress = bar.observer();
        let waited = tokio::select! {
            waited = wait_for_wal(repository, snapshot, limit, &progress) => waited,
            failure = made.wal.failure() => {
                let missing = missing_wal(repository, snapshot).await?;
                missing.first().map_or(Ok(None), |gap| Err(not_streamed(snapshot, gap, failure)))
            }
        };
        bar.finish();
        waited
    }

    /// Makes the primary of a standby close its WAL segment: the backup needs that one, and a primary without
    /// work would not complete it. A backup that fails in this is stored; its WAL comes later.
    async fn close_primary_segment(&self, server: &Server, snapshot: &Snapshot, before: Write) {
        let output = &self.session.output;
        match Box::pin(switch_wal(server, snapshot.system_id, before)).await {
            Ok(Switch::NoPrimary) => output.info(
                "The backup is complete when the primary has archived its last WAL; with \
                 primary_conninfo in the configuration, it is made to do so at once.",
            ),
            Ok(Switch::NotNeeded) => {}
            Ok(Switch::Closed(closed)) => {
                let checkpoint = match before {
                    Write::Checkpoint => ", after a checkpoint",
                    _ => "",
                };
                output.info(format!(
                    "The WAL file {closed} has been closed on the primary{checkpoint}"
                ));
            }
            Err(error) => output.warning(format!(
                "the primary (primary_conninfo) could not be made to close its WAL file: {error}"
            )),
        }
    }
}

fn not_streamed(snapshot: &Snapshot, gap: &Gap, failure: Error) -> Error {
    let message = format!("{}, which was not streamed", waits_for(snapshot, gap));
    Error::new(Kind::Waiting, message)
        .because(failure)
        .hint("where nothing archives it, the backup cannot be restored: make another one")
}

/// Marks the end of the backup in the WAL, under Barman's name, for restores to just this moment.
async fn restore_point(request: &Request, snapshot: &Snapshot) {
    let mark = async {
        let sql = Box::pin(SqlConnection::connect(&request.sql)).await?;
        let made = sql.create_restore_point(&format!("barman_{}", snapshot.backup_id)).await;
        sql.close().await;
        Ok(made?)
    };
    if let Err(error) = in_time(ANSWER, mark).await {
        tracing::warn!("no restore point was made for backup {}: {error}", snapshot.backup_id);
    }
}
