//! What SQL sessions tell.

use barman::postgres::sql::{SqlConnection, Write};
use barman::postgres::{Lsn, TimelineId};

use super::{conninfo, local};
use crate::support::{Cluster, Postgres};

#[tokio::test]
async fn facts_about_a_server() {
    for version in Postgres::VERSIONS {
        let cluster = Cluster::builder(version).start();
        let location = cluster.create_tablespace("extra");
        let sql = SqlConnection::connect(&local(&cluster)).await.unwrap();
        assert_eq!(sql.server_version_num().await.unwrap() / 10_000, version);
        assert!(sql.server_version().starts_with(&format!("{version}.")));
        assert!(!sql.is_in_recovery().await.unwrap());
        let settings = sql.settings(&["wal_level", "port", "no_such_setting"]).await.unwrap();
        assert_eq!(settings["port"], cluster.port().to_string());
        assert_eq!(settings.len(), 2);
        assert_eq!(sql.wal_segment_size().await.unwrap().bytes(), 16 << 20);
        assert_eq!(sql.data_directory().await.unwrap(), cluster.data().to_str().unwrap());
        let [_, hba, _] = sql.configuration_files().await.unwrap();
        assert!(hba.ends_with("/pg_hba.conf"));
        let tablespaces = sql.tablespaces().await.unwrap();
        assert_eq!(tablespaces.len(), 1);
        assert_eq!(tablespaces[0].location, location.to_str().unwrap());
        assert!(sql.total_size().await.unwrap() > 1 << 20);
        assert_eq!(sql.timeline().await.unwrap(), TimelineId(1));
        assert_eq!(sql.archiver_status().await.unwrap().archived_count, 0);
        let here: Lsn = sql.current_lsn().await.unwrap();
        assert!(sql.create_restore_point("a point").await.unwrap() > here);
        assert!(sql.replication_slots().await.unwrap().is_empty());
        assert!(sql.privileges(&[]).await.unwrap().can_backup());
    }
}

#[tokio::test]
async fn switching_wal_finishes_a_segment_and_knows_when_there_is_none() {
    let cluster = Cluster::builder(17).start();
    let sql = SqlConnection::connect(&local(&cluster)).await.unwrap();
    let current = sql.current_wal_file().await.unwrap().unwrap();
    let finished = sql.switch_wal(Write::Checkpoint).await.unwrap().unwrap();
    assert_eq!(finished.to_string(), current);
    // Now the segment is empty, unless the server wrote something of its own in between.
    let again = sql.switch_wal(Write::Nothing).await.unwrap();
    assert!(again.is_none(), "{again:?}");
    let forced = sql.switch_wal(Write::Checkpoint).await.unwrap().unwrap();
    assert_eq!(forced.segment, finished.segment + 1);
}

#[tokio::test]
async fn missing_privileges_are_named_and_granting_them_is_enough() {
    let cluster = Cluster::builder(15).start();
    cluster.psql("CREATE ROLE \"Poor\" LOGIN");
    let info = conninfo(&cluster, &cluster.conninfo().replace("user=postgres", "user=Poor"));
    let sql = SqlConnection::connect(&info).await.unwrap();
    let before = sql.privileges(&[]).await.unwrap();
    assert!(!before.can_backup() && !before.can_replicate());
    assert_eq!(before.missing.len(), 4, "{before:?}");
    let refused = sql.create_restore_point("no").await.unwrap_err();
    assert!(refused.is_code("42501") && refused.hint().is_some());
    cluster.psql(&before.missing.join(";"));
    let after = sql.privileges(&[]).await.unwrap();
    assert!(after.can_backup(), "{after:?}");
    // Without the right to do a checkpoint, too.
    assert!(sql.switch_wal(Write::Checkpoint).await.unwrap().is_some());
    assert!(sql.data_directory().await.is_ok());
}
