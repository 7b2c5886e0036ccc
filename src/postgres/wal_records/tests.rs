use super::*;
use crate::postgres::lsn::TimelineId;
use crate::postgres::wal_header::{HAS_LONG_HEADER, LONG_HEADER, SHORT_HEADER};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// Writes WAL as PostgreSQL would, in segments of 1 MiB that follow one another.
struct Writer {
    bytes: Vec<u8>,
    previous: u64,
}

impl Writer {
    fn new() -> Writer {
        Writer { bytes: Vec::new(), previous: 0 }
    }

    fn position(&self) -> u64 {
        MIB + self.bytes.len() as u64
    }

    fn put(&mut self, record: &[u8]) {
        let mut left = record;
        while !left.is_empty() {
            if self.bytes.len().is_multiple_of(8192) {
                let continued = left.len() != record.len();
                self.header(if continued { left.len() as u32 } else { 0 });
            }
            let room = 8192 - self.bytes.len() % 8192;
            let (now, later) = left.split_at(room.min(left.len()));
            self.bytes.extend_from_slice(now);
            left = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn header(&mut self, remaining: u32) {
        let address = self.position();
        let long = address.is_multiple_of(MIB);
        let info = u16::from(remaining > 0) | if long { HAS_LONG_HEADER } else { 0 };
        self.bytes.extend(0xD118_u16.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(u64::from(remaining).to_le_bytes());
        if long {
            self.bytes.extend(7_u64.to_le_bytes());
            self.bytes.extend((MIB as u32).to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }

    fn record(&mut self, rmgr: u8, info: u8, xid: u32, main: &[u8]) {
        if self.bytes.len().is_multiple_of(8192) {
            self.header(0);
        }
        let start = self.position();
        let mut data = vec![254];
        data.extend((main.len() as u32).to_le_bytes());
        data.extend(main);
        let mut head = Vec::new();
        head.extend((24 + data.len() as u32).to_le_bytes());
        head.extend(xid.to_le_bytes());
        head.extend(self.previous.to_le_bytes());
        head.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &head);
        head.extend(crc.to_le_bytes());
        head.extend(data);
        self.put(&head);
        self.previous = start;
    }

    fn segments(&self) -> Vec<(SegmentName, Vec<u8>)> {
        self.bytes
            .chunks(MIB as usize)
            .enumerate()
            .map(|(index, bytes)| {
                let mut bytes = bytes.to_vec();
                bytes.resize(MIB as usize, 0);
                let name =
                    SegmentName { timeline: TimelineId(1), log: 0, segment: index as u32 + 1 };
                (name, bytes)
            })
            .collect()
    }
}

fn read(reader: &mut WalReader, segments: &[(SegmentName, Vec<u8>)]) -> Vec<Record> {
    let mut records = Vec::new();
    for (name, bytes) in segments {
        reader.feed(*name, bytes, |record| records.push(record.clone())).unwrap();
    }
    records
}

fn time(microseconds: i64) -> Vec<u8> {
    microseconds.to_le_bytes().to_vec()
}

#[test]
fn records_are_followed_across_pages_and_segments() {
    let mut writer = Writer::new();
    writer.record(1, 0x00, 5, &time(1));
    writer.record(10, 0x00, 6, &vec![3; 2_500_000]);
    writer.record(1, 0x00, 6, &time(2));
    writer.record(1, 0x20, 7, &time(3));
    let mut name = time(4);
    name.extend(b"before the upgrade");
    name.resize(72, 0);
    writer.record(0, 0x70, 0, &name);
    let end = Lsn(writer.position());

    let mut reader = WalReader::new(Some(SystemId(7)));
    let mut summary = WalSummary::looking_for(7);
    for record in read(&mut reader, &writer.segments()) {
        summary.add(&record);
    }
    assert_eq!(reader.reached(), Some(end));
    assert!(reader.ended());
    assert_eq!(summary.latest_commit.map(|commit| commit.xid), Some(6));
    assert_eq!(summary.is_committed(), Some(false));
    assert_eq!(summary.restore_point("before the upgrade").unwrap().end, end);
    assert!(summary.restore_point("other").is_none());
}

#[test]
fn a_start_in_the_middle_of_a_record_is_skipped() {
    let mut writer = Writer::new();
    writer.record(10, 0, 1, &vec![0; 2_000_000]);
    writer.record(1, 0, 2, &time(1));
    let segments = writer.segments();
    let mut reader = WalReader::new(None);
    let records = read(&mut reader, &segments[1..]);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].xid, 2);
    let mut reader = WalReader::starting_at(records[0].start, SegmentSize::new(MIB).unwrap(), None);
    assert_eq!(read(&mut reader, &segments[1..]), records);
}

#[test]
fn a_switch_leads_to_the_next_segment() {
    let mut writer = Writer::new();
    writer.record(1, 0, 2, &time(1));
    writer.record(0, 0x40, 0, &[]);
    while !writer.position().is_multiple_of(MIB) {
        if writer.bytes.len().is_multiple_of(8192) {
            writer.header(0);
        }
        let room = 8192 - writer.bytes.len() % 8192;
        writer.bytes.resize(writer.bytes.len() + room, 0);
    }
    writer.record(1, 0, 3, &time(1));
    let records = read(&mut WalReader::new(None), &writer.segments());
    assert_eq!(records.len(), 3);
    assert_eq!(records[1].kind, RecordKind::Switch);
    assert_eq!(records[1].end, Lsn(2 * MIB));
    assert_eq!(records[2].start, Lsn(2 * MIB + LONG_HEADER as u64));
}

#[test]
fn damage_ends_the_wal() {
    let mut writer = Writer::new();
    writer.record(1, 0, 2, &time(1));
    let good = Lsn(writer.position());
    writer.record(1, 0, 3, &vec![1; 30_000]);
    writer.record(1, 0, 4, &time(1));
    let mut segments = writer.segments();
    segments[0].1[SHORT_HEADER + 8192 + 100] ^= 1;
    let mut reader = WalReader::new(None);
    assert_eq!(read(&mut reader, &segments).len(), 1);
    assert_eq!((reader.reached(), reader.ended()), (Some(good), true));
}

#[test]
fn gaps_and_strangers_are_errors() {
    let mut writer = Writer::new();
    writer.record(10, 0, 1, &vec![0; 3_000_000]);
    let segments = writer.segments();
    let mut reader = WalReader::new(Some(SystemId(7)));
    read(&mut reader, &segments[..1]);
    assert!(reader.feed(segments[2].0, &segments[2].1, |_| {}).is_err());
    let mut reader = WalReader::new(Some(SystemId(8)));
    assert!(reader.feed(segments[0].0, &segments[0].1, |_| {}).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        noise in proptest::collection::vec((0_usize..100_000, any::<u8>()), 1..40),
        length in 0_usize..100_000,
    ) {
        let mut writer = Writer::new();
        for xid in 0..40 {
            writer.record(1, 0x80 | (xid as u8 % 8) << 4, xid, &vec![xid as u8; 2000]);
        }
        let (name, mut bytes) = writer.segments().remove(0);
        for (at, value) in noise {
            bytes[at] = value;
        }
        let _ = WalReader::new(None).feed(name, &bytes[..length], |_| {});
        let _ = main_data(&bytes[..length]);
    }
}
