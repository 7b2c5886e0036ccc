use std::fs;
use std::time::Duration;

use serde_json::json;
use tracing::level_filters::LevelFilter;

use super::options::OPTIONS;
use super::values::{Rate, RetentionPolicy};
use super::*;

fn load(text: &str) -> Config {
    load_with(text, Environment::default()).unwrap()
}

fn load_with(text: &str, environment: Environment) -> Result<Config, ConfigError> {
    let document = Document::parse(text, Path::new("/etc/barman.conf"))?;
    Config::from_document(document, environment)
}

/// A server that has all it needs, with `options` besides.
fn server(options: &str) -> Server {
    let text = format!("[pg]\nconninfo = host=db\nrepository = /r\n{options}\n");
    load(&text).servers.remove("pg").unwrap()
}

fn errors(server: &Server) -> Vec<&str> {
    server.errors().collect()
}

#[test]
fn defaults_hold_when_nothing_is_set() {
    let s = server("");
    assert!(s.active && s.archiver && !s.disabled && !s.immediate_checkpoint);
    assert_eq!(s.cluster, "pg");
    assert_eq!(s.streaming_conninfo.as_deref(), Some("host=db"));
    assert_eq!(s.streaming_backup_name, "barman_streaming_backup");
    assert_eq!((s.parallel_jobs, s.basebackup_retry_times, s.minimum_redundancy), (1, 0, 0));
    assert_eq!(s.basebackup_retry_sleep, Duration::from_secs(30));
    assert_eq!(s.check_timeout, Some(Duration::from_secs(30)));
    assert_eq!(s.repository.compression_level, 3);
    assert_eq!((s.bandwidth_limit, s.retention_policy, s.slot_name.clone()), (None, None, None));
    assert!(s.messages.is_empty(), "{:?}", s.messages);
    s.ready_for_backup().unwrap();

    let g = load("[barman]\n").global;
    assert_eq!(g.barman_home, Path::new("/var/lib/barman"));
    assert_eq!(g.state_directory, Path::new("/var/lib/barman-repository/state"));
    assert_eq!(g.log_file.as_deref(), Some(Path::new("/var/log/barman/barman.log")));
    assert_eq!(g.log_level, LevelFilter::INFO);
}

#[test]
fn every_typed_option_is_read() {
    let s = server(
        "description = \"Main, 100%% up\"\nactive = off\ncluster = main\nstreaming_conninfo = host=r\n\
         primary_conninfo = host=p\nprimary_checkpoint_timeout = 30\nstreaming_backup_name = b\nslot_name = barman\narchiver = on\n\
         immediate_checkpoint = yes\nbandwidth_limit = 4000\nparallel_jobs = 4\n\
         basebackup_retry_times = 3\nbasebackup_retry_sleep = 5\ncheck_timeout = 0\n\
         minimum_redundancy = 2\nretention_policy = RECOVERY WINDOW OF 4 WEEKS\n\
         last_backup_maximum_age = 1 DAY\nlast_backup_minimum_size = 10 Gi\n\
         last_wal_maximum_age = 2 hours\nrecovery_options = get-wal\n\
         repository_key_file = /k\nrepository_compression_level = 9\nbackup_method = postgres\n\
         create_slot = manual",
    );
    assert_eq!(errors(&s), [""; 0]);
    assert_eq!(s.description.as_deref(), Some("Main, 100% up"));
    assert!(!s.active && !s.disabled && s.immediate_checkpoint && s.recovery_options.get_wal);
    assert_eq!(s.cluster, "main");
    assert_eq!(s.streaming_conninfo.as_deref(), Some("host=r"));
    assert_eq!(s.primary_conninfo.as_deref(), Some("host=p"));
    assert_eq!(s.primary_checkpoint_timeout, Some(Duration::from_secs(30)));
    assert_eq!(s.streaming_backup_name, "b");
    assert_eq!(s.slot_name.as_deref(), Some("barman"));
    assert_eq!(s.bandwidth_limit, Some(Rate { kilobytes_per_second: 4000 }));
    assert_eq!((s.parallel_jobs, s.basebackup_retry_times, s.minimum_redundancy), (4, 3, 2));
    assert_eq!(s.basebackup_retry_sleep, Duration::from_secs(5));
    assert_eq!(s.check_timeout, None);
    assert_eq!(s.retention_policy, Some("RECOVERY WINDOW OF 4 WEEKS".parse().unwrap()));
    assert_eq!(s.last_backup_maximum_age.unwrap().to_string(), "1 day");
    assert_eq!(s.last_backup_minimum_size, Some(10 << 30));
    assert_eq!(s.last_wal_maximum_age.unwrap().duration(), Duration::from_secs(7200));
    assert_eq!((s.workers(None), s.workers(Some(7))), (4, 7));
    assert_eq!(s.repository.key, Some(KeySource::KeyFile("/k".into())));
    assert_eq!(s.repository.compression_level, 9);
    assert!(s.ready_for_backup().unwrap_err().to_string().contains("not active"));
}

/// What this version does not do, and what would be protected otherwise than expected without it: with a
/// value that asks for it.
const REFUSED: [(&str, &str); 32] = [
    ("backup_method", "snapshot"),
    ("create_slot", "auto"),
    ("encryption", "gpg"),
    ("post_archive_retry_script", "/x"),
    ("post_archive_script", "/x"),
    ("post_backup_retry_script", "/x"),
    ("post_backup_script", "/x"),
    ("post_delete_retry_script", "/x"),
    ("post_delete_script", "/x"),
    ("post_recovery_retry_script", "/x"),
    ("post_recovery_script", "/x"),
    ("post_wal_delete_retry_script", "/x"),
    ("post_wal_delete_script", "/x"),
    ("pre_archive_retry_script", "/x"),
    ("pre_archive_script", "/x"),
    ("pre_backup_retry_script", "/x"),
    ("pre_backup_script", "/x"),
    ("pre_delete_retry_script", "/x"),
    ("pre_delete_script", "/x"),
    ("pre_recovery_retry_script", "/x"),
    ("pre_recovery_script", "/x"),
    ("pre_wal_delete_retry_script", "/x"),
    ("pre_wal_delete_script", "/x"),
    ("primary_ssh_command", "ssh x"),
    ("snapshot_disks", "x"),
    ("snapshot_gcp_project", "x"),
    ("snapshot_instance", "x"),
    ("snapshot_provider", "gcp"),
    ("snapshot_zone", "x"),
    ("streaming_archiver", "on"),
    ("warehousepg_dbid", "1"),
    ("worm_mode", "on"),
];

#[test]
fn every_option_is_honoured_explained_warned_of_or_refused() {
    for option in OPTIONS {
        let (name, refused) = (option.name, REFUSED.iter().find(|(name, _)| *name == option.name));
        // A value of the right type matters only where the option is honoured: other tests see to those.
        if option.state == State::Supported {
            assert_eq!(refused, None, "{name}");
            continue;
        }
        let usual = if name == "recovery_options" { "delta-restore" } else { "something" };
        let value = refused.map_or(usual, |(_, value)| value);
        let set = format!("{name} = {value}\n");
        let places = [
            (option.scope.global(), format!("[barman]\n{set}[pg]\n")),
            (option.scope.server(), format!("[barman]\n[pg]\n{set}")),
        ];
        for (_, text) in places.iter().filter(|(may_stand, _)| *may_stand) {
            let config = load(&format!("{text}conninfo = host=db\nrepository = /r\n"));
            let server = &config.servers["pg"];
            let names = |texts: Vec<String>| texts.iter().any(|text| text.contains(name));
            let is_error = names(errors(server).iter().map(ToString::to_string).collect());
            let is_warned = names(config.warnings.iter().map(ToString::to_string).collect());
            let is_noted = names(config.notes.iter().map(ToString::to_string).collect());
            let expected = (
                refused.is_some(),
                refused.is_none() && matches!(option.state, State::NotYet { .. }),
                matches!(option.state, State::Ignored(_)),
            );
            assert_eq!((is_error, is_warned, is_noted), expected, "{text}");
            assert_eq!(server.ready_for_backup().is_err(), refused.is_some(), "{text}");
        }
    }
}

#[test]
fn a_server_inherits_until_it_says_otherwise() {
    let config = load(
        "[barman]\nparallel_jobs = 4\nretention_policy = REDUNDANCY 2\nconninfo = host=no\n\
         repository = /srv/%(name)s\n\
         [a]\nconninfo = host=a\n[b]\nconninfo = host=b\nparallel_jobs = 2\nretention_policy =\n\
         [c]\nretention_policy = None\n",
    );
    let (a, b, c) = (&config.servers["a"], &config.servers["b"], &config.servers["c"]);
    assert_eq!((a.parallel_jobs, b.parallel_jobs), (4, 2));
    assert_eq!(a.retention_policy, Some(RetentionPolicy::Redundancy(2)));
    assert_eq!((b.retention_policy, c.retention_policy), (None, None));
    assert_eq!(a.repository.location, Some(Location::Local("/srv/a".into())));
    // conninfo belongs to servers; [barman] cannot give it to them.
    assert_eq!(c.conninfo, None);
    let text = config.warnings[0].to_string();
    assert_eq!(
        text,
        "/etc/barman.conf:4: 'conninfo' has no effect in [barman]: it belongs in a server's section"
    );
    assert!(errors(c)[0].contains("conninfo is not set"));
}

#[test]
fn interpolation_sees_home_name_and_every_other_key() {
    let config = load(
        "[barman]\nbarman_home = /srv/b\nmine = x\n[pg]\nport = 5433\n\
         conninfo = host=%(name)s port=%(port)s application_name=%(mine)s\n\
         description = %(backup_directory)s\nrepository = %(barman_home)s/repo\n",
    );
    let s = &config.servers["pg"];
    assert_eq!(s.conninfo.as_deref(), Some("host=pg port=5433 application_name=x"));
    assert_eq!(s.description.as_deref(), Some("/srv/b/pg"));
    assert_eq!(s.repository.location, Some(Location::Local("/srv/b/repo".into())));
}

#[test]
fn a_value_nobody_understands_disables_its_server_only() {
    let config = load(
        "[barman]\nrepository = /r\n[a]\nconninfo = host=a\n[b]\nconninfo = host=b\n\
         parallel_jobs = many\ndescription = 50%\n",
    );
    let (a, b) = (&config.servers["a"], &config.servers["b"]);
    assert!(!a.disabled && b.disabled);
    assert_eq!(
        errors(b),
        [
            "/etc/barman.conf:8: description: '%' must be written '%%', or begin a reference \
             '%(option)s'",
            "/etc/barman.conf:7: parallel_jobs = many: expected a whole number from 1 to 256",
        ]
    );
    let refused = b.ready_for_backup().unwrap_err();
    assert_eq!(refused.kind(), crate::error::Kind::Refused);
}

#[test]
fn every_wrong_value_is_found() {
    for option in [
        "active = perhaps",
        "disabled = x",
        "archiver = 7",
        "immediate_checkpoint = soon",
        "bandwidth_limit = fast",
        "parallel_jobs = 0",
        "minimum_redundancy = -1",
        "last_backup_maximum_age = 1",
        "last_backup_minimum_size = big",
        "last_wal_maximum_age = 1 minute",
        "check_timeout = 30s",
        "basebackup_retry_times = often",
        "basebackup_retry_sleep = long",
        "slot_name = Slot",
        "recovery_options = get_wal",
        "retention_policy = REDUNDANCY",
        "backup_method = postgrse",
        "repository_key_file = key",
        "repository_password_file = key",
        "repository_compression_level = 20",
        "delta = maybe",
        "streaming_backup_name = \u{fc}",
    ] {
        let s = server(option);
        assert!(s.disabled, "{option}");
        assert_eq!(errors(&s).len(), 1, "{option}: {:?}", s.messages);
    }
}

#[test]
fn a_method_that_there_is_not_is_told_from_one_that_is_not_supported() {
    let s = server("backup_method = postgrse");
    let words = "backup_method = postgrse is unknown: expected postgres or local or local-rsync (not supported yet: rsync,";
    assert!(errors(&s)[0].contains(words), "{:?}", s.messages);
    assert!(s.is_misconfigured());
    // One that is switched off is not told of all the time.
    assert!(!server("disabled = true\nbackup_method = postgrse").is_misconfigured());
    assert!(!server("active = false\nbackup_method = postgrse").is_misconfigured());
    assert!(!server("backup_method = rsync").is_misconfigured());
}

#[test]
fn what_would_change_the_protection_refuses_backups() {
    for option in [
        "backup_method = rsync",
        "streaming_archiver = on",
        "encryption = gpg",
        "pre_backup_script = /bin/true",
        "create_slot = auto",
        "primary_ssh_command = ssh barman@other",
        "worm_mode = on",
    ] {
        let s = server(option);
        assert!(errors(&s)[0].contains("is not supported yet"), "{option}: {:?}", s.messages);
        assert!(!s.disabled && s.ready_for_backup().is_err(), "{option}");
    }
    for (option, reads_files) in [
        ("", false),
        ("backup_method = postgres", false),
        ("backup_method = local", true),
        ("backup_method = local-rsync", true),
    ] {
        let s = server(option);
        assert!(s.ready_for_backup().is_ok(), "{option}: {:?}", s.messages);
        assert_eq!(s.reads_files, reads_files, "{option}");
    }
    let inherited = load(
        "[barman]\nrepository = /r\nbackup_method = rsync\n[a]\nconninfo = host=a\n\
         [b]\nconninfo = host=b\nbackup_method = postgres\n",
    );
    assert!(inherited.servers["a"].ready_for_backup().is_err());
    assert!(inherited.servers["b"].ready_for_backup().is_ok());
}

#[test]
fn unknown_options_are_warned_of_with_the_nearest_one() {
    let config = load("[pg]\nminimum_redundency = 1\ncoloured_socks = 2\naws_region = x\n");
    let shown: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "/etc/barman.conf:4: 'aws_region' is not supported yet and has no effect",
            "/etc/barman.conf:3: unknown option 'coloured_socks' in [pg] is ignored",
            "/etc/barman.conf:2: unknown option 'minimum_redundency' in [pg] is ignored; did you \
             mean 'minimum_redundancy'?",
        ]
    );
}

#[test]
fn options_without_meaning_are_noted_only() {
    let config = load("[pg]\nwals_directory = /x\ncompression = gzip\nssh_command = ssh db\n");
    assert!(config.warnings.is_empty());
    assert_eq!(config.notes.len(), 3);
    assert!(config.notes[0].to_string().starts_with("/etc/barman.conf:3: 'compression' has no"));
}

#[test]
fn models_are_kept_and_are_no_servers() {
    let config = load("[m]\nmodel = on\ncluster = c\nconninfo = host=m\n[n]\nmodel = true\n");
    assert!(config.servers.is_empty());
    assert_eq!(config.models["m"].cluster.as_deref(), Some("c"));
    assert_eq!(config.models["m"].options["conninfo"], "host=m");
    assert!(config.warnings[0].to_string().contains("model [n] has no 'cluster'"));
}

#[test]
fn reserved_and_bad_names_are_errors() {
    for name in ["all", "a/b"] {
        let error = load_with(&format!("[{name}]\n"), Environment::default()).unwrap_err();
        assert!(error.to_string().starts_with("/etc/barman.conf:1: "), "{error}");
    }
}

#[test]
fn a_servers_key_replaces_the_global_one_and_two_are_an_error() {
    let config = load(
        "[barman]\nrepository = /r\nrepository_key_file = /global\n[a]\nconninfo = host=a\n\
         [b]\nconninfo = host=b\nrepository_password_file = /own\n\
         [c]\nconninfo = host=c\nrepository_key_file = /k\nrepository_password_command = pass\n",
    );
    let key = |name: &str| config.servers[name].repository.key.clone();
    assert_eq!(key("a"), Some(KeySource::KeyFile("/global".into())));
    assert_eq!(key("b"), Some(KeySource::PasswordFile("/own".into())));
    assert!(config.servers["c"].disabled);
    assert!(errors(&config.servers["c"])[0].contains("set only one"));
}

#[test]
fn the_environment_overrides_the_files_and_suffices_alone() {
    let environment = Environment {
        repository: Some(Location::Local("/env".into())),
        key: Some(KeySource::Password(Secret::new("hunter2"))),
        ..Environment::default()
    };
    let text = "[barman]\nrepository = /r\nrepository_key_file = /k\n[pg]\nconninfo = host=db\n";
    let config = load_with(text, environment.clone()).unwrap();
    let s = &config.servers["pg"];
    assert_eq!(s.repository.location, environment.repository);
    assert_eq!(s.repository.key, environment.key);
    assert_eq!(s.shown()["repository"], json!("/env"));

    let config = load_with("", environment.clone()).unwrap();
    assert_eq!(config.global.repository.location, environment.repository);
    assert_eq!(config.bare_server("x").repository.key, environment.key);
}

#[test]
fn object_stores_refuse_backups_until_they_are_there() {
    let config = load("[pg]\nconninfo = host=db\nrepository = s3://bucket/pg\n");
    let s = &config.servers["pg"];
    assert!(errors(s)[0].contains("S3 (s3://) are not supported yet"), "{:?}", s.messages);
    assert!(s.repository.location().is_err());
}

#[test]
fn what_is_shown_is_typed_and_has_no_secrets() {
    let config = load(
        "[pg]\nconninfo = host=db password=hunter2\nprimary_conninfo = postgres://u:hunter2@p/x\n\
         repository = /r\nrepository_password_command = echo hunter2\nlast_backup_maximum_age = 1 DAY\n",
    );
    let shown = config.servers["pg"].shown();
    assert_eq!(shown["active"], json!(true));
    assert_eq!(shown["check_timeout"], json!(30));
    assert_eq!(shown["last_backup_maximum_age"], json!("1 day"));
    assert_eq!(shown["retention_policy"], json!(null));
    assert!(shown["streaming_conninfo"].as_str().unwrap().contains("REDACTED"));
    assert!(!shown.contains_key("wals_directory"));
    let text = serde_json::to_string(&shown).unwrap() + &format!("{config:?}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn files_are_found_in_order_and_the_last_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let parts = home.join("barman.d");
    fs::create_dir(&parts).unwrap();
    let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
    write(
        &home.join(".barman.conf"),
        &format!(
            "[barman]\nbarman_home = {h}\nconfiguration_files_directory = %(barman_home)s/barman.d\n\
             repository = /main\n[pg]\nconninfo = host=main\nparallel_jobs = 1\n",
            h = home.display()
        ),
    );
    write(&parts.join("20.conf"), "[pg]\nparallel_jobs = 3\n");
    write(&parts.join("10.conf"), "[pg]\nparallel_jobs = 2\ncheck_timeout = 7\n[other]\n");
    write(&parts.join("30.conf.bak"), "[pg]\nparallel_jobs = 9\n");
    write(&home.join(".barman.auto.conf"), "[pg]\nminimum_redundancy = 5\n");

    let environment = Environment { home: Some(home.to_owned()), ..Environment::default() };
    let config = Config::load(None, environment.clone()).unwrap();
    assert_eq!(config.path, Some(home.join(".barman.conf")));
    let s = &config.servers["pg"];
    assert_eq!((s.parallel_jobs, s.minimum_redundancy), (3, 5));
    assert_eq!(s.check_timeout, Some(Duration::from_secs(7)));
    assert!(config.servers.contains_key("other"));

    // The variable goes before the home, the argument before the variable.
    let second = home.join("20.conf");
    write(&second, "[second]\n");
    let by_variable = Environment { config_file: Some(second.clone()), ..environment };
    let config = Config::load(None, by_variable.clone()).unwrap();
    assert!(config.servers.contains_key("second"));
    let config = Config::load(Some(&home.join(".barman.conf")), by_variable).unwrap();
    assert!(config.servers.contains_key("pg"));
}

#[test]
fn a_named_file_must_exist_and_be_text() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: &Path| Config::load(Some(path), Environment::default());
    let missing = load(&dir.path().join("no.conf")).unwrap_err();
    assert!(matches!(missing, ConfigError::Read { .. }));
    let shown = crate::error::Error::from(missing).to_string();
    assert!(shown.contains("no.conf") && shown.contains("No such file"), "{shown}");

    let binary = dir.path().join("binary.conf");
    fs::write(&binary, b"[pg]\n\xff\xfe").unwrap();
    assert!(matches!(load(&binary), Err(ConfigError::NotText { .. })));

    let lost = dir.path().join("lost.conf");
    fs::write(&lost, "[barman]\nconfiguration_files_directory = /nonexistent/d\n").unwrap();
    let config = load(&lost).unwrap();
    assert!(config.warnings[0].to_string().contains("does not exist"));
}

#[test]
fn the_nearest_word_must_be_near() {
    let names = ["main", "replica", "pg"];
    assert_eq!(nearest("mian", names.into_iter()), Some("main"));
    assert_eq!(nearest("repilca", names.into_iter()), Some("replica"));
    assert_eq!(nearest("something", names.into_iter()), None);
}
