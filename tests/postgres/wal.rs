//! WAL: streamed, checked, and read record by record.

use std::path::Path;

use barman::postgres::replication::{ReplicationConnection, WalMessage};
use barman::postgres::sql::{SqlConnection, Write};
use barman::postgres::timeline_history::TimelineHistory;
use barman::postgres::wal_header::check_segment;
use barman::postgres::wal_name::{SegmentName, SegmentNo, SegmentSize, WalName, segments_between};
use barman::postgres::wal_records::{Record, RecordKind, WalReader, WalSummary};
use barman::postgres::{Lsn, TimelineId};

use super::local;
use crate::support::account::hand_over;
use crate::support::{Cluster, Postgres};

fn segment(cluster: &Cluster, name: SegmentName) -> Vec<u8> {
    std::fs::read(cluster.data().join("pg_wal").join(name.to_string())).unwrap()
}

/// Streams up to `end`, the bytes from the start on.
async fn stream(cluster: &Cluster, start: Lsn, end: Lsn) -> Vec<u8> {
    let connection = ReplicationConnection::connect(&local(cluster)).await.unwrap();
    let mut stream = connection.start_replication(None, start, TimelineId(1)).await.unwrap();
    let mut bytes = Vec::new();
    while stream.position() < end {
        match stream.next().await.unwrap().expect("the timeline goes on") {
            WalMessage::Data { bytes: more, .. } => bytes.extend_from_slice(&more),
            WalMessage::Keepalive { reply_requested, .. } => {
                assert!(!reply_requested || stream.position() < end);
                stream.send_status(stream.position(), start).await.unwrap();
            }
        }
    }
    stream.send_status(stream.position(), stream.position()).await.unwrap();
    let (mut connection, next) = stream.finish().await.unwrap();
    assert_eq!(next, None);
    connection.identify_system().await.unwrap();
    bytes
}

#[tokio::test]
async fn streamed_wal_is_what_the_server_has() {
    for version in Postgres::VERSIONS {
        let cluster = Cluster::builder(version)
            .initdb("--wal-segsize=1")
            .setting("wal_keep_size", "1GB")
            .start();
        let size = SegmentSize::new(1 << 20).unwrap();
        let start = size.floor(cluster.current_lsn().parse().unwrap());
        cluster.psql("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 60000) n");
        let sql = SqlConnection::connect(&local(&cluster)).await.unwrap();
        let last = sql.switch_wal(Write::Checkpoint).await.unwrap().unwrap();
        let end = last.next(size).unwrap().start(size).unwrap();
        let bytes = stream(&cluster, start, end).await;

        let names: Vec<_> = segments_between(TimelineId(1), start, end, size).collect();
        assert!(names.len() >= 4, "{names:?}");
        let system_id = sql.system_id().await.unwrap();
        for (name, streamed) in names.iter().zip(bytes.chunks_exact(1 << 20)) {
            let file = segment(&cluster, *name);
            assert!(file == streamed, "{name} differs");
            let found = check_segment(&file, *name, false, Some(system_id)).unwrap();
            assert_eq!(found.header.version, version);
            // After a switch the rest of the segment is zero, page headers and all.
            let used = found.pages_end.bytes_since(found.header.page.address) as usize;
            assert_eq!(used == file.len(), name != names.last().unwrap(), "{name}");
            assert!(file[used..].iter().all(|byte| *byte == 0));
        }
    }
}

#[tokio::test]
async fn slots_settings_and_histories() {
    let cluster = Cluster::builder(17).start();
    let mut connection = ReplicationConnection::connect(&local(&cluster)).await.unwrap();
    assert_eq!(connection.show("wal_segment_size").await.unwrap(), "16MB");
    assert!(connection.show("no such").await.is_err());
    assert_eq!(connection.read_slot("held").await.unwrap(), None);
    connection.create_slot("held", false).await.unwrap();
    let slot = connection.read_slot("held").await.unwrap().unwrap();
    assert!(slot.restart_lsn.is_some());
    assert!(connection.create_slot("held", false).await.unwrap_err().is_code("42710"));
    connection.drop_slot("held", false).await.unwrap();
    connection.create_slot("passing", true).await.unwrap();
    assert!(connection.create_slot("Bad'", true).await.is_err());
    assert_eq!(connection.timeline_history(TimelineId(9)).await.unwrap(), None);
    // WAL that is long gone.
    let mut stream =
        connection.start_replication(None, "0/1000".parse().unwrap(), TimelineId(1)).await.unwrap();
    let error = stream.next().await.unwrap_err();
    assert!(error.is_code("58P01"), "{error}");
}

/// What `pg_waldump` prints of the same WAL: position, transaction, resource manager, description.
fn pg_waldump(cluster: &Cluster, first: SegmentName, last: SegmentName) -> Vec<[String; 4]> {
    let mut command = cluster.postgres().command("pg_waldump", Path::new("/tmp"));
    command.arg("-p").arg(cluster.data().join("pg_wal"));
    command.args([first.to_string(), last.to_string()]);
    let output = crate::support::process::run(command);
    let field = |line: &str, name: &str| -> String {
        line.split_once(name).unwrap().1.split([',', ' ']).find(|s| !s.is_empty()).unwrap().into()
    };
    output
        .stdout
        .lines()
        .map(|line| {
            [
                field(line, "lsn:"),
                field(line, "tx:"),
                field(line, "rmgr:"),
                line.split_once("desc:").unwrap().1.trim().to_owned(),
            ]
        })
        .collect()
}

fn read(cluster: &Cluster, names: &[SegmentName]) -> (Vec<Record>, WalReader) {
    let mut reader = WalReader::new(None);
    let mut records = Vec::new();
    for name in names {
        reader.feed(*name, &segment(cluster, *name), |r| records.push(r.clone())).unwrap();
    }
    (records, reader)
}

#[tokio::test]
async fn records_agree_with_pg_waldump() {
    for version in Postgres::VERSIONS {
        let cluster = Cluster::builder(version)
            .initdb("--wal-segsize=1")
            .setting("wal_keep_size", "1GB")
            .setting("max_prepared_transactions", "2")
            .start();
        let size = SegmentSize::new(1 << 20).unwrap();
        let start = size.floor(cluster.current_lsn().parse().unwrap());
        let committed = cluster.psql(
            "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n; \
             CREATE INDEX ON t (md5); \
             BEGIN; INSERT INTO t VALUES (0, ''); SELECT pg_current_xact_id(); COMMIT",
        );
        let rolled_back = cluster.psql("BEGIN; SELECT pg_current_xact_id(); ROLLBACK");
        let prepared = cluster.psql(
            "BEGIN; CREATE TABLE u(); SAVEPOINT s; CREATE TABLE v(); SELECT pg_current_xact_id(); \
             PREPARE TRANSACTION 'later'",
        );
        cluster.psql("COMMIT PREPARED 'later'; SELECT pg_switch_wal(); DROP TABLE t; CHECKPOINT");
        cluster.psql("SELECT pg_create_restore_point('before it all')");
        // A restore point is not flushed by itself; the commit that follows it is.
        cluster.psql("CREATE TABLE w()");
        let end: Lsn = cluster.psql("SELECT pg_current_wal_flush_lsn()").parse().unwrap();

        let names: Vec<_> = segments_between(TimelineId(1), start, end, size).collect();
        let dumped = pg_waldump(&cluster, names[0], *names.last().unwrap());
        let (records, reader) = read(&cluster, &names);
        assert!(reader.reached().unwrap() >= end, "{:?} {end}", reader.reached());
        assert!(records.len() > 1000);
        for (record, [lsn, xid, rmgr, description]) in records.iter().zip(&dumped) {
            // pg_waldump pads the lower half of an LSN.
            let (high, low) = lsn.split_once('/').unwrap();
            assert_eq!(record.start, format!("{high}/{low}").parse().unwrap());
            assert_eq!(record.xid.to_string(), *xid, "{lsn}");
            assert_eq!(record.resource_manager.to_string(), *rmgr, "{lsn}");
            let expected = match &record.kind {
                RecordKind::Commit { prepared: false, .. } => "COMMIT ",
                RecordKind::Commit { xid, .. } => &format!("COMMIT_PREPARED {xid}:"),
                RecordKind::Abort { .. } => "ABORT ",
                RecordKind::RestorePoint { name, .. } => &format!("RESTORE_POINT {name}"),
                RecordKind::Switch => "SWITCH",
                RecordKind::Checkpoint { redo, .. } => &format!("redo {redo};"),
                _ => "",
            };
            let fits = match record.kind {
                RecordKind::Checkpoint { .. } => {
                    description.contains(expected) || description.contains("redo ")
                }
                RecordKind::Commit { prepared: true, .. } => {
                    description.starts_with("COMMIT_PREPARED")
                }
                _ => description.starts_with(expected),
            };
            assert!(fits, "{lsn}: {description} is {:?}", record.kind);
        }
        let extra = records.len().abs_diff(dumped.len());
        assert!(extra < 5, "{} {}", records.len(), dumped.len());

        for (xid, wanted) in [(committed, true), (rolled_back, false), (prepared, true)] {
            let mut summary = WalSummary::looking_for(xid.parse().unwrap());
            records.iter().for_each(|record| summary.add(record));
            assert_eq!(summary.is_committed(), Some(wanted), "{version}: {xid}");
            assert!(summary.restore_point("before it all").is_some());
            let latest = summary.latest_commit.unwrap().time;
            assert!((jiff::Timestamp::now() - latest).get_seconds().abs() < 300);
        }
        assert!(records.iter().any(|record| record.kind == RecordKind::Switch));
    }
}

#[tokio::test]
async fn a_promotion_is_followed_to_the_new_timeline() {
    for version in [15, 18] {
        let primary = Cluster::builder(version).start();
        let data = primary.directory().join("standby");
        let mut command = primary.client("pg_basebackup");
        command.arg("-D").arg(&data).args(["-R", "-X", "stream", "-c", "fast"]);
        crate::support::process::run(command).expect_success();
        hand_over(&data);
        let mut standby = Cluster::on(version, &data);
        standby.start();
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
        let wanted: Lsn = primary.current_lsn().parse().unwrap();
        crate::support::wait_until(std::time::Duration::from_secs(30), || {
            standby.psql("SELECT pg_last_wal_replay_lsn()").parse::<Lsn>().unwrap() >= wanted
        });

        let info = super::conninfo(&standby, &standby.conninfo());
        let connection = ReplicationConnection::connect(&info).await.unwrap();
        let size = SegmentSize::DEFAULT;
        let start = size.floor(wanted);
        let mut stream = connection.start_replication(None, start, TimelineId(1)).await.unwrap();
        standby.promote();
        while stream.next().await.unwrap().is_some() {}
        let reached = stream.position();
        let (mut connection, next) = stream.finish().await.unwrap();
        let next = next.unwrap();
        assert_eq!((next.timeline, next.start), (TimelineId(2), reached));

        let (name, content) = connection.timeline_history(TimelineId(2)).await.unwrap().unwrap();
        assert_eq!(name.parse::<WalName>().unwrap(), WalName::History(TimelineId(2)));
        let history = TimelineHistory::parse(TimelineId(2), &content).unwrap();
        assert_eq!(history.switch_from(TimelineId(1)), Some(reached));
        assert_eq!(history.format().as_bytes(), content);

        // Asked for the very end of the old timeline, the server only names the new one.
        let stream = connection.start_replication(None, reached, TimelineId(1)).await.unwrap();
        let (connection, again) = stream.finish().await.unwrap();
        assert_eq!(again, Some(next));
        connection.close().await;

        // The new timeline's first segment begins with the old one's records.
        let first = history.segment(SegmentNo::containing(reached, size), size);
        assert_eq!(first.timeline, TimelineId(2));
        standby.psql("CREATE TABLE u(); CHECKPOINT");
        let bytes = segment(&standby, first);
        check_segment(&bytes, first, false, None).unwrap();
        let (records, _) = read(&standby, &[first]);
        let switched = records.iter().any(|record| {
            matches!(record.kind, RecordKind::EndOfRecovery { timeline, previous, .. }
                if timeline == TimelineId(2) && previous == TimelineId(1))
        });
        assert!(switched, "no end of recovery among {} records", records.len());
    }
}
