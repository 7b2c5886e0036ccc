//! Every option of `barman.conf`: Barman 3.20's, and the few that are new here.
//!
//! The table says where an option may stand, its default, and how far this version goes with it. An
//! option is never dropped in silence: what has no meaning here says why (at debug level), what is not
//! done yet is warned of, and where leaving it out would change *what is protected* the server refuses
//! to back up until the option is taken away.

use super::values;

/// Where an option may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only in `[barman]`.
    Global,
    /// Only in a server's section (or a model).
    Server,
    /// In both; a server inherits what `[barman]` says.
    Both,
}

impl Scope {
    /// Whether the option may stand in `[barman]`.
    pub fn global(self) -> bool {
        self != Scope::Server
    }

    /// Whether the option may stand in the section of a server or model.
    pub fn server(self) -> bool {
        self != Scope::Global
    }
}

/// How far this version goes with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does what it says.
    Supported,
    /// It has no meaning here, for the reason given.
    Ignored(&'static str),
    /// It has a meaning, which this version does not provide.
    NotYet {
        /// Whether leaving it out changes what is protected, so that a backup must be refused.
        protects: bool,
        /// The values that ask for nothing more than what is done anyway.
        unless: &'static [&'static str],
        /// The other values that there are; empty where there may be any.
        others: &'static [&'static str],
    },
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name in `barman.conf`.
    pub name: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// Its value when it is set nowhere; may refer to other options.
    pub default: Option<&'static str>,
    /// How far this version goes with it.
    pub state: State,
}

impl OptionSpec {
    /// Whether `value` asks for something that this version does not provide.
    pub fn is_missing(&self, value: &str) -> bool {
        match self.state {
            State::NotYet { unless, .. } => !values::list(value).all(|item| {
                unless.iter().any(|harmless| {
                    item.eq_ignore_ascii_case(harmless)
                        || (*harmless == "off" && values::boolean(item) == Ok(false))
                })
            }),
            _ => false,
        }
    }
}

impl State {
    /// What to expect, where `value` is none of the values that there are.
    pub fn unknown(self, value: &str) -> Option<String> {
        let State::NotYet { unless, others: others @ [_, ..], .. } = self else { return None };
        let is_known = |known: &&str| known.eq_ignore_ascii_case(value);
        if unless.iter().chain(others).any(is_known) {
            return None;
        }
        let (unless, others) = (unless.join(" or "), others.join(", "));
        Some(format!("expected {unless} (not supported yet: {others})"))
    }
}

/// The option called `name` (in lower case).
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|option| option.name == name)
}

const LAYOUT: State =
    State::Ignored("the repository holds backups and WAL in a layout of its own: see 'repository'");
const COMPRESSES: State = State::Ignored(
    "the repository compresses everything itself: see 'repository_compression_level'",
);
const COPY: State = State::Ignored("it belongs to copies by rsync, which are not used here");
const STAGING: State = State::Ignored("restores write straight to the destination");
const QUEUE: State =
    State::Ignored("WAL goes straight into the repository, there is no queue in between");
const LATER: State = State::NotYet { protects: false, unless: &[], others: &[] };
const REFUSED: State = State::NotYet { protects: true, unless: &[], others: &[] };

/// Refused unless it has one of these values.
const fn refused_unless(unless: &'static [&'static str]) -> State {
    State::NotYet { protects: true, unless, others: &[] }
}

/// As [`refused_unless`], where there are just these `others`.
const fn one_of(unless: &'static [&'static str], others: &'static [&'static str]) -> State {
    State::NotYet { protects: true, unless, others }
}

/// Warned of unless it has one of these values.
const fn later_unless(unless: &'static [&'static str]) -> State {
    State::NotYet { protects: false, unless, others: &[] }
}

/// Set nowhere, it has no value.
const UNSET: Option<&str> = None;

use Scope::{Both, Global, Server};
use State::{Ignored, Supported};

/// All of them, sorted by name.
#[rustfmt::skip]
pub const OPTIONS: &[OptionSpec] = &[
    option("active", Server, Some("true"), Supported),
    option("archiver", Both, Some("on"), Supported),
    option("archiver_batch_size", Both, UNSET, QUEUE),
    option("autogenerate_manifest", Both, UNSET, COPY),
    option("aws_await_snapshots_timeout", Both, UNSET, LATER),
    option("aws_check_object_lock", Both, UNSET, later_unless(&["off"])),
    option("aws_encryption", Both, UNSET, LATER),
    option("aws_profile", Both, UNSET, LATER),
    option("aws_read_timeout", Both, UNSET, LATER),
    option("aws_region", Both, UNSET, LATER),
    option("aws_snapshot_lock_cool_off_period", Both, UNSET, LATER),
    option("aws_snapshot_lock_duration", Both, UNSET, LATER),
    option("aws_snapshot_lock_expiration_date", Both, UNSET, LATER),
    option("aws_snapshot_lock_mode", Both, UNSET, LATER),
    option("aws_sse_customer_key", Both, UNSET, LATER),
    option("aws_sse_kms_key_id", Both, UNSET, LATER),
    option("azure_credential", Both, UNSET, LATER),
    option("azure_resource_group", Both, UNSET, LATER),
    option("azure_subscription_id", Both, UNSET, LATER),
    option("backup_compression", Both, UNSET, COMPRESSES),
    option("backup_compression_format", Both, UNSET, COMPRESSES),
    option("backup_compression_level", Both, UNSET, COMPRESSES),
    option("backup_compression_location", Both, UNSET, COMPRESSES),
    option("backup_compression_workers", Both, UNSET, COMPRESSES),
    option("backup_directory", Server, Some("%(barman_home)s/%(name)s"), LAYOUT),
    option("backup_method", Both, Some("postgres"), one_of(&["postgres", "local", "local-rsync"], &["rsync", "snapshot"])),
    option("backup_options", Both, UNSET, later_unless(&["concurrent_backup", "external_configuration"])),
    option("bandwidth_limit", Both, UNSET, Supported),
    option("barman_home", Global, Some("/var/lib/barman"), Supported),
    option("barman_lock_directory", Global, UNSET, Ignored("no lock files are kept there")),
    option("barman_user", Global, UNSET, Ignored("any user who may read the configuration and the repository can run barman")),
    option("basebackup_retry_sleep", Both, Some("30"), Supported),
    option("basebackup_retry_times", Both, Some("0"), Supported),
    option("basebackups_directory", Server, UNSET, LAYOUT),
    option("check_timeout", Both, Some("30"), Supported),
    option("cloud_delete_batch_size", Both, UNSET, LATER),
    option("cloud_staging_directory", Both, UNSET, STAGING),
    option("cloud_staging_max_size", Both, UNSET, STAGING),
    option("cloud_upload_max_archive_size", Both, UNSET, LAYOUT),
    option("cloud_upload_min_chunk_size", Both, UNSET, LAYOUT),
    option("cloud_wal_archive_parallel", Both, UNSET, later_unless(&["0"])),
    option("cloud_wal_restore_parallel", Both, UNSET, later_unless(&["0"])),
    option("cluster", Server, Some("%(name)s"), Supported),
    option("combine_mode", Both, UNSET, STAGING),
    option("compression", Both, UNSET, COMPRESSES),
    option("compression_level", Both, UNSET, COMPRESSES),
    option("config_changes_queue", Global, UNSET, Ignored("there is no queue of configuration changes")),
    option("configuration_files_directory", Global, UNSET, Supported),
    option("conninfo", Server, UNSET, Supported),
    option("create_slot", Both, Some("manual"), refused_unless(&["manual"])),
    option("custom_compression_filter", Both, UNSET, COMPRESSES),
    option("custom_compression_magic", Both, UNSET, COMPRESSES),
    option("custom_decompression_filter", Both, UNSET, COMPRESSES),
    option("delta", Both, Some("auto"), Supported),
    option("description", Server, UNSET, Supported),
    option("disabled", Server, Some("false"), Supported),
    option("encryption", Both, UNSET, refused_unless(&["none"])),
    option("encryption_key_id", Both, UNSET, LATER),
    option("encryption_passphrase_command", Both, UNSET, LATER),
    option("errors_directory", Server, UNSET, LAYOUT),
    option("forward_config_path", Both, UNSET, later_unless(&["off"])),
    option("gcp_project", Both, UNSET, LATER),
    option("gcp_zone", Server, UNSET, LATER),
    option("immediate_checkpoint", Both, Some("false"), Supported),
    option("incoming_wals_directory", Server, UNSET, LAYOUT),
    option("keepalive_interval", Both, UNSET, COPY),
    option("last_backup_maximum_age", Both, UNSET, Supported),
    option("last_backup_minimum_size", Both, UNSET, Supported),
    option("last_rehearsal_maximum_age", Both, UNSET, Supported),
    option("last_wal_maximum_age", Both, UNSET, Supported),
    option("local_staging_path", Both, UNSET, STAGING),
    option("lock_directory_cleanup", Global, UNSET, Ignored("no lock files are kept there")),
    option("log_file", Global, Some("/var/log/barman/barman.log"), Supported),
    option("log_format", Global, UNSET, Ignored("it is a format of Python's")),
    option("log_level", Global, Some("INFO"), Supported),
    option("max_incoming_wals_queue", Both, UNSET, QUEUE),
    option("minimum_redundancy", Both, Some("0"), Supported),
    option("model", Server, UNSET, Supported),
    option("network_compression", Both, UNSET, COPY),
    option("parallel_jobs", Both, Some("1"), Supported),
    option("parallel_jobs_start_batch_period", Both, UNSET, COPY),
    option("parallel_jobs_start_batch_size", Both, UNSET, COPY),
    option("path_prefix", Both, UNSET, Ignored("no other programs are run")),
    option("post_archive_retry_script", Both, UNSET, REFUSED),
    option("post_archive_script", Both, UNSET, REFUSED),
    option("post_backup_retry_script", Both, UNSET, REFUSED),
    option("post_backup_script", Both, UNSET, REFUSED),
    option("post_delete_retry_script", Both, UNSET, REFUSED),
    option("post_delete_script", Both, UNSET, REFUSED),
    option("post_recovery_retry_script", Both, UNSET, REFUSED),
    option("post_recovery_script", Both, UNSET, REFUSED),
    option("post_wal_delete_retry_script", Both, UNSET, REFUSED),
    option("post_wal_delete_script", Both, UNSET, REFUSED),
    option("pre_archive_retry_script", Both, UNSET, REFUSED),
    option("pre_archive_script", Both, UNSET, REFUSED),
    option("pre_backup_retry_script", Both, UNSET, REFUSED),
    option("pre_backup_script", Both, UNSET, REFUSED),
    option("pre_delete_retry_script", Both, UNSET, REFUSED),
    option("pre_delete_script", Both, UNSET, REFUSED),
    option("pre_recovery_retry_script", Both, UNSET, REFUSED),
    option("pre_recovery_script", Both, UNSET, REFUSED),
    option("pre_wal_delete_retry_script", Both, UNSET, REFUSED),
    option("pre_wal_delete_script", Both, UNSET, REFUSED),
    option("primary_checkpoint_timeout", Server, Some("0"), Supported),
    option("primary_conninfo", Server, UNSET, Supported),
    option("primary_ssh_command", Both, UNSET, REFUSED),
    option("recovery_options", Both, UNSET, later_unless(&["get-wal"])),
    option("recovery_staging_path", Both, UNSET, STAGING),
    option("repository", Both, UNSET, Supported),
    option("repository_compression_level", Both, Some("3"), Supported),
    option("repository_key_file", Both, UNSET, Supported),
    option("repository_password_command", Both, UNSET, Supported),
    option("repository_password_file", Both, UNSET, Supported),
    option("repository_reserve", Both, UNSET, Supported),
    option("repository_timeout", Both, Some("900"), Supported),
    option("retention_policy", Both, UNSET, Supported),
    option("retention_policy_mode", Both, UNSET, later_unless(&["auto"])),
    option("reuse_backup", Both, UNSET, COPY),
    option("slot_name", Both, UNSET, Ignored("it belongs to streaming_archiver, which is not supported yet: no slot is kept")),
    option("snapshot_disks", Server, UNSET, REFUSED),
    option("snapshot_gcp_project", Server, UNSET, REFUSED),
    option("snapshot_instance", Server, UNSET, REFUSED),
    option("snapshot_provider", Both, UNSET, REFUSED),
    option("snapshot_zone", Server, UNSET, REFUSED),
    option("ssh_command", Server, UNSET, Ignored("backups come over a connection to PostgreSQL, never by SSH")),
    option("staging_location", Both, UNSET, STAGING),
    option("staging_path", Both, UNSET, STAGING),
    // Its default is not below barman_home, which may be a Barman's: see `Environment::state_directory`.
    option("state_directory", Global, UNSET, Supported),
    option("streaming_archiver", Both, Some("off"), refused_unless(&["off"])),
    option("streaming_archiver_batch_size", Both, UNSET, QUEUE),
    option("streaming_archiver_name", Both, UNSET, LATER),
    option("streaming_backup_name", Both, Some("barman_streaming_backup"), Supported),
    option("streaming_conninfo", Server, Some("%(conninfo)s"), Supported),
    option("streaming_wals_directory", Server, UNSET, LAYOUT),
    option("tablespace_bandwidth_limit", Both, UNSET, COPY),
    option("wal_archive_timeout", Both, Some("60"), Supported),
    option("wal_conninfo", Server, UNSET, LATER),
    option("wal_restore_timeout", Both, Some("300"), Supported),
    option("wal_retention_policy", Both, UNSET, later_unless(&["main"])),
    option("wal_streaming_conninfo", Server, UNSET, LATER),
    option("wals_directory", Server, UNSET, LAYOUT),
    option("warehousepg_dbid", Both, UNSET, REFUSED),
    option("worm_mode", Both, UNSET, refused_unless(&["off"])),
    option("xlogdb_directory", Both, UNSET, LAYOUT),
];

const fn option(
    name: &'static str,
    scope: Scope,
    default: Option<&'static str>,
    state: State,
) -> OptionSpec {
    OptionSpec { name, scope, default, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        for pair in OPTIONS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} {}", pair[0].name, pair[1].name);
        }
    }

    #[test]
    fn values_that_ask_for_nothing_are_harmless() {
        let missing = |name, value| find(name).unwrap().is_missing(value);
        assert!(missing("backup_method", "rsync"));
        assert!(!missing("backup_method", "postgres"));
        assert!(missing("streaming_archiver", "yes"));
        assert!(!missing("streaming_archiver", "No"));
        assert!(missing("worm_mode", "on") && !missing("worm_mode", "0"));
        assert!(missing("recovery_options", "get-wal, delta-restore"));
        assert!(!missing("recovery_options", "get-wal"));
        assert!(missing("pre_backup_script", "/bin/true"));
        assert!(missing("backup_options", "exclusive_backup"));
        assert!(!missing("bandwidth_limit", "10"));
    }

    #[test]
    fn every_default_means_what_is_done_anyway() {
        for option in OPTIONS {
            let default = option.default.unwrap_or("");
            assert!(default.is_empty() || !option.is_missing(default), "{}", option.name);
        }
    }
}
