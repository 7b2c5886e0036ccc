//! Reading WAL records: which transactions end where, restore points, and where the WAL ends.
//!
//! [`WalReader`] is fed segments in order and reports every record whose checksum holds. It follows
//! records across pages and segments, and stops for good at the first place where no valid record
//! follows: there PostgreSQL's recovery would stop too.

mod kind;
mod summary;

pub use kind::{RecordKind, ResourceManager};
pub use summary::{CommitAt, RestorePoint, WalSummary};

use super::error::{FormatError, FormatResult};
use super::fields::Fields;
use super::lsn::{Lsn, SystemId};
use super::wal_header::{
    FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, PageHeader, SegmentHeader,
};
use super::wal_name::{SegmentName, SegmentSize};

/// A record of the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub start: Lsn,
    /// Where the next may begin.
    pub end: Lsn,
    /// The resource manager that wrote it.
    pub resource_manager: ResourceManager,
    /// The transaction that wrote it, 0 if none.
    pub xid: u32,
    /// Its length in bytes, with its header.
    pub length: u32,
    /// What it says, as far as it matters here.
    pub kind: RecordKind,
}

/// Follows the records of the WAL through segments.
#[derive(Debug)]
pub struct WalReader {
    system_id: Option<SystemId>,
    version: Option<u32>,
    state: State,
    /// Where the first segment must begin, then where the next one must.
    next_segment: Option<Lsn>,
    /// Position of the previous record, which the next one must name.
    previous: Option<Lsn>,
    reached: Option<Lsn>,
    record: Partial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of the first segment: the rest of an older record is skipped.
    Seeking,
    /// Skipping this many bytes of a record whose start was not seen.
    Skipping(u32),
    /// The next record begins at or after this position.
    Between(Lsn),
    /// Within a record.
    Inside,
    /// No valid record follows.
    Ended,
}

/// A record of which some bytes may still be missing.
#[derive(Debug, Default)]
struct Partial {
    start: Lsn,
    length: usize,
    bytes: Vec<u8>,
}

impl WalReader {
    /// A reader that begins with the first record that starts in the first segment it is given.
    pub fn new(system_id: Option<SystemId>) -> WalReader {
        WalReader {
            system_id,
            version: None,
            state: State::Seeking,
            next_segment: None,
            previous: None,
            reached: None,
            record: Partial::default(),
        }
    }

    /// A reader that begins at `start`, which must be where a record starts: a redo position.
    pub fn starting_at(start: Lsn, size: SegmentSize, system_id: Option<SystemId>) -> WalReader {
        WalReader {
            state: State::Between(start),
            next_segment: Some(size.floor(start)),
            ..WalReader::new(system_id)
        }
    }

    /// The end of the last valid record; `None` while there was none.
    pub fn reached(&self) -> Option<Lsn> {
        self.reached
    }

    /// Whether a place was met where no valid record follows. More segments change nothing then.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Reads the next segment (or its first part, a whole number of pages) and calls `visit` for
    /// each record that ends in it.
    ///
    /// Segments follow one another without a gap, each from the timeline that is right for it. A
    /// segment of another cluster, place or version is an error; damage within one is the end of
    /// the WAL.
    pub fn feed(
        &mut self,
        name: SegmentName,
        segment: &[u8],
        mut visit: impl FnMut(&Record),
    ) -> FormatResult<()> {
        if self.ended() {
            return Ok(());
        }
        let header = self.check_segment(name, segment)?;
        self.version = Some(header.version);
        self.next_segment = header.page.address.checked_add(header.segment_size.bytes());

        for (index, page) in segment.chunks_exact(header.block_size as usize).enumerate() {
            let address = Lsn(header.page.address.0 + index as u64 * u64::from(header.block_size));
            let valid = PageHeader::parse(page).ok().filter(|found| {
                found.magic == header.page.magic
                    && found.address == address
                    && found.timeline <= name.timeline
                    && (found.header_len() == super::wal_header::LONG_HEADER) == (index == 0)
            });
            match valid {
                Some(found) => self.page(&found, page, header.segment_size, &mut visit),
                // A record may begin further on: the page is not needed.
                None if self.is_before(address, header.block_size) => {}
                None => self.state = State::Ended,
            }
            if self.ended() {
                break;
            }
        }
        Ok(())
    }

    fn check_segment(&self, name: SegmentName, segment: &[u8]) -> FormatResult<SegmentHeader> {
        let header = SegmentHeader::parse(segment)?;
        let start = name.start(header.segment_size)?;
        if header.page.address != start {
            return Err(FormatError::mismatch(
                format!("address in the WAL segment {name}"),
                start,
                header.page.address,
            ));
        }
        if let Some(expected) = self.next_segment
            && expected != start
        {
            return Err(FormatError::mismatch("start of the next WAL segment", expected, start));
        }
        if let Some(expected) = self.system_id
            && expected != header.system_id
        {
            return Err(FormatError::mismatch(
                format!("system identifier of the WAL segment {name}"),
                expected,
                header.system_id,
            ));
        }
        if self.version.is_some_and(|version| version != header.version) {
            return Err(FormatError::invalid("WAL", "its version changes between two segments"));
        }
        Ok(header)
    }

    /// Whether the next record begins after the page at `address`.
    fn is_before(&self, address: Lsn, block_size: u32) -> bool {
        matches!(self.state, State::Between(next) if next.0 >= address.0 + u64::from(block_size))
    }

    fn page(
        &mut self,
        header: &PageHeader,
        page: &[u8],
        size: SegmentSize,
        visit: &mut impl FnMut(&Record),
    ) {
        if self.is_before(header.address, page.len() as u32) {
            return;
        }
        let mut at = header.header_len();
        let continues = header.info & FIRST_IS_CONTRECORD != 0;
        match self.state {
            State::Seeking if continues => self.state = State::Skipping(header.remaining),
            State::Seeking => self.state = State::Between(header.address),
            State::Skipping(left) if continues && header.remaining == left => {}
            // The record not seen from its start was given up: the next one begins here.
            State::Skipping(_) => self.state = State::Between(header.address),
            State::Inside => {
                let missing = self.record.length - self.record.bytes.len();
                let given_up = header.info & FIRST_IS_OVERWRITE_CONTRECORD != 0;
                if given_up {
                    self.state = State::Between(header.address);
                } else if !continues || header.remaining as usize != missing {
                    self.state = State::Ended;
                }
            }
            State::Between(next) if next <= header.address && continues => {
                self.state = State::Ended;
            }
            State::Between(_) | State::Ended => {}
        }

        while at < page.len() && !self.ended() {
            match self.state {
                State::Skipping(left) => {
                    let here = (left as usize).min(page.len() - at);
                    at += here;
                    let left = left - here as u32;
                    self.state = if left == 0 {
                        at = aligned(at);
                        State::Between(header.address)
                    } else {
                        State::Skipping(left)
                    };
                }
                State::Between(next) => {
                    // `next` is a position in this page, or an earlier one: then whatever comes.
                    let wanted = next.0.saturating_sub(header.address.0) as usize;
                    at = at.max(wanted);
                    if at < page.len() {
                        self.begin(Lsn(header.address.0 + at as u64), page, at);
                    }
                }
                State::Inside => {
                    let missing = self.record.length - self.record.bytes.len();
                    let here = missing.min(page.len() - at);
                    self.record.bytes.extend_from_slice(page.get(at..at + here).unwrap_or(&[]));
                    at += here;
                    if here == missing {
                        at = aligned(at);
                        self.complete(Lsn(header.address.0 + at as u64), size, visit);
                    }
                }
                State::Seeking | State::Ended => return,
            }
        }
    }

    /// A record begins here, if its first four bytes make sense.
    fn begin(&mut self, start: Lsn, page: &[u8], at: usize) {
        let length = Fields::new("WAL record", page).u32(at).unwrap_or(0);
        if (HEADER as u32..=MAX_RECORD).contains(&length) {
            self.record.start = start;
            self.record.length = length as usize;
            self.record.bytes.clear();
            self.state = State::Inside;
        } else {
            self.state = State::Ended;
        }
    }

    /// All bytes of the record are there; the next one begins at or after `end`.
    fn complete(&mut self, end: Lsn, size: SegmentSize, visit: &mut impl FnMut(&Record)) {
        match self.parse(end, size) {
            Ok(record) => {
                self.previous = Some(record.start);
                self.reached = Some(record.end);
                self.state = State::Between(record.end);
                visit(&record);
            }
            Err(error) => {
                tracing::debug!(lsn = %self.record.start, %error, "end of valid WAL");
                self.state = State::Ended;
            }
        }
    }

    fn parse(&self, end: Lsn, size: SegmentSize) -> FormatResult<Record> {
        let Partial { start, ref bytes, .. } = self.record;
        let fields = Fields::new("WAL record", bytes);
        let previous = Lsn(fields.u64(8)?);
        let follows = self.previous.map_or(previous < start, |expected| previous == expected);
        if !follows {
            return Err(FormatError::invalid(
                "WAL record",
                format!("its predecessor is said to be at {previous}"),
            ));
        }
        // The checksum covers the data first, then the header up to itself.
        let (head, data) = bytes.split_at_checked(HEADER).unwrap_or((bytes, &[]));
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), head.get(..20).unwrap_or(&[]));
        if crc != fields.u32(20)? {
            return Err(FormatError::invalid("WAL record", "its checksum does not hold"));
        }
        let resource_manager = ResourceManager(fields.u8(17)?);
        let xid = fields.u32(4)?;
        let version = self.version.unwrap_or_default();
        let info = fields.u8(16)?;
        let kind = kind::read(resource_manager, info, xid, main_data(data)?, version)?;
        // The rest of a segment after a switch holds nothing.
        let end = match kind {
            RecordKind::Switch if size.offset(end) != 0 => {
                Lsn(size.floor(end).0.saturating_add(size.bytes()))
            }
            _ => end,
        };
        Ok(Record { start, end, resource_manager, xid, length: bytes.len() as u32, kind })
    }
}

/// Finds the record's own data behind the headers and data of the blocks it changes.
fn main_data(data: &[u8]) -> FormatResult<&[u8]> {
    const SHORT: u8 = 255;
    const LONG: u8 = 254;
    const ORIGIN: u8 = 253;
    const TOP_XID: u8 = 252;
    const MAX_BLOCK: u8 = 32;

    let fields = Fields::new("WAL record", data);
    let (mut at, mut payload, mut main) = (0_usize, 0_usize, 0_usize);
    // Headers fill what their announced payloads leave.
    while data.len().saturating_sub(at) > payload {
        match fields.u8(at)? {
            SHORT => {
                main = usize::from(fields.u8(at + 1)?);
                payload += main;
                at += 2;
                break;
            }
            LONG => {
                main = fields.u32(at + 1)? as usize;
                payload = payload.saturating_add(main);
                at += 5;
                break;
            }
            ORIGIN => at += 3,
            TOP_XID => at += 5,
            0..=MAX_BLOCK => {
                let (header, bytes) = block(&fields, at)?;
                at += header;
                payload = payload.saturating_add(bytes);
            }
            other => {
                return Err(FormatError::invalid("WAL record", format!("block number {other}")));
            }
        }
    }
    if at.checked_add(payload) != Some(data.len()) {
        return Err(FormatError::invalid("WAL record", "its parts do not add up to its length"));
    }
    Ok(data.get(data.len() - main..).unwrap_or(&[]))
}

/// The lengths of a block's header and of its payload.
fn block(fields: &Fields<'_>, at: usize) -> FormatResult<(usize, usize)> {
    const HAS_IMAGE: u8 = 0x10;
    const SAME_RELATION: u8 = 0x80;
    const IMAGE_HAS_HOLE: u8 = 0x01;
    const IMAGE_COMPRESSED: u8 = 0x04 | 0x08 | 0x10;

    let flags = fields.u8(at + 1)?;
    let mut payload = usize::from(fields.u16(at + 2)?);
    let mut header = 4;
    if flags & HAS_IMAGE != 0 {
        payload += usize::from(fields.u16(at + header)?);
        let image = fields.u8(at + header + 4)?;
        header += 5;
        if image & IMAGE_HAS_HOLE != 0 && image & IMAGE_COMPRESSED != 0 {
            header += 2;
        }
    }
    if flags & SAME_RELATION == 0 {
        header += 12;
    }
    Ok((header + 4, payload))
}

/// Records begin at multiples of eight.
fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

/// Bytes of a record's header.
const HEADER: usize = 24;
/// PostgreSQL's own limit (`XLogRecordMaxSize`).
const MAX_RECORD: u32 = 1020 << 20;

#[cfg(test)]
mod tests;
