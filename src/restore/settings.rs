//! The settings that make PostgreSQL recover, and those that must not count any more.

use super::Request;
use crate::postgres::configuration_file::line;

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

/// The file whose settings count more than those of every other one.
pub const AUTO: &str = "postgresql.auto.conf";

/// Settings of an earlier recovery or of another place, which must not count again.
const ALWAYS: &[&str] = &[
    "archive_cleanup_command",
    "data_directory",
    // A slot belongs to one standby: two would hold each other up.
    "primary_slot_name",
    "promote_trigger_file",
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

/// Settings by which a server is a part of replication: a new standby becomes one too, but a restored
/// primary must neither follow another server nor wait for standbys that it does not have.
const REPLICATION: &[&str] =
    &["primary_conninfo", "recovery_min_apply_delay", "synchronous_standby_names"];

/// Settings by which a server writes into an archive: that of the server that was backed up.
const ARCHIVING: &[&str] = &["archive_command", "archive_library"];

/// Settings that name files or programs of the host where the backup was made.
const PLACES: &[&str] = &[
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "krb_server_keyfile",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_crl_dir",
    "ssl_crl_file",
    "ssl_dh_params_file",
    "ssl_key_file",
    "ssl_passphrase_command",
    "unix_socket_directories",
    "unix_socket_directory",
];

/// Whether a setting of the server that was backed up must not count.
pub fn is_unwanted(name: &str, request: &Request) -> bool {
    ALWAYS.contains(&name)
        || (!request.standby && REPLICATION.contains(&name))
        || (!request.keep_archiving && ARCHIVING.contains(&name))
}

/// Whether a setting names something that may not be at the new place.
pub fn names_place(name: &str, value: &str) -> bool {
    // Logs usually go into the data directory.
    PLACES.contains(&name) || (name == "log_directory" && value.starts_with('/'))
}

/// The lines that make PostgreSQL recover.
pub fn recovery(request: &Request) -> Vec<String> {
    let mut settings = request.target.settings();
    if request.standby {
        // A standby follows for ever: its targets are all nothing, and its action is an error.
        settings.retain(|(name, value)| *name == "recovery_target_timeline" || value.is_empty());
    }
    match &request.wal {
        WalSource::Command(command) => settings.push(("restore_command", command.clone())),
        WalSource::Copied => {
            settings.push((
                "restore_command",
                format!(
                    // A copy that fails must not be taken for the end of the WAL.
                    "test -f {COPIED_WAL}/%f || exit 1; cp {COPIED_WAL}/%f %p || exit 126"
                ),
            ));
            settings.push(("recovery_end_command", format!("rm -rf {COPIED_WAL}")));
        }
    }
    settings.iter().map(|(name, value)| line(name, value)).collect()
}

/// The lines that keep the server away from what is not its own. They stand in [`AUTO`], which nothing
/// overrides. `sees_everything` is whether every file that PostgreSQL will read has been seen: then
/// what must not count is commented out there, and stays free to be set again.
pub fn guards(request: &Request, sees_everything: bool) -> Vec<String> {
    let mut lines = vec![];
    if !request.keep_archiving {
        // So WAL stays in pg_wal until someone says where it goes now.
        lines.extend([line("archive_command", "false"), line("archive_library", "")]);
    }
    if !sees_everything {
        let replication = if request.standby { &[] } else { REPLICATION };
        let commands = ["archive_cleanup_command", "primary_slot_name"];
        lines.extend(commands.iter().chain(replication).map(|name| match *name {
            "recovery_min_apply_delay" => line(name, "0"),
            name => line(name, ""),
        }));
        if request.wal != WalSource::Copied {
            lines.push(line("recovery_end_command", ""));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::target::Target;

    fn request(standby: bool, keep_archiving: bool) -> Request {
        Request {
            target: Target::default(),
            standby,
            keep_archiving,
            wal: WalSource::Command("it's \\ %p".into()),
            ..Request::to("/restored")
        }
    }

    #[test]
    fn commands_are_quoted() {
        let lines = recovery(&request(false, false));
        assert!(lines.contains(&"restore_command = 'it''s \\\\ %p'\n".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_standby_keeps_whom_it_follows_and_nobody_keeps_a_slot() {
        let (primary, standby) = (request(false, false), request(true, false));
        for name in REPLICATION {
            assert!(is_unwanted(name, &primary) && !is_unwanted(name, &standby), "{name}");
        }
        for request in [&primary, &standby] {
            assert!(is_unwanted("primary_slot_name", request));
            assert!(is_unwanted("archive_command", request));
            assert!(!is_unwanted("shared_buffers", request));
        }
        assert!(!is_unwanted("archive_library", &request(false, true)));
    }

    #[test]
    fn what_may_be_in_unseen_files_is_overridden() {
        let set = |lines: Vec<String>, name: &str| lines.iter().any(|line| line.starts_with(name));
        let primary = request(false, false);
        assert!(!set(guards(&primary, true), "primary_conninfo"));
        for name in ["primary_conninfo = ''", "synchronous_standby_names = ''", "archive_command"] {
            assert!(set(guards(&primary, false), name), "{name}");
        }
        assert!(!set(guards(&request(true, true), false), "primary_conninfo"));
        assert!(guards(&request(true, true), true).is_empty());
        let standby = recovery(&request(true, false));
        assert!(!set(standby.clone(), "recovery_target_action"));
        assert!(set(standby, "recovery_target_time = ''"));
    }
}
