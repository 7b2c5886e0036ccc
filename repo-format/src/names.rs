//! The names of objects in the store.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::ids::{Digest, IndexId, PackId, SessionId, SlotId};
use crate::limits::{MAX_ESCAPED_NAME, MAX_SERVER_NAME, MAX_WAL_NAME};

/// How many hexadecimal digits of a WAL file's digest its object's name has.
const WAL_DIGEST: usize = 32;

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `config/<n>`: the repository's configuration.
    Config(u64),
    /// `role`: whether this place is the primary or a mirror.
    Role,
    /// `keys/<id>`: a key slot.
    KeySlot(SlotId),
    /// `packs/<xx>/<id>`: a pack.
    Pack(PackId),
    /// `index/<id>`: an index run.
    Index(IndexId),
    /// `snapshots/<server>/<system id>/<backup id>`: a snapshot.
    Snapshot(BackupName),
    /// `notes/<server>/<backup id>/<n>`: a note about a backup.
    Note {
        /// The server.
        server: String,
        /// The backup.
        backup_id: String,
        /// The number of the note, from 1.
        number: u64,
    },
    /// `servers/<server>/<n>`: what is known of a server's name.
    Server {
        /// The server.
        server: String,
        /// The number of the record, from 1.
        number: u64,
    },
    /// `wal/<server>/<system id>/<timeline>/<file>[.<from>-<to>]-<digest>`: a WAL file.
    Wal(WalObjectName),
    /// `conflicts/…`, like `wal/…`: a WAL file that came with other content than the one stored.
    Conflict(WalObjectName),
    /// `sessions/<id>/<beat>`: a session's heartbeat.
    Session {
        /// The session.
        id: SessionId,
        /// The number of the beat, from 1.
        beat: u64,
    },
    /// `maintenance/<epoch>`: what a pruner is about to delete.
    Maintenance(u64),
}

/// Which backup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct BackupName {
    /// The server.
    pub server: String,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The backup's id.
    pub backup_id: String,
}

impl BackupName {
    /// Whether a backup can have this name.
    pub fn is_valid(&self) -> bool {
        is_server_name(&self.server) && is_backup_id(&self.backup_id)
    }
}

/// Which WAL file, or which part of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalObjectName {
    /// The server.
    pub server: String,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline that the file belongs to.
    pub timeline: u32,
    /// The file's name, as PostgreSQL gave it.
    pub file: String,
    /// The part of the file, from and to, in bytes; nothing for a whole file.
    pub part: Option<(u32, u32)>,
    /// The first half of the digest of the content.
    pub digest: [u8; WAL_DIGEST / 2],
}

impl WalObjectName {
    /// The form in which a file's digest stands in a name.
    pub fn short_digest(digest: &Digest) -> [u8; WAL_DIGEST / 2] {
        *digest.as_bytes().first_chunk().expect("a digest is longer than its short form")
    }

    /// Every WAL file's name begins with its timeline; a part has a beginning before its end.
    fn is_plausible(&self) -> bool {
        self.file.len() <= MAX_WAL_NAME
            && self.file.starts_with(&format!("{:08X}", self.timeline))
            && self.file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
            && self.part.is_none_or(|(from, to)| from < to)
    }

    /// The prefix of all objects of one timeline.
    pub fn timeline_prefix(server: &str, system_id: u64, timeline: u32) -> String {
        format!("wal/{}/{system_id}/{timeline:08X}/", escape(server))
    }
}

impl fmt::Display for WalObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WalObjectName { server, system_id, timeline, file, part, digest } = self;
        write!(f, "{}/{system_id}/{timeline:08X}/{file}", escape(server))?;
        if let Some((from, to)) = part {
            write!(f, ".{from:08X}-{to:08X}")?;
        }
        f.write_str("-")?;
        digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Config(number) => write!(f, "config/{number}"),
            ObjectName::Role => f.write_str("role"),
            ObjectName::KeySlot(id) => write!(f, "keys/{id}"),
            ObjectName::Pack(id) => {
                let first = id.as_bytes().first().copied().unwrap_or_default();
                write!(f, "packs/{first:02x}/{id}")
            }
            ObjectName::Index(id) => write!(f, "index/{id}"),
            ObjectName::Snapshot(BackupName { server, system_id, backup_id }) => {
                write!(f, "snapshots/{}/{system_id}/{backup_id}", escape(server))
            }
            ObjectName::Note { server, backup_id, number } => {
                write!(f, "notes/{}/{backup_id}/{number}", escape(server))
            }
            ObjectName::Server { server, number } => {
                write!(f, "servers/{}/{number}", escape(server))
            }
            ObjectName::Wal(name) => write!(f, "wal/{name}"),
            ObjectName::Conflict(name) => write!(f, "conflicts/{name}"),
            ObjectName::Session { id, beat } => write!(f, "sessions/{id}/{beat}"),
            ObjectName::Maintenance(epoch) => write!(f, "maintenance/{epoch}"),
        }
    }
}

impl ObjectName {
    /// The object that `name` names; nothing if it is not a name of this format.
    pub fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        let parsed = match parts.as_slice() {
            ["config", number] => ObjectName::Config(number.parse().ok()?),
            ["role"] => ObjectName::Role,
            ["keys", id] => ObjectName::KeySlot(id.parse().ok()?),
            ["packs", _, id] => ObjectName::Pack(id.parse().ok()?),
            ["index", id] => ObjectName::Index(id.parse().ok()?),
            ["snapshots", server, system_id, backup_id] => ObjectName::Snapshot(BackupName {
                server: unescape(server)?,
                system_id: system_id.parse().ok()?,
                backup_id: (*backup_id).to_owned(),
            }),
            ["notes", server, backup_id, number] => ObjectName::Note {
                server: unescape(server)?,
                backup_id: (*backup_id).to_owned(),
                number: number.parse().ok()?,
            },
            ["servers", server, number] => {
                ObjectName::Server { server: unescape(server)?, number: number.parse().ok()? }
            }
            ["wal", rest @ ..] => ObjectName::Wal(parse_wal(rest)?),
            ["conflicts", rest @ ..] => ObjectName::Conflict(parse_wal(rest)?),
            ["sessions", id, beat] => {
                ObjectName::Session { id: id.parse().ok()?, beat: beat.parse().ok()? }
            }
            ["maintenance", epoch] => ObjectName::Maintenance(epoch.parse().ok()?),
            _ => return None,
        };
        // One name for each object: whatever does not read back the same is somebody else's.
        (parsed.is_plausible() && parsed.to_string() == name).then_some(parsed)
    }

    fn is_plausible(&self) -> bool {
        match self {
            ObjectName::Config(number) | ObjectName::Maintenance(number) => *number > 0,
            ObjectName::Session { beat, .. } => *beat > 0,
            ObjectName::Snapshot(BackupName { backup_id, .. }) => is_backup_id(backup_id),
            ObjectName::Note { backup_id, number, .. } => is_backup_id(backup_id) && *number > 0,
            ObjectName::Server { number, .. } => *number > 0,
            ObjectName::Wal(name) | ObjectName::Conflict(name) => name.is_plausible(),
            ObjectName::Role
            | ObjectName::KeySlot(_)
            | ObjectName::Pack(_)
            | ObjectName::Index(_) => true,
        }
    }
}

/// Whether `text` has the form of a backup's id: `YYYYMMDDTHHMMSS`.
pub fn is_backup_id(text: &str) -> bool {
    text.len() == 15
        && text
            .bytes()
            .enumerate()
            .all(|(at, b)| if at == 8 { b == b'T' } else { b.is_ascii_digit() })
}

fn parse_wal(parts: &[&str]) -> Option<WalObjectName> {
    let [server, system_id, timeline, name] = parts else { return None };
    let (name, digest_text) = name.split_at_checked(name.len().checked_sub(WAL_DIGEST)?)?;
    let name = name.strip_suffix('-')?;
    let digest = digest_text.parse::<crate::ids::KeyId>().ok()?;
    let part = name.rsplit_once('.').and_then(|(file, range)| {
        let (from, to) = range.split_once('-')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        Some((file, (number(from)?, number(to)?)))
    });
    let (file, part) = match part {
        Some((file, part)) => (file, Some(part)),
        None => (name, None),
    };
    Some(WalObjectName {
        server: unescape(server)?,
        system_id: system_id.parse().ok()?,
        timeline: u32::from_str_radix(timeline, 16).ok()?,
        file: file.to_owned(),
        part,
        digest: *digest.as_bytes(),
    })
}

/// Whether a server can have this name.
pub fn is_server_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_SERVER_NAME && escape(name).len() <= MAX_ESCAPED_NAME
}

/// A server's name as a part of an object's name: bytes other than letters, digits, `_`, `-`, and `.`
/// (but not in front) become `%XX`.
pub fn escape(server: &str) -> String {
    let mut out = String::with_capacity(server.len());
    for (at, byte) in server.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || byte == b'.' && at > 0 {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The server's name that [`escape`] made this of.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = rest.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (is_server_name(&name) && escape(&name) == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let wal = WalObjectName {
            server: "main/cluster é".into(),
            system_id: 7_000_000_000_000_000_000,
            timeline: 0x1f,
            file: "0000001F00000001000000AB.partial".into(),
            part: Some((0, 0x0100_0000)),
            digest: [0xab; 16],
        };
        let backup = BackupName {
            server: ".hidden".into(),
            system_id: 1,
            backup_id: "20261122T010203".into(),
        };
        for name in [
            ObjectName::Config(12),
            ObjectName::Role,
            ObjectName::KeySlot(SlotId::from_bytes([7; 16])),
            ObjectName::Pack(PackId::from_bytes([0xfe; 32])),
            ObjectName::Index(IndexId::from_bytes([1; 32])),
            ObjectName::Snapshot(backup.clone()),
            ObjectName::Note { server: "a".into(), backup_id: backup.backup_id, number: 3 },
            ObjectName::Server { server: "main/é".into(), number: 2 },
            ObjectName::Wal(wal.clone()),
            ObjectName::Conflict(WalObjectName { part: None, ..wal.clone() }),
            ObjectName::Session { id: SessionId::from_bytes([9; 16]), beat: 44 },
            ObjectName::Maintenance(5),
            ObjectName::Wal(WalObjectName { file: "0000001F.history".into(), ..wal.clone() }),
            ObjectName::Wal(WalObjectName {
                file: "0000001F0000000100000002.00000028.backup".into(),
                part: None,
                ..wal.clone()
            }),
        ] {
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn server_names_fit_file_names() {
        assert!(is_server_name(&"a".repeat(128)));
        assert!(!is_server_name(&"a".repeat(129)));
        assert!(!is_server_name(&"é".repeat(64)), "384 bytes when escaped");
        assert!(!is_server_name(""));
    }

    #[test]
    fn other_names_are_nothing() {
        for name in [
            "",
            "config",
            "config/01",
            "config/+1",
            "packs/00/ff",
            "snapshots/a/1/../x",
            "x/y",
            "snapshots/%61/1/20261122T010203",
            "snapshots//1/20261122T010203",
            "wal/a/1/00000001/-0123456789abcdef0123456789abcdef",
            "snapshots/a/1/20261122t010203",
            "keys/.tmp-1",
            "role/",
            "index/AB",
            "config/0",
            "maintenance/0",
            "notes/a/20261122T010203/0",
            "wal/a/1/00000001/..-0123456789abcdef0123456789abcdef",
            "wal/a/1/00000002/000000010000000000000001-0123456789abcdef0123456789abcdef",
            "wal/a/1/00000001/00000001.00000002-00000002-0123456789abcdef0123456789abcdef",
            "wal/a/1/00000001/00000001.2-3-0123456789abcdef0123456789abcdef",
            "wal/a/1/00000001/00000001.0000000a-0000000b-0123456789abcdef0123456789abcdef",
            "wal/a/1/00000001/00000001-0123456789ABCDEF0123456789abcdef",
            "role\n",
            "servers/a/0",
            "servers/a/01",
            "servers/a",
            "servers/a/b/1",
            "servers/%61/1",
        ] {
            assert_eq!(ObjectName::parse(name), None, "{name}");
        }
    }
}
