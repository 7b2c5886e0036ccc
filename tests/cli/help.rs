use std::path::Path;

use super::barman;

const COMMANDS: [&str; 32] = [
    "backup",
    "check",
    "cron",
    "delete",
    "diagnose",
    "get-wal",
    "keep",
    "list-backups",
    "list-files",
    "list-servers",
    "rehearse",
    "repo",
    "repo check",
    "repo info",
    "repo init",
    "repo key",
    "repo key add",
    "repo key change-password",
    "repo key list",
    "repo key remove",
    "repo server-accept",
    "repo server-rename",
    "repo share",
    "repo upgrade",
    "restore",
    "show-backup",
    "show-servers",
    "status",
    "switch-wal",
    "verify-backup",
    "wal-archive",
    "wal-restore",
];

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        for ask in [format!("{command} --help"), format!("help {command}")] {
            let said = barman(Path::new("/nonexistent"), &ask, &[]);
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{ask}");
            assert!(said.out.contains(&format!("Usage: barman {command}")), "{}", said.out);
            assert!(said.out.contains("\nEXAMPLES:\n  "), "{}", said.out);
        }
    }
}

#[test]
fn the_general_help_names_the_commands() {
    let said = barman(Path::new("/nonexistent"), "help", &[]);
    for command in COMMANDS {
        let first = command.split(' ').next().unwrap();
        assert!(said.out.contains(&format!("\n  {first}")), "{command}: {}", said.out);
    }
    assert!(!said.out.contains("receive-wal"), "{}", said.out);
}

#[test]
fn the_short_help_has_no_unsupported_options() {
    let short = barman(Path::new("/nonexistent"), "restore -h", &[]).out;
    let long = barman(Path::new("/nonexistent"), "restore --help", &[]).out;
    assert!(
        !short.contains("--network-compression") && long.contains("--network-compression"),
        "{short}"
    );
}

#[test]
fn version_and_usage_errors() {
    let said = barman(Path::new("/nonexistent"), "-v", &[]);
    assert_eq!(said.out, concat!("barman ", env!("CARGO_PKG_VERSION"), "\n"));
    for line in ["", "bakcup pg", "backup", "check pg --frmat json"] {
        let said = barman(Path::new("/nonexistent"), line, &[]);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{line}");
        assert!(!said.err.is_empty());
    }
    let said = barman(Path::new("/nonexistent"), "bakcup pg", &[]);
    assert!(said.err.contains("'backup'"), "{}", said.err);
}
