//! `barman repo`, without any server.

use std::fs;
use std::path::Path;
use std::process::Command;

use barman::storage::local::durable_rename;
use serde_json::json;

use super::{Said, Setup, barman};
use crate::support::process::{TIME_LIMIT, run_with_input};
use crate::support::python;

/// A password costs next to nothing here.
const CHEAP: (&str, &str) = ("BARMAN_TEST_ARGON2_KIB", "64");

fn setup(key: &str) -> Setup {
    let setup = Setup::new("");
    let home = setup.0.path().display().to_string();
    let key = key.replace("HOME", &home);
    fs::write(setup.file(), format!("[barman]\nrepository = {home}/repo\n{key}\n")).unwrap();
    setup
}

fn run(setup: &Setup, arguments: &str) -> Said {
    let home = setup.0.path();
    barman(home, &format!("-c {} {arguments}", setup.file().display()), &[CHEAP])
}

#[track_caller]
fn ok(setup: &Setup, arguments: &str) -> Said {
    let said = run(setup, arguments);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments}: {}", said.out);
    said
}

#[track_caller]
fn refused(setup: &Setup, arguments: &str, words: &str) {
    let said = run(setup, arguments);
    assert_eq!(said.code, 1, "{arguments}: {}", said.out);
    assert!(said.err.contains(words), "{arguments}: {}", said.err);
}

#[test]
fn a_repository_is_created_once_with_a_new_key_file() {
    let setup = setup("repository_key_file = HOME/etc/barman.key");
    refused(&setup, "repo info", "barman.key");
    let said = ok(&setup, "repo init");
    for words in ["Created repository ", "/etc/barman.key, which was created", "Keep a copy"] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    let key = fs::read_to_string(setup.0.path().join("etc/barman.key")).unwrap();
    refused(&setup, "repo init", "there is a repository in");
    assert_eq!(fs::read_to_string(setup.0.path().join("etc/barman.key")).unwrap(), key);

    let info = ok(&setup, "-f json repo info").json();
    let repository = &info["repository"];
    assert_eq!(repository["keys"], json!(1));
    assert_eq!(repository["backups"], json!(0));
    assert_eq!(repository["format_version"], json!(1));
    let id = repository["id"].as_str().unwrap();
    assert_eq!(id.len(), 32);
    let shown = ok(&setup, "repo info").out;
    assert!(shown.contains(&format!("Id                  : {id}\n")), "{shown}");

    let checked = ok(&setup, "repo check --read-data");
    assert!(checked.out.ends_with("No problems found\n"), "{}", checked.out);
    assert_eq!(ok(&setup, "-f json repo check").json()["repository"]["problems"], json!([]));
    assert!(ok(&setup, "repo upgrade").out.contains("Nothing to upgrade"));
}

#[test]
fn an_empty_place_that_held_a_repository_gets_no_new_one() {
    let setup = setup("repository_key_file = HOME/the.key\nstate_directory = HOME/state");
    let (repository, away) = (setup.0.path().join("repo"), setup.0.path().join("away"));
    ok(&setup, "repo init");
    let id =
        ok(&setup, "-f json repo info").json()["repository"]["id"].as_str().unwrap().to_owned();
    let gone = |place: &str| format!("repository {id} was in {place}, and nothing is there");
    let gone = gone(repository.to_str().unwrap());

    // The mount point of a disk that is not mounted, and none at all.
    durable_rename(&repository, &away).unwrap();
    refused(&setup, "repo init", &gone);
    fs::create_dir(&repository).unwrap();
    refused(&setup, "repo init", &gone);
    refused(&setup, "repo init --key-file /nonexistent/other.key", &gone);
    refused(&setup, &format!("repo init --instead-of {}", "0".repeat(32)), &gone);
    assert_eq!(fs::read_dir(&repository).unwrap().count(), 0);
    fs::remove_dir(&repository).unwrap();
    durable_rename(&away, &repository).unwrap();
    refused(&setup, "repo init", "there is a repository in");
    ok(&setup, "repo check");

    // A host that was set up anew knows again what cron found there.
    fs::remove_dir_all(setup.0.path().join("state")).unwrap();
    ok(&setup, "cron");
    fs::remove_dir_all(&repository).unwrap();
    refused(&setup, "repo init", &gone);

    refused(&setup, "repo init", &format!("the same again with --instead-of {id}"));
    // It existed, which is warned of; the key is as good for the new one.
    let said = run(&setup, &format!("repo init --instead-of {id}"));
    assert!(said.code == 0 && said.err.contains("its disk is not mounted"), "{}", said.err);
    let new = ok(&setup, "-f json repo info").json()["repository"]["id"].clone();
    assert_ne!(new, json!(id));
    fs::remove_dir_all(&repository).unwrap();
    refused(&setup, "repo init", &format!("repository {} was in", new.as_str().unwrap()));

    // Where nothing can be kept it is said, once.
    fs::remove_dir_all(setup.0.path().join("state")).unwrap();
    fs::write(setup.0.path().join("state"), "a file").unwrap();
    let said = run(&setup, "repo init");
    assert!(said.code == 0 && said.err.contains("set state_directory to"), "{}", said.err);
    ok(&setup, "cron");
}

#[test]
fn a_key_file_that_is_of_no_use_does_not_stay() {
    let setup = setup("repository_key_file = HOME/first.key");
    ok(&setup, "repo init");
    let second = setup.0.path().join("second.key");
    refused(&setup, &format!("repo init --key-file {}", second.display()), "there is a repository");
    assert!(!second.exists());
    fs::write(&second, "not a key\n").unwrap();
    refused(&setup, &format!("repo key add --key-file {}", second.display()), "second.key");
    assert!(second.exists());
}

#[test]
fn keys_come_and_go() {
    let setup = setup("repository_key_file = HOME/first.key");
    let home = setup.0.path().to_owned();
    ok(&setup, "repo init");
    let first = ok(&setup, "-f json repo key list").json()["keys"][0].clone();
    assert_eq!(first["kind"], json!("key file"));
    assert_eq!(first["in_use"], json!(true));
    let first = first["id"].as_str().unwrap().to_owned();
    refused(&setup, &format!("repo key remove {first}"), "it is the last one");

    fs::write(home.join("password"), "open sesame\n").unwrap();
    std::fs::set_permissions(home.join("password"), permissions(0o600)).unwrap();
    let add = format!("repo key add --label ours --new-password-file {}/password", home.display());
    assert!(ok(&setup, &add).out.contains("the new password"));
    ok(&setup, &format!("repo key add --key-file {}/second.key", home.display()));
    let listed = ok(&setup, "repo key list").out;
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.contains("  password  ") && listed.contains("  ours"), "{listed}");
    refused(&setup, &format!("repo key remove {}", &first[..8]), "opened the repository");
    refused(&setup, "repo key remove ffff", "there is no key ffff");

    let file = setup.file();
    let configure = |key: &str| {
        let home = home.display();
        fs::write(&file, format!("[barman]\nrepository = {home}/repo\n{key}\n")).unwrap();
    };
    configure(&format!("repository_password_file = {}/password", home.display()));
    ok(&setup, "repo info");
    ok(&setup, &format!("repo key remove {}", &first[..8]));
    configure(&format!("repository_key_file = {}/first.key", home.display()));
    refused(&setup, "repo info", "does not open with this key file");
    let said = run(&setup, "repo key list");
    assert_eq!((said.code, said.out.lines().count()), (0, 3), "{}", said.out);
    assert!(said.err.contains("opens none of these"), "{}", said.err);
}

/// Runs the program on a terminal of its own, with `typed` on its keyboard; what the terminal shows.
fn on_a_terminal(setup: &Setup, arguments: &str, typed: &str) -> (String, i32) {
    let program =
        "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = Command::new(python());
    command.args(["-c", program, env!("CARGO_BIN_EXE_barman"), "-c"]).arg(setup.file());
    command.args(arguments.split_whitespace()).env("HOME", setup.0.path());
    let output = run_with_input(command, typed, TIME_LIMIT);
    (output.stdout.replace('\r', ""), output.status)
}

/// The code that a terminal shows: the lines after the one that begins with it, put together.
fn code_in(shown: &str) -> String {
    let lines = shown.lines().skip_while(|line| !line.trim().starts_with("barman1 "));
    lines.take(2).collect::<Vec<_>>().join(" ")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what a test moves need not be durable")]
fn a_lost_key_file_is_made_again_from_its_recovery_code() {
    let setup = setup("repository_key_file = HOME/the.key");
    let text = fs::read_to_string(setup.file()).unwrap();
    let log = setup.log();
    fs::write(setup.file(), format!("{text}log_file = {}\nlog_level = DEBUG\n", log.display()))
        .unwrap();
    let key = setup.0.path().join("the.key");
    let (shown, status) = on_a_terminal(&setup, "--debug repo init", "");
    assert_eq!(status, 0, "{shown}");
    assert!(shown.contains("safe place away from the backups"), "{shown}");
    let code = code_in(&shown);
    assert_eq!(code.split_whitespace().count(), 16, "{shown}");
    let secret = fs::read_to_string(&key).unwrap();
    let (listed, _) = on_a_terminal(&setup, "repo key recovery-code", "");
    assert_eq!(code_in(&listed), code);
    let asked = ok(&setup, "-f json repo key recovery-code").json();
    let asked = asked["recovery_code"].as_str().unwrap().to_owned();
    assert!(asked.split_whitespace().eq(code.split_whitespace()));

    // A key file that is there stays.
    refused(&setup, "repo key recover", "is not replaced");
    fs::rename(&key, setup.0.path().join("lost.key")).unwrap();
    refused(&setup, "repo info", "the.key");
    // Typed in two lines, as it is shown.
    let (first, second) = code.trim().split_at(45);
    let (shown, status) =
        on_a_terminal(&setup, "repo key recover", &format!("{first}\n{}\n", second.to_uppercase()));
    assert_eq!(status, 0, "{shown}");
    assert!(shown.contains("the.key, which is key "), "{shown}");
    assert_eq!(fs::read_to_string(&key).unwrap(), secret);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    ok(&setup, "repo info");

    // Without a terminal, from a file; a wrong character and another repository's code are refused.
    let file = setup.0.path().join("code");
    let recover = format!("repo key recover --code-file {}", file.display());
    fs::remove_file(&key).unwrap();
    let mut wrong = asked.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'q' { 'p' } else { 'q' });
    fs::write(&file, &wrong).unwrap();
    refused(&setup, &recover, "a character is wrong");
    let other = repo_format::keys::Secret::from_bytes([7; 32]);
    fs::write(&file, repo_format::recovery_code::encode(&other).as_bytes()).unwrap();
    refused(&setup, &recover, "of no key of this repository");
    assert!(!key.exists());
    fs::write(&file, asked.to_uppercase().replace(' ', "-")).unwrap();
    ok(&setup, &recover);
    assert_eq!(fs::read_to_string(&key).unwrap(), secret);

    // The log has what was done, and nothing of the code.
    let log = fs::read_to_string(log).unwrap();
    let group = code.split_whitespace().nth(3).unwrap();
    assert!(!log.is_empty() && !log.to_lowercase().contains(group), "{log}");
}

#[test]
fn a_recovery_code_is_shown_to_nobody_but_a_person() {
    let setup = setup("repository_key_file = HOME/the.key");
    let said = ok(&setup, "repo init");
    assert!(!said.out.contains("barman1 "), "{}", said.out);
    assert!(said.out.contains("repo key recovery-code"), "{}", said.out);
    let add = |name: &str| format!("repo key add --key-file {}/{name}", setup.0.path().display());
    let said = ok(&setup, &format!("-f json {}", add("second")));
    assert!(!said.out.contains("barman1 "), "{}", said.out);
    let (shown, status) = on_a_terminal(&setup, &add("third"), "");
    assert!(status == 0 && shown.contains("barman1 "), "{shown}");
    for hidden in [format!("-f json {}", add("4")), format!("{} --no-recovery-code", add("5"))] {
        let (shown, status) = on_a_terminal(&setup, &hidden, "");
        assert!(status == 0 && !shown.contains("barman1 "), "{shown}");
    }
    // Of a key file that was there somebody has a copy, or the command that shows it.
    let (shown, status) = on_a_terminal(&setup, &add("third"), "");
    assert!(status == 0 && !shown.contains("barman1 "), "{shown}");
}

#[test]
fn a_password_is_changed() {
    let setup = setup("repository_password_file = HOME/password");
    let home = setup.0.path().to_owned();
    for (name, password) in [("password", "old"), ("new", "new"), ("old", "old")] {
        fs::write(home.join(name), format!("{password}\n")).unwrap();
        fs::set_permissions(home.join(name), permissions(0o600)).unwrap();
    }
    ok(&setup, "repo init");
    let change = |file: &str| {
        format!("repo key change-password --new-password-file {}/{file}", home.display())
    };
    refused(&setup, &change("old"), "the new password is the current one");
    let said = ok(&setup, &change("new"));
    assert!(said.out.contains("Changed the password"), "{}", said.out);
    refused(&setup, "repo info", "does not open with this password");
    fs::copy(home.join("new"), home.join("password")).unwrap();
    ok(&setup, "repo info");
    assert_eq!(ok(&setup, "-f json repo key list").json()["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn damage_is_found_and_named() {
    let setup = setup("repository_key_file = HOME/key");
    ok(&setup, "repo init");
    let wal = setup.0.path().join("repo/wal/main/1/00000001");
    fs::create_dir_all(&wal).unwrap();
    let name = "000000010000000000000001-00112233445566778899aabbccddeeff";
    fs::write(wal.join(name), "nonsense").unwrap();
    refused(&setup, "repo check --read-data", &format!("wal/main/1/00000001/{name}"));
    let said = run(&setup, "-f json repo check --read-data");
    let problems = said.json()["repository"]["problems"].clone();
    assert_eq!(problems[0]["object"], json!(format!("wal/main/1/00000001/{name}")));
    assert_eq!(said.code, 1);
}

#[test]
fn the_repository_of_a_server_can_be_named() {
    let setup = setup("repository_key_file = HOME/key");
    let own = setup.0.path().join("own");
    let text = fs::read_to_string(setup.file()).unwrap();
    let more = format!("[main]\nconninfo = host=a\nrepository = {}\n", own.display());
    fs::write(setup.file(), text + &more).unwrap();
    ok(&setup, "repo init --server main");
    assert!(own.join("config/1").exists());
    refused(&setup, "repo info", "does not exist");
    assert!(ok(&setup, "repo info --server main").out.contains(&own.display().to_string()));
    let nowhere = barman(Path::new("/nonexistent"), "repo info", &[("BARMAN_REPOSITORY", "/x")]);
    assert!(nowhere.err.contains("no key or password"), "{}", nowhere.err);
}

fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
