//! Golden objects: read as anyone would read a repository, and made again byte by byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use repo_format::blob::BlobHeader;
use repo_format::chunk::ChunkKind;
use repo_format::config::Config;
use repo_format::content::{Content, Run};
use repo_format::ids::{IndexId, PackId};
use repo_format::index::IndexRun;
use repo_format::keys::{KeyRing, NamingKeys};
use repo_format::maintenance::Maintenance;
use repo_format::names::ObjectName;
use repo_format::note::Note;
use repo_format::record::Record;
use repo_format::role::PlaceRole;
use repo_format::server::ServerRecord;
use repo_format::session::Session;
use repo_format::slot::{self, Credential};
use repo_format::snapshot::Snapshot;
use repo_format::tree::{Directory, DirectoryRef, Node};
use repo_format::wal::WalObject;
use repo_format::{keyfile, pack};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::fixtures;
use crate::reader::Reader;

/// All files below `vectors/`, but the README.
fn stored() -> BTreeMap<String, Vec<u8>> {
    let root = fixtures::directory();
    let (mut files, mut todo) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.file_name().unwrap() != "README.md" {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

fn objects() -> BTreeMap<ObjectName, Vec<u8>> {
    let name = |path: String| path.strip_prefix("repository/").map(str::to_owned);
    stored()
        .into_iter()
        .filter_map(|(path, bytes)| Some((name(path)?, bytes)))
        .map(|(name, bytes)| (ObjectName::parse(&name).expect("a name of the format"), bytes))
        .collect()
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures::directory().join(path)).unwrap()).unwrap()
}

#[test]
fn everything_is_made_again_byte_by_byte() {
    let (stored, made) = (stored(), fixtures::files());
    let names: BTreeSet<&String> = made.iter().map(|(path, _)| path).collect();
    assert_eq!(names.len(), made.len(), "two files have one name");
    assert_eq!(stored.keys().collect::<BTreeSet<_>>(), names);
    for (path, bytes) in &made {
        if path.ends_with(".json") {
            // The order of keys depends on features of the JSON library.
            let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            assert_eq!(value(&stored[path]), value(bytes), "{path} has changed");
        } else {
            assert!(stored[path] == *bytes, "{path} has changed");
        }
    }
}

/// What a reader that knows nothing but the key file and the objects can do.
struct Repository {
    reader: Reader,
    keys: KeyRing,
    objects: BTreeMap<ObjectName, Vec<u8>>,
}

impl Repository {
    fn open() -> Self {
        let objects = objects();
        let secret = keyfile::decode(json("keys.json")["key_file"].as_str().unwrap().as_bytes());
        let credential = Credential::KeyFile(secret.unwrap());
        let secrets = objects.iter().find_map(|(name, object)| match name {
            ObjectName::KeySlot(id) => slot::open(id, object, &credential).unwrap(),
            _ => None,
        });
        let keys = KeyRing::new(&secrets.unwrap().secrets).unwrap();
        let runs: Vec<(IndexId, IndexRun)> = objects
            .iter()
            .filter_map(|(name, object)| match name {
                ObjectName::Index(id) => Some((*id, IndexRun::open(&keys, id, object).unwrap())),
                _ => None,
            })
            .collect();
        let superseded: Vec<IndexId> =
            runs.iter().flat_map(|(_, run)| run.superseded().to_vec()).collect();
        assert_eq!((runs.len(), superseded.len()), (2, 1));
        let runs = runs.into_iter().filter(|(id, _)| !superseded.contains(id)).map(|(_, run)| run);
        let packs = objects
            .iter()
            .filter_map(|(name, object)| match name {
                ObjectName::Pack(id) => Some((*id, object.clone())),
                _ => None,
            })
            .collect();
        let reader = Reader { runs: runs.collect(), keys: keys.clone(), packs };
        Repository { reader, keys, objects }
    }

    fn walk(&self, path: &str, directory: &DirectoryRef, files: &mut HashMap<String, Vec<u8>>) {
        let bytes = self.reader.content(ChunkKind::Tree, &directory.content).unwrap();
        for entry in Directory::decode(&bytes).unwrap().entries {
            let path = format!("{path}{}", String::from_utf8_lossy(&entry.name));
            match entry.node {
                Node::Directory { entries, .. } => self.walk(&format!("{path}/"), &entries, files),
                Node::Symlink { target } => assert_eq!(target, b"log/\xfe"),
                Node::File(file) => {
                    let bytes = self.reader.content(ChunkKind::Data, &file.content).unwrap();
                    assert_eq!(bytes.len() as u64, file.size);
                    assert_eq!(self.keys.naming().digest_of(&bytes), file.digest, "{path}");
                    files.insert(path, bytes);
                }
            }
        }
    }
}

#[test]
fn the_backup_is_restored() {
    let repository = Repository::open();
    let expected = json("backup.json");
    let name = ObjectName::parse(expected["snapshot"].as_str().unwrap()).unwrap();
    let snapshot = Snapshot::open(&repository.keys, &name, &repository.objects[&name]).unwrap();
    assert_eq!(snapshot.hash().to_string(), expected["hash"].as_str().unwrap());
    let record = snapshot.encode().unwrap();
    assert_eq!(fixtures::hex(&record), expected["record"].as_str().unwrap());
    let mut files = HashMap::new();
    for tree in snapshot.trees() {
        repository.walk("", tree, &mut files);
    }
    let listed = expected["files"].as_array().unwrap();
    assert_eq!(files.len(), listed.len());
    for file in listed {
        let hash = blake3::hash(&files[file["path"].as_str().unwrap()]).to_string();
        assert_eq!(hash, file["blake3"].as_str().unwrap());
    }
    // The copy of the record is a chunk.
    let id = repository.keys.naming().chunk_id_of(ChunkKind::Snapshot, &record);
    assert_eq!(repository.reader.chunk(ChunkKind::Snapshot, &id).unwrap(), record);
}

#[test]
fn the_wal_is_restored() {
    let repository = Repository::open();
    let mut seen = 0;
    for (name, object) in &repository.objects {
        let (ObjectName::Wal(_) | ObjectName::Conflict(_)) = name else { continue };
        seen += 1;
        let wal = WalObject::open(&repository.keys, name, object).unwrap();
        let mut chunks = HashMap::new();
        for entry in &wal.header.blobs {
            let frame = wal.frame(entry).unwrap();
            let header: BlobHeader = frame.open_header(&repository.keys).unwrap();
            assert_eq!(header, entry.header());
            let body = frame.open_body(&repository.keys, &header).unwrap();
            let content = body.content(header.content_length(), &[]).unwrap();
            chunks.insert(header.chunks[0].id, content);
        }
        let Content::Runs(runs) = &wal.header.content else { panic!("WAL has no map") };
        let bytes: Vec<u8> = runs
            .iter()
            .flat_map(|run| match run {
                Run::Zero { length } => vec![0; *length as usize],
                Run::Chunk { id, .. } => chunks[id].clone(),
            })
            .collect();
        assert_eq!(repository.keys.naming().digest_of(&bytes), wal.header.digest, "{name}");
    }
    assert_eq!(seen, 4);
}

#[test]
fn everything_around_is_read() {
    let repository = Repository::open();
    let keys = &repository.keys;
    let password = fixtures::PASSWORD.as_bytes().to_vec();
    let password = Credential::Password(Zeroizing::new(password));
    let (mut opened, mut kinds) = (0, BTreeSet::new());
    for (name, object) in &repository.objects {
        let text = name.to_string();
        kinds.insert(text.split('/').next().unwrap().to_owned());
        match name {
            ObjectName::Config(number) => {
                let config = Config::open(keys.naming(), *number, object).unwrap();
                assert_eq!(config.repository, *keys.repository());
            }
            ObjectName::Role => {
                assert_eq!(PlaceRole::decode(object).unwrap(), PlaceRole::Mirror);
            }
            ObjectName::KeySlot(id) => {
                if let Some(secrets) = slot::open(id, object, &password).unwrap() {
                    assert_eq!(secrets.secrets, fixtures::secrets());
                    assert_eq!(secrets.config().unwrap().number, 1);
                    opened += 1;
                }
            }
            ObjectName::Note { .. } => drop(Note::open(keys, name, object).unwrap()),
            ObjectName::Server { .. } => drop(ServerRecord::open(keys, name, object).unwrap()),
            ObjectName::Session { .. } => drop(Session::open(keys, name, object).unwrap()),
            ObjectName::Maintenance(_) => drop(Maintenance::open(keys, name, object).unwrap()),
            ObjectName::Pack(id) => {
                let entries = pack::open(keys, id, object).unwrap();
                assert_eq!(pack::scan(keys, object), entries, "without its footer");
            }
            ObjectName::Index(_)
            | ObjectName::Snapshot(_)
            | ObjectName::Wal(_)
            | ObjectName::Conflict(_) => {}
        }
    }
    assert_eq!(opened, 1, "one slot is for the password");
    assert_eq!(kinds.len(), 12, "{kinds:?}");
}

#[test]
fn kept_payloads_decode_with_this_zstd_too() {
    // Compression may change with zstd's version; decompression never does. The objects are read in
    // the other tests; here, what the encoder makes today of the same content must decode as well.
    let content = fixtures::noise("three leaves", 5000).repeat(3);
    let mut encoder = repo_format::blob::Encoder::new(3).unwrap();
    let body = encoder.encode(&content).unwrap();
    assert_eq!(body.content(content.len(), &[]).unwrap(), content);
}

#[test]
fn identities_are_those_of_the_vectors() {
    let naming = NamingKeys::new(&fixtures::secrets().identity);
    for case in json("identity.json")["cases"].as_array().unwrap() {
        let path = fixtures::directory().join(case["content"].as_str().unwrap());
        let content = std::fs::read(path).unwrap();
        assert_eq!(naming.digest_of(&content).to_string(), case["digest"].as_str().unwrap());
        if let Some(id) = case["chunk_ids"].get("data") {
            let found = naming.chunk_id_of(ChunkKind::Data, &content).to_string();
            assert_eq!(found, id.as_str().unwrap());
        }
    }
    let cuts = &json("identity.json")["two_cuts"];
    let case = json("identity.json")["cases"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(cuts["digest"], case["digest"]);
}

#[test]
fn a_pack_under_another_name_is_refused() {
    let repository = Repository::open();
    for (name, object) in &repository.objects {
        if let ObjectName::Pack(_) = name {
            let other = PackId::from_bytes([7; 32]);
            assert!(pack::open(&repository.keys, &other, object).is_err());
        }
    }
}
