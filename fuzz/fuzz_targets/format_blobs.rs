//! Blobs. First byte: 0 frame, 1 header, 2 body, 3 content of a body without bases, 4 of a delta.
#![no_main]

use barman_fuzz::{canonical, pick};
use libfuzzer_sys::fuzz_target;
use repo_format::blob::{BlobBody, BlobHeader, Frame};

fuzz_target!(|data: &[u8]| {
    let Some((parser, input)) = pick(data, 5) else { return };
    match parser {
        0 => {
            if let Ok((frame, rest)) = Frame::split(input) {
                assert_eq!(frame.length() + rest.len(), input.len());
                let (header, body) = (frame.header.len() as u32, frame.body.len() as u32);
                let whole = Frame::exactly(&input[..frame.length()], header, body);
                assert!(whole.is_ok());
                assert!(frame.open_header(&barman_fuzz::keys()).is_err() || header > 88);
            }
        }
        1 => {
            canonical(input, BlobHeader::decode, BlobHeader::encode);
        }
        2 => {
            canonical(input, BlobBody::decode, BlobBody::encode);
        }
        _ => {
            // The length of the content and of the prefix, then the body.
            let Some((lengths, input)) = input.split_first_chunk::<4>() else { return };
            let [length, prefix] = [[lengths[0], lengths[1]], [lengths[2], lengths[3]]]
                .map(|bytes| usize::from(u16::from_le_bytes(bytes)));
            if let Ok(body) = BlobBody::decode(input)
                && let Ok(content) = body.content(length, &vec![7; prefix])
            {
                assert_eq!(content.len(), length);
            }
        }
    }
});
