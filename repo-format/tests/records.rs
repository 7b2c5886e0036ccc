//! `decode(encode(x)) == x` for any record, and `encode(decode(b)) == b` for any bytes that still decode.

use proptest::prelude::*;
use repo_format::blob::{BlobBody, BlobHeader};
use repo_format::codec;
use repo_format::config::Config;
use repo_format::content::{decode_leaf, encode_leaf};
use repo_format::ids::{IndexId, PackId};
use repo_format::index::{IndexBuilder, IndexRun};
use repo_format::maintenance::Maintenance;
use repo_format::names::ObjectName;
use repo_format::note::Note;
use repo_format::pack;
use repo_format::record::Record;
use repo_format::server::ServerRecord;
use repo_format::session::Session;
use repo_format::slot::{SlotHeader, SlotSecrets};
use repo_format::snapshot::Snapshot;
use repo_format::tree::Directory;
use repo_format::wal::WalHeader;
use repo_format::{ids::ChunkId, keyfile, keys::Secret, recovery_code};

use crate::arbitrary;

/// A change to some bytes.
#[derive(Debug, Clone)]
enum Mutation {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, u8),
    Remove(usize, usize),
    Copy(usize, usize, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = || any::<usize>();
    let byte = || prop_oneof![0u8..4, any::<u8>(), Just(0xff)];
    let mutation = prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        (at(), 1usize..40).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (at(), at(), 1usize..40).prop_map(|(from, to, count)| Mutation::Copy(from, to, count)),
    ];
    prop::collection::vec(mutation, 1..3)
}

fn mutate(bytes: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for mutation in mutations {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        match *mutation {
            Mutation::Set(at, byte) => bytes[at % length] = byte,
            Mutation::Flip(at, bit) => bytes[at % length] ^= 1 << bit,
            Mutation::Insert(at, byte) => bytes.insert(at % (length + 1), byte),
            Mutation::Remove(at, count) => {
                let at = at % length;
                bytes.drain(at..length.min(at + count));
            }
            Mutation::Copy(from, to, count) => {
                let (from, to) = (from % length, to % length);
                let piece = bytes[from..length.min(from + count)].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

/// Both directions for one value and one mutation of its bytes.
macro_rules! canonical {
    ($value:expr, $mutations:expr, $encode:expr, $decode:expr) => {{
        let bytes = $encode(&$value).expect("a valid value");
        prop_assert_eq!(&$decode(&bytes).expect("what was encoded"), &$value);
        let mutated = mutate(&bytes, &$mutations);
        if let Ok(other) = $decode(&mutated) {
            prop_assert!($encode(&other).expect("what was decoded") == mutated);
        }
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn snapshots(value in arbitrary::snapshot(), mutations in mutations()) {
        canonical!(value, mutations, Snapshot::encode, |b: &[u8]| Snapshot::decode(b));
    }

    #[test]
    fn notes(value in arbitrary::note(), mutations in mutations()) {
        canonical!(value, mutations, Note::encode, |b: &[u8]| Note::decode(b));
    }

    #[test]
    fn servers(value in arbitrary::server_record(), mutations in mutations()) {
        canonical!(value, mutations, ServerRecord::encode, |b: &[u8]| ServerRecord::decode(b));
    }

    #[test]
    fn sessions(value in arbitrary::session(), mutations in mutations()) {
        canonical!(value, mutations, Session::encode, |b: &[u8]| Session::decode(b));
    }

    #[test]
    fn maintenance(value in arbitrary::maintenance(), mutations in mutations()) {
        canonical!(value, mutations, Maintenance::encode, |b: &[u8]| Maintenance::decode(b));
    }

    #[test]
    fn configurations(value in arbitrary::config(), mutations in mutations()) {
        canonical!(value, mutations, Config::encode, |b: &[u8]| Config::decode(b));
    }

    #[test]
    fn slot_headers(value in arbitrary::slot_header(), mutations in mutations()) {
        canonical!(value, mutations, SlotHeader::encode, |b: &[u8]| SlotHeader::decode(b));
    }

    #[test]
    fn slot_secrets(value in arbitrary::slot_secrets(), mutations in mutations()) {
        let encode = |value: &SlotSecrets| value.encode().map(|bytes| bytes.to_vec());
        canonical!(value, mutations, encode, |b: &[u8]| SlotSecrets::decode(b));
    }

    #[test]
    fn directories(value in arbitrary::directory(), mutations in mutations()) {
        canonical!(value, mutations, Directory::encode, |b: &[u8]| Directory::decode(b));
    }

    #[test]
    fn leaves_of_maps(runs in arbitrary::runs(), mutations in mutations()) {
        prop_assume!(!runs.is_empty());
        let covers = |runs: &[_]| runs.iter().map(repo_format::content::Run::length).sum();
        let encode = |runs: &Vec<_>| encode_leaf(runs);
        let length: u64 = covers(&runs);
        canonical!(runs, mutations, encode, |b: &[u8]| decode_leaf(b, length));
    }

    #[test]
    fn wal_headers(value in arbitrary::wal_header(), mutations in mutations()) {
        canonical!(value, mutations, WalHeader::encode, |b: &[u8]| WalHeader::decode(b));
    }

    #[test]
    fn blob_headers(value in arbitrary::blob_header(), mutations in mutations()) {
        canonical!(value, mutations, BlobHeader::encode, |b: &[u8]| BlobHeader::decode(b));
    }

    #[test]
    fn blob_bodies(
        encoding in 0u8..3,
        bases in prop::collection::vec((arbitrary::chunk_id(), 0u32..1000, 1u32..1000), 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        padding in 0usize..40,
        mutations in mutations(),
    ) {
        // There is no way to make a body of such parts but its bytes.
        let mut bytes = vec![encoding];
        bytes.extend_from_slice(&(bases.len() as u16).to_le_bytes());
        for (id, offset, length) in &bases {
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.resize(bytes.len() + padding, 0);
        prop_assert_eq!(BlobBody::decode(&bytes).is_ok(), (encoding == 2) != bases.is_empty());
        for bytes in [mutate(&bytes, &mutations), bytes] {
            if let Ok(body) = BlobBody::decode(&bytes) {
                prop_assert_eq!(body.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn pack_footers(
        entries in arbitrary::pack_entries(10, arbitrary::kind(), true),
        mutations in mutations(),
    ) {
        let end = entries.last().map_or(10, |entry| entry.end());
        let encode = |entries: &Vec<_>| Ok::<_, codec::DecodeError>(codec::encode(entries));
        canonical!(entries, mutations, encode, |b: &[u8]| pack::decode_footer(end, b));
    }

    #[test]
    fn index_runs(
        packs in prop::collection::btree_map(
            any::<[u8; 32]>(), arbitrary::pack_entries(10, arbitrary::kind(), true), 0..4,
        ),
        superseded in prop::collection::btree_set(any::<[u8; 32]>(), 0..3),
        mutations in mutations(),
    ) {
        let mut builder = IndexBuilder::default();
        for (id, entries) in &packs {
            let length = entries.last().map_or(10, |entry| entry.end()) + 50;
            let id = PackId::from_bytes(*id);
            builder.pack(id, length, entries.clone()).unwrap();
            // A pack that is there is not taken twice.
            builder.pack(id, length, vec![]).unwrap();
        }
        superseded.iter().for_each(|id| builder.supersede(IndexId::from_bytes(*id)));
        let bytes = builder.encode().unwrap();
        let run = IndexRun::decode(&bytes).unwrap();
        prop_assert_eq!(run.encode(), bytes.clone());
        prop_assert_eq!(run.superseded().len(), superseded.len());

        // Everything is found again, where it is.
        for (pack_id, entries) in &packs {
            for entry in entries {
                let mut offset = 0;
                for chunk in &entry.chunks {
                    let bases: Vec<_> = entry.bases.iter().map(ChunkId::short).collect();
                    let found = run.find(&chunk.id).any(|it| {
                        it.blob.pack.as_bytes() == pack_id
                            && (it.blob.offset, it.blob.header_length, it.blob.body_length)
                                == (entry.offset, entry.header_length, entry.body_length)
                            && (it.blob.kind, it.blob.encoding) == (entry.kind, entry.encoding)
                            && u64::from(it.blob.content_length) == entry.content_length()
                            && (it.offset, it.length) == (offset, chunk.length)
                            && run.bases(it.blob_number) == bases
                    });
                    prop_assert!(found);
                    offset += chunk.length;
                }
            }
        }
        let mutated = mutate(&bytes, &mutations);
        if let Ok(run) = IndexRun::decode(&mutated) {
            prop_assert_eq!(run.encode(), mutated);
            run.chunks().for_each(drop);
            (0..run.blob_count()).for_each(|number| drop(run.bases(number).to_vec()));
        }
    }

    #[test]
    fn names(name in arbitrary::object_name(), mutations in mutations()) {
        let text = name.to_string();
        prop_assert_eq!(ObjectName::parse(&text), Some(name));
        prop_assert!(text.split('/').all(|part| !part.starts_with('.') && part.len() <= 255));
        if let Ok(other) = String::from_utf8(mutate(text.as_bytes(), &mutations))
            && let Some(name) = ObjectName::parse(&other)
        {
            prop_assert_eq!(name.to_string(), other);
        }
    }

    #[test]
    fn key_files(bytes in any::<[u8; 32]>(), mutations in mutations()) {
        let secret = Secret::from_bytes(bytes);
        let text = keyfile::encode(&secret);
        prop_assert_eq!(keyfile::decode(text.as_bytes()), Ok(secret));
        let mutated = mutate(text.as_bytes(), &mutations);
        if let Ok(secret) = keyfile::decode(&mutated) {
            let again = keyfile::encode(&secret);
            prop_assert!(again.trim_end().as_bytes() == mutated.trim_ascii_end());
        }
    }

    #[test]
    fn recovery_codes(bytes in any::<[u8; 32]>(), mutations in mutations()) {
        let secret = Secret::from_bytes(bytes);
        let code = recovery_code::encode(&secret);
        prop_assert_eq!(recovery_code::decode(&code), Ok(secret));
        if let Ok(text) = String::from_utf8(mutate(code.as_bytes(), &mutations))
            && let Ok(secret) = recovery_code::decode(&text)
        {
            let plain = |text: &str| text.replace(|c: char| c.is_whitespace() || c == '-', "").to_lowercase();
            prop_assert_eq!(plain(&recovery_code::encode(&secret)), plain(&text));
        }
    }

    #[test]
    fn noise_is_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let keys = repo_format::keys::KeyRing::new(&crate::fixtures::secrets()).unwrap();
        prop_assert!(repo_format::blob::Frame::split(&bytes).is_err() || bytes.len() >= 8);
        prop_assert_eq!(pack::scan(&keys, &bytes), vec![]);
        prop_assert!(repo_format::role::PlaceRole::decode(&bytes).is_err());
        prop_assert!(Config::peek(&bytes).is_err());
        prop_assert!(repo_format::slot::header(&bytes).is_err());
    }
}
