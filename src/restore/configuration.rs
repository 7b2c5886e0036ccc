//! The configuration files of a backup: what they say, what of it must not count at the new place, and
//! what somebody should look at.
//!
//! They are read from the backup, so that all is known before anything is written. PostgreSQL reads
//! `postgresql.conf` with everything that it includes, and `postgresql.auto.conf` after it; of several
//! values of a setting the last one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::Request;
use super::destination::Destination;
use super::programs::Programs;
use super::settings::{self, AUTO};
use crate::error::Result;
use crate::postgres::configuration_file::{self, Setting};

/// The file that PostgreSQL begins with.
const MAIN: &str = "postgresql.conf";

/// What is put behind the name of a file whose original is kept.
pub const ORIGINAL: &str = ".origin";

/// PostgreSQL follows no more includes than this, one in the other.
const MAX_DEPTH: usize = 10;

/// No configuration reads more files than this.
const MAX_FILES: usize = 1000;

/// Where the files are read from.
pub trait Files {
    /// The content of a file of the backup; nothing if there is none.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// The names of the files directly in a directory, sorted; nothing if there is none.
    fn list(&self, directory: &str) -> Option<Vec<String>>;
}

/// The configuration of a backup.
#[derive(Debug, Default)]
pub struct Configuration {
    /// The files that are in the backup, by name.
    files: BTreeMap<String, Vec<u8>>,
    /// The value of each setting that counts.
    values: BTreeMap<String, String>,
    /// Whether everything that PostgreSQL will read has been seen.
    pub is_complete: bool,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// A file that is written in place of that of the backup, or is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its path within the data directory.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// The file of the backup whose permissions it has.
    pub like: Option<String>,
}

/// What is done to the configuration.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// The files.
    pub files: Vec<NewFile>,
    /// What is changed, for people.
    pub changes: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

impl Configuration {
    /// Reads the configuration that a restored server will read, and the file that gets the recovery
    /// settings.
    pub fn read(files: &dyn Files, request: &Request) -> Result<Configuration> {
        let mut found = Configuration { is_complete: true, ..Configuration::default() };
        let destination = request.destination.as_path();
        let mut walk = Walk { files, destination, found: &mut found, files_read: 0 };
        if !walk.file(MAIN, 0)? {
            walk.found.is_complete = false;
            walk.found.warnings.push(format!(
                "the backup has no {MAIN}: it was outside the data directory, and must be brought \
                 back separately"
            ));
        }
        walk.file(AUTO, 0)?;
        let own_file = request.settings_file.as_str();
        if own_file != AUTO && !found.files.contains_key(own_file) {
            found.warnings.push(format!(
                "the recovery settings are in {own_file}: include it from postgresql.conf"
            ));
            let content = files.read(own_file)?.unwrap_or_default();
            found.files.insert(own_file.to_owned(), content);
        }
        found.files.entry(AUTO.to_owned()).or_default();
        Ok(found)
    }

    /// The value of a setting that counts.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether the backup has the file that PostgreSQL begins with.
    pub fn has_main(&self) -> bool {
        self.files.contains_key(MAIN)
    }

    /// Comments out what must not count, and adds the settings of the recovery. `id` is the backup's.
    pub fn rewrite(self, request: &Request, id: &str) -> Rewritten {
        let mut rewritten = Rewritten { warnings: self.warnings, ..Rewritten::default() };
        let own_file = request.settings_file.as_str();
        let guards = settings::guards(request, self.is_complete);
        let recovery = settings::recovery(request);
        for (name, original) in self.files {
            let is_unwanted = |setting: &Setting| settings::is_unwanted(&setting.name, request);
            let (mut content, found) = configuration_file::comment_out(&original, is_unwanted);
            let Rewritten { files, changes, .. } = &mut rewritten;
            let names: BTreeSet<&str> = found.iter().map(|setting| setting.name.as_str()).collect();
            changes
                .extend(names.iter().map(|setting| format!("{name}: {setting} is commented out")));
            let mut added: Vec<&String> = vec![];
            added.extend((name == own_file).then_some(&recovery).into_iter().flatten());
            added.extend((name == AUTO).then_some(&guards).into_iter().flatten());
            if !added.is_empty() {
                if content.last().is_some_and(|last| *last != b'\n') {
                    content.push(b'\n');
                }
                content
                    .extend_from_slice(format!("# Added by barman restore of {id}\n").as_bytes());
            }
            for line in added {
                content.extend_from_slice(line.as_bytes());
                changes.push(format!("{name}: {}", line.trim_end()));
            }
            if content == original {
                continue;
            }
            if !original.is_empty() {
                let kept = NewFile {
                    name: format!("{name}{ORIGINAL}"),
                    content: original,
                    like: Some(name.clone()),
                };
                changes.push(format!("{name}: the original is kept as {}", kept.name));
                files.push(kept);
            }
            files.push(NewFile { like: Some(name.clone()), name, content });
        }
        rewritten
    }

    /// Tells of libraries that the server loads and that `programs` does not have.
    pub fn warn_of_libraries(&mut self, programs: &Programs, host: &dyn Destination) -> Result<()> {
        for setting in ["shared_preload_libraries", "session_preload_libraries"] {
            let Some(value) = self.value(setting) else { continue };
            let names = configuration_file::list(value);
            let search_path = self.value("dynamic_library_path");
            let missing = host.missing_libraries(programs, &names, search_path)?;
            if !missing.is_empty() {
                self.warnings.push(format!(
                    "{setting} names what is not installed here for PostgreSQL {}: {}. Install it, or \
                     take it out of {setting}: the server does not start without it",
                    programs.major,
                    missing.join(", ")
                ));
            }
        }
        Ok(())
    }
}

/// Follows the files as PostgreSQL does.
struct Walk<'a> {
    files: &'a dyn Files,
    destination: &'a Path,
    found: &'a mut Configuration,
    files_read: usize,
}

impl Walk<'_> {
    /// Reads a file of the backup; whether there is one.
    fn file(&mut self, name: &str, depth: usize) -> Result<bool> {
        self.files_read += 1;
        if depth > MAX_DEPTH || self.files_read > MAX_FILES {
            if self.found.is_complete {
                let warning = format!("{name} is included too deep, and was not looked at");
                self.found.warnings.push(warning);
            }
            self.found.is_complete = false;
            return Ok(true);
        }
        let Some(content) = self.files.read(name)? else { return Ok(false) };
        let settings = configuration_file::parse(&content);
        self.found.files.insert(name.to_owned(), content);
        for setting in settings {
            self.setting(name, setting, depth)?;
        }
        Ok(true)
    }

    fn setting(&mut self, file: &str, setting: Setting, depth: usize) -> Result<()> {
        let place = format!("{file}:{}", setting.line);
        if setting.name.starts_with("include") {
            return self.include(file, &place, &setting, depth);
        }
        if settings::names_place(&setting.name, &setting.value) && !setting.value.is_empty() {
            // A command may hold a secret.
            let value = if setting.name.ends_with("_command") { "…" } else { &setting.value };
            self.found.warnings.push(format!(
                "{place} names places of the server that was backed up, check it before the start: \
                 {} = '{value}'",
                setting.name
            ));
        }
        self.found.values.insert(setting.name, setting.value);
        Ok(())
    }

    fn include(&mut self, file: &str, place: &str, setting: &Setting, depth: usize) -> Result<()> {
        let Some(name) = self.inside(file, &setting.value) else {
            self.found.is_complete = false;
            self.found.warnings.push(format!(
                "{place} leads out of the data directory, check it before the start: {} '{}'",
                setting.name, setting.value
            ));
            return Ok(());
        };
        let is_there = match setting.name.as_str() {
            "include_dir" => match self.files.list(&name) {
                None => false,
                Some(names) => {
                    let is_read =
                        |name: &&String| name.ends_with(".conf") && !name.starts_with('.');
                    for inner in names.iter().filter(is_read) {
                        self.file(&format!("{name}/{inner}"), depth + 1)?;
                    }
                    true
                }
            },
            _ => self.file(&name, depth + 1)?,
        };
        if !is_there && setting.name != "include_if_exists" {
            self.found.warnings.push(format!(
                "{place} includes what the backup does not have, and the server does not start \
                 without it: {} '{}'",
                setting.name, setting.value
            ));
        }
        Ok(())
    }

    /// The path within the data directory that `file` means by `path`; nothing if it leads outside.
    fn inside(&self, file: &str, path: &str) -> Option<String> {
        let path = match Path::new(path) {
            absolute if absolute.is_absolute() => {
                absolute.strip_prefix(self.destination).ok()?.into()
            }
            relative => Path::new(file).parent().unwrap_or(Path::new("")).join(relative),
        };
        let mut inside = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => inside.push(name),
                Component::ParentDir if inside.pop() => {}
                Component::CurDir => {}
                _ => return None,
            }
        }
        Some(inside.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Files for BTreeMap<&str, &str> {
        fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.get(name).map(|text| text.as_bytes().to_vec()))
        }

        fn list(&self, directory: &str) -> Option<Vec<String>> {
            let inside =
                |name: &&str| name.strip_prefix(directory)?.strip_prefix('/').map(str::to_owned);
            let names: Vec<String> = self.keys().filter_map(inside).collect();
            (!names.is_empty()).then_some(names)
        }
    }

    fn rewritten(
        files: &[(&str, &str)],
        request: &Request,
    ) -> (Rewritten, BTreeMap<String, String>) {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        let configuration = Configuration::read(&files, request).unwrap();
        let rewritten = configuration.rewrite(request, "B");
        let text = |file: &NewFile| String::from_utf8(file.content.clone()).unwrap();
        let by_name = rewritten.files.iter().map(|file| (file.name.clone(), text(file))).collect();
        (rewritten, by_name)
    }

    #[test]
    fn included_files_are_rewritten_and_their_originals_kept() {
        let files = [
            (
                "postgresql.conf",
                "port = 1\ninclude_dir = 'conf.d'\ninclude 'a/b.conf'\nrestore_command = 'x'",
            ),
            ("postgresql.auto.conf", "primary_conninfo = 'host=a'\n"),
            ("conf.d/1.conf", "archive_command = 'cp'\n"),
            ("conf.d/.2.conf", "archive_command = 'hidden'\n"),
            ("conf.d/3.txt", "archive_command = 'other'\n"),
            ("a/b.conf", "include_if_exists '../c.conf'\ninclude_if_exists 'none'\n"),
            ("c.conf", "recovery_target_time = 'x'\nwork_mem = '1MB'\n"),
        ];
        let (all, files) = rewritten(&files, &Request::to("/d"));
        assert_eq!(all.warnings, Vec::<String>::new());
        assert_eq!(files["conf.d/1.conf"], "#BARMAN# archive_command = 'cp'\n");
        assert_eq!(files["conf.d/1.conf.origin"], "archive_command = 'cp'\n");
        assert_eq!(files["c.conf"], "#BARMAN# recovery_target_time = 'x'\nwork_mem = '1MB'\n");
        assert!(files["postgresql.conf"].ends_with("\n#BARMAN# restore_command = 'x'"));
        assert!(files["postgresql.auto.conf"].starts_with("#BARMAN# primary_conninfo"));
        for untouched in ["a/b.conf", "conf.d/.2.conf", "conf.d/3.txt"] {
            assert!(!files.contains_key(untouched), "{untouched}");
        }
        // All was seen: it may be set again.
        assert!(!files["postgresql.auto.conf"].contains("\nprimary_conninfo"));
        assert!(files["postgresql.auto.conf"].contains("\narchive_command = 'false'\n"));
    }

    #[test]
    fn what_cannot_be_seen_is_overridden_and_told() {
        let conf = "include '/etc/pg/x.conf'\ninclude '../y'\ninclude 'gone'\nssl_key_file = '/k'\n\
                    unix_socket_directories = ''\n";
        let (all, files) = rewritten(&[("postgresql.conf", conf)], &Request::to("/d"));
        for words in ["'/etc/pg/x.conf'", "'../y'", "includes what", "ssl_key_file"] {
            assert!(all.warnings.iter().any(|text| text.contains(words)), "{words}: {all:?}");
        }
        assert_eq!(all.warnings.len(), 4, "{all:?}");
        assert!(files["postgresql.auto.conf"].contains("\nprimary_conninfo = ''\n"));
        let (all, files) = rewritten(&[], &Request::to("/d"));
        assert!(all.warnings[0].contains("has no postgresql.conf"), "{all:?}");
        assert!(files["postgresql.auto.conf"].contains("\nsynchronous_standby_names = ''\n"));
        let here = [("postgresql.conf", "include '/d/x'"), ("x", "restore_command = 'y'")];
        let (all, files) = rewritten(&here, &Request::to("/d"));
        assert!(all.warnings.is_empty() && files["x"].starts_with("#BARMAN#"), "{all:?}");
    }

    #[test]
    fn a_circle_of_includes_ends() {
        let (all, _) =
            rewritten(&[("postgresql.conf", "include 'postgresql.conf'")], &Request::to("/d"));
        assert_eq!(all.warnings.len(), 1, "{all:?}");
    }

    #[test]
    fn another_file_may_get_the_recovery_settings() {
        let own = Request { settings_file: "r.conf".into(), ..Request::to("/d") };
        let (all, files) = rewritten(&[("postgresql.conf", "a = 1")], &own);
        assert!(all.warnings[0].contains("include it"), "{all:?}");
        assert!(files["r.conf"].contains("\nrestore_command = '"));
        assert!(!files["postgresql.auto.conf"].contains("\nrestore_command"));
        assert!(files["postgresql.auto.conf"].contains("\narchive_command = 'false'\n"));
        let including = [("postgresql.conf", "include_if_exists 'r.conf'"), ("r.conf", "b = 2\n")];
        assert!(rewritten(&including, &own).0.warnings.is_empty());
    }
}
