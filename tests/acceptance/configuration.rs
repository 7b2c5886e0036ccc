//! Configuration outside the data directory comes back with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::facts::as_role;
use crate::support::account::{self, is_root, write_file};
use crate::support::cluster::pg_verifybackup;
use crate::support::process::{self, run};
use crate::support::{Barman, Cluster, Shutdown};

/// Moves the configuration of a new cluster to `etc/main` beside its data directory, as Debian has it,
/// with more files that it includes.
#[expect(clippy::disallowed_methods, reason = "what a test moves need not be durable")]
fn move_out(cluster: &Cluster) -> PathBuf {
    let etc = cluster.directory().join("etc");
    let main = etc.join("main");
    for directory in [etc.clone(), main.clone(), main.join("conf.d"), etc.join("empty.d")] {
        account::make_dir(&directory);
    }
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(cluster.data().join(name), main.join(name)).unwrap();
    }
    let conf = fs::read_to_string(main.join("postgresql.conf")).unwrap();
    let (data, main_shown) = (cluster.data().display(), main.display());
    let more = format!(
        "data_directory = '{data}'\nhba_file = '{main_shown}/pg_hba.conf'\n\
         ident_file = '{main_shown}/pg_ident.conf'\ninclude_dir = 'conf.d'\n\
         search_path = '\"$user\", public, \"More\"'\nprimary_conninfo = 'password=secret'\n\
         include_dir = '{etc}/empty.d'\ninclude '../shared.conf'\n",
        etc = etc.display()
    );
    write_file(&main.join("postgresql.conf"), &(conf + &more));
    write_file(&main.join("conf.d/memory.conf"), "work_mem = 5MB\ncluster_name = 'it''s out'\n");
    write_file(&main.join("conf.d/unused.conf"), "# work_mem = 6MB\n");
    write_file(&etc.join("shared.conf"), "maintenance_work_mem = '77MB'\n");
    write_file(&main.join("admins"), "postgres\n");
    let hba = fs::read_to_string(main.join("pg_hba.conf")).unwrap();
    write_file(&main.join("pg_hba.conf"), &format!("local all @admins trust\n{hba}"));
    main
}

/// A server whose configuration is outside its data directory, and the directory where that is.
pub fn configured_outside(version: u32) -> (Cluster, Barman, PathBuf) {
    let cluster = Cluster::builder(version).initdb("--wal-segsize=1").create();
    let main = move_out(&cluster);
    let conf = main.join("postgresql.conf");
    let mut cluster = cluster.option("config_file", conf.to_str().unwrap());
    cluster.start();
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 1000) n");
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    (cluster, barman, main)
}

/// Starts a restored server with the restored configuration, and compares.
#[track_caller]
fn starts(data: &Path, conf: &Path, cluster: &Cluster) {
    let mut server = Cluster::on(cluster.version(), data)
        .option("archive_mode", "off")
        .option("config_file", conf.join("postgresql.conf").to_str().unwrap());
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), cluster.table_checksum("t"));
    for name in ["work_mem", "maintenance_work_mem", "cluster_name", "search_path"] {
        let show = format!("SHOW {name}");
        assert_eq!(server.psql(&show), cluster.psql(&show), "{name}");
    }
    assert_eq!(server.psql("SHOW data_directory"), data.to_str().unwrap());
    server.stop(Shutdown::Fast);
}

#[test]
fn files_outside_are_restored_and_adapted() {
    let (mut cluster, barman, main) = configured_outside(17);
    let made = barman.ok(&["backup", "main", "--wait"]);
    assert_eq!(made.stderr, "");
    let listed = barman.ok(&["list-files", "main", "latest"]).stdout;
    assert!(listed.contains(&format!("{}/conf.d/memory.conf\n", main.display())), "{listed}");
    assert!(!listed.lines().any(|line| line == "postgresql.conf"), "{listed}");
    barman.ok(&["verify-backup", "main", "latest"]);
    let shown = barman.ok(&["show-backup", "main", "latest"]).stdout;
    for file in ["postgresql.conf", "pg_hba.conf", "conf.d/memory.conf", "admins"] {
        assert!(shown.contains(main.join(file).to_str().unwrap()), "{file}: {shown}");
    }
    let seen = barman.json(&["show-backup", "main", "latest"]);
    let seen = &seen["main"]["configuration_information"];
    assert_eq!(seen["hba_file"], main.join("pg_hba.conf").to_str().unwrap());
    assert_eq!(seen["unread_files"], serde_json::json!([]));

    let (data, conf) = (barman.path("restored"), barman.path("etc/new/main"));
    let [to, conf_to] = [&data, &conf].map(|path| path.to_str().unwrap());
    let args = ["restore", "main", "latest", to, "--config-dir", conf_to];
    // Without a directory for it, the restore says what there is, and how to have it.
    let without = barman.ok(&args[..4]);
    assert!(without.stderr.contains(main.join("pg_hba.conf").to_str().unwrap()), "{without}");
    let command = format!(" {to} --config-dir DIRECTORY --config-only");
    assert!(without.stderr.contains(&command), "{without}");
    assert!(without.stdout.contains("-c config_file=/its/postgresql.conf"), "{without}");
    // What a standby keeps, it keeps there too.
    let place = barman.path("standby");
    let standby =
        ["restore", "main", "latest", place.to_str().unwrap(), "--standby-mode", "--dry-run"];
    let standby = barman.ok(&standby);
    assert!(standby.stderr.contains(" --config-only --standby-mode\n"), "{standby}");
    let before = fs::read(data.join("postgresql.auto.conf")).unwrap();
    let later = barman.ok(&[&args[..], &["--config-only"]].concat());
    assert!(later.stdout.contains("configuration files in"), "{later}");
    assert!(!later.stdout.contains("postgresql.auto.conf"), "{later}");
    assert!(fs::read(data.join("postgresql.auto.conf")).unwrap() == before);
    pg_verifybackup(17, &data, &[]);
    starts(&data, &conf, &cluster);
    fs::remove_dir_all(&data).unwrap();
    fs::remove_dir_all(barman.path("etc")).unwrap();
    // Without its data directory it can start nothing, and that is said.
    let only = [&args[..], &["--config-only"]].concat();
    let missing = format!("configuration of a data directory in {to}, and there is none");
    for more in [&["--dry-run"][..], &[]] {
        let told = barman.ok(&[&only[..], more].concat());
        assert!(told.stdout.contains(&missing), "{told}");
        assert!(told.stdout.contains("\nThen start it: "), "{told}");
    }
    assert!(!data.exists());
    fs::remove_dir_all(barman.path("etc")).unwrap();
    let told = barman.json(&[&only[..], &["--dry-run"]].concat());
    assert_eq!(told["start_command"], serde_json::Value::Null);
    // What cannot be is refused before anything is written.
    for (wrong, why) in
        [(data.join("conf"), "inside the data directory"), (main.clone(), "is not empty")]
    {
        let refused = barman.run(&[&args[..5], &[wrong.to_str().unwrap()]].concat());
        assert_eq!(refused.status, 1, "{refused}");
        assert!(refused.stderr.contains(why), "{refused}");
        assert!(!data.exists());
    }
    let planned = barman.ok(&[&args[..], &["--dry-run"]].concat());
    let to_be = format!("conf.d/memory.conf is in {conf_to}/conf.d/memory.conf");
    assert!(planned.stdout.contains(&to_be), "{planned}");
    assert!(planned.stdout.contains("the directory for configuration in"), "{planned}");
    assert!(!data.exists() && !barman.path("etc").exists());

    for way in ["here", "by an agent"] {
        let agent = format!("{} agent #", barman.binary().display());
        let remote = ["--remote-ssh-command", agent.as_str()];
        let remote = if way == "here" { &[][..] } else { &remote[..] };
        let restored = barman.ok(&[&args[..], remote].concat());
        assert_eq!(restored.stderr, "", "{way}");
        let option = format!("-o '-c config_file={conf_to}/postgresql.conf' start");
        assert!(restored.stdout.contains(&option), "{restored}");
        pg_verifybackup(17, &data, &[]);
        let original = fs::read(main.join("postgresql.conf")).unwrap();
        assert!(fs::read(conf.join("postgresql.conf.origin")).unwrap() == original);
        assert_eq!(fs::read_to_string(conf.join("admins")).unwrap(), "postgres\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&conf.join("postgresql.conf")), 0o600);
        assert_eq!(mode(&conf.join("conf.d")), 0o755);
        // Nothing was left unseen: what must not count is a comment, and can be set again.
        let auto = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
        assert!(!auto.contains("primary_conninfo"), "{auto}");
        starts(&data, &conf, &cluster);
        fs::remove_dir_all(&data).unwrap();
        fs::remove_dir_all(&conf).unwrap();
    }
    cluster.stop(Shutdown::Fast);
}

#[test]
fn the_grants_decide_what_is_kept() {
    for version in [15, 18] {
        let (mut cluster, barman, main) = configured_outside(version);
        // Somewhere else, which becomes a place of its own.
        let rules = main.parent().unwrap().join("rules");
        account::make_dir(&rules);
        let hba = rules.join("pg_hba.conf");
        for name in ["pg_hba.conf", "admins"] {
            write_file(&rules.join(name), &fs::read_to_string(main.join(name)).unwrap());
            fs::remove_file(main.join(name)).unwrap();
        }
        let conf = fs::read_to_string(main.join("postgresql.conf")).unwrap();
        let conf = format!("{conf}hba_file = '{}'\n", hba.display());
        write_file(&main.join("postgresql.conf"), &conf);
        cluster.restart();
        as_role(&barman, &cluster);
        let script = barman.ok(&["setup-sql", "main"]).stdout;
        assert!(cluster.try_psql("postgres", &script).success(), "{script}");
        let (data, conf) = (barman.path("restored"), barman.path("conf"));
        let [to, conf_to] = [&data, &conf].map(|path| path.to_str().unwrap());
        let restored = || {
            let _ = (fs::remove_dir_all(&data), fs::remove_dir_all(&conf));
            barman.ok(&["restore", "main", "latest", to, "--config-dir", conf_to])
        };
        let there = conf.join("elsewhere").join(hba.strip_prefix("/").unwrap());
        let restored_hba = || fs::read_to_string(&there).unwrap();

        // What the script grants: files are made of what the server shows, and that is told.
        // A backup that shall be quiet tells it once; by hand it is told each time, and check tells it too.
        for (quiet, is_told) in [(true, true), (true, false), (false, true)] {
            let arguments = ["-q", "backup", "main", "--wait"];
            let made = barman.ok(if quiet { &arguments } else { &arguments[1..] });
            assert_eq!(made.stderr.contains(hba.to_str().unwrap()), is_told, "{made}");
            assert_eq!(made.stderr.contains("barman setup-sql main"), is_told, "{made}");
        }
        let check = barman.ok(&["check", "main"]).stdout;
        assert!(
            check.contains("\tconfiguration files: OK (the last backup has these as"),
            "{check}"
        );
        assert_eq!(cluster.log().matches("ERROR:").count(), 0, "{}", cluster.log());
        let seen = barman.json(&["show-backup", "main", "latest"]);
        let unread = &seen["main"]["configuration_information"]["unread_files"];
        assert_eq!(unread.as_array().unwrap().len(), 5, "{unread}");
        let told = restored();
        assert!(told.stderr.contains("look through it before the start"), "{told}");
        let rules = restored_hba();
        assert!(rules.contains("\nlocal all postgres trust\n"), "{rules}");
        assert!(rules.contains("\nhost all all 127.0.0.1 255.255.255.255 trust\n"), "{rules}");
        starts(&data, &conf, &cluster);

        // Less than that: nobody is let in who was not before, and the server starts.
        cluster.psql("REVOKE SELECT ON pg_hba_file_rules FROM barman");
        barman.ok(&["check", "main"]);
        barman.ok(&["backup", "main", "--wait"]);
        let told = restored();
        assert!(told.stderr.contains("lets only users"), "{told}");
        assert!(restored_hba().contains("\nlocal all all peer\n"));
        // More: the files themselves.
        let more: Vec<&str> =
            script.lines().filter_map(|it| it.strip_prefix("--   GRANT ")).collect();
        assert_eq!(more.len(), 3, "{script}");
        for granted in more {
            cluster.psql(&format!("GRANT {granted}"));
        }
        let made = barman.ok(&["backup", "main", "--wait"]);
        assert_eq!(made.stderr, "");
        let told = restored();
        assert_eq!(told.stderr, "");
        assert!(restored_hba().as_bytes() == fs::read(&hba).unwrap());
        assert!(conf.join("conf.d/unused.conf").exists());
        starts(&data, &conf, &cluster);
        assert_eq!(cluster.log().matches("ERROR:").count(), 0, "{}", cluster.log());
        cluster.stop(Shutdown::Fast);
    }
}

#[test]
fn rules_that_are_made_of_what_is_shown_are_the_same_rules() {
    // Debian's PostgreSQL knows every method.
    let (mut cluster, barman, main) = configured_outside(15);
    let hba = main.join("pg_hba.conf");
    let rules = "local all +\"my group\",bob peer map=m\n\
                 host all all 10.0.0.0/8 gss include_realm=1 krb_realm=X\n\
                 host all all 10.1.0.0/16 gss include_realm=0\n\
                 host all all 10.2.0.0/16 ldap ldapserver=x ldaptls=1 ldapprefix=\"cn=\" ldapsuffix=\", dc=x\"\n\
                 host all all 10.3.0.0/16 ldap ldapserver=x ldapbasedn=\"dc=x\" ldapbindpasswd=\"a \"\"b\"\n\
                 host all all 10.4.0.0/16 ldap ldapurl=\"ldaps://x:636/dc=x?uid?sub\"\n\
                 host all all 10.5.0.0/16 radius radiusservers=\"127.0.0.1\" radiussecrets=\"\"\"x,y\"\"\"\n\
                 host all all 10.6.0.0/16 ldap ldapurl=\"ldap://x/dc=x?uid?one\"\n";
    write_file(&hba, &(rules.to_owned() + &fs::read_to_string(&hba).unwrap()));
    cluster.restart();
    as_role(&barman, &cluster);
    let script = barman.ok(&["setup-sql", "main"]).stdout;
    assert!(cluster.try_psql("postgres", &script).success(), "{script}");
    barman.ok(&["backup", "main", "--wait"]);
    let (data, conf) = (barman.path("restored"), barman.path("conf"));
    let [to, conf_to] = [&data, &conf].map(|path| path.to_str().unwrap());
    barman.ok(&["restore", "main", "latest", to, "--config-dir", conf_to]);
    let mut server = Cluster::on(15, &data)
        .option("archive_mode", "off")
        .option("config_file", conf.join("postgresql.conf").to_str().unwrap());
    server.start();
    server.wait_for_recovery_end();
    let shown = "SELECT type, database, user_name, address, netmask, auth_method, options, error \
                 FROM pg_hba_file_rules WHERE NOT ('10.6.0.0' = address IS TRUE) ORDER BY line_number";
    assert_eq!(server.psql(shown), cluster.psql(shown));
    assert!(server.psql(shown).contains("ldaptls=true"));
    // Which part of the tree this one searches, options cannot say.
    let closed = "SELECT auth_method FROM pg_hba_file_rules WHERE address = '10.6.0.0'";
    assert_eq!(server.psql(closed), "reject");
    server.stop(Shutdown::Fast);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn what_cannot_be_read_does_not_hold_up_a_backup() {
    let (mut cluster, barman, main) = configured_outside(17);
    let etc = main.parent().unwrap();
    // The server has read its configuration. What is there now, it would not start with.
    let mut conf = fs::read_to_string(main.join("postgresql.conf")).unwrap();
    conf.push_str("include 'postgresql.conf'\ninclude 'huge.conf'\ninclude '/dev/zero'\n");
    conf.push_str("include_dir '/'\ninclude '../../../../../../../../no/such/file'\n");
    // It would be found beside the main file, too.
    conf.push_str("include 'environment'\n");
    write_file(&main.join("environment"), "work_mem = 6MB\n");
    conf.push_str(&format!(
        "include '{}'\ninclude 'binary'\ninclude 'conf.d'\n",
        "x".repeat(100_000)
    ));
    write_file(&main.join("postgresql.conf"), &conf);
    write_file(&main.join("huge.conf"), &"# nothing\n".repeat(200_000));
    fs::write(main.join("binary"), b"include '\xff\xfe'\n\0\0 = \x01'\n").unwrap();
    account::hand_over(&main.join("binary"));
    let made = barman.ok(&["backup", "main", "--wait"]);
    for unread in ["huge.conf", "/dev/zero", "conf.d"] {
        assert!(made.stderr.contains(unread), "{unread}: {made}");
    }
    let (data, conf) = (barman.path("restored"), barman.path("conf"));
    let [to, conf_to] = [&data, &conf].map(|path| path.to_str().unwrap());
    barman.ok(&["restore", "main", "latest", to, "--config-dir", conf_to]);
    assert!(fs::read(conf.join("binary")).unwrap() == fs::read(main.join("binary")).unwrap());
    assert_eq!(fs::read_to_string(conf.join("environment")).unwrap(), "work_mem = 6MB\n");

    // A file that answers never: what was read until then is kept.
    let pipe = etc.join("pipe");
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(&pipe);
    run(mkfifo).expect_success();
    account::hand_over(&pipe);
    write_file(&main.join("postgresql.conf"), "include '../pipe'\n");
    let made = barman.ok(&["backup", "main", "--wait"]);
    assert!(made.stderr.contains("it took too long"), "{made}");
    let seen = barman.json(&["show-backup", "main", "latest"]);
    let unread = &seen["main"]["configuration_information"]["unread_files"];
    let unread: Vec<String> = serde_json::from_value(unread.clone()).unwrap();
    assert!(unread.contains(&pipe.display().to_string()), "{unread:?}");
    assert!(!unread.iter().any(|path| path.ends_with("pg_hba.conf")), "{unread:?}");
    // That session of the server waits for it still.
    fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    cluster.stop(Shutdown::Fast);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what a test moves need not be durable")]
fn files_that_the_data_directory_links_to_come_back_into_it() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").create();
    let (data, elsewhere) = (cluster.data().to_owned(), cluster.directory().join("linked"));
    account::make_dir(&elsewhere);
    let conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    write_file(&data.join("postgresql.conf"), &(conf + "include_dir = 'conf.d'\n"));
    account::make_dir(&data.join("conf.d"));
    write_file(&data.join("conf.d/memory.conf"), "work_mem = 5MB\n");
    for name in ["postgresql.conf", "conf.d"] {
        fs::rename(data.join(name), elsewhere.join(name)).unwrap();
        std::os::unix::fs::symlink(elsewhere.join(name), data.join(name)).unwrap();
    }
    cluster.start();
    cluster.psql("CREATE TABLE t AS SELECT 1 AS one");
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    let restored = barman.path("restored");
    let told = barman.ok(&["restore", "main", "latest", restored.to_str().unwrap()]);
    assert_eq!(told.stderr, "");
    let outside = barman.path("outside");
    let to = [restored.to_str().unwrap(), "--config-dir", outside.to_str().unwrap()];
    let nothing =
        barman.run(&[&["restore", "main", "latest"], &to[..], &["--config-only"]].concat());
    assert_eq!(nothing.status, 1, "{nothing}");
    assert!(nothing.stderr.contains("no configuration from outside"), "{nothing}");
    assert!(!outside.exists());
    for name in ["postgresql.conf", "conf.d/memory.conf"] {
        let [was, is] = [&data, &restored].map(|at| fs::read(at.join(name)).unwrap());
        assert!(was == is, "{name}");
    }
    pg_verifybackup(17, &restored, &[]);
    let mut server = Cluster::on(17, &restored).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), cluster.table_checksum("t"));
    assert_eq!(server.psql("SHOW work_mem"), "5MB");
    server.stop(Shutdown::Fast);
    cluster.stop(Shutdown::Fast);
}

#[test]
fn what_the_data_directory_leads_to_is_found_at_its_new_place() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").create();
    let (data, elsewhere) = (cluster.data().to_owned(), cluster.directory().join("elsewhere"));
    account::make_dir(&elsewhere);
    let shown = elsewhere.display();
    let conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    let more = format!("hba_file = '{shown}/hba.conf'\ninclude '{shown}/more.conf'\n");
    write_file(&data.join("postgresql.conf"), &(conf + &more));
    write_file(&elsewhere.join("more.conf"), "work_mem = 5MB\nsynchronous_standby_names = 'x'\n");
    write_file(&elsewhere.join("hba.conf"), &fs::read_to_string(data.join("pg_hba.conf")).unwrap());
    cluster.start();
    cluster.psql("SET synchronous_commit = local; CREATE TABLE t AS SELECT 1 AS one");
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main", "--wait"]);
    let (restored, conf) = (barman.path("restored"), barman.path("conf"));
    let [to, conf_to] = [&restored, &conf].map(|path| path.to_str().unwrap());
    // The data directory by itself leads to where they were.
    barman.ok(&["restore", "main", "latest", to]);
    let only = ["restore", "main", "latest", to, "--config-dir", conf_to, "--config-only"];
    let told = barman.ok(&only);
    for line in
        [format!("hba_file = '{conf_to}/hba.conf'"), format!("include = '{conf_to}/more.conf'")]
    {
        assert!(
            told.stderr.contains(&format!("see before the start that it says: {line}")),
            "{told}"
        );
    }
    for path in [&restored, &conf] {
        fs::remove_dir_all(path).unwrap();
    }
    let told = barman.ok(&["restore", "main", "latest", to, "--config-dir", conf_to]);
    assert_eq!(told.stderr, "");
    assert!(told.stdout.contains(&format!("pg_ctl -D {to} start\n")), "{told}");
    pg_verifybackup(17, &restored, &[]);
    let mut server = Cluster::on(17, &restored).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    // It would wait for ever for a standby that it does not have.
    server.psql("INSERT INTO t VALUES (2)");
    assert_eq!(server.psql("SHOW hba_file"), conf.join("hba.conf").to_str().unwrap());
    assert_eq!(server.psql("SHOW work_mem"), "5MB");
    server.stop(Shutdown::Fast);
    cluster.stop(Shutdown::Fast);
}

/// A cluster of Debian's own tools, removed when dropped.
struct DebianCluster(String);

impl DebianCluster {
    fn tool(&self, tool: &str, more: &[&str]) -> process::Output {
        let mut command = Command::new(tool);
        command.args(["15", &self.0]).args(more).current_dir("/").env("LC_ALL", "C.UTF-8");
        run(command)
    }

    fn psql(&self, sql: &str) -> String {
        let mut command = Command::new("psql");
        account::prepare(&mut command, Path::new("/tmp"));
        command.args(["--cluster", &format!("15/{}", self.0), "-XAtc", sql, "postgres"]);
        run(command).expect_success().stdout.trim().to_owned()
    }
}

impl Drop for DebianCluster {
    fn drop(&mut self) {
        self.tool("pg_dropcluster", &["--stop"]);
        let _ = fs::remove_dir_all(format!("/etc/postgresql/15/{}", self.0));
    }
}

#[test]
fn a_cluster_of_debian_comes_back_to_an_empty_host() {
    if !is_root() {
        // Debian's tools make clusters as root only; the layout by hand is tested above.
        return;
    }
    let name = format!("bm{}", std::process::id());
    let debian = DebianCluster(name.clone());
    let created = Command::new("pg_createcluster")
        .args(["15", &name, "--start-conf=manual", "--", "--no-sync", "--wal-segsize=1"])
        .current_dir("/")
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let etc = PathBuf::from(format!("/etc/postgresql/15/{name}"));
    let data = format!("/var/lib/postgresql/15/{name}");
    let barman = Barman::initialised();
    let archive = barman.archive_command("main").replace('\'', "''");
    let extra = format!("archive_mode = on\narchive_command = '{archive}'\nwork_mem = '7MB'\n");
    fs::write(etc.join("conf.d/extra.conf"), extra).unwrap();
    let secret = "SECRET = 'of a command'\n";
    write_file(&etc.join("environment"), secret);
    debian.tool("pg_ctlcluster", &["start"]).expect_success();
    debian.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let port = debian.psql("SHOW port");
    let conninfo = format!("host=/var/run/postgresql port={port} user=postgres dbname=postgres");
    write_file(
        &barman.path("servers.d/main.conf"),
        &format!(
            "[main]\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\nimmediate_checkpoint = true\n"
        ),
    );
    barman.ok(&["backup", "main", "--wait"]);
    // The host is gone, as far as this cluster goes: its tools leave files that they do not know.
    debian.tool("pg_dropcluster", &["--stop"]).expect_success();
    for path in [etc.as_path(), Path::new(&data)].into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(path).unwrap();
    }

    // As root, as on a new host; files are given to the user postgres.
    let mut restore = Command::new(barman.binary());
    restore.arg("-c").arg(barman.config()).args(["restore", "main", "latest", &data]);
    restore.args(["--config-dir", etc.to_str().unwrap()]).env("TZ", "UTC");
    let restored = run(restore).expect_success();
    assert!(restored.stdout.contains(&format!(": pg_ctlcluster 15 {name} start\n")), "{restored}");
    assert!(restored.stdout.contains(&format!("{}/start.conf is restored", etc.display())));
    // It replaces the original, and cannot meet it.
    assert!(!restored.stdout.contains("Beside the original"), "{restored}");
    let environment = etc.join("environment");
    assert_eq!(fs::read_to_string(&environment).unwrap(), secret);
    assert_eq!(fs::metadata(&environment).unwrap().permissions().mode() & 0o7777, 0o600);
    debian.tool("pg_ctlcluster", &["start"]).expect_success();
    process::wait_until(process::TIME_LIMIT, || debian.psql("SELECT pg_is_in_recovery()") == "f");
    assert_eq!(debian.psql("SELECT count(*) FROM t"), "1000");
    assert_eq!(debian.psql("SHOW work_mem"), "7MB");
    assert_eq!(debian.psql("SHOW data_directory"), data);
}
