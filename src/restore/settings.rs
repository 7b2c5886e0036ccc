//! The settings that make PostgreSQL recover, and what is done to those that were backed up.

use super::target::Target;

/// Where recovery gets WAL from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalSource {
    /// A command fetches each file when it is needed.
    Command(String),
    /// The files were copied into the data directory.
    Copied,
}

/// The directory, in the data directory, that copied WAL is in.
pub const COPIED_WAL: &str = "barman_wal";

/// Settings of an earlier recovery, which must not count again.
const RECOVERY: &[&str] = &[
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
];

/// Settings that name files, which may be those of the server that was backed up.
const DANGEROUS: &[&str] = &[
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "include",
    "include_dir",
    "include_if_exists",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_crl_file",
    "ssl_key_file",
    "unix_socket_directories",
    "unix_socket_directory",
];

/// The lines that are added to the configuration.
pub fn lines(target: &Target, wal: &WalSource, standby: bool) -> Vec<String> {
    let mut settings = target.settings();
    if standby {
        // A standby follows for ever; its targets are of no use and its action is an error.
        settings.retain(|(name, _)| *name == "recovery_target_timeline");
    }
    match wal {
        WalSource::Command(command) => settings.push(("restore_command", command.clone())),
        WalSource::Copied => {
            settings.push(("restore_command", format!("cp {COPIED_WAL}/%f %p")));
            settings.push(("recovery_end_command", format!("rm -rf {COPIED_WAL}")));
        }
    }
    // A restored server must not write into the archive of the one that it comes from.
    settings.push(("archive_command", "false".to_owned()));
    settings
        .iter()
        .map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''")))
        .collect()
}

/// The configuration file with the recovery settings that it has commented out, and their names.
pub fn without_recovery(file: &str) -> (String, Vec<String>) {
    let mut found = vec![];
    let mut out = String::with_capacity(file.len());
    for line in file.lines() {
        if let Some(name) = setting(line).filter(|name| RECOVERY.contains(&name.as_str())) {
            out.push_str("#BARMAN# ");
            found.push(name);
        }
        out.push_str(line);
        out.push('\n');
    }
    (out, found)
}

/// The lines of a configuration file that may name files of the server that was backed up.
pub fn dangerous(file: &str) -> Vec<(usize, String)> {
    let is_dangerous =
        |line: &&str| setting(line).is_some_and(|name| DANGEROUS.contains(&name.as_str()));
    let lines = file.lines().enumerate();
    lines
        .filter(|(_, line)| is_dangerous(line))
        .map(|(at, line)| (at + 1, line.trim().to_owned()))
        .collect()
}

/// The name of the setting on a line.
fn setting(line: &str) -> Option<String> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    let name = &line[..end.unwrap_or(line.len())];
    (!name.is_empty()).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_settings_are_commented_out_and_nothing_else_is() {
        let file =
            "# restore_command\nrestore_command = 'x'\n Recovery_Target_Time='y'\nport = 1\n";
        let (out, found) = without_recovery(file);
        assert_eq!(
            out,
            "# restore_command\n#BARMAN# restore_command = 'x'\n#BARMAN#  Recovery_Target_Time='y'\nport = 1\n"
        );
        assert_eq!(found, ["restore_command", "recovery_target_time"]);
    }

    #[test]
    fn quotes_are_doubled() {
        let lines = lines(&Target::default(), &WalSource::Command("it's".into()), false);
        assert!(lines.contains(&"restore_command = 'it''s'".to_owned()));
    }

    #[test]
    fn settings_that_name_files_are_found() {
        let found = dangerous("port=1\ninclude_dir 'conf.d'\n#hba_file='x'\nhba_file='/etc/x'\n");
        assert_eq!(found, [(2, "include_dir 'conf.d'".into()), (4, "hba_file='/etc/x'".into())]);
    }
}
