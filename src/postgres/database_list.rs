//! Which databases a cluster has, read from its files: `global/pg_filenode.map` leads to the file of
//! `pg_database`, and its pages have a row for each.
//!
//! A page is what was on the disk: it may have rows that were deleted, or that never came to be. Nobody
//! can ask the server which, so that all versions of a row are told, and which of them look current.

use super::error::{FormatError, FormatResult};
use super::fields::Fields;
use super::page::PAGE_SIZE;

/// The path of the map of the shared relations.
pub const FILE_MAP: &str = "global/pg_filenode.map";

/// The object id of `pg_database`.
const PG_DATABASE: u32 = 1262;

/// The first bytes of a map.
const MAP_MAGIC: u32 = 0x0059_2717;

/// The most relations that a map has, and where they begin.
const MAP_ENTRIES: (usize, usize) = (64, 8);

/// One version of the row of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its object id, by which its directories are called.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Whether it is a template.
    pub is_template: bool,
    /// Whether nothing says that this version was deleted or replaced.
    pub is_current: bool,
}

/// The path of the file of `pg_database`, by the map of the shared relations.
pub fn path(map: &[u8]) -> FormatResult<String> {
    let fields = Fields::new(FILE_MAP, map);
    let magic = fields.u32(0)?;
    if magic != MAP_MAGIC {
        let hex = |magic: u32| format!("{magic:08X}");
        return Err(FormatError::mismatch(FILE_MAP, hex(MAP_MAGIC), hex(magic)));
    }
    let (most, first) = MAP_ENTRIES;
    let count = (fields.u32(4)? as usize).min(most);
    for entry in 0..count {
        let at = first + entry * 8;
        if fields.u32(at)? == PG_DATABASE {
            return Ok(format!("global/{}", fields.u32(at + 4)?));
        }
    }
    Err(FormatError::invalid(FILE_MAP, "it does not have pg_database"))
}

/// The rows in the pages of `pg_database`; what is no row is passed over.
pub fn parse(pages: &[u8]) -> Vec<Database> {
    pages.chunks(PAGE_SIZE).flat_map(rows).collect()
}

/// The header of a page, and the size of each pointer to a row after it.
const PAGE_HEADER: usize = 24;
const POINTER: usize = 4;

fn rows(page: &[u8]) -> Vec<Database> {
    let fields = Fields::new("page", page);
    let end = usize::from(fields.u16(12).unwrap_or_default()).min(page.len());
    let pointers = (PAGE_HEADER..end.saturating_sub(POINTER - 1)).step_by(POINTER);
    pointers.filter_map(|at| row(page, fields.u32(at).ok()?)).collect()
}

/// A pointer to a row that is used: its state is in the two bits between the place and the length.
const NORMAL: u32 = 1;

/// The bits of a row's header that say what became of the transactions which made and deleted it.
const MADE_COMMITTED: u16 = 0x0100;
const MADE_ABORTED: u16 = 0x0200;
const ONLY_LOCKED: u16 = 0x0080;
const DELETE_ABORTED: u16 = 0x0800;

fn row(page: &[u8], pointer: u32) -> Option<Database> {
    let (at, state, length) = (pointer & 0x7fff, pointer >> 15 & 3, pointer >> 17);
    let row = page.get(at as usize..(at + length) as usize).filter(|_| state == NORMAL)?;
    let header = Fields::new("row", row);
    let (deleted_by, bits, begin) =
        (header.u32(4).ok()?, header.u16(20).ok()?, header.u8(22).ok()?);
    // Both at once: it is frozen.
    if bits & (MADE_COMMITTED | MADE_ABORTED) == MADE_ABORTED {
        return None;
    }
    // oid, datname, datdba, encoding, datlocprovider, datistemplate: the same from 15 to 18.
    let columns = Fields::new("row", row.get(usize::from(begin)..)?);
    let name = columns.array::<64>(4).ok()?;
    let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
    Some(Database {
        oid: columns.u32(0).ok().filter(|oid| *oid != 0)?,
        name: String::from_utf8_lossy(name).into_owned(),
        is_template: columns.u8(77).ok()? != 0,
        is_current: deleted_by == 0 || bits & (ONLY_LOCKED | DELETE_ABORTED) != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_leads_to_the_file() {
        let words = [MAP_MAGIC, 2, 1260, 7, PG_DATABASE, 16_400];
        let map: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(path(&map).unwrap(), "global/16400");
        assert!(path(&map[..20]).is_err() && path(&map[..16]).is_err() && path(&[]).is_err());
        let wrong = [&[1], &map[1..]].concat();
        assert!(path(&wrong).is_err());
        let many = [&map[..4], &u32::MAX.to_le_bytes(), &[0; 8 * 100]].concat();
        assert!(path(&many).is_err());
    }

    /// A page with rows: object id, name, by whom deleted, and the bits.
    fn page(rows: &[(u32, &str, u32, u16)]) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        let mut at = PAGE_SIZE;
        for (number, (oid, name, deleted_by, bits)) in rows.iter().enumerate() {
            let mut row = vec![0; 24 + 80];
            row[4..8].copy_from_slice(&deleted_by.to_le_bytes());
            row[20..22].copy_from_slice(&bits.to_le_bytes());
            row[22] = 24;
            row[24..28].copy_from_slice(&oid.to_le_bytes());
            row[28..28 + name.len()].copy_from_slice(name.as_bytes());
            row[24 + 77] = u8::from(name.starts_with("template"));
            at -= row.len();
            page[at..at + row.len()].copy_from_slice(&row);
            let pointer = at as u32 | NORMAL << 15 | (row.len() as u32) << 17;
            page[24 + number * 4..28 + number * 4].copy_from_slice(&pointer.to_le_bytes());
        }
        page[12..14].copy_from_slice(&(24 + rows.len() as u16 * 4).to_le_bytes());
        page
    }

    #[test]
    fn rows_are_read_with_what_became_of_them() {
        let rows = [
            (1, "template1", 0, MADE_COMMITTED | MADE_ABORTED),
            (16_384, "old", 700, MADE_COMMITTED),
            (16_384, "new", 0, 0),
            (16_385, "locked", 701, MADE_COMMITTED | ONLY_LOCKED),
            (16_386, "never", 0, MADE_ABORTED),
        ];
        let pages = [page(&rows), vec![0; PAGE_SIZE], page(&[(16_387, "x", 702, DELETE_ABORTED)])];
        let found = parse(&pages.concat());
        let found: Vec<_> =
            found.iter().map(|d| (d.oid, d.name.as_str(), d.is_template, d.is_current)).collect();
        assert_eq!(
            found,
            [
                (1, "template1", true, true),
                (16_384, "old", false, false),
                (16_384, "new", false, true),
                (16_385, "locked", false, true),
                (16_387, "x", false, true),
            ]
        );
    }

    #[test]
    fn broken_pages_give_what_they_have() {
        let whole = page(&[(5, "postgres", 0, 0)]);
        for length in 0..whole.len() {
            parse(&whole[..length]);
        }
        for at in 0..64 {
            let mut broken = whole.clone();
            broken[at] = 0xff;
            parse(&broken);
        }
        parse(&[0xff; 2 * PAGE_SIZE + 1]);
    }
}
