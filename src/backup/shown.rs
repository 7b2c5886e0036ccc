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
/// keywords. A rule that cannot be written as it was lets nobody in: without it, a later one might.
fn rule_line(rule: &HbaRule) -> String {
    let one = |word: &String| vec![word.clone()];
    let mut lists = vec![one(&rule.kind), rule.databases.clone(), rule.users.clone()];
    lists.extend(rule.address.iter().chain(&rule.mask).map(one));
    match options(rule) {
        Some(options) => {
            lists.push(one(&rule.method));
            lists.extend(options.iter().map(one));
            authentication_file::line(lists.iter().map(Vec::as_slice))
        }
        None => {
            lists.push(vec!["reject".to_owned()]);
            let line = authentication_file::line(lists.iter().map(Vec::as_slice));
            format!("# Was {}, in a way that the server does not show:\n{line}", rule.method)
        }
    }
}

/// The options of a rule as a server reads them, which is not always as it shows them; nothing if it does not
/// show enough.
fn options(rule: &HbaRule) -> Option<Vec<String>> {
    let has = |name: &str| rule.options.iter().any(|option| option.starts_with(name));
    // Searches below the whole base are those that options describe; others are of an `ldapurl`.
    if rule.method == "ldap" && has("ldapbasedn=") && !has("ldapscope=2") {
        return None;
    }
    let shown = rule.options.iter().filter(|option| !option.starts_with("ldapscope="));
    let mut options: Vec<String> = shown
        .map(|option| match option.as_str() {
            // Anything but 1 is off.
            "include_realm=true" => "include_realm=1".to_owned(),
            "ldaptls=true" => "ldaptls=1".to_owned(),
            "delegate_ident_mapping=true" => "delegate_ident_mapping=1".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    if matches!(rule.method.as_str(), "gss" | "sspi") && !has("include_realm=") {
        options.push("include_realm=0".to_owned());
    }
    Some(options)
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

    #[test]
    fn rules_mean_what_they_meant() {
        let line = |method: &str, options: &[&str]| {
            rule_line(&HbaRule {
                kind: "local".into(),
                databases: vec!["all".into()],
                users: vec!["+my group".into()],
                address: None,
                mask: None,
                method: method.into(),
                options: options.iter().map(|option| (*option).to_owned()).collect(),
            })
        };
        for (method, shown, written) in [
            ("gss", &["include_realm=true", "krb_realm=X"][..], "gss include_realm=1 krb_realm=X"),
            ("gss", &[], "gss include_realm=0"),
            (
                "ldap",
                &["ldaptls=true", "ldapprefix=x", "ldapscope=2"],
                "ldap ldaptls=1 ldapprefix=x",
            ),
            ("ldap", &["ldapbasedn=x", "ldapscope=2"], "ldap ldapbasedn=x"),
            ("oauth", &["delegate_ident_mapping=true"], "oauth delegate_ident_mapping=1"),
            ("peer", &["map=true"], "peer map=true"),
        ] {
            assert_eq!(line(method, shown), format!("local all +\"my group\" {written}\n"));
        }
        for scope in [&["ldapbasedn=x", "ldapscope=1"][..], &["ldapbasedn=x"]] {
            let line = line("ldap", scope);
            assert!(line.starts_with('#') && line.ends_with(" reject\n"), "{line}");
        }
    }
}
