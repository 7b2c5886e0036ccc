//! WAL page headers, and whether a file is the segment its name says.
//!
//! Every WAL page begins with its own address; the first page of a segment also carries the system
//! identifier and the segment size. [`check_segment`] compares them with what is expected, so that
//! another cluster's segment, a truncated one or one under a wrong name is never archived.

use super::error::{FormatError, FormatResult};
use super::fields::Fields;
use super::lsn::{Lsn, SystemId, TimelineId};
use super::wal_name::{SegmentName, SegmentSize};

/// Bytes of a page's header, and of the longer one on the first page of a segment.
pub const SHORT_HEADER: usize = 24;
/// See [`SHORT_HEADER`].
pub const LONG_HEADER: usize = 40;

/// The page starts with the rest of a record from the page before.
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The page has the long header.
pub const HAS_LONG_HEADER: u16 = 0x0002;
/// The record that should continue here was given up after a crash.
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;

/// The header every WAL page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The format of the WAL; one per major version.
    pub magic: u16,
    /// Flags.
    pub info: u16,
    /// The timeline the page was written on.
    pub timeline: TimelineId,
    /// The page's own position.
    pub address: Lsn,
    /// Bytes of a record begun on earlier pages that are still to come.
    pub remaining: u32,
}

impl PageHeader {
    /// Reads the header a page begins with.
    pub fn parse(page: &[u8]) -> FormatResult<PageHeader> {
        let fields = Fields::new("WAL page header", page);
        let header = PageHeader {
            magic: fields.u16(0)?,
            info: fields.u16(2)?,
            timeline: TimelineId(fields.u32(4)?),
            address: Lsn(fields.u64(8)?),
            remaining: fields.u32(16)?,
        };
        fields.u32(20)?;
        Ok(header)
    }

    /// Bytes of the header on this page.
    pub fn header_len(&self) -> usize {
        if self.info & HAS_LONG_HEADER != 0 { LONG_HEADER } else { SHORT_HEADER }
    }
}

/// The header of a segment's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What every page has.
    pub page: PageHeader,
    /// The major version of PostgreSQL that wrote it.
    pub version: u32,
    /// The cluster.
    pub system_id: SystemId,
    /// Bytes in each segment of this cluster.
    pub segment_size: SegmentSize,
    /// Bytes in a WAL page.
    pub block_size: u32,
}

impl SegmentHeader {
    /// Reads the header a segment begins with; an unknown magic number is an error.
    pub fn parse(segment: &[u8]) -> FormatResult<SegmentHeader> {
        let page = PageHeader::parse(segment)?;
        let version = version_of_magic(page.magic).ok_or_else(|| FormatError::Unsupported {
            what: "WAL format",
            found: format!("magic number {:04X}", page.magic),
        })?;
        if page.info & HAS_LONG_HEADER == 0 {
            return Err(FormatError::invalid("WAL segment", "its first page has no long header"));
        }
        let fields = Fields::new("WAL segment header", segment);
        let block_size = fields.u32(36)?;
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return Err(FormatError::invalid("WAL block size", block_size.to_string()));
        }
        Ok(SegmentHeader {
            page,
            version,
            system_id: SystemId(fields.u64(24)?),
            segment_size: SegmentSize::new(u64::from(fields.u32(32)?))?,
            block_size,
        })
    }
}

/// The major version whose WAL has this magic number, among those supported.
pub fn version_of_magic(magic: u16) -> Option<u32> {
    match magic {
        0xD110 => Some(15),
        0xD113 => Some(16),
        0xD116 => Some(17),
        0xD118 => Some(18),
        _ => None,
    }
}

/// What a segment file has been found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentCheck {
    /// The first page's header.
    pub header: SegmentHeader,
    /// The end of the pages that belong to this segment: its end, unless the file is the torn
    /// last segment of a timeline.
    pub pages_end: Lsn,
}

/// Checks that `bytes` are the whole segment `name`, written by `system_id` if that is given.
///
/// The first page must match exactly. What follows the end of the WAL in a segment left in its
/// middle is not ours to judge. PostgreSQL recycles old segment files, so there may be pages of the
/// file's former life: with *lower* addresses, or *higher* ones, since at a promotion segments
/// received beyond the switch point are recycled for the new timeline. The first segment of a new
/// timeline is a copy whose last page PostgreSQL repeats up to the end of the file, so addresses need
/// not fit their place either. And a finished segment may end in zeros. So the first page that is
/// not ours ends the segment, and after it:
/// - zeros and pages with another well-formed header are accepted (`pages_end` tells the caller);
/// - anything else, or a page that is ours again after such a hole, is damage. Not for a
///   `.partial`, whose tail nobody reads: a crash may have left anything there.
pub fn check_segment(
    bytes: &[u8],
    name: SegmentName,
    partial: bool,
    system_id: Option<SystemId>,
) -> FormatResult<SegmentCheck> {
    let header = SegmentHeader::parse(bytes)?;
    check_first_page(&header, bytes.len(), name, system_id)?;

    let start = header.page.address;
    let mut pages_end = None;
    for (index, page) in bytes.chunks_exact(header.block_size as usize).enumerate().skip(1) {
        let expected = Lsn(start.0 + index as u64 * u64::from(header.block_size));
        let found = PageHeader::parse(page)?;
        let ours = found.magic == header.page.magic
            && found.address == expected
            && found.info & HAS_LONG_HEADER == 0
            && found.timeline >= header.page.timeline
            && found.timeline <= name.timeline;
        match (ours, pages_end) {
            (true, None) => {}
            (true, Some(end)) => {
                return Err(FormatError::invalid(
                    "WAL segment",
                    format!("the page at {end} is missing, the one at {expected} is there"),
                ));
            }
            (false, _) if partial => return Ok(SegmentCheck { header, pages_end: expected }),
            (false, end) => {
                check_leftover(&found, page, expected)?;
                pages_end = end.or(Some(expected));
            }
        }
    }
    let end = Lsn(start.0.saturating_add(header.segment_size.bytes()));
    Ok(SegmentCheck { header, pages_end: pages_end.unwrap_or(end) })
}

fn check_first_page(
    header: &SegmentHeader,
    length: usize,
    name: SegmentName,
    system_id: Option<SystemId>,
) -> FormatResult<()> {
    let size = header.segment_size;
    if length as u64 != size.bytes() {
        return Err(FormatError::mismatch("length of the WAL segment", size.bytes(), length));
    }
    if let Some(expected) = system_id
        && header.system_id != expected
    {
        return Err(FormatError::mismatch(
            "system identifier of the WAL segment",
            expected,
            header.system_id,
        ));
    }
    let start = name.start(size)?;
    if header.page.address != start {
        return Err(FormatError::mismatch(
            format!("address in the WAL segment {name}"),
            start,
            header.page.address,
        ));
    }
    // The first segment of a timeline begins with a copy of its parent's, so the page may be older.
    if header.page.timeline > name.timeline {
        return Err(FormatError::mismatch(
            format!("timeline in the WAL segment {name}"),
            name.timeline,
            header.page.timeline,
        ));
    }
    Ok(())
}

/// Whether a page that is not ours is one PostgreSQL leaves behind.
fn check_leftover(found: &PageHeader, page: &[u8], expected: Lsn) -> FormatResult<()> {
    let well_formed = version_of_magic(found.magic).is_some()
        && found.address.0.is_multiple_of(page.len() as u64)
        && found.address != expected;
    if well_formed || page.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(FormatError::invalid(
        "WAL segment",
        format!(
            "the page at {expected} is damaged: magic {:04X}, address {}, timeline {}",
            found.magic, found.address, found.timeline
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A segment of 1 MiB, all pages in place and otherwise empty.
    fn segment(start: u64, timeline: u32) -> Vec<u8> {
        let mut bytes = vec![0; MIB];
        for (index, page) in bytes.chunks_exact_mut(8192).enumerate() {
            page[..2].copy_from_slice(&0xD116_u16.to_le_bytes());
            page[4..8].copy_from_slice(&timeline.to_le_bytes());
            page[8..16].copy_from_slice(&(start + index as u64 * 8192).to_le_bytes());
        }
        bytes[2] = HAS_LONG_HEADER as u8;
        bytes[24..32].copy_from_slice(&77_u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&(MIB as u32).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    fn check(bytes: &[u8]) -> FormatResult<SegmentCheck> {
        check_segment(bytes, name("000000020000000000000003"), false, Some(SystemId(77)))
    }

    #[test]
    fn a_whole_segment_passes() {
        let found = check(&segment(3 * MIB as u64, 2)).unwrap();
        assert_eq!(found.header.version, 17);
        assert_eq!(found.header.system_id, SystemId(77));
        assert_eq!(found.pages_end, Lsn(4 * MIB as u64));
    }

    #[test]
    fn a_wrong_identity_is_named() {
        let good = segment(3 * MIB as u64, 2);
        let wrong =
            check_segment(&good, name("000000020000000000000003"), false, Some(SystemId(8)));
        assert!(wrong.unwrap_err().to_string().contains("system identifier"));
        let wrong = check_segment(&good, name("000000020000000000000004"), false, None);
        assert!(wrong.unwrap_err().to_string().contains("0/400000"));
        let wrong = check_segment(&good, name("000000010000000000000003"), false, None);
        assert!(wrong.unwrap_err().to_string().contains("timeline"));
        assert!(check(&good[..MIB - 1]).unwrap_err().to_string().contains("length"));
        assert!(check(&good[..39]).is_err());
        assert!(check(&[]).is_err());
        let mut unknown = good.clone();
        unknown[0] = 0x99;
        assert!(matches!(check(&unknown), Err(FormatError::Unsupported { .. })));
    }

    #[test]
    fn the_first_segment_of_a_timeline_carries_pages_of_its_parent() {
        let mut bytes = segment(3 * MIB as u64, 1);
        bytes[8192 * 9 + 4] = 2;
        let last: Vec<u8> = bytes[8192 * 8..8192 * 9].to_vec();
        for page in bytes[8192 * 10..].chunks_exact_mut(8192) {
            page.copy_from_slice(&last);
        }
        let end = Lsn((3 * MIB + 8192 * 10) as u64);
        assert_eq!(check(&bytes).unwrap().pages_end, end);
        bytes[8192 * 10..].fill(0);
        assert_eq!(check(&bytes).unwrap().pages_end, end);
    }

    #[test]
    fn recycled_tails_pass_and_holes_do_not() {
        let mut bytes = segment(3 * MIB as u64, 2);
        let tail = 8192 * 100;
        for former in [1, 9] {
            let former = segment(former * MIB as u64, 1);
            bytes[tail..].copy_from_slice(&former[tail..]);
            assert_eq!(check(&bytes).unwrap().pages_end, Lsn((3 * MIB + tail) as u64));
        }
        let ours = segment(3 * MIB as u64, 2);
        bytes[8192 * 120..].copy_from_slice(&ours[8192 * 120..]);
        assert!(check(&bytes).unwrap_err().to_string().contains("missing"));
        let partial = check_segment(&bytes, name("000000020000000000000003"), true, None).unwrap();
        assert_eq!(partial.pages_end, Lsn((3 * MIB + tail) as u64));
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        let mut bytes = segment(3 * MIB as u64, 2);
        bytes[8192 * 5 + 1] ^= 0x01;
        assert!(check(&bytes).unwrap_err().to_string().contains("damaged"));
        bytes[8192 * 5 + 1] ^= 0x01;
        bytes[8192 * 5 + 9] ^= 0x20;
        assert!(check(&bytes).unwrap_err().to_string().contains("missing"));
    }
}
