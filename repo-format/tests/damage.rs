//! Every byte of every kind of object, flipped, cut off, or swapped with its neighbour: it is found, as
//! accident and as attack.

use std::collections::HashMap;

use repo_format::config::Config;
use repo_format::content::{Content, Run};
use repo_format::envelope::{self, CHECKSUM};
use repo_format::ids::{IndexId, PackId};
use repo_format::index::IndexRun;
use repo_format::keys::KeyRing;
use repo_format::maintenance::Maintenance;
use repo_format::names::ObjectName;
use repo_format::note::Note;
use repo_format::record::Record;
use repo_format::role::PlaceRole;
use repo_format::server::ServerRecord;
use repo_format::session::Session;
use repo_format::slot::{self, Credential};
use repo_format::snapshot::Snapshot;
use repo_format::wal::WalObject;
use repo_format::{chunk::ChunkKind, pack};
use zeroize::Zeroizing;

use crate::fixtures;
use crate::reader::Reader;

/// Everything that an object says, as text; nothing if it is refused.
type Reading = Option<String>;

/// Reads an object with the keys as far as it can be read.
fn read(reader: &Reader, name: &ObjectName, object: &[u8]) -> Reading {
    let keys = &reader.keys;
    Some(match name {
        ObjectName::Config(n) => format!("{:?}", Config::open(keys.naming(), *n, object).ok()?),
        ObjectName::Role => format!("{:?}", PlaceRole::decode(object).ok()?),
        ObjectName::KeySlot(id) => {
            let password = fixtures::PASSWORD.as_bytes().to_vec();
            let credentials = [
                Credential::Password(Zeroizing::new(password)),
                Credential::KeyFile(fixtures::key_file()),
            ];
            let mut opened =
                credentials.iter().filter_map(|it| slot::open(id, object, it).ok().flatten());
            let secrets = opened.next()?;
            format!("{:?} {:?}", slot::header(object).ok()?, secrets.config().ok()?)
        }
        ObjectName::Pack(id) => read_pack(reader, id, object)?,
        ObjectName::Index(id) => format!("{:?}", IndexRun::open(keys, id, object).ok()?),
        ObjectName::Snapshot(_) => format!("{:?}", Snapshot::open(keys, name, object).ok()?),
        ObjectName::Note { .. } => format!("{:?}", Note::open(keys, name, object).ok()?),
        ObjectName::Server { .. } => format!("{:?}", ServerRecord::open(keys, name, object).ok()?),
        ObjectName::Session { .. } => format!("{:?}", Session::open(keys, name, object).ok()?),
        ObjectName::Maintenance(_) => format!("{:?}", Maintenance::open(keys, name, object).ok()?),
        ObjectName::Wal(_) | ObjectName::Conflict(_) => read_wal(reader, name, object)?,
    })
}

fn read_pack(reader: &Reader, id: &PackId, object: &[u8]) -> Reading {
    let entries = pack::open(&reader.keys, id, object).ok()?;
    let mut text = format!("{entries:?}");
    for entry in &entries {
        let frame = entry.frame(&object[entry.offset as usize..entry.end() as usize]).ok()?;
        let chunks = reader.blob(&frame, entry.kind, false).ok()?;
        text += &format!("{chunks:?}");
    }
    Some(text)
}

fn read_wal(reader: &Reader, name: &ObjectName, object: &[u8]) -> Reading {
    let wal = WalObject::open(&reader.keys, name, object).ok()?;
    let mut chunks = HashMap::new();
    for entry in &wal.header.blobs {
        chunks.extend(reader.blob(&wal.frame(entry).ok()?, ChunkKind::Wal, false).ok()?);
    }
    let Content::Runs(runs) = &wal.header.content else { return None };
    let mut bytes = vec![];
    for run in runs {
        match run {
            Run::Zero { length } => bytes.resize(bytes.len() + *length as usize, 0),
            Run::Chunk { id, offset, length } => {
                let range = *offset as usize..(*offset + *length) as usize;
                bytes.extend_from_slice(chunks.get(id)?.get(range)?);
            }
        }
    }
    // The digest over a mebibyte is left out: what is compared here is stronger.
    Some(format!("{:?} {}", wal.header, blake3::hash(&bytes)))
}

/// The repository of the vectors, and the objects to damage: one of each kind is enough of the large.
fn repository() -> (Reader, Vec<(ObjectName, Vec<u8>)>) {
    let keys = KeyRing::new(&fixtures::secrets()).unwrap();
    let objects: Vec<(ObjectName, Vec<u8>)> = fixtures::files()
        .into_iter()
        .filter_map(|(path, bytes)| {
            Some((ObjectName::parse(path.strip_prefix("repository/")?)?, bytes))
        })
        .collect();
    let (mut runs, mut packs) = (vec![], HashMap::new());
    for (name, object) in &objects {
        match name {
            ObjectName::Index(id) => runs.push(IndexRun::open(&keys, id, object).unwrap()),
            ObjectName::Pack(id) => drop(packs.insert(*id, object.clone())),
            _ => {}
        }
    }
    (Reader { keys, runs, packs }, objects)
}

/// Every small damage that can be done to `object`.
fn damages(object: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flipped = (0..object.len()).map(|at| {
        let mut damaged = object.to_vec();
        damaged[at] ^= 1;
        damaged
    });
    let cut = (0..object.len()).map(|at| object[..at].to_vec());
    let without = (0..object.len()).map(|at| [&object[..at], &object[at + 1..]].concat());
    let twice =
        (0..object.len()).map(|at| [&object[..at], &object[at..=at], &object[at..]].concat());
    let swapped = (1..object.len()).filter(|at| object[*at] != object[*at - 1]).map(|at| {
        let mut damaged = object.to_vec();
        damaged.swap(at - 1, at);
        damaged
    });
    let longer = std::iter::once([object, &[0]].concat());
    flipped.chain(cut).chain(without).chain(twice).chain(swapped).chain(longer)
}

/// Reads every damaged form of `object` after `repair`; none may say anything that the object did not.
fn every_damage_is_found(
    reader: &Reader,
    name: &ObjectName,
    object: &[u8],
    step: usize,
    repair: impl Fn(Vec<u8>) -> (ObjectName, Vec<u8>),
) {
    assert!(read(reader, name, object).is_some(), "{name}");
    for (at, damaged) in damages(object).enumerate().step_by(step) {
        if damaged == object {
            continue;
        }
        let (name, damaged) = repair(damaged);
        assert_eq!(read(reader, &name, &damaged), None, "damage {at} of {name}");
    }
}

/// Large objects are mostly ciphertext; every so many damages of theirs are tried.
fn step(object: &[u8]) -> usize {
    if object.len() > 4000 { 7 } else { 1 }
}

#[test]
fn every_accident_is_found() {
    let (reader, objects) = repository();
    for (name, object) in &objects {
        every_damage_is_found(&reader, name, object, step(object), |it| (name.clone(), it));
    }
}

#[test]
fn every_change_with_a_right_checksum_or_name_is_found() {
    let (reader, objects) = repository();
    for (name, object) in &objects {
        match name {
            // Nothing authenticates the role: it guards against mistakes.
            ObjectName::Role => {}
            ObjectName::Pack(_) => {
                every_damage_is_found(&reader, name, object, step(object), |it| {
                    (ObjectName::Pack(PackId::from_bytes(*blake3::hash(&it).as_bytes())), it)
                })
            }
            ObjectName::Index(_) => every_damage_is_found(&reader, name, object, 1, |it| {
                (ObjectName::Index(IndexId::from_bytes(*blake3::hash(&it).as_bytes())), it)
            }),
            _ => {
                let body = &object[..object.len() - CHECKSUM];
                assert!(read(&reader, name, object).is_some(), "{name}");
                for (at, mut damaged) in damages(body).enumerate().step_by(step(object)) {
                    if damaged != body {
                        envelope::finish(&mut damaged);
                        assert_eq!(read(&reader, name, &damaged), None, "change {at} of {name}");
                    }
                }
            }
        }
    }
}

#[test]
fn no_object_opens_under_another_name() {
    let (reader, objects) = repository();
    for (name, object) in &objects {
        for (other, _) in objects.iter().filter(|(other, _)| other != name) {
            assert_eq!(read(&reader, other, object), None, "{name} as {other}");
        }
    }
}

#[test]
fn nothing_opens_with_the_keys_of_another_repository() {
    let (mut reader, objects) = repository();
    let id = repo_format::ids::RepositoryId::from_bytes([1; 16]);
    let same_keys = repo_format::keys::MasterSecrets { repository: id, ..fixtures::secrets() };
    reader.keys = KeyRing::new(&same_keys).unwrap();
    for (name, object) in &objects {
        match name {
            ObjectName::Role | ObjectName::KeySlot(_) | ObjectName::Config(_) => {}
            _ => assert_eq!(read(&reader, name, object), None, "{name}"),
        }
    }
}
