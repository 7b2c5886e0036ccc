//! Directories and maps. First byte: 0 directory, 1 leaf of a map (after eight bytes that say how much
//! it covers).
#![no_main]

use barman_fuzz::{canonical, pick};
use libfuzzer_sys::fuzz_target;
use repo_format::DecodeError;
use repo_format::content::{decode_leaf, encode_leaf};
use repo_format::tree::{Directory, DirectoryDecoder, Entry, Node};

/// What the decoder finds that takes a directory piece by piece.
fn in_pieces(input: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut decoder = DirectoryDecoder::default();
    let mut entries = vec![];
    for piece in input.chunks(7) {
        decoder.push(piece)?;
        while let Some(entry) = decoder.next_entry()? {
            entries.push(entry);
        }
    }
    decoder.finish().map(|()| entries)
}

fuzz_target!(|data: &[u8]| {
    let Some((parser, input)) = pick(data, 2) else { return };
    if parser == 0 {
        let directory = canonical(input, Directory::decode, Directory::encode);
        assert_eq!(in_pieces(input).ok(), directory.as_ref().map(|it| it.entries.clone()));
        let Some(directory) = directory else { return };
        for entry in directory.entries {
            assert!(!entry.name.contains(&b'/'));
            if let Node::File(file) = entry.node {
                assert_eq!(file.content.validate(), Ok(file.size));
            }
        }
    } else if let Some((covers, input)) = input.split_first_chunk::<8>() {
        let covers = u64::from_le_bytes(*covers);
        canonical(input, |input| decode_leaf(input, covers), |runs| encode_leaf(runs));
    }
});
