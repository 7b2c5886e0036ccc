//! What PostgreSQL writes, and what users say of it: no input may panic. The first byte picks the
//! parser: pg_control, backup_manifest, backup_label, backup history, tablespace_map, timeline history,
//! WAL segment, WAL records, WAL file name, connection string, configuration file, authentication file, incremental file, list of databases.

#![no_main]

use barman::postgres::authentication_file;
use barman::postgres::backup_label::{
    BackupHistory, BackupLabel, format_tablespace_map, parse_tablespace_map,
};
use barman::postgres::backup_manifest::BackupManifest;
use barman::postgres::configuration_file::{self, Edit, Reference};
use barman::postgres::conninfo::ConnInfo;
use barman::postgres::control_file::ControlFile;
use barman::postgres::database_list;
use barman::postgres::incremental_file::IncrementalHeader;
use barman::postgres::lsn::TimelineId;
use barman::postgres::timeline_history::TimelineHistory;
use barman::postgres::wal_header::check_segment;
use barman::postgres::wal_name::{SegmentName, WalName};
use barman::postgres::wal_records::WalReader;
use barman_fuzz::pick;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((parser, bytes)) = pick(data, 14) else { return };
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
        13 => {
            drop(database_list::path(bytes));
            database_list::parse(bytes);
        }
        12 => drop(IncrementalHeader::read(&mut &*bytes, bytes.len() as u64)),
        10 => {
            let all = configuration_file::parse(bytes);
            let (without, found) = configuration_file::edit(bytes, |_| Edit::CommentOut);
            assert!(found.iter().map(|(setting, _)| setting).eq(&all));
            assert_eq!(configuration_file::parse(&without), []);
            // What was written is read.
            let line = |setting: &configuration_file::Setting| {
                Edit::Replace(configuration_file::line("work_mem", &setting.value))
            };
            let written = configuration_file::parse(&configuration_file::edit(bytes, line).0);
            let values = written.iter().map(|setting| &setting.value);
            assert!(values.eq(all.iter().map(|setting| &setting.value)));
            for reference in configuration_file::references(bytes) {
                let (Reference::File(named) | Reference::Directory(named)) = reference;
                let path = configuration_file::resolve("/etc/postgresql.conf", &named);
                assert!(path.starts_with('/') && path.split('/').all(|part| part != ".."));
            }
        }
        _ => {
            authentication_file::references(bytes);
            let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
            let written = authentication_file::line([&["host".to_owned()][..], &words[..]]);
            assert_eq!(authentication_file::references(written.as_bytes()), []);
        }
    }
});
