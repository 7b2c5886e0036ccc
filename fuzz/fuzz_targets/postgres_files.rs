//! What PostgreSQL writes, and what users say of it: no input may panic. The first byte picks the
//! parser: pg_control, backup_manifest, backup_label, backup history, tablespace_map, timeline history,
//! WAL segment, WAL records, WAL file name, connection string, configuration file.

#![no_main]

use barman::postgres::backup_label::{
    BackupHistory, BackupLabel, format_tablespace_map, parse_tablespace_map,
};
use barman::postgres::backup_manifest::BackupManifest;
use barman::postgres::configuration_file;
use barman::postgres::conninfo::ConnInfo;
use barman::postgres::control_file::ControlFile;
use barman::postgres::lsn::TimelineId;
use barman::postgres::timeline_history::TimelineHistory;
use barman::postgres::wal_header::check_segment;
use barman::postgres::wal_name::{SegmentName, WalName};
use barman::postgres::wal_records::WalReader;
use barman_fuzz::pick;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((parser, bytes)) = pick(data, 11) else { return };
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let name: SegmentName = "000000010000000000000009".parse().expect("a segment's name");
    match parser {
        0 => drop(ControlFile::parse(bytes)),
        1 => drop(BackupManifest::parse(bytes)),
        2 => drop(BackupLabel::parse(bytes)),
        3 => drop(BackupHistory::parse(bytes)),
        4 => {
            if let Ok(map) = parse_tablespace_map(bytes) {
                let again = parse_tablespace_map(&format_tablespace_map(&map));
                assert_eq!(again.expect("what was written is read"), map);
            }
        }
        5 => {
            if let Ok(history) = TimelineHistory::parse(TimelineId(9), bytes) {
                let again = TimelineHistory::parse(TimelineId(9), history.format().as_bytes());
                assert_eq!(again.expect("what was written is read").spans(), history.spans());
            }
        }
        6 => drop(check_segment(bytes, name, false, None)),
        7 => drop(WalReader::new(None).feed(name, bytes, |_| {})),
        8 => {
            if let Ok(parsed) = text.parse::<WalName>() {
                assert_eq!(parsed.to_string(), text);
            }
        }
        9 => drop(ConnInfo::parse(text)),
        _ => {
            let all = configuration_file::parse(bytes);
            let (without, found) = configuration_file::comment_out(bytes, |_| true);
            assert_eq!(found, all);
            assert_eq!(configuration_file::parse(&without), []);
        }
    }
});
