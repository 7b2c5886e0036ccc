//! WAL objects. First byte: 0 plaintext of the header, 1 an object to which a right checksum is added.
#![no_main]

use barman_fuzz::{canonical, keys, pick};
use libfuzzer_sys::fuzz_target;
use repo_format::envelope;
use repo_format::names::ObjectName;
use repo_format::wal::{WalHeader, WalObject};

const NAME: &str = "wal/main%2F%C3%A9/7300000000000000001/00000002/\
                    00000002.history-00000000000000000000000000000000";

fuzz_target!(|data: &[u8]| {
    let Some((parser, input)) = pick(data, 2) else { return };
    if parser == 0 {
        canonical(input, WalHeader::decode, WalHeader::encode);
    } else {
        let mut object = input.to_vec();
        envelope::finish(&mut object);
        let name = ObjectName::parse(NAME).expect("a name");
        let _ = WalObject::open(&keys(), &name, &object);
    }
});
