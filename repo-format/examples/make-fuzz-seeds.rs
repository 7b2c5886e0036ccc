//! Writes the seeds of the fuzz targets from the golden objects:
//! `cargo run -p repo-format --example make-fuzz-seeds`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/fixtures/mod.rs"]
#[allow(dead_code)]
mod fixtures;

use repo_format::chunk::ChunkKind;
use repo_format::config::Config;
use repo_format::envelope::CHECKSUM;
use repo_format::index::IndexRun;
use repo_format::keys::KeyRing;
use repo_format::maintenance::Maintenance;
use repo_format::names::ObjectName;
use repo_format::note::Note;
use repo_format::record::Record;
use repo_format::server::ServerRecord;
use repo_format::session::Session;
use repo_format::slot::{self, Credential};
use repo_format::snapshot::Snapshot;
use repo_format::wal::WalObject;
use repo_format::{codec, pack};

/// Seeds are written as `corpus/<target>/seed-<what>-<number>`; the first byte picks the parser.
struct Seeds {
    keys: KeyRing,
    count: usize,
}

impl Seeds {
    fn put(&mut self, target: &str, what: &str, parts: &[&[u8]]) {
        self.count += 1;
        let corpus = fixtures::directory().join("../../fuzz/corpus").join(target);
        std::fs::create_dir_all(&corpus).unwrap();
        let file = corpus.join(format!("seed-{what}-{}", self.count));
        std::fs::write(file, parts.concat()).unwrap();
    }

    fn object(&mut self, name: &ObjectName, object: &[u8]) {
        self.put("format_names", "name", &[name.to_string().as_bytes()]);
        let body = &object[..object.len() - CHECKSUM];
        let keys = self.keys.clone();
        match name {
            ObjectName::Config(_) => {
                let record = Config::peek(object).unwrap().encode().unwrap();
                self.put("format_config_and_keys", "configuration", &[&[0], &record]);
                self.put("format_config_and_keys", "object", &[&[1], body]);
            }
            ObjectName::Role => self.put("format_config_and_keys", "role", &[&[6], body]),
            ObjectName::KeySlot(id) => {
                let header = slot::header(object).unwrap().encode().unwrap();
                self.put("format_config_and_keys", "slot", &[&[2], &header]);
                self.put("format_config_and_keys", "slot-object", &[&[3], body]);
                let credential = Credential::KeyFile(fixtures::key_file());
                if let Some(secrets) = slot::open(id, object, &credential).unwrap() {
                    let secrets = secrets.encode().unwrap();
                    self.put("format_config_and_keys", "secrets", &[&[4], &secrets]);
                }
                let text = repo_format::keyfile::encode(&fixtures::key_file());
                self.put("format_config_and_keys", "key-file", &[&[5], text.as_bytes()]);
            }
            ObjectName::Pack(id) => self.pack(&pack::open(&keys, id, object).unwrap(), object),
            ObjectName::Index(id) => {
                let run = IndexRun::open(&keys, id, object).unwrap().encode();
                self.put("format_index", "run", &[&run]);
            }
            ObjectName::Snapshot(_) => {
                let record = Snapshot::open(&keys, name, object).unwrap().encode().unwrap();
                self.put("format_records", "snapshot", &[&[0], &record]);
            }
            ObjectName::Note { .. } => {
                let record = Note::open(&keys, name, object).unwrap().encode().unwrap();
                self.put("format_records", "note", &[&[1], &record]);
            }
            ObjectName::Session { .. } => {
                let record = Session::open(&keys, name, object).unwrap().encode().unwrap();
                self.put("format_records", "session", &[&[2], &record]);
            }
            ObjectName::Maintenance(_) => {
                let record = Maintenance::open(&keys, name, object).unwrap().encode().unwrap();
                self.put("format_records", "maintenance", &[&[3], &record]);
            }
            ObjectName::Server { .. } => {
                let record = ServerRecord::open(&keys, name, object).unwrap().encode().unwrap();
                self.put("format_records", "server", &[&[4], &record]);
            }
            ObjectName::Wal(_) | ObjectName::Conflict(_) => {
                let header = WalObject::open(&keys, name, object).unwrap().header;
                self.put("format_wal", "header", &[&[0], &header.encode().unwrap()]);
                if body.len() < 2000 {
                    self.put("format_wal", "object", &[&[1], body]);
                }
            }
        }
    }

    fn pack(&mut self, entries: &[pack::PackEntry], object: &[u8]) {
        let keys = self.keys.clone();
        let end = entries.last().unwrap().end() as u32;
        let footer = codec::encode(&entries.to_vec());
        self.put("format_packs", "footer", &[&[0], &end.to_le_bytes(), &footer]);
        let trailer = &object[object.len() - pack::TRAILER..];
        let length = object.len() as u64;
        self.put("format_packs", "trailer", &[&[1], &length.to_le_bytes(), trailer]);
        if object.len() < 5000 {
            self.put("format_packs", "search", &[&[2], object]);
            self.put("format_packs", "pack", &[&[3], object]);
        }
        for entry in entries {
            let bytes = &object[entry.offset as usize..entry.end() as usize];
            let frame = entry.frame(bytes).unwrap();
            let header = frame.open_header(&keys).unwrap();
            let body = frame.open_body(&keys, &header).unwrap();
            self.put("format_blobs", "header", &[&[1], &header.encode().unwrap()]);
            if bytes.len() > 5000 {
                continue;
            }
            self.put("format_blobs", "frame", &[&[0], bytes]);
            let plaintext = body.encode().unwrap();
            self.put("format_blobs", "body", &[&[2], &plaintext]);
            let length = (header.content_length() as u16).to_le_bytes();
            let prefix: usize = body.bases().iter().map(|base| base.length as usize).sum();
            let prefix = (prefix as u16).to_le_bytes();
            self.put("format_blobs", "content", &[&[3], &length, &prefix, &plaintext]);
            let content = body.content(header.content_length(), &[]);
            if let Ok(content) = content {
                match header.kind {
                    ChunkKind::Map => {
                        let covers: u64 = (2 + 20) * 8192 + 100;
                        self.put("format_trees", "leaf", &[&[1], &covers.to_le_bytes(), &content]);
                    }
                    ChunkKind::Tree => {
                        let mut rest = content.as_slice();
                        for chunk in &header.chunks {
                            let (directory, tail) = rest.split_at(chunk.length as usize);
                            rest = tail;
                            self.put("format_trees", "directory", &[&[0], directory]);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn main() {
    let mut seeds = Seeds { keys: KeyRing::new(&fixtures::secrets()).unwrap(), count: 0 };
    for (path, object) in fixtures::files() {
        if let Some(name) = path.strip_prefix("repository/") {
            seeds.object(&ObjectName::parse(name).unwrap(), &object);
        }
    }
    let code = repo_format::recovery_code::encode(&fixtures::key_file());
    seeds.put("format_config_and_keys", "recovery-code", &[&[7], code.as_bytes()]);
}
