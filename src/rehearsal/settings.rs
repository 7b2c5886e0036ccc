//! The settings with which a rehearsed server keeps to itself. They are given on its command line, where they count
//! more than what is in any file.

use std::path::Path;

/// The number in the name of its socket.
pub const PORT: &str = "5432";

/// What holds whatever the configuration says.
const ALWAYS: &[(&str, &str)] = &[
    // Nobody gets in but over its socket, and it tells nobody that it is there.
    ("listen_addresses", ""),
    ("port", PORT),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
    ("bonjour", "off"),
    ("ssl", "off"),
    ("external_pid_file", ""),
    // It writes into no archive.
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_library", ""),
    // It connects to no other server, and waits for none.
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_logical_replication_workers", "0"),
    // It runs nothing of extensions by itself. That there is no place for workers stops those of libraries, too,
    // that WAL makes it load; recovery without hot standby takes any number.
    ("max_worker_processes", "0"),
    ("hot_standby", "off"),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("jit", "off"),
    ("autovacuum", "off"),
    // It fits beside others, and need not survive.
    ("shared_buffers", "128MB"),
    ("wal_buffers", "-1"),
    ("min_dynamic_shared_memory", "0"),
    ("huge_pages", "off"),
    ("work_mem", "16MB"),
    ("maintenance_work_mem", "64MB"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("restart_after_crash", "off"),
    // What is broken is not to be passed over.
    ("zero_damaged_pages", "off"),
    ("ignore_checksum_failure", "off"),
    ("ignore_invalid_pages", "off"),
    // It says what it does where it is looked for.
    ("cluster_name", "barman rehearsal"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_min_messages", "warning"),
    ("log_line_prefix", "%m "),
    ("lc_messages", "C"),
];

/// Likewise, of versions that have them.
const SINCE: &[(u32, &str, &str)] = &[
    // Code that would run at each login.
    (17, "event_triggers", "off"),
    (17, "summarize_wal", "off"),
    (18, "io_method", "worker"),
];

/// What decides for a session, so that nothing that is set for a database or a role does.
const SESSION: &[(u32, &str)] = &[
    (0, "session_preload_libraries="),
    (0, "local_preload_libraries="),
    (0, "zero_damaged_pages=off"),
    (0, "ignore_checksum_failure=off"),
    (0, "statement_timeout=0"),
    (0, "lock_timeout=0"),
    (17, "transaction_timeout=0"),
    (17, "event_triggers=off"),
];

/// The settings of a server of a version whose socket is in `sockets`. Only `with_libraries` does it load those that
/// its configuration names.
pub fn server(major: u32, sockets: &Path, with_libraries: bool) -> Vec<String> {
    let since = SINCE.iter().filter(|(since, ..)| major >= *since);
    let all = ALWAYS.iter().copied().chain(since.map(|(_, name, value)| (*name, *value)));
    let mut settings: Vec<String> = all.map(|(name, value)| format!("{name}={value}")).collect();
    settings.push(format!("unix_socket_directories={}", sockets.display()));
    if !with_libraries {
        settings.push("shared_preload_libraries=".to_owned());
    }
    settings
}

/// The options of a session with a server of a version, as a superuser.
pub fn session(major: u32) -> String {
    let settings = SESSION.iter().filter(|(since, _)| major >= *since);
    settings.map(|(_, setting)| format!("-c {setting}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_setting_is_given_once_and_to_who_knows_it() {
        let names = |major, with_libraries| -> Vec<String> {
            let settings = server(major, Path::new("/s"), with_libraries);
            let name = |setting: &String| setting.split('=').next().unwrap().to_owned();
            settings.iter().map(name).collect()
        };
        for (major, knows) in [(15, false), (17, true)] {
            let all = names(major, false);
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
            assert_eq!(all.contains(&"event_triggers".to_owned()), knows);
            assert_eq!(session(major).contains("transaction_timeout"), knows);
        }
        let library = "shared_preload_libraries".to_owned();
        assert!(names(15, false).contains(&library) && !names(15, true).contains(&library));
    }
}
