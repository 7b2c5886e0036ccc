//! Any bytes, cut and grouped and encoded in any way, come back as they were.

use std::collections::HashMap;

use proptest::prelude::*;
use repo_format::blob::{self, BaseRange, BlobHeader, ChunkSpan, Encoder};
use repo_format::chunk::ChunkKind;
use repo_format::content::{Content, MapLeaf, Run, encode_leaf, push_run};
use repo_format::index::{IndexBuilder, IndexRun};
use repo_format::keys::{KeyRing, MasterSecrets};
use repo_format::pack::{self, PackBuilder};

use crate::reader::Reader;

/// How a file is stored, by a random hand.
#[derive(Debug, Clone)]
struct Plan {
    /// Lengths of chunks, taken in turn.
    cuts: Vec<usize>,
    /// How many chunks a blob has, taken in turn.
    groups: Vec<usize>,
    /// Which blobs are deltas on the first chunk, taken in turn.
    deltas: Vec<bool>,
    padding: usize,
    /// How many runs a leaf of a map has; 0: no map.
    leaf: usize,
    level: i32,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        prop::collection::vec(1usize..20_000, 1..8),
        prop::collection::vec(1usize..5, 1..4),
        prop::collection::vec(any::<bool>(), 1..4),
        0usize..300,
        0usize..5,
        -1i32..6,
    )
        .prop_map(|(cuts, groups, deltas, padding, leaf, level)| Plan {
            cuts,
            groups,
            deltas,
            padding,
            leaf,
            level,
        })
}

/// Bytes with something to compress, zeros, repetition and noise.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..2000),
        (any::<u8>(), 0usize..40_000).prop_map(|(byte, length)| vec![byte; length]),
        (prop::collection::vec(any::<u8>(), 1..20), 0usize..500)
            .prop_map(|(piece, times)| piece.repeat(times)),
        (0usize..40_000).prop_map(|length| vec![0; length]),
        any::<u64>().prop_map(|seed| crate::fixtures::noise(&seed.to_string(), 9000)),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// Stores `bytes` as `plan` says, in one data pack and one metadata pack.
fn store(keys: &KeyRing, bytes: &[u8], plan: &Plan) -> (Content, Reader) {
    let mut encoder = Encoder::new(plan.level).unwrap();
    let naming = keys.naming();
    let mut runs = vec![];
    let mut chunks: Vec<(ChunkSpan, &[u8])> = vec![];
    let (mut rest, mut turn) = (bytes, 0);
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(plan.cuts[turn % plan.cuts.len()].min(rest.len()));
        (rest, turn) = (tail, turn + 1);
        let length = chunk.len() as u32;
        if chunk.iter().all(|byte| *byte == 0) {
            push_run(&mut runs, Run::Zero { length: length.into() });
            continue;
        }
        let id = naming.chunk_id_of(ChunkKind::Data, chunk);
        push_run(&mut runs, Run::Chunk { id, offset: 0, length });
        if chunks.iter().all(|(span, _)| span.id != id) {
            chunks.push((ChunkSpan { id, length }, chunk));
        }
    }

    let mut data = PackBuilder::default();
    let first = chunks.first().cloned();
    let (mut at, mut turn) = (0, 0);
    while at < chunks.len() {
        // The first chunk is alone and plain, so that it can be a base.
        let count = if at == 0 { 1 } else { plan.groups[turn % plan.groups.len()] };
        let group = &chunks[at..chunks.len().min(at + count)];
        let content: Vec<u8> = group.iter().flat_map(|(_, chunk)| chunk.to_vec()).collect();
        let spans = group.iter().map(|(span, _)| *span).collect();
        let delta = at > 0 && plan.deltas[turn % plan.deltas.len()];
        let body = match &first {
            Some((base, prefix)) if delta => {
                let half = base.length / 2;
                let range = |offset, length| BaseRange { chunk: base.id, offset, length };
                // The base in two halves, the second first.
                let (bases, prefix) = if half == 0 {
                    (vec![range(0, base.length)], prefix.to_vec())
                } else {
                    let (one, two) = prefix.split_at(half as usize);
                    (vec![range(half, base.length - half), range(0, half)], [two, one].concat())
                };
                encoder.encode_delta(&content, bases, &prefix).unwrap()
            }
            _ => encoder.encode(&content).unwrap(),
        };
        let header = BlobHeader { kind: ChunkKind::Data, chunks: spans };
        data.push(&blob::seal(keys, header, &body.padded(plan.padding)).unwrap()).unwrap();
        (at, turn) = (at + group.len(), turn + 1);
    }

    let mut metadata = PackBuilder::default();
    let content = if plan.leaf == 0 || runs.is_empty() {
        Content::Runs(runs)
    } else {
        let mut leaves: Vec<MapLeaf> = vec![];
        for runs in runs.chunks(plan.leaf) {
            let bytes = encode_leaf(runs).unwrap();
            let id = naming.chunk_id_of(ChunkKind::Map, &bytes);
            if leaves.iter().all(|leaf| leaf.chunk != id) {
                let chunks = vec![ChunkSpan { id, length: bytes.len() as u32 }];
                let header = BlobHeader { kind: ChunkKind::Map, chunks };
                let body = encoder.encode(&bytes).unwrap();
                metadata.push(&blob::seal(keys, header, &body).unwrap()).unwrap();
            }
            leaves.push(MapLeaf { chunk: id, covers: runs.iter().map(Run::length).sum() });
        }
        Content::Map(leaves)
    };

    let mut index = IndexBuilder::default();
    let mut packs = HashMap::new();
    for builder in [data, metadata] {
        let length = builder.length();
        let pack = builder.finish(keys).unwrap();
        assert_eq!(pack.bytes.len(), length, "the length is known before");
        let entries = pack::open(keys, &pack.id, &pack.bytes).unwrap();
        assert_eq!(entries, pack.entries);
        assert_eq!(pack::scan(keys, &pack.bytes), entries);
        index.pack(pack.id, pack.bytes.len() as u64, entries).unwrap();
        packs.insert(pack.id, pack.bytes);
    }
    let length = index.length();
    let (id, object) = index.finish(keys).unwrap();
    assert_eq!(object.len(), length, "the length is known before");
    let runs = vec![IndexRun::open(keys, &id, &object).unwrap()];
    (content, Reader { keys: keys.clone(), runs, packs })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_come_back(bytes in bytes(), plan in plan()) {
        let keys = KeyRing::new(&MasterSecrets::random().unwrap()).unwrap();
        let (content, reader) = store(&keys, &bytes, &plan);
        prop_assert_eq!(content.validate().unwrap(), bytes.len() as u64);
        prop_assert!(reader.content(ChunkKind::Data, &content).unwrap() == bytes);
    }

    #[test]
    fn the_digest_does_not_depend_on_the_pieces(
        bytes in bytes(),
        pieces in prop::collection::vec(1usize..30_000, 1..5),
    ) {
        let keys = KeyRing::new(&crate::fixtures::secrets()).unwrap();
        let mut hasher = repo_format::chunk::FileHasher::new(keys.naming());
        let (mut rest, mut turn) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(pieces[turn % pieces.len()].min(rest.len()));
            (rest, turn) = (tail, turn + 1);
            hasher.update(piece);
        }
        prop_assert_eq!(hasher.finish(), keys.naming().digest_of(&bytes));
    }

    #[test]
    fn a_damaged_stretch_costs_only_the_blobs_it_touches(
        at in 0usize..5000, length in 1usize..600, seed in any::<u64>(),
    ) {
        let keys = KeyRing::new(&crate::fixtures::secrets()).unwrap();
        let bytes = crate::fixtures::noise(&seed.to_string(), 6000);
        let plan = Plan {
            cuts: vec![700], groups: vec![1], deltas: vec![false], padding: 0, leaf: 0, level: 1,
        };
        let (_, reader) = store(&keys, &bytes, &plan);
        let (id, pack) = reader.packs.iter().max_by_key(|(_, pack)| pack.len()).unwrap();
        let entries = pack::open(&keys, id, pack).unwrap();
        let mut damaged = pack.clone();
        let end = damaged.len().min(at + length);
        damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let found = pack::scan(&keys, &damaged);
        let intact: Vec<_> = entries
            .into_iter()
            .filter(|entry| entry.end() as usize <= at || entry.offset as usize >= end)
            .collect();
        prop_assert_eq!(found, intact);
    }
}
