//! Packs. First byte: 0 footer, 1 trailer, 2 search for frames, 3 whole pack under its name.
#![no_main]

use barman_fuzz::{keys, pick};
use libfuzzer_sys::fuzz_target;
use repo_format::codec;
use repo_format::ids::PackId;
use repo_format::index::{IndexBuilder, IndexRun};
use repo_format::pack;

fuzz_target!(|data: &[u8]| {
    let Some((parser, input)) = pick(data, 4) else { return };
    match parser {
        0 => {
            // Where the footer begins, then the footer. What is accepted can be indexed.
            let Some((offset, input)) = input.split_first_chunk::<4>() else { return };
            let offset = u64::from(u32::from_le_bytes(*offset));
            if let Ok(entries) = pack::decode_footer(offset, input) {
                assert_eq!(codec::encode(&entries), input);
                let mut builder = IndexBuilder::default();
                let length = offset + 100;
                if builder.pack(PackId::from_bytes([1; 32]), length, entries).is_ok() {
                    let run = builder.encode().expect("a small run");
                    assert_eq!(IndexRun::decode(&run).expect("what was encoded").encode(), run);
                }
            }
        }
        1 => {
            let Some((length, trailer)) = input.split_first_chunk::<8>() else { return };
            let length = u64::from_le_bytes(*length);
            if let Ok((offset, footer)) = pack::footer_range(length, trailer) {
                assert_eq!(offset + footer + pack::TRAILER as u64, length);
            }
        }
        2 => {
            for entry in pack::scan(&keys(), input) {
                assert!(entry.end() <= input.len() as u64);
            }
        }
        _ => {
            let id = PackId::from_bytes(*blake3::hash(input).as_bytes());
            if let Ok(entries) = pack::open(&keys(), &id, input) {
                assert!(entries.iter().all(|entry| entry.end() < input.len() as u64));
            }
        }
    }
});
