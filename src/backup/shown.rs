//! Configuration files made of what a server shows of them, where it does not let them be read.

use std::collections::{BTreeMap, BTreeSet};

use repo_format::snapshot::ConfigFiles;
use zeroize::Zeroizing;

use crate::postgres::sql::{FileSetting, HbaRule, IdentMapping};
use crate::postgres::{authentication_file, configuration_file};

/// The first line of each.
const MADE: &str =
    "# Made by barman of what the server showed: it did not let the file itself be read.\n";

/// What says where files are; it is decided by the restore.
const PLACES: [&str; 4] = ["config_file", "data_directory", "hba_file", "ident_file"];

/// What a server shows of its configuration. It may hold passwords, and is never shown itself.
#[derive(Default)]
pub struct Shown {
    /// The settings that count.
    pub settings: Vec<FileSetting>,
    /// Who may connect, if the role may know.
    pub rules: Option<Vec<HbaRule>>,
    /// Who is who, if the role may know.
    pub mappings: Option<Vec<IdentMapping>>,
}

impl Shown {
    /// Files in place of those that are `unread`, as far as anything is shown of them, by path.
    pub fn files(
        &self,
        known: &ConfigFiles,
        unread: &BTreeSet<String>,
    ) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |path: &String, line: &str| {
            files.entry(path.clone()).or_insert_with(|| MADE.to_owned()).push_str(line);
        };
        let mut file = "";
        for setting in self.settings.iter().filter(|it| unread.contains(&it.file)) {
            // Without the lines that include the others, all is in the main file.
            let is_main_read = !unread.contains(&known.config);
            let path = if is_main_read { &setting.file } else { &known.config };
            if setting.file != file {
                file = &setting.file;
                put(path, &format!("\n# {}\n", one_line(file)));
            }
            if !PLACES.contains(&setting.name.as_str()) {
                put(path, &configuration_file::line(&setting.name, &setting.value));
            }
        }
        if let Some(rules) = self.rules.as_ref().filter(|_| unread.contains(&known.hba)) {
            put(&known.hba, "");
            rules.iter().for_each(|rule| put(&known.hba, &rule_line(rule)));
        }
        if let Some(mappings) = self.mappings.as_ref().filter(|_| unread.contains(&known.ident)) {
            put(&known.ident, "");
            mappings.iter().for_each(|mapping| put(&known.ident, &mapping_line(mapping)));
        }
        let bytes = |text: String| Zeroizing::new(text.into_bytes());
        files.into_iter().map(|(path, text)| (path, bytes(text))).collect()
    }
}

/// What the server shows of quoted keywords (a database that is called `all`) cannot be told from the
/// keywords.
fn rule_line(rule: &HbaRule) -> String {
    let one = |word: &String| vec![word.clone()];
    let mut lists = vec![one(&rule.kind), rule.databases.clone(), rule.users.clone()];
    lists.extend(rule.address.iter().chain(&rule.mask).map(one));
    lists.push(one(&rule.method));
    lists.extend(rule.options.iter().map(one));
    authentication_file::line(lists.iter().map(Vec::as_slice))
}

fn mapping_line(mapping: &IdentMapping) -> String {
    let words = [&mapping.map, &mapping.system_user, &mapping.role];
    authentication_file::line(words.map(std::slice::from_ref))
}

/// A path without what would end a comment.
fn one_line(path: &str) -> String {
    path.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_of_what_is_shown() {
        let known = ConfigFiles {
            config: "/etc/main".into(),
            hba: "/etc/hba".into(),
            ident: "/etc/ident".into(),
            included: vec![],
        };
        let setting = |name: &str, value: &str, file: &str| FileSetting {
            name: name.into(),
            value: value.into(),
            file: file.into(),
        };
        let rule = HbaRule {
            kind: "host".into(),
            databases: vec!["all".into(), "my db".into()],
            users: vec!["+a".into()],
            address: Some("127.0.0.1".into()),
            mask: Some("255.255.255.255".into()),
            method: "ldap".into(),
            options: vec!["ldapserver=x".into(), "ldapprefix=cn=a, b".into()],
        };
        let mapping =
            IdentMapping { map: "m".into(), system_user: "/^(.*)$".into(), role: "\\1".into() };
        let shown = Shown {
            settings: vec![
                setting("hba_file", "/etc/hba", "/etc/main"),
                setting("work_mem", "4096", "/etc/main"),
                setting("search_path", "it's", "/etc/more"),
                setting("port", "1", "/etc/read"),
            ],
            rules: Some(vec![rule]),
            mappings: Some(vec![mapping]),
        };
        let text = |unread: &[&str], path: &str| {
            let unread = unread.iter().map(|path| (*path).to_owned()).collect();
            let files = shown.files(&known, &unread);
            files.get(path).map(|text| String::from_utf8(text.to_vec()).unwrap())
        };
        let all = ["/etc/main", "/etc/more", "/etc/hba", "/etc/ident"];
        let main = text(&all, "/etc/main").unwrap();
        let expected = "\n# /etc/main\nwork_mem = '4096'\n\n# /etc/more\nsearch_path = 'it''s'\n";
        assert_eq!(main, format!("{MADE}{expected}"));
        assert_eq!(text(&all, "/etc/more"), None);
        let more = text(&["/etc/more"], "/etc/more").unwrap();
        assert!(more.ends_with("\n# /etc/more\nsearch_path = 'it''s'\n"), "{more}");
        assert_eq!(text(&["/etc/more"], "/etc/hba"), None);
        let line = "host all,\"my db\" +a 127.0.0.1 255.255.255.255 ldap ldapserver=x \
                    \"ldapprefix=cn=a, b\"\n";
        assert_eq!(text(&all, "/etc/hba").unwrap(), format!("{MADE}{line}"));
        assert!(text(&all, "/etc/ident").unwrap().ends_with("\nm /^(.*)$ \"\\1\"\n"));
    }
}
