//! The plaintext of index runs, and everything that is asked of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::ids::ChunkId;
use repo_format::index::IndexRun;

fuzz_target!(|data: &[u8]| {
    let run = barman_fuzz::canonical(data, IndexRun::decode, |run| Ok::<_, ()>(run.encode()));
    let Some(run) = run else { return };
    assert_eq!(run.chunks().count(), run.len());
    for (short, location) in run.chunks() {
        assert!(run.find_short(short).any(|found| found == location));
        let blob = run.blob(location.blob_number).expect("a chunk has a blob");
        assert!(location.offset + location.length <= blob.content_length);
        assert!(run.packs().any(|(id, length)| {
            id == blob.pack && blob.offset + blob.frame_length() <= length
        }));
        let _ = run.bases(location.blob_number);
    }
    assert!(run.blob(run.blob_count()).is_none());
    assert!(run.bases(u32::MAX).is_empty());
    let _ = run.find(&ChunkId::from_bytes([0xff; 32])).count();
});
