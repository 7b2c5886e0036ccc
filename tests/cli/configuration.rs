use std::path::Path;

use serde_json::json;

use super::{Setup, barman};

/// Every place where a secret can be written.
const SECRETIVE: &str = "repository = s3://key:hunter2@bucket/pg\n\
    repository_password_command = echo hunter2\n\
    [main]\ndescription = Main\nconninfo = host=db user=b password='hunter2 x' dbname=postgres\n\
    primary_conninfo = postgres://b:hunter2@db/x?sslpassword=hunter2\n\
    wal_conninfo = password=hunter2 host=a\nencryption_passphrase_command = echo hunter2\n\
    [m]\nmodel = true\ncluster = main\nconninfo = password = hunter2\n";

#[test]
fn servers_are_listed() {
    let setup = Setup::new(
        "repository = /r\n[main]\ndescription = \"Main, 24/7\"\nconninfo = host=a\n\
         [old]\nconninfo = host=b\nactive = false\n[sick]\nconninfo = host=c\nparallel_jobs = x\n",
    );
    let said = setup.barman("list-servers");
    assert_eq!(said.out, "main - Main, 24/7\nold (inactive)\nsick (WARNING: disabled)\n");
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_eq!(setup.barman("list-servers --minimal").out, "main\nold\nsick\n");
    assert_eq!(setup.barman("-q list-servers").out, "");

    let expected = json!({
        "main": {"description": "Main, 24/7"},
        "old": {"description": ""},
        "sick": {"description": ""},
    });
    assert_eq!(setup.barman("-f json list-servers").json(), expected);
    assert_eq!(setup.barman("list-server --format json").json(), expected);
}

#[test]
fn upkeep_tells_of_a_server_that_it_passes_over() {
    let setup = Setup::new(
        "[sick]\nconninfo = host=c\nretention_policy = keep two\n\
         [off]\nconninfo = host=d\ndisabled = true\nretention_policy = keep two\n",
    );
    let said = setup.barman("-q cron");
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("server 'sick' is not looked after: "), "{}", said.err);
    assert!(said.err.contains("retention_policy"), "{}", said.err);
    assert!(!said.err.contains("'off'"), "{}", said.err);
}

#[test]
fn upkeep_leaves_what_is_doubtful_to_the_log() {
    let setup = Setup::new("[main]\nconninfo = host=c\nretension_policy = redundancy 2\n");
    let doubt = "unknown option 'retension_policy'";
    assert!(setup.barman("list-servers").err.contains(doubt));
    std::fs::remove_file(setup.log()).unwrap();
    let said = setup.barman("cron");
    assert!(!said.err.contains(doubt), "{}", said.err);
    assert!(std::fs::read_to_string(setup.log()).unwrap().contains(doubt));
}

#[test]
fn a_server_is_shown() {
    let setup = Setup::new(
        "repository = /srv/%(name)s\nparallel_jobs = 2\n[main]\nconninfo = host=a\n\
         retention_policy = redundancy 2\nlast_backup_maximum_age = 1 DAYS\n",
    );
    let said = setup.barman("show-servers main");
    assert_eq!(said.code, 0);
    assert!(
        said.out.starts_with("Server main:\n\tactive: True\n\tarchiver: True\n"),
        "{}",
        said.out
    );
    for line in [
        "\n\tconninfo: host=a\n",
        "\n\tparallel_jobs: 2\n",
        "\n\trepository: /srv/main\n",
        "\n\tretention_policy: REDUNDANCY 2\n",
        "\n\tprimary_conninfo: None\n",
    ] {
        assert!(said.out.contains(line), "{line:?}: {}", said.out);
    }
    let shown = setup.barman("-f json show-servers all").json();
    assert_eq!(shown["main"]["parallel_jobs"], json!(2));
    assert_eq!(shown["main"]["disabled"], json!(false));
    assert_eq!(shown["main"]["last_backup_maximum_age"], json!("1 day"));
    assert_eq!(shown["main"]["primary_conninfo"], json!(null));
}

#[test]
fn unknown_options_and_servers_name_the_nearest() {
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a\nparalel_jobs = 2\n");
    let said = setup.barman("show-servers mian main");
    let place = setup.file().display().to_string();
    let warning = format!(
        "WARNING: {place}:6: unknown option 'paralel_jobs' in [main] is ignored; did you mean \
         'parallel_jobs'?\n"
    );
    assert!(said.err.contains(&warning), "{}", said.err);
    assert!(
        said.err.contains("ERROR: unknown server 'mian'; did you mean 'main'?\n"),
        "{}",
        said.err
    );
    assert!(said.out.starts_with("Server main:"), "the other server is shown: {}", said.out);
    assert_eq!(said.code, 1);

    let said = setup.barman("-f json show-servers mian");
    let json = said.json();
    assert!(json["_ERROR"][0].as_str().unwrap().contains("did you mean 'main'?"), "{json}");
    assert!(json["_WARNING"][0].as_str().unwrap().contains("paralel_jobs"), "{json}");
    assert_eq!((said.code, said.err.as_str()), (1, ""));
}

#[test]
fn secrets_are_never_shown() {
    let setup = Setup::new(SECRETIVE);
    for line in [
        "show-servers all",
        "-f json show-servers all",
        "diagnose",
        "diagnose --show-config-source",
        "-f json diagnose",
        "-d --log-level debug show-servers main",
        "-d check main",
    ] {
        let said = setup.barman(line);
        let all = format!("{}{}", said.out, said.err);
        assert!(!all.contains("hunter2"), "{line}: {all}");
    }
    let shown = setup.barman("show-servers main").out;
    assert!(
        shown.contains("conninfo: host=db user=b password=*REDACTED* dbname=postgres"),
        "{shown}"
    );
    let log = std::fs::read_to_string(setup.log()).unwrap();
    assert!(!log.is_empty() && !log.contains("hunter2"), "{log}");
}

#[test]
fn diagnose_prints_one_document() {
    let setup = Setup::new(SECRETIVE);
    let said = setup.barman("diagnose");
    let document = said.json();
    assert_eq!(document["servers"]["main"]["config"]["description"], json!("Main"));
    assert_eq!(document["models"]["m"]["config"]["cluster"], json!("main"));
    assert_eq!(document["global"]["system_info"]["barman_ver"], json!(env!("CARGO_PKG_VERSION")));
    assert!(document["servers"]["main"]["msg_list"][0].is_string(), "{document}");
    assert_eq!(said.code, 0);

    let wrapped = setup.barman("-f json diagnose").json();
    let text = wrapped["_INFO"][0].as_str().unwrap();
    assert!(
        serde_json::from_str::<serde_json::Value>(text).unwrap()["servers"]["main"].is_object()
    );

    let sourced = setup.barman("diagnose --show-config-source").json();
    let description = &sourced["servers"]["main"]["config"]["description"];
    assert_eq!(description["value"], json!("Main"));
    assert_eq!(description["source"], json!(format!("{}:6", setup.file().display())));
}

#[test]
fn a_broken_or_missing_configuration_is_an_error() {
    let setup = Setup::new("[main]\nwhat\n");
    let said = setup.barman("list-servers");
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("barman.conf:4: expected 'option = value'"), "{}", said.err);
    let said = setup.barman("-f json list-servers");
    assert!(said.json()["_ERROR"][0].as_str().unwrap().contains("barman.conf:4"));

    let said = barman(Path::new("/nonexistent"), "-c /nonexistent/b.conf list-servers", &[]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("/nonexistent/b.conf"), "{}", said.err);
    assert!(said.err.contains("No such file"), "{}", said.err);
}

#[test]
fn the_environment_names_file_repository_and_key() {
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a\n");
    let file = setup.file().display().to_string();
    let variables = [
        ("BARMAN_CONFIG_FILE", file.as_str()),
        ("BARMAN_REPOSITORY", "/env"),
        ("BARMAN_REPOSITORY_PASSWORD", "hunter2"),
    ];
    let said = barman(Path::new("/nonexistent"), "show-servers main", &variables);
    assert!(said.out.contains("\trepository: /env\n"), "{}{}", said.out, said.err);
    assert!(said.out.contains("BARMAN_REPOSITORY_PASSWORD") && !said.out.contains("hunter2"));

    let two = [("BARMAN_REPOSITORY_PASSWORD", "hunter2"), ("BARMAN_REPOSITORY_KEY_FILE", "/k")];
    let said = barman(Path::new("/nonexistent"), &format!("-c {file} list-servers"), &two);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("set only one") && !said.err.contains("hunter2"), "{}", said.err);
}

#[test]
fn what_is_missing_is_refused_with_one() {
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a\n");
    for line in ["backup main --reuse-backup=link", "receive-wal main"] {
        let said = setup.barman(line);
        assert_eq!(said.code, 1, "{line}");
        assert!(said.err.starts_with("ERROR: not supported yet: "), "{line}: {}", said.err);
        let said = setup.barman(&format!("-f json {line}"));
        assert!(said.json()["_ERROR"][0].as_str().unwrap().starts_with("not supported yet"));
    }
}

#[test]
fn a_wal_restore_that_fails_does_not_look_like_the_end_of_the_archive() {
    let setup = Setup::new("[main]\nwhat\n");
    assert_eq!(setup.barman("wal-restore main 000000010000000000000001 /x").code, 126);
    assert_eq!(setup.barman("wal-restore main").code, 126);
    assert_eq!(setup.barman("wal-restore --help").code, 0);
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a\n");
    for line in [
        "get-wal -z main 000000010000000000000001",
        "get-wal --keep-compression main 000000010000000000000001",
        "cloud-wal-restore main 000000010000000000000001 /x",
    ] {
        assert_eq!(setup.barman(line).code, 126, "{line}");
    }
}

#[test]
fn nagios_is_told_of_a_configuration_that_cannot_be_read() {
    let setup = Setup::new("[main]\nwhat\n");
    let said = setup.barman("check main --nagios");
    assert_eq!(said.code, 2);
    assert!(said.out.starts_with("BARMAN CRITICAL - "), "{}", said.out);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a\n");
    let barman = env!("CARGO_BIN_EXE_barman");
    let script = format!(
        "{{ sleep 0.2; {barman} -c {} show-servers all; echo $? >&2; }} | true",
        setup.file().display()
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "0\n");
}
