//! Tells the repository that a backup is being read, so that nobody removes what it is made of.

use std::sync::Arc;

use repo_format::session::Activity;
use repo_format::snapshot::Snapshot;

use crate::repository::Repository;
use crate::repository::sessions::OwnSession;

/// A session that reads a backup, if the repository takes one.
#[derive(Debug)]
pub struct Hold(Option<OwnSession>);

impl Hold {
    /// Begins to read `snapshot`. A repository that cannot be written to, as a mirror, is read all the
    /// same: where this process may not write, it can tell nobody what it reads.
    pub async fn begin(repository: &Arc<Repository>, snapshot: &Snapshot) -> Hold {
        let purpose = format!("a restore of backup {}", snapshot.backup_id);
        let activity = Activity::Read { purpose, backups: vec![snapshot.backup_name()] };
        let begin = async {
            repository.refuse_mirror().await?;
            OwnSession::begin(repository.clone(), activity).await
        };
        let session = match begin.await {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::debug!("the restore goes on without a session: {error}");
                None
            }
        };
        Hold(session)
    }

    /// Ends the session.
    pub async fn end(self) {
        let Some(session) = self.0 else { return };
        if let Err(error) = session.end().await {
            tracing::warn!("a session could not be ended, and will expire: {error}");
        }
    }
}
