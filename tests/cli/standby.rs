//! A server that is a standby, and its primary.

use std::fs;

use serde_json::json;

use crate::support::cluster::primary_and_standby;
use crate::support::{Barman, Cluster, Shutdown};

/// A primary that archives, and a standby of it that streams.
fn pair() -> (Cluster, Cluster, Barman) {
    let (primary, standby, barman) = primary_and_standby("");
    let standby = standby.follow(&primary);
    (primary, standby, barman)
}

#[test]
fn a_primary_that_is_named_sends_the_last_wal_of_a_standbys_backup() {
    let (mut primary, mut standby, barman) = pair();
    let with_primary = |conninfo: &str| {
        let more = format!("primary_conninfo = {conninfo}\nimmediate_checkpoint = true\n");
        barman.server("main", &standby, &more);
    };
    with_primary(&primary.conninfo());
    let checked = barman.ok(&["check", "main"]);
    for line in [
        "PostgreSQL server is standby: OK",
        "Primary server is not a standby: OK",
        "Primary and standby have same system ID: OK",
        "archive_mode: OK (a standby: its primary archives)",
    ] {
        assert!(checked.stdout.contains(line), "{line}: {checked}");
    }
    let backup = barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60"]);
    assert!(backup.stdout.contains(": DONE\n"), "{backup}");

    // Nobody closes the segment of a quiet primary that is not named.
    barman.server("main", &standby, "immediate_checkpoint = true\n");
    primary.psql("INSERT INTO t SELECT n FROM generate_series(1001, 2000) n");
    primary.psql("CHECKPOINT");
    standby.wait_for_replay_of(&primary);
    let backup = barman.ok(&["backup", "main"]);
    assert!(backup.stdout.contains(": WAITING_FOR_WALS\n"), "{backup}");
    assert!(backup.stdout.contains("primary_conninfo"), "{backup}");
    primary.switch_wal();
    crate::support::wait_until(std::time::Duration::from_secs(60), || {
        barman.json(&["list-backups", "main"])["main"][0]["status"] == "DONE"
    });

    with_primary(&standby.conninfo());
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("Primary server is not a standby"), "{refused}");
    let other = Cluster::builder(17).start();
    with_primary(&other.conninfo());
    let refused = barman.run(&["backup", "main"]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.stderr.contains("primary_conninfo leads to system"), "{refused}");

    let restored = barman.path("restored");
    fs::create_dir(&restored).unwrap();
    crate::support::account::hand_over(&restored);
    barman.ok(&["restore", "main", "latest", restored.to_str().unwrap()]);
    let mut server = Cluster::on(17, &restored);
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.psql("SELECT count(*) FROM t"), "2000");
    for server in [&mut server, &mut standby, &mut primary] {
        server.stop(Shutdown::Fast);
    }
}

#[test]
fn of_several_hosts_the_standby_is_read_and_named() {
    let (mut primary, mut standby, barman) = pair();
    let hosts = |attributes: &str| {
        format!(
            "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs={attributes}",
            primary.directory().display(),
            standby.directory().display(),
            primary.port(),
            standby.port()
        )
    };
    let configure = |attributes: &str| {
        let text = format!(
            "[main]\nconninfo = {0}\nstreaming_conninfo = {0}\nprimary_conninfo = {1}\n\
             immediate_checkpoint = true\n",
            hosts(attributes),
            hosts("primary")
        );
        crate::support::account::write_file(&barman.path("servers.d/main.conf"), &text);
    };
    configure("prefer-standby");
    barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60", "--name", "standby"]);
    let shown = |name: &str| {
        let shown = barman.json(&["show-backup", "main", name]);
        let told = &shown["main"]["server_information"];
        (told["host"].clone(), told["port"].clone(), told["is_in_recovery"].clone())
    };
    let place = |cluster: &Cluster| (json!(cluster.directory()), json!(cluster.port()));
    let (host, port) = place(&standby);
    assert_eq!(shown("standby"), (host, port, json!(true)));
    let text = barman.ok(&["show-backup", "main", "standby"]).stdout;
    let line = format!("    Read from host       : {}\n", standby.directory().display());
    assert!(text.contains(&line) && text.contains("    Was a standby        : True\n"), "{text}");

    // Where there is no standby any more, the primary will do.
    standby.stop(Shutdown::Fast);
    barman.ok(&["backup", "main", "--wait", "--wait-timeout", "60", "--name", "primary"]);
    let (host, port) = place(&primary);
    assert_eq!(shown("primary"), (host, port, json!(false)));
    primary.stop(Shutdown::Fast);
}

#[test]
fn a_primary_is_made_to_checkpoint_when_its_wal_does_not_come() {
    let (mut primary, mut standby, barman) = pair();
    primary.psql("ALTER SYSTEM SET archive_command = 'false'");
    primary.psql("SELECT pg_reload_conf()");
    let configure = |more: &str| {
        let to_primary = format!("primary_conninfo = {}\n", primary.conninfo());
        barman.server("main", &standby, &(to_primary + "immediate_checkpoint = true\n" + more));
    };
    let forced = || primary.log().matches("checkpoint starting: immediate force wait").count();
    let before = forced();
    configure("");
    let late = barman.run(&["backup", "main", "--wait", "--wait-timeout", "1"]);
    assert_eq!(late.status, 3, "{late}");
    assert!(late.stdout.contains("has been closed on the primary\n"), "{late}");
    assert_eq!(forced(), before, "0 is never");

    configure("primary_checkpoint_timeout = 1\n");
    let done = barman.ok(&["backup", "main"]);
    assert!(done.stdout.contains("closed on the primary, after a checkpoint\n"), "{done}");
    assert!(done.stdout.contains(": WAITING_FOR_WALS\n"), "{done}");
    assert_eq!(forced(), before + 1);
    // It archives again, and sends all that was waited for: nothing is forced any more.
    barman.archive_from("main", &mut primary);
    primary.switch_wal();
    crate::support::wait_until(std::time::Duration::from_secs(90), || {
        primary.psql("SELECT last_archived_time > last_failed_time FROM pg_stat_archiver") == "t"
    });
    barman.server(
        "main",
        &standby,
        &format!(
            "primary_conninfo = {}\nimmediate_checkpoint = true\nprimary_checkpoint_timeout = 60\n",
            primary.conninfo()
        ),
    );
    let done = barman.ok(&["backup", "main"]);
    assert!(done.stdout.contains(": DONE\n"), "{done}");
    assert_eq!(
        primary.log().matches("checkpoint starting: immediate force wait").count(),
        before + 1
    );
    standby.stop(Shutdown::Fast);
    primary.stop(Shutdown::Fast);
}
