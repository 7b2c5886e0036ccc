//! Arbitrary valid values of every record.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use repo_format::blob::{BlobHeader, ChunkSpan, Encoding};
use repo_format::chunk::ChunkKind;
use repo_format::config::{Chunking, Config, Features, Packing};
use repo_format::content::{Content, MapLeaf, Run, push_run};
use repo_format::environment::{Collation, Contents, Database, Environment, Extension};
use repo_format::ids::{
    ChunkId, Digest, IndexId, PackId, RepositoryId, SessionId, SlotId, SnapshotHash,
};
use repo_format::keys::{Epoch, MasterSecrets, Secret};
use repo_format::maintenance::{Maintenance, Phase};
use repo_format::names::{BackupName, ObjectName, WalObjectName};
use repo_format::note::{Fact, Failure, KeepTarget, Note};
use repo_format::pack::PackEntry;
use repo_format::seal::OVERHEAD;
use repo_format::server::{AcceptedSystem, History, ServerRecord};
use repo_format::session::{Activity, Session};
use repo_format::slot::{Argon2id, Rights, SlotHeader, SlotSecrets, Unlock};
use repo_format::snapshot::{
    BadPage, BadPages, Cluster, ConfigFiles, Configuration, Endpoint, Method, Snapshot, Statistics,
    Tablespace, WalNeeded,
};
use repo_format::tree::{Directory, DirectoryRef, Entry, File, Node};
use repo_format::wal::WalHeader;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), ".{0,12}", "[a-z/.]{1,40}"]
}

/// Few different ones, so that equal neighbours happen.
pub fn chunk_id() -> impl Strategy<Value = ChunkId> {
    prop_oneof![
        (0u8..4).prop_map(|byte| ChunkId::from_bytes([byte; 32])),
        any::<[u8; 32]>().prop_map(ChunkId::from_bytes),
    ]
}

fn server() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9_.-]{1,20}", "\\PC{1,10}"]
}

fn backup_id() -> impl Strategy<Value = String> {
    "[0-9]{8}T[0-9]{6}"
}

pub fn backup_name() -> impl Strategy<Value = BackupName> {
    (server(), any::<u64>(), backup_id()).prop_map(|(server, system_id, backup_id)| BackupName {
        server,
        system_id,
        backup_id,
    })
}

fn wal_name() -> impl Strategy<Value = WalObjectName> {
    let part = option::of(
        (any::<u32>(), any::<u32>())
            .prop_filter_map("empty", |(a, b)| (a != b).then_some((a.min(b), a.max(b)))),
    );
    (
        server(),
        any::<u64>(),
        any::<u32>(),
        "[0-9A-F]{0,16}(\\.[a-z]{1,8}){0,2}",
        part,
        any::<[u8; 16]>(),
    )
        .prop_map(|(server, system_id, timeline, file, part, digest)| {
            let file = format!("{timeline:08X}{file}");
            WalObjectName { server, system_id, timeline, file, part, digest }
        })
}

pub fn object_name() -> impl Strategy<Value = ObjectName> {
    let number = || 1..=u64::MAX;
    prop_oneof![
        number().prop_map(ObjectName::Config),
        Just(ObjectName::Role),
        any::<[u8; 16]>().prop_map(|id| ObjectName::KeySlot(SlotId::from_bytes(id))),
        any::<[u8; 32]>().prop_map(|id| ObjectName::Pack(PackId::from_bytes(id))),
        any::<[u8; 32]>().prop_map(|id| ObjectName::Index(IndexId::from_bytes(id))),
        backup_name().prop_map(ObjectName::Snapshot),
        (server(), backup_id(), number())
            .prop_map(|(server, backup_id, number)| ObjectName::Note { server, backup_id, number }),
        (server(), number()).prop_map(|(server, number)| ObjectName::Server { server, number }),
        wal_name().prop_map(ObjectName::Wal),
        wal_name().prop_map(ObjectName::Conflict),
        (any::<[u8; 16]>(), number())
            .prop_map(|(id, beat)| ObjectName::Session { id: SessionId::from_bytes(id), beat }),
        number().prop_map(ObjectName::Maintenance),
    ]
}

pub fn runs() -> impl Strategy<Value = Vec<Run>> {
    let run =
        prop_oneof![
            (1u64..1 << 40).prop_map(|length| Run::Zero { length }),
            (chunk_id(), 0u32..1 << 19, 1u32..=1 << 19)
                .prop_map(|(id, offset, length)| Run::Chunk { id, offset, length }),
        ];
    vec(run, 0..12).prop_map(|list| {
        let mut runs = vec![];
        list.into_iter().for_each(|run| push_run(&mut runs, run));
        runs
    })
}

pub fn content() -> impl Strategy<Value = Content> {
    let leaf = (chunk_id(), 1u64..1 << 40).prop_map(|(chunk, covers)| MapLeaf { chunk, covers });
    prop_oneof![runs().prop_map(Content::Runs), vec(leaf, 1..6).prop_map(Content::Map)]
}

fn directory_ref() -> impl Strategy<Value = DirectoryRef> {
    let run = (chunk_id(), 0u32..1 << 19, 1u32..=1 << 19)
        .prop_map(|(id, offset, length)| Run::Chunk { id, offset, length });
    vec(run, 0..6).prop_map(|list| {
        let mut runs = vec![];
        list.into_iter().for_each(|run| push_run(&mut runs, run));
        let content = Content::Runs(runs);
        DirectoryRef { length: content.validate().unwrap(), content }
    })
}

pub fn directory() -> impl Strategy<Value = Directory> {
    let file = (0u32..0o10000, any::<i64>(), any::<[u8; 32]>(), content()).prop_map(
        |(mode, mtime, digest, content)| {
            let (size, digest) = (content.validate().unwrap(), Digest::from_bytes(digest));
            Node::File(File { mode, mtime, size, digest, content })
        },
    );
    let node = prop_oneof![
        3 => file,
        1 => (0u32..0o10000, directory_ref())
            .prop_map(|(mode, entries)| Node::Directory { mode, entries }),
        1 => vec(1u8.., 1..20).prop_map(|target| Node::Symlink { target }),
    ];
    let name = vec(any::<u8>(), 1..20).prop_filter("no name", |name| {
        !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b".."
    });
    btree_map(name, node, 0..8).prop_map(|entries: BTreeMap<Vec<u8>, Node>| Directory {
        entries: entries.into_iter().map(|(name, node)| Entry { name, node }).collect(),
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let config_files = (text(), text(), text(), vec(text(), 0..3))
        .prop_map(|(config, hba, ident, included)| ConfigFiles { config, hba, ident, included });
    let endpoint = (text(), any::<u16>()).prop_map(|(host, port)| Endpoint { host, port });
    (
        (any::<u32>(), any::<u32>(), 10u32..=15, 20u32..=30, any::<u32>(), option::of(endpoint)),
        (any::<bool>(), any::<Option<bool>>(), option::of(text()), option::of(config_files)),
        any::<u64>(),
    )
        .prop_map(
            |(
                (version, catalog, block, segment, checksums, endpoint),
                (standby, wal, data, files),
                size,
            )| {
                Cluster {
                    version,
                    catalog_version: catalog,
                    block_size: 1 << block,
                    wal_segment_size: 1 << segment,
                    data_checksums: checksums,
                    endpoint,
                    from_standby: standby,
                    summarize_wal: wal,
                    data_directory: data,
                    config_files: files,
                    size,
                }
            },
        )
}

fn contents() -> impl Strategy<Value = Contents> {
    let extensions = btree_map(text(), text(), 0..3);
    let collations = btree_map((text(), text()), (text(), text()), 0..3);
    (extensions, collations).prop_map(|(extensions, collations)| Contents {
        extensions: extensions
            .into_iter()
            .map(|(name, version)| Extension { name, version })
            .collect(),
        collations: collations
            .into_iter()
            .map(|((schema, name), (provider, version))| Collation {
                schema,
                name,
                provider,
                version,
            })
            .collect(),
    })
}

fn environment() -> impl Strategy<Value = Environment> {
    let some = || option::of(text());
    let database = (
        (text(), text(), text(), text(), text()),
        (some(), some(), some()),
        option::of(contents()),
    );
    (text(), (some(), some(), some()), btree_map(any::<u32>(), database, 0..3), 0u32..9).prop_map(
        |(version, (libc_version, icu_version, preload_libraries), databases, left_out)| {
            let databases = databases.into_iter().map(|(oid, (texts, versions, contents))| {
                let (name, encoding, provider, collate, ctype) = texts;
                let (locale, collation_version, actual_version) = versions;
                Database {
                    oid,
                    name,
                    encoding,
                    provider,
                    collate,
                    ctype,
                    locale,
                    collation_version,
                    actual_version,
                    contents,
                }
            });
            Environment {
                version,
                libc_version,
                icu_version,
                preload_libraries,
                databases: databases.collect(),
                left_out,
            }
        },
    )
}

fn configuration() -> impl Strategy<Value = Configuration> {
    (directory_ref(), btree_set(text(), 0..3))
        .prop_map(|(files, unread)| Configuration { files, unread: unread.into_iter().collect() })
}

pub fn snapshot() -> impl Strategy<Value = Snapshot> {
    let tablespaces = btree_map(any::<u32>(), (text(), vec(1u8.., 1..20)), 0..4);
    let bad_pages = vec((text(), any::<u32>()), 0..4);
    let method = prop_oneof![
        Just(Method::Stream),
        Just(Method::Local),
        Just(Method::Agent),
        Just(Method::Import)
    ];
    (
        (backup_name(), 1..=u64::MAX, btree_set(any::<[u8; 32]>(), 0..3), option::of(text())),
        (any::<[i64; 2]>(), text(), text(), method, cluster()),
        (any::<[u64; 2]>(), any::<[u32; 2]>(), directory_ref(), 0u32..0o10000, tablespaces),
        (bad_pages, any::<u32>(), any::<bool>(), option::of(backup_id()), any::<[u64; 7]>()),
        (option::of(environment()), option::of(configuration())),
        option::of(vec(any::<u8>(), 0..80)),
    )
        .prop_map(|(who, how, what, rest, (environment, configuration), signature)| {
            let (name, sequence, previous, label) = who;
            let ([begun_at, ended_at], host, program, method, cluster) = how;
            let ([start_lsn, stop_lsn], [start_timeline, stop_timeline], root, root_mode, spaces) =
                what;
            let (
                bad,
                more,
                trusted,
                parent,
                [files, bytes, zero_bytes, new_bytes, stored_bytes, new_chunks, copy_micros],
            ) = rest;
            Snapshot {
                server: name.server,
                system_id: name.system_id,
                backup_id: name.backup_id,
                sequence,
                previous: previous.into_iter().map(SnapshotHash::from_bytes).collect(),
                name: label,
                begun_at,
                ended_at,
                host,
                program,
                method,
                cluster,
                environment,
                wal: WalNeeded { start_lsn, start_timeline, stop_lsn, stop_timeline },
                root,
                root_mode,
                configuration,
                tablespaces: spaces
                    .into_iter()
                    .map(|(oid, (name, location))| Tablespace { oid, name, location })
                    .collect(),
                bad_pages: BadPages {
                    count: bad.len() as u64 + u64::from(more),
                    first: bad.into_iter().map(|(path, block)| BadPage { path, block }).collect(),
                },
                trusted,
                parent,
                statistics: Statistics {
                    files,
                    bytes,
                    zero_bytes,
                    new_bytes,
                    stored_bytes,
                    new_chunks,
                    copy_micros,
                },
                signature,
            }
        })
}

pub fn note() -> impl Strategy<Value = Note> {
    let failed = (text(), any::<i64>(), option::of(text()), any::<Option<u64>>()).prop_map(
        |(reason, begun_at, name, system_id)| {
            Fact::Failed(Failure { reason, begun_at, name, system_id })
        },
    );
    let fact = prop_oneof![
        Just(Fact::Keep(KeepTarget::Full)),
        Just(Fact::Keep(KeepTarget::Standalone)),
        Just(Fact::Release),
        failed,
        (any::<bool>(), text()).prop_map(|(good, report)| Fact::Rehearsed { good, report }),
        text().prop_map(|reason| Fact::Deleted { reason }),
        Just(Fact::Undeleted),
    ];
    (any::<i64>(), text(), fact).prop_map(|(at, host, fact)| Note { at, host, fact })
}

pub fn session() -> impl Strategy<Value = Session> {
    let backups = || {
        btree_set(backup_name(), 0..3)
            .prop_map(|set: BTreeSet<BackupName>| set.into_iter().collect::<Vec<_>>())
    };
    let backup = (server(), backup_id(), backups(), any::<Option<(u64, u32)>>()).prop_map(
        |(server, backup_id, parents, start)| Activity::Backup {
            server,
            backup_id,
            parents,
            start,
        },
    );
    let activity = prop_oneof![
        backup,
        server().prop_map(|server| Activity::EncodeWal { server }),
        (text(), backups()).prop_map(|(purpose, backups)| Activity::Read { purpose, backups }),
        text().prop_map(|origin| Activity::Receive { origin }),
    ];
    (activity, text(), text(), any::<u32>(), any::<u64>(), any::<i64>(), text()).prop_map(
        |(activity, host, boot_id, process, process_start, begun_at, user)| Session {
            activity,
            host,
            boot_id,
            process,
            process_start,
            begun_at,
            user,
        },
    )
}

pub fn maintenance() -> impl Strategy<Value = Maintenance> {
    let expired = prop_oneof![
        backup_name().prop_map(ObjectName::Snapshot),
        wal_name().prop_map(ObjectName::Wal),
        wal_name().prop_map(ObjectName::Conflict),
    ];
    let phase = prop_oneof![Just(Phase::Intent), Just(Phase::Deleting), Just(Phase::Done)];
    (
        (phase, any::<i64>(), text(), any::<u32>()),
        btree_set(any::<[u8; 32]>(), 0..4),
        btree_set(any::<[u8; 32]>(), 0..4),
        vec(expired, 0..4),
    )
        .prop_map(|((phase, begun_at, host, process), packs, indexes, objects)| {
            let objects: BTreeSet<String> = objects.iter().map(ToString::to_string).collect();
            let mut record = Maintenance {
                phase,
                begun_at,
                host,
                process,
                packs: packs.into_iter().map(PackId::from_bytes).collect(),
                indexes: indexes.into_iter().map(IndexId::from_bytes).collect(),
                objects: objects.into_iter().collect(),
            };
            if phase == Phase::Done {
                record.packs.clear();
                record.indexes.clear();
                record.objects.clear();
            }
            record
        })
}

pub fn server_record() -> impl Strategy<Value = ServerRecord> {
    let systems = vec((0u64..4, any::<i64>()), 0..6).prop_map(|systems| {
        let systems = systems.into_iter().map(|(system_id, at)| AcceptedSystem { system_id, at });
        let mut systems: Vec<_> = systems.collect();
        systems.dedup_by_key(|system| system.system_id);
        systems
    });
    let history = prop_oneof![
        systems.prop_map(|systems| History::Here { systems }),
        server().prop_map(|server| History::Elsewhere { server }),
    ];
    (any::<i64>(), text(), history).prop_map(|(at, host, history)| ServerRecord {
        at,
        host,
        history,
    })
}

pub fn config() -> impl Strategy<Value = Config> {
    let features = || btree_set("[a-z-]{1,12}", 0..3).prop_map(|set| set.into_iter().collect());
    let sizes = (1u32..=32, 0u32..=32, 0u32..=64, 1u32..=16384);
    (
        (1..=u64::MAX, any::<[u8; 16]>(), any::<i64>()),
        (features(), features(), features()),
        (sizes, 8u32..=17, (1u32..1 << 29, 0u32..1 << 29)),
    )
        .prop_map(|((number, id, created_at), (read, write, prune), (page, stream, pack))| {
            Config {
                number,
                repository: RepositoryId::from_bytes(id),
                created_at,
                features: Features { read, write, prune },
                chunking: Chunking {
                    page_minimum: page.0 * 8192,
                    page_average: (page.0 + page.1) * 8192,
                    page_maximum: (page.0 + page.1 + page.2) * 8192,
                    page_restart: page.3 * 8192,
                    stream_minimum: 1 << (stream - 2),
                    stream_average: 1 << stream,
                    stream_maximum: 1 << (stream + 2),
                },
                packing: Packing { minimum: pack.0, maximum: pack.0 + pack.1 },
            }
        })
}

pub fn slot_header() -> impl Strategy<Value = SlotHeader> {
    let argon2 = (64u32..1 << 20, 1u32..=64, 1u32..=8, any::<[u8; 16]>()).prop_map(
        |(memory_kib, passes, lanes, salt)| {
            Unlock::Password(Argon2id { memory_kib, passes, lanes, salt })
        },
    );
    let unlock = prop_oneof![
        argon2,
        Just(Unlock::KeyFile),
        any::<[u8; 32]>().prop_map(|ephemeral| Unlock::PublicKey { ephemeral }),
    ];
    (unlock, text(), any::<i64>()).prop_map(|(unlock, label, created_at)| SlotHeader {
        unlock,
        label,
        created_at,
    })
}

pub fn slot_secrets() -> impl Strategy<Value = SlotSecrets> {
    let epochs = btree_map(1u32.., any::<[u8; 32]>(), 1..4);
    (any::<[u8; 16]>(), any::<[u8; 32]>(), epochs, vec(any::<u8>(), 0..50), any::<u64>()).prop_map(
        |(id, identity, epochs, config, config_number)| SlotSecrets {
            rights: Rights::Full,
            secrets: MasterSecrets {
                repository: RepositoryId::from_bytes(id),
                identity: Secret::from_bytes(identity),
                epochs: epochs
                    .into_iter()
                    .map(|(number, secret)| Epoch { number, secret: Secret::from_bytes(secret) })
                    .collect(),
            },
            config,
            config_number,
        },
    )
}

pub fn chunk_spans() -> impl Strategy<Value = Vec<ChunkSpan>> {
    vec((chunk_id(), 1u32..=1 << 20).prop_map(|(id, length)| ChunkSpan { id, length }), 1..=4)
}

pub fn kind() -> impl Strategy<Value = ChunkKind> {
    prop_oneof![
        Just(ChunkKind::Data),
        Just(ChunkKind::Wal),
        Just(ChunkKind::Map),
        Just(ChunkKind::Tree),
        Just(ChunkKind::Snapshot),
    ]
}

pub fn blob_header() -> impl Strategy<Value = BlobHeader> {
    (kind(), chunk_spans()).prop_map(|(kind, chunks)| BlobHeader { kind, chunks })
}

/// Entries of blobs of `kind`, one after the other from `start` on.
pub fn pack_entries(
    start: u64,
    kinds: impl Strategy<Value = ChunkKind>,
    deltas: bool,
) -> impl Strategy<Value = Vec<PackEntry>> {
    let entry = (kinds, 0u8..3, chunk_spans(), 0u32..5000, btree_set(chunk_id(), 1..4));
    vec(entry, 0..6).prop_map(move |list| {
        let mut at = start;
        list.into_iter()
            .map(|(kind, encoding, chunks, body, bases)| {
                let delta = deltas && encoding == 2 && kind.base_kind().is_some();
                let encoding = match encoding {
                    _ if delta => Encoding::Delta,
                    0 => Encoding::Raw,
                    _ => Encoding::Zstd,
                };
                let entry = PackEntry {
                    offset: at,
                    header_length: (OVERHEAD + 3 + 36 * chunks.len()) as u32,
                    body_length: OVERHEAD as u32 + body,
                    kind,
                    encoding,
                    chunks,
                    bases: if delta { bases.into_iter().collect() } else { vec![] },
                };
                at = entry.end();
                entry
            })
            .collect()
    })
}

pub fn wal_header() -> impl Strategy<Value = WalHeader> {
    let blobs = pack_entries(0, Just(ChunkKind::Wal), false);
    (text(), any::<[u8; 32]>(), any::<i64>(), text(), blobs, 0u64..1 << 20, any::<u16>()).prop_map(
        |(file, digest, archived_at, host, blobs, zeros, cut)| {
            // The last place of an id counts: where it has two lengths, the shorter is taken.
            let spans: Vec<ChunkSpan> = blobs.iter().flat_map(|blob| blob.chunks.clone()).collect();
            let mut runs = vec![];
            for span in &spans {
                let same = spans.iter().filter(|other| other.id == span.id);
                let length = same.map(|other| other.length).min().unwrap_or_default();
                let offset = u32::from(cut).min(length - 1);
                push_run(&mut runs, Run::Chunk { id: span.id, offset, length: length - offset });
            }
            if zeros > 0 {
                push_run(&mut runs, Run::Zero { length: zeros });
            }
            let content = Content::Runs(runs);
            WalHeader {
                file,
                size: content.validate().unwrap(),
                digest: Digest::from_bytes(digest),
                archived_at,
                host,
                content,
                blobs,
            }
        },
    )
}
