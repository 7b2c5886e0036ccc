//! Sealed records, as plaintext. First byte: 0 snapshot, 1 note, 2 session, 3 maintenance, 4 server.
#![no_main]

use barman_fuzz::{canonical, pick};
use libfuzzer_sys::fuzz_target;
use repo_format::maintenance::Maintenance;
use repo_format::names::ObjectName;
use repo_format::note::Note;
use repo_format::record::Record;
use repo_format::server::ServerRecord;
use repo_format::session::Session;
use repo_format::snapshot::Snapshot;

fuzz_target!(|data: &[u8]| {
    let Some((parser, input)) = pick(data, 5) else { return };
    match parser {
        0 => {
            if let Some(snapshot) = canonical(input, Snapshot::decode, Snapshot::encode) {
                let name = snapshot.object_name();
                assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
            }
        }
        1 => drop(canonical(input, Note::decode, Note::encode)),
        2 => drop(canonical(input, Session::decode, Session::encode)),
        3 => drop(canonical(input, Maintenance::decode, Maintenance::encode)),
        _ => drop(canonical(input, ServerRecord::decode, ServerRecord::encode)),
    }
});
