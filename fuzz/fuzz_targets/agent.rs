//! What a restore and its agent say to each other. The first byte picks the side: questions, answers.

#![no_main]

use std::fmt::Debug;

use barman::restore::agent::protocol::{Answer, Question, receive, send};
use barman_fuzz::pick;
use borsh::{BorshDeserialize, BorshSerialize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match pick(data, 2) {
        Some((0, bytes)) => messages::<Question>(bytes),
        Some((_, bytes)) => messages::<Answer>(bytes),
        None => {}
    }
});

/// What is taken for a message is what it is sent as.
fn messages<M: BorshSerialize + BorshDeserialize + PartialEq + Debug>(mut bytes: &[u8]) {
    loop {
        let before = bytes;
        let Ok(Some((number, message))) = receive::<M>(&mut bytes) else { return };
        let mut again = vec![];
        send(&mut again, number, &message).expect("what came can be sent");
        assert_eq!(again, before[..before.len() - bytes.len()]);
    }
}
