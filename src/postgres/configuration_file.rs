//! Configuration files: `postgresql.conf`, `postgresql.auto.conf`, and what they include.
//!
//! They are bytes in any encoding; a line is read as PostgreSQL reads it, and one that PostgreSQL would
//! refuse is read as far as that makes sense.

/// What is put before a line that shall not count any more.
const COMMENT: &[u8] = b"#BARMAN# ";

/// A setting on a line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The number of the line, from 1.
    pub line: usize,
    /// The name, in lower case: PostgreSQL makes no difference.
    pub name: String,
    /// The value without quotes.
    pub value: String,
}

/// The settings in a file, in their order. `include` and its kin are settings too.
pub fn parse(file: &[u8]) -> Vec<Setting> {
    let lines = file.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter_map(|(at, line)| {
            let (name, rest) = name(line)?;
            Some(Setting { line: at + 1, name, value: value(rest) })
        })
        .collect()
}

/// What becomes of the line of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// It stays.
    Keep,
    /// It counts no more, and stays as a comment.
    CommentOut,
    /// The same, and this line, as [`line()`] makes it, takes its place.
    Replace(String),
}

/// The file with the lines of some settings changed, and these settings.
pub fn edit(file: &[u8], decide: impl Fn(&Setting) -> Edit) -> (Vec<u8>, Vec<(Setting, Edit)>) {
    let decided = parse(file).into_iter().map(|setting| {
        let edit = decide(&setting);
        (setting, edit)
    });
    let edits: Vec<(Setting, Edit)> = decided.filter(|(_, edit)| *edit != Edit::Keep).collect();
    let mut out = Vec::with_capacity(file.len() + edits.len() * COMMENT.len());
    let mut next = edits.iter().peekable();
    for (at, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some((_, edit)) = next.next_if(|(setting, _)| setting.line == at + 1) else {
            out.extend_from_slice(line);
            continue;
        };
        out.extend_from_slice(COMMENT);
        out.extend_from_slice(line);
        if let Edit::Replace(new) = edit {
            end_line(&mut out);
            out.extend_from_slice(new.as_bytes());
        }
    }
    (out, edits)
}

/// Sees that what comes next begins a line.
pub fn end_line(file: &mut Vec<u8>) {
    if file.last().is_some_and(|last| *last != b'\n') {
        file.push(b'\n');
    }
}

/// What a file names to be read too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A file.
    File(String),
    /// A directory: its files whose names end in `.conf`, and do not begin with a dot.
    Directory(String),
}

/// What the file includes.
pub fn references(file: &[u8]) -> Vec<Reference> {
    let settings = parse(file).into_iter().filter(|setting| !setting.value.is_empty());
    let references = settings.filter_map(|setting| match setting.name.as_str() {
        "include" | "include_if_exists" => Some(Reference::File(setting.value)),
        "include_dir" => Some(Reference::Directory(setting.value)),
        _ => None,
    });
    references.collect()
}

/// The absolute path of what the file at `path` calls `named`, without `.` and `..`.
pub fn resolve(path: &str, named: &str) -> String {
    let from = if named.starts_with('/') { "" } else { directory_of(path) };
    let mut parts: Vec<&str> = vec![];
    for part in from.split('/').chain(named.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The directory that a file is in.
pub fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The line that gives `name` a value.
pub fn line(name: &str, value: &str) -> String {
    // Backslashes escape too, and no value goes on in the next line.
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    format!("{name} = '{}'\n", value.replace('\n', "\\n").replace('\r', "\\r"))
}

/// The items of a list of names or files, as in `shared_preload_libraries`.
pub fn list(value: &str) -> Vec<String> {
    let items = value.split(',').map(|item| item.trim().trim_matches('"').to_owned());
    items.filter(|item| !item.is_empty()).collect()
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

fn without_space(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

/// The name at the beginning of a line, and what comes after it.
fn name(line: &[u8]) -> Option<(String, &[u8])> {
    let line = without_space(line);
    let first = *line.first()?;
    if !(first.is_ascii_alphabetic() || first == b'_' || first >= 0x80) {
        return None;
    }
    let belongs =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | 0x80..);
    let end = line.iter().position(|byte| !belongs(byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    Some((String::from_utf8_lossy(name).to_ascii_lowercase(), rest))
}

/// The value behind a name; nothing is an empty one.
fn value(rest: &[u8]) -> String {
    let rest = without_space(rest);
    let rest = without_space(rest.strip_prefix(b"=").unwrap_or(rest));
    let bytes = match rest.strip_prefix(b"'") {
        Some(quoted) => unquoted(quoted),
        None => {
            let end = rest.iter().position(|byte| is_space(byte) || *byte == b'#');
            rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().to_vec()
        }
    };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What stands between quotes, the first of which is gone already.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' if bytes.next_if_eq(&b'\'').is_some() => out.push(b'\''),
            b'\'' => break,
            b'\\' => match bytes.next() {
                None => break,
                Some(b'b') => out.push(8),
                Some(b'f') => out.push(12),
                Some(b'n') => out.push(b'\n'),
                Some(b'r') => out.push(b'\r'),
                Some(b't') => out.push(b'\t'),
                Some(digit @ b'0'..=b'7') => {
                    let mut code = u32::from(digit - b'0');
                    for _ in 0..2 {
                        let Some(next) = bytes.next_if(|byte| (b'0'..=b'7').contains(byte)) else {
                            break;
                        };
                        code = code * 8 + u32::from(next - b'0');
                    }
                    out.push((code & 0xff) as u8);
                }
                Some(other) => out.push(other),
            },
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        for (line, name, value) in [
            ("port = 5433", "port", "5433"),
            ("  Port=5433# the other one", "port", "5433"),
            ("include 'conf.d/a.conf'", "include", "conf.d/a.conf"),
            (
                "archive_command = 'cp \"%p\" ''/a b''/%f' # x",
                "archive_command",
                "cp \"%p\" '/a b'/%f",
            ),
            (r"x.y = 'a\'b\\c\101\n'", "x.y", "a'b\\cA\n"),
            ("restore_command", "restore_command", ""),
            ("a = ''", "a", ""),
            ("a = 'open", "a", "open"),
            ("log_directory /var/log\r", "log_directory", "/var/log"),
        ] {
            let found = parse(line.as_bytes());
            let expected = Setting { line: 1, name: name.into(), value: value.into() };
            assert_eq!(found, [expected], "{line}");
        }
        assert_eq!(parse(b"# port = 1\n\n \t\n= 3\n'x' = 1\n42\n"), []);
        assert_eq!(parse(b"#\nport=1").first().map(|setting| setting.line), Some(2));
    }

    #[test]
    fn only_what_is_unwanted_changes_and_every_other_byte_stays() {
        let file = b"a = 1\n# b = 2\nB = '\xe9'\n  b=3\r\nc = 4";
        let (out, found) = edit(file, |setting| match setting.name.as_str() {
            "b" => Edit::CommentOut,
            "c" => Edit::Replace(line("c", "it's")),
            _ => Edit::Keep,
        });
        assert_eq!(
            out,
            b"a = 1\n# b = 2\n#BARMAN# B = '\xe9'\n#BARMAN#   b=3\r\n#BARMAN# c = 4\nc = 'it''s'\n"
        );
        assert_eq!(found.iter().map(|(setting, _)| setting.line).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(parse(&out).len(), 2);
    }

    #[test]
    fn a_written_line_is_read_as_what_was_meant() {
        for value in ["", "it's", r"C:\new 'x'", "%%f \"%p\"", "\\'", "a\nb\r"] {
            let parsed = parse(line("restore_command", value).as_bytes());
            assert_eq!(parsed.first().map(|setting| setting.value.as_str()), Some(value));
        }
        assert_eq!(list("a, \"b c\" ,,d"), ["a", "b c", "d"]);
    }
    #[test]
    fn what_is_included_is_found_from_where_it_is_named() {
        let file = b"include = '../shared.conf'\ninclude_if_exists '/srv/x.conf'\n\
                     include_dir conf.d # more\n#include 'y'\ninclude ''\n";
        let found = references(file);
        let expected = [
            Reference::File("../shared.conf".into()),
            Reference::File("/srv/x.conf".into()),
            Reference::Directory("conf.d".into()),
        ];
        assert_eq!(found, expected);
        for (named, path) in [
            ("../shared.conf", "/etc/pg/shared.conf"),
            ("/srv//x.conf", "/srv/x.conf"),
            ("conf.d/.", "/etc/pg/main/conf.d"),
            ("../../../../../x", "/x"),
        ] {
            assert_eq!(resolve("/etc/pg/main/postgresql.conf", named), path);
        }
    }
}
