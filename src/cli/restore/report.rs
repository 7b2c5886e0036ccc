//! What a restore says at its end: what was done, or would be, and how to go on.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::human;
use crate::cli::output::Output;
use crate::config::{KeySource, RepositorySettings};
use crate::restore::host::major_version;
use crate::restore::programs::shell_word;
use crate::restore::reach::Window;
use crate::restore::settings::{COPIED_WAL, WalSource};
use crate::restore::survey::Survey;
use crate::restore::target::Action;
use crate::restore::{Prepared, Restored, zoned};

/// How far it went.
pub enum Done {
    /// All is written.
    Restored(Restored),
    /// Nothing is written.
    Planned {
        /// How many packs would be read.
        packs: usize,
    },
}

/// Tells what was done, or would be.
pub fn report(
    output: &Output,
    prepared: &Prepared,
    done: &Done,
    environment: Option<&RepositorySettings>,
    begun: Timestamp,
) {
    let elapsed = Timestamp::now().duration_since(begun).unsigned_abs();
    match done {
        Done::Restored(_) if prepared.request.config_only => output.print(format!(
            "Wrote {} configuration files in {}",
            prepared.new_files(),
            human::duration(elapsed)
        )),
        Done::Restored(restored) => {
            output.print(format!(
                "Restored {} files, {}, and {} WAL files in {}",
                restored.files,
                human::size(restored.bytes),
                restored.wal_files,
                human::duration(elapsed)
            ));
            if prepared.layout.claim.is_in_place() {
                output.print(format!(
                    "  {} of that were written, and the rest was there already; {} files and directories \
                     that the backup does not have were removed",
                    human::size(restored.written),
                    prepared.survey.extra.len()
                ));
            }
        }
        Done::Planned { packs } => print_plan(output, prepared, *packs),
    }
    for change in &prepared.changes {
        output.print(format!("  {change}"));
    }
    for warning in &prepared.warnings {
        output.warning(warning);
    }
    match done {
        Done::Restored(_) => output.print("Every file is what was backed up."),
        Done::Planned { .. } => output.print("Nothing was written."),
    }
    let steps = next_steps(prepared, environment);
    output.print("");
    for (title, text) in &steps {
        output.print(format!("{title}: {text}"));
    }
    output.result("changes_count", json!(prepared.changes.len()));
    output.result("changes", json!(prepared.changes));
    output.result("warnings_count", json!(prepared.warnings.len()));
    output.result("warnings", json!(prepared.warnings));
    output.result("missing_files", json!([]));
    output.result("recovery_start_time", json!(human::time(begun)));
    output.result("recovery_start_time_timestamp", json!(human::epoch(begun)));
    output.result("recovery_elapsed_time", json!(human::duration(elapsed)));
    output.result("recovery_elapsed_time_seconds", json!(elapsed.as_secs_f64()));
    output.result("dry_run", json!(matches!(done, Done::Planned { .. })));
    output.result("backup_id", json!(prepared.snapshot.backup_id));
    output.result("plan", plan(prepared, done));
    output.result("in_place", json!(in_place(prepared, done)));
    output.result("recovery_window", json!(prepared.window.as_ref().map(window)));
    let start = (!lacks_data(prepared)).then(|| start_command(prepared, environment));
    output.result("start_command", json!(start));
    output.result("next_steps", json!(steps.iter().map(|(_, text)| text).collect::<Vec<_>>()));
}

fn print_plan(output: &Output, prepared: &Prepared, packs: usize) {
    output.print(format!(
        "Would restore {} files, {}, from {packs} packs",
        prepared.files(),
        human::size(prepared.bytes())
    ));
    for part in &prepared.layout.parts {
        output.print(format!(
            "  {} in {}: {} files and directories, {}; {} free there",
            part.what,
            part.place.path.display(),
            part.files,
            human::size(part.bytes),
            human::size(part.place.free_bytes)
        ));
    }
    if prepared.layout.claim.is_in_place() {
        print_survey(output, &prepared.survey);
    }
    let (first, last) = (prepared.wal.segments().next(), prepared.wal.segments().next_back());
    if let (Some(first), Some(last)) = (first, last) {
        let count = prepared.wal.segments().count();
        let size = human::size(prepared.wal.bytes);
        output.print(format!("  WAL from {first} to {last}: {count} segments, {size}"));
    }
    if let Some(owner) = &prepared.owner {
        output.print(format!("  owner: {owner}"));
    }
}

/// So many of the things that would be removed are named.
const NAMED: usize = 10;

fn print_survey(output: &Output, survey: &Survey) {
    let Survey { extra, extra_bytes, kept, kept_bytes, .. } = survey;
    output.print(format!(
        "  of these files {kept}, {}, are there already: they would be compared, and what differs written",
        human::size(*kept_bytes)
    ));
    output.print(format!(
        "  {} files and directories, {}, would be removed",
        extra.len(),
        human::size(*extra_bytes)
    ));
    for path in extra.iter().take(NAMED) {
        output.print(format!("    {}", path.display()));
    }
    if extra.len() > NAMED {
        output.print(format!("    and {} more; -f json names them all", extra.len() - NAMED));
    }
}

/// What is there already, and what becomes of it; nothing where nothing may be there.
fn in_place(prepared: &Prepared, done: &Done) -> Option<Value> {
    let Survey { extra, extra_bytes, kept, kept_bytes, .. } = &prepared.survey;
    let removed: Vec<_> = extra.iter().map(|path| path.to_string_lossy()).collect();
    prepared.layout.claim.is_in_place().then(|| {
        json!({
            "compared_files": kept,
            "compared_bytes": kept_bytes,
            "removed": removed,
            "removed_bytes": extra_bytes,
            "written_bytes": match done {
                Done::Restored(restored) => Some(restored.written),
                Done::Planned { .. } => None,
            },
        })
    })
}

fn plan(prepared: &Prepared, done: &Done) -> Value {
    let parts: Vec<Value> = prepared
        .layout
        .parts
        .iter()
        .map(|part| {
            json!({
                "what": part.what,
                "path": part.place.path.to_string_lossy(),
                "files": part.files,
                "bytes": part.bytes,
                "free_bytes": part.place.free_bytes,
            })
        })
        .collect();
    json!({
        "files": prepared.files(),
        "bytes": prepared.bytes(),
        "packs": match done {
            Done::Planned { packs } => Some(packs),
            Done::Restored(_) => None,
        },
        "directories": parts,
        "owner": prepared.owner,
        "wal": {
            "first": prepared.wal.segments().next(),
            "last": prepared.wal.segments().next_back(),
            "segments": prepared.wal.segments().count(),
            "bytes": prepared.wal.bytes,
        },
    })
}

fn window(window: &Window) -> Value {
    json!({
        "timeline": window.timeline.0,
        "begin_lsn": window.from.to_string(),
        "begin_time": human::time(window.from_time),
        "begin_time_timestamp": human::epoch(window.from_time),
        "end_lsn": window.to.to_string(),
        "end_wal": window.last_segment.to_string(),
        "end_wal_archived_time": human::time(window.archived_at),
        "end_wal_archived_time_timestamp": human::epoch(window.archived_at),
    })
}

/// How to go on, as titles and texts.
fn next_steps(
    prepared: &Prepared,
    environment: Option<&RepositorySettings>,
) -> Vec<(&'static str, String)> {
    let mut steps = vec![];
    if let Some(window) = &prepared.window {
        // A store's clock tells more digits than anybody reads.
        let archived_at = window.archived_at.as_second();
        let archived_at = Timestamp::from_second(archived_at).unwrap_or(window.archived_at);
        steps.push((
            "Can be reached",
            format!(
                "every moment from {} (LSN {}) to {} (LSN {}) on timeline {}; the last WAL file, {}, \
                 was archived then",
                zoned(window.from_time),
                window.from,
                zoned(archived_at),
                window.to,
                window.timeline,
                window.last_segment,
            ),
        ));
    }
    if lacks_data(prepared) {
        let directory = prepared.request.destination.display();
        steps.push((
            "Not to be started yet",
            format!(
                "this is the configuration of a data directory in {directory}, and there is none. \
                 Restore it first, by the same command without --config-dir and --config-only"
            ),
        ));
    }
    let start = start_command(prepared, environment);
    let start = match prepared.destination.host() {
        Some(host) => format!("{start}    (on the host of {host:?})"),
        None => start,
    };
    steps.push((if lacks_data(prepared) { "Then start it" } else { "Start it" }, start));
    if let Some((version, name)) = prepared.main.as_deref().and_then(debian_cluster) {
        steps.push(("Or on Debian", format!("pg_ctlcluster {version} {name} start")));
    }
    if !replaces_original(prepared) {
        steps.push(("Beside the original", other_port(prepared)));
    }
    if prepared.request.config_only {
        return steps;
    }
    steps.push(("Recovery", end_of_recovery(prepared)));
    if !prepared.without.is_empty() {
        let drops = prepared.without.iter().map(|name| {
            let name = name.replace('"', "\"\"");
            format!("DROP DATABASE \"{name}\";")
        });
        let drops = drops.collect::<Vec<_>>().join(" ");
        steps.push(("Then drop what was left out", drops));
    }
    steps.push(("WAL", wal(prepared, environment)));
    if !prepared.request.keep_archiving {
        steps.push((
            "Archiving",
            "archive_command is 'false', so that nothing gets into the archive of the server that \
             was backed up; WAL is kept until you set it"
                .to_owned(),
        ));
    }
    steps
}

/// Whether there is nothing yet that the configuration, which alone is written, could start.
fn lacks_data(prepared: &Prepared) -> bool {
    prepared.request.config_only && !prepared.layout.is_restored
}

/// Whether it is where the server was that was backed up, which cannot run beside it then.
fn replaces_original(prepared: &Prepared) -> bool {
    let original = prepared.snapshot.cluster.data_directory.as_deref();
    original.is_some_and(|original| prepared.request.destination == Path::new(original))
}

/// How it gets along with a server that has the same settings.
fn other_port(prepared: &Prepared) -> String {
    let how = match prepared.main.as_deref().and_then(debian_cluster) {
        Some((version, name)) => format!(
            "pg_conftool {version} {name} set port 5433, and set external_pid_file to another file"
        ),
        None => "-o '-p 5433' before 'start'".to_owned(),
    };
    format!(
        "it has the port and the cluster_name of the server that was backed up; where that runs on the \
         same host, give this one another port first: {how}"
    )
}

/// The version and the name of the cluster whose configuration Debian's tools look for at this path.
fn debian_cluster(main: &Path) -> Option<(&str, &str)> {
    let rest = main.to_str()?.strip_prefix("/etc/postgresql/")?.strip_suffix("/postgresql.conf")?;
    rest.split_once('/').filter(|(_, name)| !name.contains('/'))
}

/// The command that starts the server, as the right user.
fn start_command(prepared: &Prepared, environment: Option<&RepositorySettings>) -> String {
    let program = prepared.programs.as_ref().map(|programs| programs.program("pg_ctl"));
    let program = program.as_deref().unwrap_or(Path::new("pg_ctl"));
    let mut command = String::new();
    if let Some(owner) = &prepared.owner {
        command.push_str(&format!("runuser -u {owner} -- "));
    }
    if let (WalSource::Command(_), Some(settings)) = (&prepared.request.wal, environment) {
        command.push_str(&format!("env {}", variables(settings)));
    }
    let directory = &prepared.request.destination;
    command.push_str(&format!("{} -D {} ", shell_word(program), shell_word(directory)));
    match &prepared.main {
        Some(path) if *path == directory.join("postgresql.conf") => {}
        Some(path) => {
            // pg_ctl hands this to a shell once more.
            let option = format!("-c config_file={}", shell_word(path));
            command.push_str(&format!("-o {} ", shell_word(Path::new(&option))));
        }
        // A postgresql.conf of Debian's names the data directory of the server that was backed up.
        None => command.push_str(&format!(
            "-o '-c config_file=/its/postgresql.conf -c data_directory={}' ",
            directory.display()
        )),
    }
    command.push_str("start");
    if prepared.programs.is_none() {
        let major = major_version(&prepared.snapshot);
        command.push_str(&format!("    # of PostgreSQL {major}, which is not installed here"));
    }
    command
}

/// What restore_command needs in its environment: places, never a secret.
fn variables(settings: &RepositorySettings) -> String {
    let location = settings.location.as_ref().map(|at| ("", PathBuf::from(at.to_string())));
    let key = match &settings.key {
        Some(KeySource::KeyFile(path)) => Some(("_KEY_FILE", path.clone())),
        Some(KeySource::PasswordFile(path)) => Some(("_PASSWORD_FILE", path.clone())),
        _ => None,
    };
    let one =
        |(name, value): (&str, PathBuf)| format!("BARMAN_REPOSITORY{name}={} ", shell_word(&value));
    location.into_iter().chain(key).map(one).collect()
}

fn end_of_recovery(prepared: &Prepared) -> String {
    let request = &prepared.request;
    if request.standby {
        return "it goes on as a standby; pg_last_wal_replay_lsn() and \
                pg_last_xact_replay_timestamp() tell how far it is, and pg_promote() makes it a primary"
            .to_owned();
    }
    match request.target.action() {
        Action::Promote => {
            "it has ended when 'SELECT pg_is_in_recovery()' says f: then it is a primary".to_owned()
        }
        Action::Pause => {
            "it has arrived when 'SELECT pg_get_wal_replay_pause_state()' says paused; \
                          'SELECT pg_wal_replay_resume()' then makes it a primary"
                .to_owned()
        }
        Action::Shutdown => format!(
            "it has arrived when the server has shut down by itself; set recovery_target_action in \
             {} to promote and start it again to make it a primary",
            request.settings_file
        ),
    }
}

fn wal(prepared: &Prepared, environment: Option<&RepositorySettings>) -> String {
    if prepared.request.wal == WalSource::Copied {
        return format!(
            "all of it is in {COPIED_WAL} in the data directory: recovery needs neither the \
             repository nor its key"
        );
    }
    if let (Some(_), WalSource::Command(command)) =
        (prepared.destination.host(), &prepared.request.wal)
    {
        let asking = command.trim_end_matches(" \"%f\" \"%p\"").replace("%%", "%");
        return format!(
            "restore_command asks this host for it, over SSH; as the server's user there, see that it \
             answers: {asking} --test"
        );
    }
    let key = match environment {
        None => "finds it and its key by barman.conf".to_owned(),
        Some(settings) => match &settings.key {
            Some(KeySource::KeyFile(_) | KeySource::PasswordFile(_)) | None => {
                "finds it and its key by the environment of the server".to_owned()
            }
            Some(_) => {
                "needs BARMAN_REPOSITORY_PASSWORD, or better BARMAN_REPOSITORY_KEY_FILE, in the \
                 environment of the server"
                    .to_owned()
            }
        },
    };
    format!(
        "restore_command fetches it from the repository, and {key}; the server's user must be able to \
         read both. No secret is in the configuration"
    )
}
