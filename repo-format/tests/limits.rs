//! What is at a limit works, and what is over it is refused by the writer already.

use repo_format::blob::{self, BlobHeader, ChunkSpan, Encoder};
use repo_format::chunk::ChunkKind;
use repo_format::codec::{DecodeError, decode};
use repo_format::content::{Content, Run, decode_leaf, encode_leaf, push_run};
use repo_format::ids::{ChunkId, PackId};
use repo_format::index::IndexBuilder;
use repo_format::limits::{LEAF, MAX_BLOB, MAX_CHUNK, MAX_RUNS};
use repo_format::names::ObjectName;
use repo_format::pack::PackEntry;
use repo_format::record::{Record, SealError};
use repo_format::server::{AcceptedSystem, History, ServerRecord};
use repo_format::snapshot::Snapshot;

use crate::fixtures;

fn page(number: usize) -> Run {
    let id = ChunkId::from_bytes(*blake3::hash(&(number as u64).to_le_bytes()).as_bytes());
    Run::Chunk { id, offset: 8192, length: 8192 }
}

#[test]
fn a_gibibyte_of_single_pages_can_be_described() {
    const WINDOW: usize = 64 << 20;
    let runs: Vec<Run> = (0..(1 << 30) / LEAF).map(page).collect();
    assert_eq!(runs.len(), 131_072);
    let leaves: Vec<Vec<u8>> =
        runs.chunks(WINDOW / LEAF).map(|runs| encode_leaf(runs).unwrap()).collect();
    assert_eq!(leaves.len(), 16);
    assert!(leaves.iter().all(|leaf| leaf.len() == 335_876 && leaf.len() <= MAX_CHUNK));
    let read: Vec<Run> =
        leaves.iter().flat_map(|leaf| decode_leaf(leaf, WINDOW as u64).unwrap()).collect();
    assert_eq!(read, runs);
    // The largest leaf fits a chunk; one more run is refused.
    let largest: Vec<Run> = (0..MAX_RUNS).map(page).collect();
    assert!(encode_leaf(&largest).unwrap().len() <= MAX_CHUNK);
    assert!(encode_leaf(&(0..=MAX_RUNS).map(page).collect::<Vec<_>>()).is_err());
}

#[test]
fn neighbours_that_are_one_run_are_one() {
    let id = ChunkId::from_bytes([1; 32]);
    let run = |offset, length| Run::Chunk { id, offset, length };
    for (one, two, joined) in [
        (Run::Zero { length: 1 }, Run::Zero { length: 2 }, Some(Run::Zero { length: 3 })),
        (run(0, 10), run(10, 5), Some(run(0, 15))),
        (run(0, 10), run(11, 5), None),
        (run(10, 5), run(0, 10), None),
        (run(0, 10), page(1), None),
        (Run::Zero { length: 1 }, run(0, 1), None),
    ] {
        assert_eq!(Content::Runs(vec![one, two]).validate().is_ok(), joined.is_none());
        let mut runs = vec![];
        push_run(&mut runs, one);
        push_run(&mut runs, two);
        assert_eq!(runs, joined.map_or(vec![one, two], |joined| vec![joined]));
    }
    let long = Run::Zero { length: u64::MAX };
    assert!(Content::Runs(vec![long]).validate().is_err(), "longer than any file");
    assert!(Content::Runs(vec![run(0, 0)]).validate().is_err(), "an empty run");
    assert!(Content::Runs(vec![run(u32::MAX, 1)]).validate().is_err(), "beyond any chunk");
    assert!(Content::Map(vec![]).validate().is_err(), "the empty file has no map");
    assert_eq!(Content::Runs(vec![]).validate(), Ok(0));
    assert!(encode_leaf(&[]).is_err());
}

#[test]
fn the_largest_blob_works_and_no_larger() {
    let keys = fixtures::keys(1);
    let content = vec![7; MAX_CHUNK];
    let id = keys.naming().chunk_id_of(ChunkKind::Data, &content);
    let span = ChunkSpan { id, length: MAX_CHUNK as u32 };
    let count = MAX_BLOB / MAX_CHUNK;
    let body = Encoder::new(1).unwrap().encode(&content.repeat(count)).unwrap();
    let header = |count| BlobHeader { kind: ChunkKind::Data, chunks: vec![span; count] };
    assert!(blob::seal(&keys, header(count), &body).is_ok());
    let over = blob::seal(&keys, header(count + 1), &body);
    assert!(matches!(over, Err(SealError::Invalid(DecodeError::Limit { .. }))));
    assert!(blob::seal(&keys, header(0), &body).is_err());
    let padded = body.clone().padded(2 * MAX_BLOB);
    assert!(blob::seal(&keys, header(count), &padded).is_err());
    assert!(blob::seal(&keys, header(count), &body.padded(usize::MAX)).is_err());
}

#[test]
fn a_snapshot_copy_is_never_a_delta() {
    let keys = fixtures::keys(1);
    let content = fixtures::noise("base", 1000);
    let id = keys.naming().chunk_id_of(ChunkKind::Data, &content);
    let base = blob::BaseRange { chunk: id, offset: 0, length: 1000 };
    let body = Encoder::new(1).unwrap().encode_delta(&content, vec![base], &content).unwrap();
    let header = |kind| BlobHeader { kind, chunks: vec![ChunkSpan { id, length: 1000 }] };
    assert!(blob::seal(&keys, header(ChunkKind::Snapshot), &body).is_err());
    assert!(blob::seal(&keys, header(ChunkKind::Wal), &body).is_ok());
    assert!(body.content(1000, &content[1..]).is_err(), "a shorter base");
}

#[test]
fn one_zstd_frame_is_a_payload_and_two_are_not() {
    let body = Encoder::new(1).unwrap().encode(&[9; 3000]).unwrap();
    let plaintext = body.encode().unwrap();
    let payload = &plaintext[7..];
    let twice =
        [&[1, 0, 0][..], &(2 * payload.len() as u32).to_le_bytes(), payload, payload].concat();
    let twice = blob::BlobBody::decode(&twice).unwrap();
    assert_eq!(body.content(3000, &[]).unwrap(), vec![9; 3000]);
    assert!(twice.content(6000, &[]).is_err());
    assert!(body.content(2999, &[]).is_err());
    assert!(body.content(3001, &[]).is_err());
    assert!(body.content(usize::MAX, &[]).is_err());
}

#[test]
fn the_index_refuses_absurd_packs() {
    let entry = |length| PackEntry {
        offset: 10,
        header_length: 91 + 36,
        body_length: 100,
        kind: ChunkKind::Data,
        encoding: blob::Encoding::Raw,
        chunks: vec![ChunkSpan { id: ChunkId::from_bytes([1; 32]), length }],
        bases: vec![],
    };
    let id = PackId::from_bytes([2; 32]);
    let pack = |length, entries| IndexBuilder::default().pack(id, length, entries);
    assert!(pack(400, vec![entry(5)]).is_ok());
    assert!(pack(200, vec![entry(5)]).is_err(), "beyond its pack");
    assert!(pack(400, vec![entry(u32::MAX)]).is_err(), "a chunk of 4 GiB");
    assert!(pack(4000, vec![entry(5), entry(5)]).is_err(), "two blobs in one place");
    assert!(pack(u64::MAX, vec![]).is_err());
}

#[test]
fn hostile_lengths_allocate_little() {
    // A count of four billion items, and no bytes for them: refused at once.
    let bytes = [0xff; 64];
    assert!(decode::<Vec<u64>>("list", &bytes, 64).is_err());
    assert!(decode::<Vec<Vec<u8>>>("list", &bytes, 64).is_err());
    assert!(decode::<Vec<String>>("list", &bytes, 64).is_err());
    assert!(decode::<Vec<Run>>("list", &bytes, 64).is_err());
    assert!(decode::<u64>("over its limit", &bytes, 63).is_err());
}

#[test]
fn a_server_record_leads_to_another_name_and_has_bounds() {
    let keys = fixtures::keys(1);
    let seal = |history: &History| {
        let name = ObjectName::Server { server: "main".into(), number: 1 };
        let record = ServerRecord { at: 0, host: String::new(), history: history.clone() };
        record.seal(&keys, &name)
    };
    let here = |systems: &[u64]| History::Here {
        systems: systems.iter().map(|id| AcceptedSystem { system_id: *id, at: 0 }).collect(),
    };
    let elsewhere = |server: &str| History::Elsewhere { server: server.to_owned() };
    for valid in
        [here(&[]), here(&[1, 2, 1]), here(&(0..1024).collect::<Vec<u64>>()), elsewhere("other")]
    {
        assert!(seal(&valid).is_ok(), "{valid:?}");
    }
    for invalid in
        [here(&[1, 1]), here(&(0..1025).collect::<Vec<u64>>()), elsewhere("main"), elsewhere("")]
    {
        assert!(seal(&invalid).is_err(), "{invalid:?}");
    }
}

#[test]
fn a_record_fits_its_name_or_is_not_sealed() {
    let keys = fixtures::keys(1);
    let (name, object) = fixtures::files()
        .into_iter()
        .find_map(|(path, object)| {
            let name = ObjectName::parse(
                path.strip_prefix("repository/snapshots/")
                    .map(|_| path.strip_prefix("repository/").unwrap_or_default())?,
            )?;
            Some((name, object))
        })
        .unwrap();
    let snapshot = Snapshot::open(&keys, &name, &object).unwrap();
    assert!(snapshot.seal(&keys, &name).is_ok());
    assert!(snapshot.seal(&keys, &ObjectName::Config(1)).is_err());
    let other = Snapshot { backup_id: "20261122T230204".into(), ..snapshot.clone() };
    assert!(other.seal(&keys, &name).is_err());
    let mut invalid = vec![
        Snapshot { sequence: 0, ..snapshot.clone() },
        Snapshot { backup_id: "../../etc".into(), ..snapshot.clone() },
        Snapshot { server: "x".repeat(129), ..snapshot.clone() },
        Snapshot { parent: Some("yesterday".into()), ..snapshot.clone() },
        Snapshot { root_mode: 0o100_700, ..snapshot.clone() },
        Snapshot { host: "x".repeat(1 << 20), ..snapshot.clone() },
    ];
    let mut segments = snapshot.clone();
    segments.cluster.wal_segment_size = 0;
    invalid.push(segments);
    let mut twice = snapshot.clone();
    twice.tablespaces.push(twice.tablespaces[0].clone());
    invalid.push(twice);
    let mut databases = snapshot.clone();
    databases.environment.as_mut().unwrap().databases.reverse();
    invalid.push(databases);
    let mut large = snapshot.clone();
    large.environment.as_mut().unwrap().version = "x".repeat(256 << 10);
    invalid.push(large);
    let mut unread = snapshot.clone();
    unread.configuration.as_mut().unwrap().unread = vec!["same".into(), "same".into()];
    invalid.push(unread);
    for snapshot in invalid {
        assert!(snapshot.seal(&keys, &snapshot.object_name()).is_err());
    }
}
