//! `pg_hba.conf` and `pg_ident.conf`, as far as they lead to other files, and lines to be written there.

use super::configuration_file::Reference;

/// The files that such a file names: to include them, or with `@` in a list.
pub fn references(file: &[u8]) -> Vec<Reference> {
    let text = String::from_utf8_lossy(file);
    // A backslash at its end joins a line to the next one.
    let text = text.replace("\\\r\n", "").replace("\\\n", "");
    let mut found = vec![];
    for line in text.lines() {
        let words = words(line);
        let names = |word: &str| words.first().is_some_and(|first| first.text == word);
        if let Some(second) = words.get(1).filter(|word| !word.text.is_empty()) {
            if names("include") || names("include_if_exists") {
                found.push(Reference::File(second.text.clone()));
                continue;
            }
            if names("include_dir") {
                found.push(Reference::Directory(second.text.clone()));
                continue;
            }
        }
        let listed = words.iter().filter(|word| !word.is_quoted);
        let listed = listed.filter_map(|word| word.text.strip_prefix('@'));
        let listed = listed.filter(|name| !name.is_empty());
        found.extend(listed.map(|name| Reference::File(name.to_owned())));
    }
    found
}

/// A line of these words.
pub fn line<'w>(words: impl IntoIterator<Item = &'w [String]>) -> String {
    let lists = words.into_iter().map(|list| {
        let words: Vec<String> = list.iter().map(|word| quoted(word)).collect();
        words.join(",")
    });
    lists.collect::<Vec<_>>().join(" ") + "\n"
}

/// A word, in quotes where it needs them.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !matches!(c, ',' | '"' | '#' | '\\');
    if !word.is_empty() && !word.starts_with('@') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    // In quotes it would not say any more that members of a role are meant.
    let (plus, word) = word.strip_prefix('+').map_or(("", word), |group| ("+", group));
    format!("{plus}\"{}\"", word.replace('"', "\"\""))
}

struct Word {
    text: String,
    /// Whether it begins with a quote, which takes away the meaning of its first character.
    is_quoted: bool,
}

/// The words of a line without its comment; blanks and commas are between them.
fn words(line: &str) -> Vec<Word> {
    let mut words = vec![];
    let mut word: Option<Word> = None;
    let mut in_quotes = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if in_quotes && characters.next_if_eq(&'"').is_some() => {
                word.get_or_insert(Word { text: String::new(), is_quoted: true }).text.push('"');
            }
            '"' => {
                in_quotes = !in_quotes;
                word.get_or_insert(Word { text: String::new(), is_quoted: true });
            }
            '#' if !in_quotes => break,
            c if !in_quotes && (c.is_whitespace() || c == ',') => words.extend(word.take()),
            c => {
                word.get_or_insert(Word { text: String::new(), is_quoted: false }).text.push(c);
            }
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_rules() {
        let text = b"# @no\nlocal all @admins,bob,@\"more users\" peer # @no\n\
                     include /etc/pg/hba_more.conf\nhost @dbs all \\\n all trust map=@m\n\
                     include_dir \"rules.d\"\nlocal \"@base\" @ \"#\" peer\ninclude\n";
        let file = |name: &str| Reference::File(name.into());
        let expected = [
            file("admins"),
            file("more users"),
            file("/etc/pg/hba_more.conf"),
            file("dbs"),
            Reference::Directory("rules.d".into()),
        ];
        assert_eq!(references(text), expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let list =
            ["all", "my db", "", "a,b", "say \"x\"", "@x", "#", "+role", "+a b", "/^(.*)$", "\\1"];
        let list = list.map(str::to_owned);
        let written = line([&list[..], &list[..2]]);
        assert!(written.ends_with(" all,\"my db\"\n"), "{written}");
        let read: Vec<String> = words(written.trim_end()).into_iter().map(|w| w.text).collect();
        assert_eq!(read, [&list[..], &list[..2]].concat());
        assert_eq!(references(written.as_bytes()), []);
    }
}
