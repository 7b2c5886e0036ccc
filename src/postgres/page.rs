//! Data pages: header, checksum, verdict.
//!
//! The checksum covers the whole page and the page's number within the *relation* (not the file), so
//! that a page at the wrong place is noticed. Fork files of relations have it; SLRU files do not.

use super::lsn::Lsn;

/// Bytes in a page of a default build.
pub const PAGE_SIZE: usize = 8192;

/// A page of data.
pub type Page = [u8; PAGE_SIZE];

/// What a page's checksum says. The caller decides what a bad one means: a page torn by a
/// concurrent write has an LSN between start and stop of the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// All zero: allocated, never written.
    New,
    /// Checksum and content agree.
    Ok,
    /// They do not, or the header is empty while the rest is not (`pd_upper` is 0; such a page
    /// PostgreSQL rejects whatever its checksum says).
    Bad {
        /// The checksum in the page.
        stored: u16,
        /// The checksum the content has.
        computed: u16,
        /// The LSN in the page, itself not to be trusted.
        lsn: Lsn,
    },
}

/// Verifies a page of a cluster with checksums; `block` is its number within the relation
/// (`segment × 131072 + block in the file`).
pub fn verify_page(page: &Page, block: u32) -> PageVerdict {
    let header = PageHeader::of(page);
    if header.upper == 0 && page.iter().all(|byte| *byte == 0) {
        return PageVerdict::New;
    }
    let computed = checksum_page(page, block);
    if computed == header.checksum && header.upper != 0 {
        return PageVerdict::Ok;
    }
    PageVerdict::Bad { stored: header.checksum, computed, lsn: header.lsn }
}

/// The fields of a page's header that a backup looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The WAL record that changed the page last (main forks).
    pub lsn: Lsn,
    /// The checksum, 0 in clusters without.
    pub checksum: u16,
    /// End of the line pointers.
    pub lower: u16,
    /// Start of the tuples; 0 in a page never initialised.
    pub upper: u16,
}

impl PageHeader {
    /// The header of `page`.
    pub fn of(page: &Page) -> PageHeader {
        // The array's length makes all of these constant, so the bounds are checked by the compiler.
        let [a, b, c, d, e, f, g, h, c0, c1, _, _, l0, l1, u0, u1, ..] = *page;
        // The LSN is two 32-bit halves, the high one first.
        let high = u32::from_le_bytes([a, b, c, d]);
        let low = u32::from_le_bytes([e, f, g, h]);
        PageHeader {
            lsn: Lsn(u64::from(high) << 32 | u64::from(low)),
            checksum: u16::from_le_bytes([c0, c1]),
            lower: u16::from_le_bytes([l0, l1]),
            upper: u16::from_le_bytes([u0, u1]),
        }
    }
}

/// The checksum PostgreSQL computes for `page` as number `block` of its relation.
///
/// 32 FNV-1a-like sums, each over every 32nd word, folded by XOR. The checksum's own field counts as
/// zero. The lanes are independent, which the compiler turns into vector code: as wide as the processor
/// has it, which is chosen at run time.
#[multiversion::multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
pub fn checksum_page(page: &Page, block: u32) -> u16 {
    let mut sums = LANE_SEEDS;
    let (rows, _) = page.as_chunks::<ROW>();
    for (index, row) in rows.iter().enumerate() {
        let mut words = [0_u32; LANES];
        let (chunks, _) = row.as_chunks::<4>();
        for (word, bytes) in words.iter_mut().zip(chunks) {
            *word = u32::from_le_bytes(*bytes);
        }
        if index == 0 {
            words[2] &= 0xFFFF_0000;
        }
        mix(&mut sums, &words);
    }
    // Two rounds of zeros let the last words reach all bits.
    mix(&mut sums, &[0; LANES]);
    mix(&mut sums, &[0; LANES]);
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    // 1..=65535: zero means "no checksum".
    (folded % 65535 + 1) as u16
}

#[inline(always)]
fn mix(sums: &mut [u32; LANES], words: &[u32; LANES]) {
    const FNV_PRIME: u32 = 16_777_619;
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

const LANES: usize = 32;
const ROW: usize = LANES * 4;

/// Starting values of the lanes (`checksumBaseOffsets` of PostgreSQL's `checksum_impl.h`).
const LANE_SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seed: u8) -> Box<Page> {
        let mut page = Box::new([0_u8; PAGE_SIZE]);
        for (index, byte) in page.iter_mut().enumerate() {
            *byte = (index as u8).wrapping_mul(31) ^ seed;
        }
        page
    }

    /// The same algorithm written word by word, as PostgreSQL's C reads.
    fn plainly(page: &Page, block: u32) -> u16 {
        let mut copy = *page;
        copy[8..10].fill(0);
        let word = |at: usize| u32::from_le_bytes(copy[at * 4..at * 4 + 4].try_into().unwrap());
        let step =
            |sum: u32, value: u32| (sum ^ value).wrapping_mul(16_777_619) ^ ((sum ^ value) >> 17);
        let mut folded = 0;
        for (lane, seed) in LANE_SEEDS.iter().enumerate() {
            let mut sum = *seed;
            for row in 0..64 {
                sum = step(sum, word(row * 32 + lane));
            }
            folded ^= step(step(sum, 0), 0);
        }
        ((folded ^ block) % 65535 + 1) as u16
    }

    #[test]
    fn lanes_agree_with_the_plain_form() {
        for block in [0, 1, 131_072, u32::MAX] {
            let page = page(block as u8);
            assert_eq!(checksum_page(&page, block), plainly(&page, block));
        }
    }

    #[test]
    fn verdicts() {
        let mut page = page(3);
        assert!(matches!(verify_page(&page, 7), PageVerdict::Bad { .. }));
        let checksum = checksum_page(&page, 7);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(verify_page(&page, 7), PageVerdict::Ok);
        assert!(matches!(verify_page(&page, 8), PageVerdict::Bad { .. }));
        page[8000] ^= 1;
        assert!(matches!(verify_page(&page, 7), PageVerdict::Bad { .. }));
    }

    #[test]
    fn only_an_all_zero_page_is_new() {
        let mut page = Box::new([0; PAGE_SIZE]);
        assert_eq!(verify_page(&page, 0), PageVerdict::New);
        page[4000] = 1;
        let checksum = checksum_page(&page, 0);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(verify_page(&page, 0), PageVerdict::Bad { .. }));
    }

    /// `cargo test --release --lib -- --ignored --nocapture page::tests::speed`
    #[test]
    #[ignore = "prints a measurement"]
    #[allow(clippy::print_stdout, reason = "it is what it is for")]
    fn speed() {
        let pages: Vec<Page> = (0..4096_u32).map(|seed| *page(seed as u8)).collect();
        let begin = std::time::Instant::now();
        let mut sum = 0_u64;
        for round in 0..16 {
            for page in std::hint::black_box(&pages) {
                sum += u64::from(checksum_page(page, round));
            }
        }
        let bytes = 16 * pages.len() * PAGE_SIZE;
        let rate = bytes as f64 / begin.elapsed().as_secs_f64() / 1e9;
        println!("page checksums: {rate:.2} GB/s (sum {sum})");
    }
}
