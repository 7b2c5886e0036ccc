//! What is read before anything is unlocked, and what a slot holds. First byte: 0 record of the
//! configuration, 1 object of the configuration, 2 header of a slot, 3 object of a slot, 4 secrets of a
//! slot, 5 key file, 6 role, 7 recovery code. Objects get a right checksum.
#![no_main]

use barman_fuzz::{canonical, keys, pick};
use libfuzzer_sys::fuzz_target;
use repo_format::config::Config;
use repo_format::keys::Secret;
use repo_format::role::PlaceRole;
use repo_format::slot::{self, Credential, SlotHeader, SlotSecrets};
use repo_format::{envelope, keyfile, recovery_code};

fuzz_target!(|data: &[u8]| {
    let Some((parser, input)) = pick(data, 8) else { return };
    let object = || {
        let mut object = input.to_vec();
        envelope::finish(&mut object);
        object
    };
    match parser {
        0 => drop(canonical(input, Config::decode, Config::encode)),
        1 => {
            if let Ok(config) = Config::peek(&object()) {
                let _ = Config::open(keys().naming(), config.number, &object());
            }
        }
        2 => drop(canonical(input, SlotHeader::decode, SlotHeader::encode)),
        3 => {
            let (object, id) = (object(), repo_format::ids::SlotId::from_bytes([0x22; 16]));
            let credential = Credential::KeyFile(Secret::from_bytes([1; 32]));
            assert!(!matches!(slot::open(&id, &object, &credential), Ok(Some(_))));
            let _ = slot::key_id(&object);
        }
        4 => {
            let encode = |secrets: &SlotSecrets| secrets.encode().map(|bytes| bytes.to_vec());
            if let Some(secrets) = canonical(input, SlotSecrets::decode, encode) {
                let _ = secrets.config();
            }
        }
        5 => {
            if let Ok(secret) = keyfile::decode(input) {
                let text = keyfile::encode(&secret);
                assert!(text.as_bytes() == input || text.trim_end().as_bytes() == input);
            }
        }
        7 => {
            let text = std::str::from_utf8(input).unwrap_or_default();
            if let Ok(secret) = recovery_code::decode(text) {
                let code = recovery_code::encode(&secret);
                assert!(matches!(recovery_code::decode(&code), Ok(again) if again == secret));
            }
        }
        _ => {
            let object = object();
            canonical(&object, PlaceRole::decode, |role| Ok::<_, ()>(role.encode()));
        }
    }
});
