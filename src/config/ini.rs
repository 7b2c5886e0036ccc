//! The dialect of `barman.conf`: what Python's ConfigParser reads, with the place of every option kept.
//!
//! Sections in brackets, `key = value` or `key: value`, names in any case, values that go on in lines
//! indented deeper than their key, comments (`#`, `;`) only on lines of their own: what looks like
//! a comment behind a value is part of the value. Interpolation and quotes come later
//! ([`super::interpolate`]), because they need the other sections.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

/// The section whose options every other section sees, as in ConfigParser.
const DEFAULT_SECTION: &str = "DEFAULT";

/// Where an option or section stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line in it, from 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One option as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value before interpolation, lines joined with `\n`.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

impl fmt::Debug for Entry {
    /// Without the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.origin)
    }
}

/// One section: its options by lower-case name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Where its first header stands.
    pub origin: Origin,
    /// The options.
    pub options: BTreeMap<String, Entry>,
}

/// One file, or several merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The sections by name.
    pub sections: BTreeMap<String, Section>,
}

/// A line that cannot be understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IniError {
    /// A header without a closing bracket, without a name, or with something behind it.
    #[error("{0}: not a section header: it must be [name] alone on its line")]
    Header(Origin),
    /// An option before the first section.
    #[error("{0}: an option stands before the first [section]")]
    NoSection(Origin),
    /// A line that is neither header, option, comment nor continuation.
    #[error("{0}: expected 'option = value'")]
    NoDelimiter(Origin),
    /// The same section twice in one file.
    #[error("{again}: section [{name}] stands already at line {first}", first = first.line)]
    DuplicateSection {
        /// Its name.
        name: String,
        /// Where it stands first.
        first: Origin,
        /// Where it stands again.
        again: Origin,
    },
    /// The same option twice in one section of one file.
    #[error("{again}: option '{name}' is set already at line {first}", first = first.line)]
    DuplicateOption {
        /// Its name.
        name: String,
        /// Where it stands first.
        first: Origin,
        /// Where it stands again.
        again: Origin,
    },
}

impl Document {
    /// Parses the text of `file` (which is only named, not read).
    pub fn parse(text: &str, file: &Path) -> Result<Document, IniError> {
        let mut parser = Parser::new(file.into());
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            parser.line(u32::try_from(index + 1).unwrap_or(u32::MAX), line)?;
        }
        Ok(parser.finish())
    }

    /// Takes over every option of `later`; where both have one, the later wins.
    pub fn merge(&mut self, later: Document) {
        for (name, section) in later.sections {
            match self.sections.entry(name) {
                MapEntry::Vacant(slot) => {
                    slot.insert(section);
                }
                MapEntry::Occupied(mut slot) => slot.get_mut().options.extend(section.options),
            }
        }
    }
}

/// The state between two lines.
struct Parser {
    file: Arc<Path>,
    document: Document,
    section: Option<String>,
    option: Option<(String, Entry)>,
    indent: usize,
}

impl Parser {
    fn new(file: Arc<Path>) -> Self {
        Parser { file, document: Document::default(), section: None, option: None, indent: 0 }
    }

    fn line(&mut self, number: u32, line: &str) -> Result<(), IniError> {
        let text = line.trim();
        if text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.is_empty() {
            // An empty line does not end a value: an indented line behind it still belongs to it.
            if let Some((_, entry)) = &mut self.option {
                entry.value.push('\n');
            }
            return Ok(());
        }
        let indent = line.len() - line.trim_start().len();
        if let Some((_, entry)) = &mut self.option
            && indent > self.indent
        {
            entry.value.push('\n');
            entry.value.push_str(text);
            return Ok(());
        }
        self.end_option();
        self.indent = indent;
        let origin = Origin { file: Arc::clone(&self.file), line: number };
        if text.starts_with('[') { self.header(text, origin) } else { self.start(text, origin) }
    }

    fn header(&mut self, text: &str, origin: Origin) -> Result<(), IniError> {
        let Some((name, rest)) = text[1..].split_once(']') else {
            return Err(IniError::Header(origin));
        };
        let rest = rest.trim_start();
        if name.is_empty() || !(rest.is_empty() || rest.starts_with(['#', ';'])) {
            return Err(IniError::Header(origin));
        }
        match self.document.sections.entry(name.to_owned()) {
            MapEntry::Occupied(slot) => Err(IniError::DuplicateSection {
                name: name.to_owned(),
                first: slot.get().origin.clone(),
                again: origin,
            }),
            MapEntry::Vacant(slot) => {
                slot.insert(Section { origin, options: BTreeMap::new() });
                self.section = Some(name.to_owned());
                Ok(())
            }
        }
    }

    fn start(&mut self, text: &str, origin: Origin) -> Result<(), IniError> {
        let Some(section) = &self.section else { return Err(IniError::NoSection(origin)) };
        let Some((name, value)) = text.split_once(['=', ':']) else {
            return Err(IniError::NoDelimiter(origin));
        };
        let name = name.trim_end().to_lowercase();
        if name.is_empty() {
            return Err(IniError::NoDelimiter(origin));
        }
        let known = self.document.sections.get(section).and_then(|s| s.options.get(&name));
        if let Some(first) = known {
            return Err(IniError::DuplicateOption {
                name,
                first: first.origin.clone(),
                again: origin,
            });
        }
        self.option = Some((name, Entry { value: value.trim_start().to_owned(), origin }));
        Ok(())
    }

    fn end_option(&mut self) {
        let section = self.section.as_ref().and_then(|name| self.document.sections.get_mut(name));
        if let (Some((name, mut entry)), Some(section)) = (self.option.take(), section) {
            entry.value.truncate(entry.value.trim_end().len());
            section.options.insert(name, entry);
        }
    }

    fn finish(mut self) -> Document {
        self.end_option();
        if let Some(defaults) = self.document.sections.remove(DEFAULT_SECTION) {
            for section in self.document.sections.values_mut() {
                for (name, entry) in &defaults.options {
                    section.options.entry(name.clone()).or_insert_with(|| entry.clone());
                }
            }
        }
        self.document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document, IniError> {
        Document::parse(text, Path::new("/etc/barman.conf"))
    }

    fn value<'a>(document: &'a Document, section: &str, option: &str) -> &'a str {
        &document.sections[section].options[option].value
    }

    #[test]
    fn both_delimiters_any_case_and_the_first_one_counts() {
        let d = parse("[pg]\nConnInfo = host=db user=b\npath_prefix: /a:/b\nempty =\n").unwrap();
        assert_eq!(value(&d, "pg", "conninfo"), "host=db user=b");
        assert_eq!(value(&d, "pg", "path_prefix"), "/a:/b");
        assert_eq!(value(&d, "pg", "empty"), "");
    }

    #[test]
    fn only_whole_lines_are_comments() {
        let d = parse("; one\n[pg] ; server\n  # two\na = 1 # kept ; kept\n").unwrap();
        assert_eq!(value(&d, "pg", "a"), "1 # kept ; kept");
        assert_eq!(d.sections["pg"].options.len(), 1);
    }

    #[test]
    fn deeper_lines_continue_a_value_across_comments_and_blank_lines() {
        let text = "[pg]\nconninfo = host=db\n  # comment\n\n    user=barman\nactive = true\n\n";
        let d = parse(text).unwrap();
        assert_eq!(value(&d, "pg", "conninfo"), "host=db\n\nuser=barman");
        assert_eq!(value(&d, "pg", "active"), "true");
        assert_eq!(d.sections["pg"].options["active"].origin.line, 6);
    }

    #[test]
    fn an_indented_file_is_not_all_one_value() {
        let d = parse("[pg]\n  a = 1\n  b = 2\n").unwrap();
        assert_eq!((value(&d, "pg", "a"), value(&d, "pg", "b")), ("1", "2"));
    }

    #[test]
    fn later_files_win_option_by_option_and_keep_their_place() {
        let mut d = parse("[pg]\na = 1\nb = 1\n").unwrap();
        d.merge(Document::parse("[pg]\n\nb = 2\n", Path::new("/etc/barman.d/x.conf")).unwrap());
        assert_eq!((value(&d, "pg", "a"), value(&d, "pg", "b")), ("1", "2"));
        let origin = &d.sections["pg"].options["b"].origin;
        assert_eq!(origin.to_string(), "/etc/barman.d/x.conf:3");
    }

    #[test]
    fn the_default_section_fills_the_others() {
        let d = parse("[DEFAULT]\na = 1\nb = 1\n[pg]\nb = 2\n").unwrap();
        assert_eq!((value(&d, "pg", "a"), value(&d, "pg", "b")), ("1", "2"));
        assert!(!d.sections.contains_key("DEFAULT"));
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, message) in [
            ("a = 1\n", "/etc/barman.conf:1: an option stands before the first [section]"),
            ("[pg]\n\nwhat\n", "/etc/barman.conf:3: expected 'option = value'"),
            ("[pg]\n= 1\n", "/etc/barman.conf:2: expected 'option = value'"),
            ("[pg]\na=1\nA=2\n", "/etc/barman.conf:3: option 'a' is set already at line 2"),
            ("[pg]\n[pg]\n", "/etc/barman.conf:2: section [pg] stands already at line 1"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
        for text in ["[pg\n", "[]\n", "[pg] x\n"] {
            assert!(matches!(parse(text), Err(IniError::Header(_))), "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
        let d = parse("\u{feff}[pg]\r\na = 1\r\n").unwrap();
        assert_eq!(value(&d, "pg", "a"), "1");
    }
}
