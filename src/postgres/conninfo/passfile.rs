//! Password files (`.pgpass`): `host:port:database:user:password` lines.

use super::{Address, Host, Password};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// The password of the first line that matches. A file others may read is not used, as in libpq.
pub(super) fn find(file: &Path, host: &Host, dbname: &str, user: &str) -> Option<Password> {
    let metadata = std::fs::metadata(file).ok()?;
    if !metadata.is_file() {
        tracing::warn!(file = %file.display(), "password file is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            file = %file.display(),
            "password file is not used: group or others may access it; its mode must be 0600"
        );
        return None;
    }
    let bytes = std::fs::read(file).inspect_err(|error| {
        tracing::warn!(file = %file.display(), %error, "password file cannot be read");
    });
    let bytes = Zeroizing::new(bytes.ok()?);
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    search(&text, host, dbname, user)
}

fn search(text: &str, host: &Host, dbname: &str, user: &str) -> Option<Password> {
    let name = match &host.address {
        Address::Unix(path) => match path.to_str() {
            // The default socket directory goes by this name.
            Some("/var/run/postgresql" | "/tmp") | None => "localhost",
            Some(path) => path,
        },
        Address::Tcp { name, .. } => name,
    };
    let port = host.port.to_string();
    let wanted = [name, &port, dbname, user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for field in wanted {
            let (found, after) = field_of(rest)?;
            let matches =
                found.as_str() == "*" && rest.starts_with("*:") || found.as_str() == field;
            if !matches {
                return None;
            }
            rest = after;
        }
        Some(Password(unescape(rest)))
    })
}

/// The field a line begins with, and what follows the colon after it.
fn field_of(line: &str) -> Option<(Zeroizing<String>, &str)> {
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((unescape(line.get(..at)?), line.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        plain.push(c);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str) -> Host {
        Host { address: Address::Tcp { name: name.into(), address: None }, port: 5432 }
    }

    fn found(text: &str, host: &Host) -> Option<String> {
        search(text, host, "replication", "barman").map(|password| password.expose().to_owned())
    }

    #[test]
    fn the_first_matching_line_wins() {
        let text = "# pg:5432:replication:barman:comment\npg:5433:*:*:port\npg:*:app:barman:db\n\
                    pg:5432:*:barman:a\\:b\\\\c:d\n*:*:*:*:last";
        assert_eq!(found(text, &tcp("pg")).as_deref(), Some("a:b\\c:d"));
        assert_eq!(found(text, &tcp("other")).as_deref(), Some("last"));
        assert_eq!(found("pg:5432:x", &tcp("pg")), None);
    }

    #[test]
    fn escaped_hosts_and_sockets() {
        let ipv6 = Host { address: Address::Tcp { name: "::1".into(), address: None }, port: 5432 };
        assert_eq!(found("\\:\\:1:*:*:*:six", &ipv6).as_deref(), Some("six"));
        let socket = Host { address: Address::Unix("/var/run/postgresql".into()), port: 5432 };
        assert_eq!(found("localhost:*:*:*:local", &socket).as_deref(), Some("local"));
        assert_eq!(found("\\*:*:*:*:star", &tcp("pg")), None);
    }
}
