use clap::CommandFactory;

use super::*;

/// Every command with its full name, without those that are only refused.
fn commands() -> Vec<(String, clap::Command)> {
    fn collect(prefix: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{prefix}{}", sub.get_name());
            collect(&format!("{name} "), sub, found);
            found.push((name, sub.clone()));
        }
    }
    let mut found = Vec::new();
    collect("", &Cli::command(), &mut found);
    found
}

fn refusal(line: &str) -> String {
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    match understand(&arguments).map(|(_, command)| command) {
        Ok(Err(error)) => format!("{error}; {}", error.hint_text().unwrap_or_default()),
        Ok(Ok(_)) => "accepted".to_owned(),
        Err(error) => format!("exit code {}", usage_code(&error, &arguments)),
    }
}

#[test]
fn the_parser_is_consistent() {
    not_yet::command::<Cli>().debug_assert();
}

#[test]
fn every_command_is_explained_and_has_examples() {
    let commands = commands();
    assert!(commands.len() >= 40, "{:?}", commands.iter().map(|(n, _)| n).collect::<Vec<_>>());
    for (name, command) in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.len() > 10 && !about.contains('\n'), "{name}: {about:?}");
        let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
        assert!(long.len() > about.len() + 20, "{name}: {long:?}");
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.starts_with("EXAMPLES:\n  "), "{name}: {examples:?}");
    }
}

#[test]
fn every_option_is_explained() {
    for (name, command) in commands() {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {}", argument.get_id());
        }
    }
}

#[test]
fn examples_can_be_parsed() {
    for (name, command) in commands() {
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in examples.lines().filter(|line| line.starts_with("  barman ")) {
            let line = line.split(['>', '#']).next().unwrap_or_default();
            let quoted = |(at, piece)| if at % 2 == 1 { "x" } else { piece };
            let line: String = line.split('\'').enumerate().map(quoted).collect();
            assert_eq!(refusal(&line), "accepted", "{name}");
        }
    }
}

#[test]
fn barmans_aliases_work() {
    for line in [
        "barman recover pg latest /srv/pg",
        "barman list-server",
        "barman list-backup pg",
        "barman show-server all",
        "barman show-backups pg latest",
        "barman switch-xlog pg",
        "barman verify pg latest",
        "barman -q --colour never --log-level debug -f json list-servers",
        "barman restore pg latest /srv/pg --no-delta-restore --skip-archive-wal",
        "barman get-wal -P pg 000000010000000000000001",
        "barman get-wal --test pg",
        "barman repo check --read-data --server pg",
    ] {
        assert_eq!(refusal(line), "accepted", "{line}");
    }
}

#[test]
fn what_only_barman_has_is_refused_in_words() {
    for (line, words) in [
        ("barman backup pg --reuse-backup", "the option --reuse-backup"),
        ("barman backup pg --reuse-backup=link", "the option --reuse-backup"),
        ("barman restore pg latest /x --network-compression", "the option --network-compression"),
        ("barman get-wal pg 00 -j", "the option --bzip2"),
        ("barman get-wal pg 00 -x", "the option --gzip"),
        (
            "barman receive-wal --create-slot pg",
            "the command 'receive-wal'; use 'barman wal-archive",
        ),
        ("barman -f json replication-status pg", "the command 'replication-status'"),
    ] {
        let refusal = refusal(line);
        assert!(refusal.starts_with("not supported yet: "), "{line}: {refusal}");
        assert!(refusal.contains(words), "{line}: {refusal}");
    }
}

#[test]
fn bad_command_lines_are_usage_errors() {
    for line in [
        "barman bakcup pg",
        "barman backup",
        "barman backup pg --jobs 0",
        "barman restore pg latest /x --target-immediate --target-name y",
        "barman restore pg latest /x --tablespace nonsense",
        "barman keep pg latest",
        "barman keep pg latest -r -s",
        "barman list-servers --nonsense",
    ] {
        assert_eq!(refusal(line), "exit code 2", "{line}");
    }
    // PostgreSQL would take 2 for "there is no more WAL".
    assert_eq!(refusal("barman wal-restore pg"), "exit code 126");
    assert_eq!(refusal("barman help backup"), "exit code 0");
    assert_eq!(refusal("barman --version"), "exit code 0");
}

#[test]
fn a_limit_of_waiting_needs_something_that_waits() {
    let checked = |line: &str| {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        match understand(&arguments).unwrap().1.unwrap() {
            Command::Backup(args) => args.check_waiting().map_err(|error| error.exit_code()),
            _ => unreachable!("{line}"),
        }
    };
    assert_eq!(checked("barman backup pg --wait-timeout 60"), Err(2));
    for waits in ["", "--wait-timeout 60 --wait", "--wait-timeout 60 --wal stream"] {
        assert_eq!(checked(&format!("barman backup pg {waits}")), Ok(()), "{waits}");
    }
}

#[test]
fn what_postgresql_runs_is_told_in_one_line_what_is_missing() {
    let said = |line: &str| {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        usage_in_one_line(&understand(&arguments).err().unwrap(), &arguments)
    };
    assert_eq!(
        said("barman -q wal-archive main"),
        "the path of the WAL file is missing: archive_command = 'barman wal-archive main %p'"
    );
    assert_eq!(
        said("barman wal-archive"),
        "<SERVER_NAME>, <WAL_PATH> are missing: archive_command = 'barman wal-archive SERVER %p'"
    );
    assert_eq!(
        said("barman wal-restore main 000000010000000000000001"),
        "<WAL_DEST> is missing: restore_command = 'barman wal-restore SERVER %f %p'"
    );
    let unknown = said("barman wal-archive --nonsense main x");
    assert_eq!(unknown, "unexpected argument '--nonsense' found");
}

#[test]
fn names_are_found_or_the_nearest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("barman.conf");
    std::fs::write(&path, "[main]\n[replica]\n[m]\nmodel = true\ncluster = main\n").unwrap();
    let config = Config::load(Some(&path), Environment::default()).unwrap();
    let found = |list: &[&str]| -> Vec<String> {
        let list: Vec<String> = list.iter().map(ToString::to_string).collect();
        names::many(&config, &list)
            .into_iter()
            .map(|server| server.map_or_else(|e| e.to_string(), |s| s.name.clone()))
            .collect()
    };
    assert_eq!(found(&["all"]), ["main", "replica"]);
    assert_eq!(
        found(&["replica", "mian", "replica", "m"]),
        ["replica", "unknown server 'mian'; did you mean 'main'?", "'m' is a model, not a server"]
    );
}
