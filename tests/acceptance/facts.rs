//! What a snapshot knows of the server it was made of, and what a restore makes of it.

use serde_json::Value;

use crate::support::account::write_file;
use crate::support::{Barman, Cluster, Postgres, Shutdown};

/// The role of the README, which is no superuser.
pub const ROLE: &str = "CREATE ROLE barman LOGIN REPLICATION; \
    GRANT pg_read_all_settings, pg_read_all_stats, pg_checkpoint TO barman; \
    GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO barman; \
    GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO barman; \
    GRANT EXECUTE ON FUNCTION pg_switch_wal() TO barman; \
    GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO barman";

/// Configures server `main` to be `cluster`, as the role of the README.
pub fn as_role(barman: &Barman, cluster: &Cluster) {
    let conninfo = cluster.conninfo().replace("user=postgres", "user=barman");
    let text = format!(
        "[main]\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\nimmediate_checkpoint = true\n"
    );
    write_file(&barman.path("servers.d/main.conf"), &text);
}

fn shown(barman: &Barman) -> Value {
    barman.json(&["show-backup", "main", "latest"])["main"]["environment_information"].clone()
}

fn database<'v>(environment: &'v Value, name: &str) -> &'v Value {
    let databases = environment["databases"].as_array().unwrap();
    databases.iter().find(|database| database["name"] == name).unwrap()
}

#[test]
fn the_server_tells_what_it_runs_on() {
    for version in Postgres::VERSIONS {
        let mut cluster = Cluster::builder(version)
            .initdb("--wal-segsize=1")
            .setting("shared_preload_libraries", "pg_stat_statements")
            .hba("local postgres,replication barman trust")
            .hba("local all barman reject")
            .start();
        cluster.psql(ROLE);
        cluster
            .psql("CREATE DATABASE german TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'");
        cluster.psql("CREATE DATABASE closed");
        cluster.psql("ALTER DATABASE closed CONNECTION LIMIT 0");
        cluster.psql("ALTER DATABASE closed ALLOW_CONNECTIONS false");
        cluster.psql_in(
            "german",
            "CREATE EXTENSION pg_stat_statements; \
             CREATE COLLATION french (provider = icu, locale = 'fr'); \
             CREATE TABLE words (word text COLLATE french)",
        );
        // The database's owner decides what unqualified names mean there.
        cluster.psql_in(
            "german",
            "CREATE FUNCTION public.pg_collation_actual_version(oid) RETURNS text LANGUAGE plpgsql \
             AS $$ BEGIN RAISE 'called'; END $$; \
             ALTER DATABASE german SET search_path = public, pg_catalog",
        );
        let barman = Barman::initialised();
        barman.server("main", &cluster, "immediate_checkpoint = true\n");
        barman.archive_from("main", &mut cluster);
        barman.ok(&["backup", "main", "--wait"]);

        let seen = shown(&barman);
        let architecture = std::env::consts::ARCH;
        assert!(seen["platform"].as_str().unwrap().starts_with(architecture), "{seen}");
        assert!(seen["version"].as_str().unwrap().starts_with(&format!("{version}.")), "{seen}");
        assert_eq!(seen["shared_preload_libraries"], "pg_stat_statements");
        let german = database(&seen, "german");
        assert_eq!((&german["locale_provider"], &german["locale"]), (&"icu".into(), &"de".into()));
        assert_eq!(german["encoding"], "UTF8");
        assert_eq!(german["collation_version"], german["actual_collation_version"]);
        assert!(german["collation_version"].is_string(), "{german}");
        let extension = cluster.psql_in(
            "german",
            "SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'",
        );
        assert_eq!(german["extensions"]["pg_stat_statements"], extension);
        let collations = german["collations"].as_array().unwrap();
        assert_eq!(collations.len(), 1, "{german}");
        assert_eq!(collations[0]["name"], "french");
        assert_eq!(database(&seen, "postgres")["collations"], serde_json::json!([]));
        assert!(database(&seen, "closed")["extensions"].is_null());
        let text = barman.ok(&["show-backup", "main", "latest"]).stdout;
        assert!(text.contains("german, UTF8, de (icu "), "{text}");
        assert!(text.contains(&format!("pg_stat_statements {extension}")), "{text}");

        // The role of the README is let into one database only, and a backup is as good.
        as_role(&barman, &cluster);
        barman.ok(&["backup", "main", "--wait"]);
        let seen = shown(&barman);
        assert_eq!(seen["shared_preload_libraries"], "pg_stat_statements");
        assert!(database(&seen, "german")["extensions"].is_null());
        assert_eq!(database(&seen, "german")["locale"], "de");
        assert!(database(&seen, "postgres")["extensions"]["plpgsql"].is_string(), "{seen}");
        let refused = cluster.log().matches("FATAL:  pg_hba.conf rejects").count();
        assert_eq!(refused, 1, "{}", cluster.log());
        cluster.stop(Shutdown::Fast);
    }
}

#[test]
fn a_restore_names_what_another_c_library_sorted() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    let restore = |to: &str| {
        let to = barman.path(to);
        barman.json(&["restore", "main", "latest", to.to_str().unwrap()])["warnings"].clone()
    };
    assert_eq!(restore("same"), serde_json::json!([]));

    // As if it had come here from an old machine.
    cluster.psql("CREATE DATABASE old");
    cluster.psql("UPDATE pg_database SET datcollversion = '2.17' WHERE datname = 'old'");
    barman.ok(&["backup", "main", "--wait"]);
    let warnings = restore("other");
    let warning = warnings[0].as_str().unwrap();
    assert!(warning.contains("database old was sorted by glibc 2.17, and this"), "{warnings}");
    assert!(warning.ends_with("ALTER DATABASE \"old\" REFRESH COLLATION VERSION"), "{warnings}");
    assert_eq!(warnings.as_array().unwrap().len(), 1);
    cluster.stop(Shutdown::Fast);
}
