//! The configuration files of a backup: what they say, what of it must not count at the new place, and
//! what somebody should look at.
//!
//! They are read from the backup, so that all is known before anything is written. PostgreSQL reads
//! `postgresql.conf` with everything that it includes, and `postgresql.auto.conf` after it; of several
//! values of a setting the last one counts. It is followed along the paths that files had on the server;
//! where they have others now, what leads to them is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Request;
use super::destination::Destination;
use super::places::Places;
use super::programs::Programs;
use super::settings::{self, AUTO};
use crate::error::Result;
use crate::postgres::configuration_file::{self, Edit, Setting, end_line, line, resolve};

/// What is put behind the name of a file whose original is kept.
pub const ORIGINAL: &str = ".origin";

/// PostgreSQL follows no more includes than this, one in the other.
const MAX_DEPTH: usize = 10;

/// No configuration reads more files than this.
const MAX_FILES: usize = 1000;

/// Where the files are read from: by the paths that they had on the server.
pub trait Files {
    /// The content of a file of the backup; nothing if there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;

    /// The names of the files directly in a directory, sorted; nothing if there is none.
    fn list(&self, directory: &str) -> Option<Vec<String>>;

    /// The permission bits of a file.
    fn mode(&self, path: &str) -> Option<u32>;
}

/// The configuration of a backup.
#[derive(Debug)]
pub struct Configuration<'a> {
    places: &'a Places,
    /// The files that are restored and read, by the paths that they had.
    files: BTreeMap<String, ReadFile>,
    /// The value of each setting that counts.
    values: BTreeMap<String, String>,
    /// Whether everything that PostgreSQL will read has been seen.
    pub is_complete: bool,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
struct ReadFile {
    name: String,
    content: Vec<u8>,
    mode: Option<u32>,
}

/// A file that is written in place of that of the backup, or is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its path within the data directory, or an absolute one.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// Its permission bits, if they are not the usual ones.
    pub mode: Option<u32>,
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

impl<'a> Configuration<'a> {
    /// Reads the configuration that a restored server will read, and the file that gets the recovery
    /// settings.
    pub fn read(files: &dyn Files, places: &'a Places, request: &Request) -> Result<Self> {
        let mut found = Configuration {
            places,
            files: BTreeMap::new(),
            values: BTreeMap::new(),
            is_complete: true,
            warnings: vec![],
        };
        let mut walk = Walk { files, found: &mut found, files_read: 0 };
        let main = places.known.config.as_str();
        let has_main = walk.file(main, 0)?;
        walk.found.is_complete &= has_main;
        if !has_main && files.read(main)?.is_none() {
            walk.found.warnings.push(format!(
                "the backup has no {}: it was outside the data directory, and must be brought back \
                 separately",
                places.inside(main).unwrap_or(main)
            ));
        }
        let (auto, own_file) = (places.original(AUTO), places.original(&request.settings_file));
        walk.file(&auto, 0)?;
        for (path, name) in [(own_file, request.settings_file.as_str()), (auto, AUTO)] {
            if found.files.contains_key(&path) {
                continue;
            }
            if name != AUTO {
                found.warnings.push(format!(
                    "the recovery settings are in {name}: include it from postgresql.conf"
                ));
            }
            let content = files.read(&path)?.unwrap_or_default();
            let read = ReadFile { name: name.to_owned(), content, mode: files.mode(&path) };
            found.files.insert(path, read);
        }
        Ok(found)
    }

    /// The value of a setting that counts.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Where the file that PostgreSQL begins with will be, if the restore writes one.
    pub fn main(&self) -> Option<PathBuf> {
        let path = &self.places.known.config;
        self.places.path(path).filter(|_| self.files.contains_key(path))
    }

    /// Comments out what must not count, makes what leads to other files lead to where they are now, and
    /// adds the settings of the recovery. `id` is the backup's.
    pub fn rewrite(&self, request: &Request, id: &str) -> Rewritten {
        let mut rewritten = Rewritten { warnings: self.warnings.clone(), ..Rewritten::default() };
        let Rewritten { files, changes, warnings } = &mut rewritten;
        let own_file = self.places.original(&request.settings_file);
        let guards = settings::guards(request, self.is_complete);
        let (recovery, places) = (settings::recovery(request), self.own_places());
        let is_written = |name: &str| !request.config_only || name.starts_with('/');
        for (path, ReadFile { name, content: original, mode }) in &self.files {
            let decide = |setting: &Setting| self.edit(path, setting, request);
            let (mut content, edits) = configuration_file::edit(original, decide);
            let is_main = *path == self.places.known.config;
            if !is_written(name) {
                let replaced = edits.iter().filter_map(|(_, edit)| match edit {
                    Edit::Replace(new) => Some(new),
                    _ => None,
                });
                let wanted = replaced.chain(places.iter().filter(|_| is_main));
                warnings.extend(wanted.map(|line| {
                    let line = line.trim_end();
                    format!("{name} is left as it is, see before the start that it says: {line}")
                }));
                continue;
            }
            let told: BTreeSet<String> =
                edits.iter().map(|(setting, edit)| tell(setting, edit)).collect();
            changes.extend(told.iter().map(|told| format!("{name}: {told}")));
            let mut added: Vec<&String> = vec![];
            for (is_here, lines) in
                [(is_main, &places), (*path == own_file, &recovery), (name == AUTO, &guards)]
            {
                added.extend(lines.iter().filter(|_| is_here));
            }
            if !added.is_empty() {
                end_line(&mut content);
                content
                    .extend_from_slice(format!("# Added by barman restore of {id}\n").as_bytes());
            }
            for line in added {
                content.extend_from_slice(line.as_bytes());
                changes.push(format!("{name}: {}", line.trim_end()));
            }
            if content == *original {
                continue;
            }
            if !original.is_empty() {
                let kept = NewFile {
                    name: format!("{name}{ORIGINAL}"),
                    content: original.clone(),
                    mode: *mode,
                };
                changes.push(format!("{name}: the original is kept as {}", kept.name));
                files.push(kept);
            }
            files.push(NewFile { name: name.clone(), content, mode: *mode });
        }
        rewritten
    }

    /// What becomes of a setting in the file that was at `path`.
    fn edit(&self, path: &str, setting: &Setting, request: &Request) -> Edit {
        if settings::is_unwanted(&setting.name, request) {
            return Edit::CommentOut;
        }
        let places = self.places;
        let target = match setting.name.as_str() {
            _ if setting.value.is_empty() => return Edit::Keep,
            "hba_file" => places.known.hba.clone(),
            "ident_file" => places.known.ident.clone(),
            "include" | "include_if_exists" | "include_dir" => resolve(path, &setting.value),
            _ => return Edit::Keep,
        };
        let (Some(place), Some(here)) = (places.path(&target), places.path(path)) else {
            return Edit::Keep;
        };
        let (place, here) = (place.to_string_lossy(), here.to_string_lossy());
        if resolve(&here, &setting.value) == place {
            Edit::Keep
        } else {
            Edit::Replace(line(&setting.name, &place))
        }
    }

    /// The lines by which `postgresql.conf` leads to everything that is outside the data directory, or to
    /// everything if it is there itself: by itself PostgreSQL would look where it is told to start.
    fn own_places(&self) -> Vec<String> {
        let (places, known) = (self.places, &self.places.known);
        let is_outside = places.is_outside(&known.config);
        let mut lines = vec![];
        if is_outside {
            lines.push(line("data_directory", &places.destination.to_string_lossy()));
        }
        for (name, path) in [("hba_file", &known.hba), ("ident_file", &known.ident)] {
            if (is_outside || places.is_outside(path))
                && let (None, Some(place)) = (self.value(name), places.path(path))
            {
                lines.push(line(name, &place.to_string_lossy()));
            }
        }
        lines
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

/// What was done to a setting, for people.
fn tell(setting: &Setting, edit: &Edit) -> String {
    match edit {
        Edit::Replace(new) => format!("{} instead of '{}'", new.trim_end(), setting.value),
        _ => format!("{} is commented out", setting.name),
    }
}

/// Follows the files as PostgreSQL does.
struct Walk<'w, 'a> {
    files: &'w dyn Files,
    found: &'w mut Configuration<'a>,
    files_read: usize,
}

impl Walk<'_, '_> {
    /// Reads the file of the backup that was at `path`; whether there is one, and it is restored.
    fn file(&mut self, path: &str, depth: usize) -> Result<bool> {
        let Some(name) = self.found.places.name(path) else { return Ok(false) };
        self.files_read += 1;
        if depth > MAX_DEPTH || self.files_read > MAX_FILES {
            if self.found.is_complete {
                let warning = format!("{name} is included too deep, and was not looked at");
                self.found.warnings.push(warning);
            }
            self.found.is_complete = false;
            return Ok(true);
        }
        let Some(content) = self.files.read(path)? else { return Ok(false) };
        let settings = configuration_file::parse(&content);
        let read = ReadFile { name: name.clone(), content, mode: self.files.mode(path) };
        self.found.files.insert(path.to_owned(), read);
        for setting in settings {
            let place = format!("{name}:{}", setting.line);
            self.setting(path, &place, setting, depth)?;
        }
        Ok(true)
    }

    fn setting(&mut self, path: &str, place: &str, setting: Setting, depth: usize) -> Result<()> {
        if setting.name.starts_with("include") {
            return self.include(path, place, &setting, depth);
        }
        let places = self.found.places;
        let is_adapted = match setting.name.as_str() {
            "data_directory" => true,
            "hba_file" => places.name(&places.known.hba).is_some(),
            "ident_file" => places.name(&places.known.ident).is_some(),
            _ => setting.value.is_empty(),
        };
        if settings::names_place(&setting.name, &setting.value) && !is_adapted {
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
        let path = resolve(file, &setting.value);
        if self.found.places.name(&path).is_none() {
            self.found.is_complete = false;
            self.found.warnings.push(format!(
                "{place} leads out of the data directory, check it before the start: {} '{}'",
                setting.name, setting.value
            ));
            return Ok(());
        }
        let is_there = match setting.name.as_str() {
            "include_dir" => match self.files.list(&path) {
                None => false,
                Some(names) => {
                    let is_read =
                        |name: &&String| name.ends_with(".conf") && !name.starts_with('.');
                    for inner in names.iter().filter(is_read) {
                        self.file(&format!("{path}/{inner}"), depth + 1)?;
                    }
                    true
                }
            },
            _ => self.file(&path, depth + 1)?,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Files for BTreeMap<String, &str> {
        fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.get(path).map(|text| text.as_bytes().to_vec()))
        }

        fn list(&self, directory: &str) -> Option<Vec<String>> {
            let inside =
                |path: &String| Some(path.strip_prefix(directory)?.strip_prefix('/')?.to_owned());
            let names: Vec<String> = self.keys().filter_map(inside).collect();
            (!names.is_empty()).then_some(names)
        }

        fn mode(&self, _: &str) -> Option<u32> {
            None
        }
    }

    fn rewritten(
        files: &[(&str, &str)],
        request: &Request,
    ) -> (Rewritten, BTreeMap<String, String>) {
        moved(files, &Places::in_place(&request.destination), request)
    }

    /// Files are named from the data directory, or by absolute paths.
    fn moved(
        files: &[(&str, &str)],
        places: &Places,
        request: &Request,
    ) -> (Rewritten, BTreeMap<String, String>) {
        let path = |name: &str| match name.starts_with('/') {
            true => name.to_owned(),
            false => places.original(name),
        };
        let files: BTreeMap<String, &str> =
            files.iter().map(|(name, text)| (path(name), *text)).collect();
        let rewritten = Configuration::read(&files, places, request).unwrap().rewrite(request, "B");
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

    #[test]
    fn a_main_file_inside_leads_to_what_is_outside() {
        let mut places = crate::restore::places::tests::places();
        places.known.config = "/var/lib/pg/postgresql.conf".into();
        let files = [("postgresql.conf", "hba_file = '/etc/pg/main/pg_hba.conf'\n")];
        let request = Request::to("/new/data");
        let (all, files_then) = moved(&files, &places, &request);
        // Whatever named the other one to the server that was backed up, nothing does now.
        assert!(files_then["postgresql.conf"].ends_with(
            "\nhba_file = '/new/conf/pg_hba.conf'\n# Added by barman restore of B\n\
             ident_file = '/new/conf/elsewhere/etc/idents'\n"
        ));
        assert_eq!(all.warnings, Vec::<String>::new());
        // What was restored without a place for them leads there only when somebody changes it.
        let only = Request { config_only: true, ..request };
        let (all, files) = moved(&files, &places, &only);
        assert!(files.is_empty(), "{all:?}");
        assert_eq!(
            all.warnings,
            [
                "postgresql.conf is left as it is, see before the start that it says: \
                 hba_file = '/new/conf/pg_hba.conf'",
                "postgresql.conf is left as it is, see before the start that it says: \
                 ident_file = '/new/conf/elsewhere/etc/idents'",
            ]
        );
    }

    #[test]
    fn what_leads_to_other_files_leads_to_their_new_places() {
        let places = crate::restore::places::tests::places();
        let main = "data_directory = '/var/lib/pg'\nport = 5432\ninclude_dir = 'conf.d'\n\
                    hba_file = '/etc/pg/main/pg_hba.conf'\nprimary_conninfo = 'secret'\n\
                    include '../shared.conf'\ninclude_if_exists '/etc/pg/main/none.conf'";
        let files = [
            ("/etc/pg/main/postgresql.conf", main),
            ("/etc/pg/main/conf.d/a.conf", "include '/var/lib/pg/inside.conf'"),
            ("/etc/pg/shared.conf", "work_mem = 4MB\n"),
            ("inside.conf", "restore_command = 'x'\n"),
        ];
        let (all, files) = moved(&files, &places, &Request::to("/new/data"));
        assert_eq!(all.warnings, Vec::<String>::new());
        assert!(!all.changes.iter().any(|change| change.contains("secret")), "{all:?}");
        assert_eq!(
            files["/new/conf/postgresql.conf"],
            "#BARMAN# data_directory = '/var/lib/pg'\n\
             port = 5432\n\
             include_dir = 'conf.d'\n\
             #BARMAN# hba_file = '/etc/pg/main/pg_hba.conf'\n\
             hba_file = '/new/conf/pg_hba.conf'\n\
             #BARMAN# primary_conninfo = 'secret'\n\
             #BARMAN# include '../shared.conf'\n\
             include = '/new/conf/elsewhere/etc/pg/shared.conf'\n\
             #BARMAN# include_if_exists '/etc/pg/main/none.conf'\n\
             include_if_exists = '/new/conf/none.conf'\n\
             # Added by barman restore of B\n\
             data_directory = '/new/data'\n\
             ident_file = '/new/conf/elsewhere/etc/idents'\n"
        );
        assert_eq!(files["/new/conf/postgresql.conf.origin"], main);
        assert_eq!(
            files["/new/conf/conf.d/a.conf"],
            "#BARMAN# include '/var/lib/pg/inside.conf'\ninclude = '/new/data/inside.conf'\n"
        );
        assert_eq!(files["inside.conf"], "#BARMAN# restore_command = 'x'\n");
        assert!(!files.contains_key("/new/conf/elsewhere/etc/pg/shared.conf"));
        // All was seen, and may be set again.
        assert!(!files["postgresql.auto.conf"].contains("primary_conninfo"), "{all:?}");
    }
}
