//! The log: it fails nothing, tells the journal how grave things are, and holds no secrets.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Setup;
use crate::support::cluster::PASSWORD;
use crate::support::{Auth, Barman, Cluster, account};

#[test]
fn a_log_that_cannot_be_written_does_not_keep_wal_from_being_archived() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    let pipe = barman.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    account::hand_over(&pipe);
    let directory = barman.path("directory");
    account::make_dir(&directory);
    let logs = [Path::new("/dev/full"), &pipe, &directory, Path::new("/nonexistent/log")];
    for log in logs {
        let log = log.display();
        let conninfo = cluster.conninfo();
        let text = format!("log_file = {log}\nlog_level = DEBUG\n[main]\nconninfo = {conninfo}\n");
        barman.write_config(&text);
        barman.archive_from("main", &mut cluster);
        let said = barman.ok(&["switch-wal", "main", "--force", "--archive"]);
        assert_eq!(said.stderr, "", "{log}");
    }
    // With nowhere to complain either.
    let wal = barman.path("wal");
    account::make_dir(&wal);
    let name = cluster.switch_wal();
    let segment = wal.join(&name);
    fs::copy(cluster.data().join("pg_wal").join(&name), &segment).unwrap();
    account::hand_over(&segment);
    let program = barman.path("barman-with-configuration");
    barman.wrapper(&program);
    let mut shell = Command::new("sh");
    account::prepare(&mut shell, &barman.path(""));
    let script = "\"$0\" -d wal-archive main \"$1\" >&- 2>&-";
    let status = shell.args(["-c", script]).arg(program).arg(segment).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn the_journal_gets_priorities_and_nobody_else() {
    let setup = Setup::new("repository = /r\n[main]\nconninfo = host=a\nparalel_jobs = 2\n");
    let stderr = setup.0.path().join("stderr");
    let run = |stream: Option<&str>| {
        let file = File::create(&stderr).unwrap();
        let own = file.metadata().map(|m| format!("{}:{}", m.dev(), m.ino())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_barman"));
        command.env_clear().arg("-c").arg(setup.file()).args(["show-servers", "mian"]).stderr(file);
        command.env("JOURNAL_STREAM", stream.unwrap_or(&own)).output().unwrap();
        fs::read_to_string(&stderr).unwrap()
    };
    let said = run(None);
    assert!(said.contains("<4>WARNING: ") && said.contains("\n<3>ERROR: unknown server"), "{said}");
    let said = run(Some("1:2"));
    assert!(said.starts_with("WARNING: ") && !said.contains("<3>"), "{said}");
}

#[test]
fn no_secret_is_logged_or_diagnosed() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").auth(Auth::Scram).start();
    let barman = Barman::initialised();
    barman.ok(&["repo", "key", "list"]);
    let log = barman.path("barman.log");
    let (host, url) = (
        cluster.tcp_conninfo(),
        format!(
            "postgresql://postgres:{}@127.0.0.1:{}/postgres",
            PASSWORD.replace(' ', "%%20"),
            cluster.port()
        ),
    );
    barman.write_config(&format!(
        "log_file = {}\nlog_level = DEBUG\n[main]\nconninfo = {host}\nstreaming_conninfo = {url}\n\
         immediate_checkpoint = true\n",
        log.display()
    ));
    barman.archive_from("main", &mut cluster);
    let mut said = String::new();
    for arguments in [
        &["check", "main"][..],
        &["backup", "main", "--wait", "--wait-timeout", "60"],
        &["show-servers", "main"],
        &["setup-sql", "main"],
        &["status", "main"],
        &["verify-backup", "main", "latest"],
        &["diagnose"],
        &["repo", "info"],
    ] {
        let output = barman.ok(&[&["-d", "--log-level", "DEBUG"], arguments].concat());
        said += &format!("{}{}", output.stdout, output.stderr);
    }
    // A server that cannot be reached is told with its address, not with its password.
    let wrong = host.replace(PASSWORD, "correct horse battery stapler");
    barman.write_config(&format!("log_file = {}\n[main]\nconninfo = {wrong}\n", log.display()));
    let output = barman.run(&["-d", "check", "main"]);
    assert_eq!(output.status, 1, "{output}");
    said += &format!("{}{}", output.stdout, output.stderr);
    said += &fs::read_to_string(&log).unwrap();
    let key = fs::read(barman.key_file()).unwrap();
    let key = String::from_utf8_lossy(&key).into_owned();
    let words = key.split_whitespace().filter(|word| word.len() >= 32);
    let secrets: Vec<&str> = words.chain(["horse", "battery", "staple"]).collect();
    assert!(secrets.len() > 3, "the key file has its key in it: {key:?}");
    for secret in secrets {
        assert!(!said.contains(secret), "{secret:?} was told:\n{said}");
    }
}

#[test]
fn a_diagnosis_has_what_support_asks_for() {
    let mut cluster = Cluster::builder(17).initdb("--wal-segsize=1").start();
    let barman = Barman::initialised();
    let log = barman.path("barman.log");
    let write = |more: &str| {
        barman.write_config(&format!(
            "log_file = {}\n[main]\nconninfo = {}\nimmediate_checkpoint = true\n{more}",
            log.display(),
            cluster.conninfo()
        ));
    };
    write("");
    barman.run(&["show-backup", "main", "nosuch"]);
    write("[dead]\nconninfo = host=127.0.0.1 port=1 user=u dbname=d\n");
    barman.archive_from("main", &mut cluster);
    barman.ok(&["backup", "main"]);
    let said = barman.ok(&["diagnose"]).stdout;
    let document: Value = serde_json::from_str(&said).unwrap();
    let repository = &document["repositories"][barman.repository().to_str().unwrap()];
    assert_eq!(repository["keys"].as_array().unwrap().len(), 1, "{repository}");
    assert_eq!(repository["keys"][0]["kind"], "key file");
    assert!(repository["free_bytes"].as_u64() > Some(0) && repository["id"].is_string());
    let errors = document["global"]["last_errors"].to_string();
    assert!(errors.contains("has no backup \\\"nosuch"), "{errors}");
    let main = &document["servers"]["main"];
    assert_eq!(main["checks"]["postgresql"]["status"], "OK", "{main}");
    assert_eq!(main["status"]["is_in_recovery"], false);
    assert_eq!(main["backups"].as_object().unwrap().len(), 1);
    let dead = &document["servers"]["dead"];
    assert!(dead["status"]["connection_error"].as_str().unwrap().contains("cannot connect"));
    assert_eq!(dead["checks"]["postgresql"]["status"], "FAILED");
}
