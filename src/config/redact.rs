//! Values made safe to show: connection strings and URLs without their secrets.
//!
//! The rule is to hide too much rather than too little: what cannot be read as `key=value` pairs is
//! hidden from the first doubtful character on.

/// Stands where a secret was.
pub const HIDDEN: &str = "*REDACTED*";

/// Connection parameters whose values are secrets (libpq's names).
const SECRET_PARAMETERS: [&str; 5] =
    ["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];

/// The value of `option`, safe to show.
pub fn option(option: &str, value: &str) -> String {
    if option.ends_with("conninfo") {
        conninfo(value)
    } else if option.ends_with("_command") && option.contains("pass") {
        // The command itself may hold the secret: `echo hunter2`.
        HIDDEN.to_owned()
    } else if option.ends_with("customer_key") && !value.starts_with("file://") {
        HIDDEN.to_owned()
    } else if value.contains("://") {
        url(value)
    } else {
        value.to_owned()
    }
}

/// A connection string or URI without passwords.
pub fn conninfo(text: &str) -> String {
    if text.contains("://") { url(text) } else { pairs(text) }
}

/// A URL without the password of its user part and without secret parameters.
pub fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    // A password may hold any character, '/', '?' and '@' too: everything up to the last '@' is suspect.
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => match user.split_once(':') {
            Some((user, _)) => (format!("{user}:{HIDDEN}@"), place),
            // It may be one of the parameters behind that has it.
            None if user.contains('?') => (String::new(), rest),
            None => (format!("{user}@"), place),
        },
        None => (String::new(), rest),
    };
    let (place, query) = match place.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (place, None),
    };
    let mut safe = format!("{scheme}://{user}{place}");
    if let Some(query) = query {
        let shown: Vec<String> = query
            .split('&')
            .map(|parameter| match parameter.split_once('=') {
                Some((key, _)) if is_secret(key) => format!("{key}={HIDDEN}"),
                _ => parameter.to_owned(),
            })
            .collect();
        safe = format!("{safe}?{}", shown.join("&"));
    }
    safe
}

fn pairs(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        // Words before a keyword belong to a value that lacks its quotes: perhaps to a password.
        let name = key.rsplit(char::is_whitespace).find(|word| !word.is_empty()).unwrap_or("");
        let is_first = safe.is_empty();
        if !is_first && key.trim() != name {
            safe.push_str(&format!(" {HIDDEN} {name}"));
        } else {
            safe.push_str(key);
        }
        safe.push('=');
        let value = after.trim_start();
        safe.push_str(&after[..after.len() - value.len()]);
        let end = value_length(value);
        safe.push_str(if is_secret(name) { HIDDEN } else { &value[..end] });
        rest = &value[end..];
    }
    if rest.trim().is_empty() || safe.is_empty() {
        safe.push_str(rest);
    } else {
        safe.push_str(&format!(" {HIDDEN}"));
    }
    safe
}

/// How long the value at the start of `text` is: up to a space, or the closing quote; a backslash
/// takes the character behind it along.
fn value_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if quoted && at > 0 && c == '\'' {
            return at + 1;
        } else if !quoted && c.is_whitespace() {
            return at;
        }
    }
    text.len()
}

fn is_secret(key: &str) -> bool {
    SECRET_PARAMETERS.iter().any(|secret| key.eq_ignore_ascii_case(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_lose_their_passwords_only() {
        for (text, shown) in [
            ("host=db password=hunter2 user=b", "host=db password=*REDACTED* user=b"),
            ("host=db password = 'hunter2 \\' x' user=b", "host=db password = *REDACTED* user=b"),
            ("password=hunter\\ 2 port=1", "password=*REDACTED* port=1"),
            ("host=db\nPASSWORD=hunter2", "host=db\nPASSWORD=*REDACTED*"),
            ("host=db sslpassword='hunter2", "host=db sslpassword=*REDACTED*"),
            ("host=db passfile=/root/.pgpass", "host=db passfile=/root/.pgpass"),
            ("application_name='a password=x b'", "application_name='a password=x b'"),
            ("password=hunter two", "password=*REDACTED* *REDACTED*"),
            ("password=hunter two host=db", "password=*REDACTED* *REDACTED* host=db"),
            ("", ""),
        ] {
            assert_eq!(conninfo(text), shown);
        }
    }

    #[test]
    fn urls_lose_their_passwords_only() {
        for (text, shown) in [
            ("postgresql://b:hunter2@db/x", "postgresql://b:*REDACTED@db/x"),
            ("postgres://b:hun/t@er2@db:5432/x", "postgres://b:*REDACTED@db:5432/x"),
            ("postgresql://b:hun?ter2@db/x", "postgresql://b:*REDACTED@db/x"),
            (
                "postgres://b@db/x?password=hunter2&port=1",
                "postgres://b@db/x?password=*REDACTED*&port=1",
            ),
            ("s3://bucket/prefix", "s3://bucket/prefix"),
        ] {
            assert_eq!(url(text), shown.replace("*REDACTED@", "*REDACTED*@"));
        }
    }

    #[test]
    fn commands_that_print_passwords_are_hidden() {
        assert_eq!(option("repository_password_command", "echo hunter2"), HIDDEN);
        assert_eq!(option("encryption_passphrase_command", "echo hunter2"), HIDDEN);
        assert_eq!(option("ssh_command", "ssh postgres@db"), "ssh postgres@db");
        assert_eq!(option("repository_password_file", "/etc/pw"), "/etc/pw");
    }
}
