//! Verifies page checksums while files pass, in place of the server.
//!
//! A page that was being written while it was read may be torn; recovery replaces it, if its LSN lies
//! between the backup's start and stop. Where the backup stops is known only at its end, so that
//! pages with wrong checksums are kept until then.

use repo_format::limits::MAX_BAD_PAGES;
use repo_format::snapshot::{BadPage, BadPages};

use crate::chunking::Grid;
use crate::postgres::lsn::Lsn;
use crate::postgres::page::{PAGE_SIZE, PageVerdict, verify_page};
use crate::postgres::relation_file::{DEFAULT_SEGMENT_BLOCKS, FileKind, RelationFile, classify};

/// How often a page is read again that is another one each time.
const TRIES: u32 = 20;

/// So many suspects are told apart; more are simply bad.
const MAX_SUSPECTS: usize = 100_000;

/// All pages of a backup whose checksums are wrong.
#[derive(Debug, Default)]
pub struct PageCheck {
    suspects: Vec<Suspect>,
    more: u64,
}

#[derive(Debug)]
struct Suspect {
    path: String,
    block: u32,
    lsn: Lsn,
}

impl PageCheck {
    /// How the file at `path` is cut, and what verifies its pages if they have checksums that are to be verified.
    pub fn of<'c>(&'c mut self, path: &'c str, verify: bool) -> (Grid, Option<FileCheck<'c>>) {
        match classify(path) {
            FileKind::Relation(relation) => {
                (Grid::Pages, verify.then(|| self.file(path, &relation)))
            }
            FileKind::Slru(_) => (Grid::Pages, None),
            FileKind::ControlFile | FileKind::Other => (Grid::Stream, None),
        }
    }

    fn file<'c>(&'c mut self, path: &'c str, relation: &RelationFile) -> FileCheck<'c> {
        let first = relation.first_block(DEFAULT_SEGMENT_BLOCKS).unwrap_or_default();
        FileCheck { check: self, path, first, block: first, partial: Vec::new() }
    }

    /// Adds what another thread found.
    pub fn add(&mut self, other: PageCheck) {
        self.more += other.more;
        for suspect in other.suspects {
            self.suspect(suspect);
        }
    }

    fn suspect(&mut self, suspect: Suspect) {
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.push(suspect);
        } else {
            self.more += 1;
        }
    }

    /// The pages that nothing explains, in a backup from `start` to `stop`.
    pub fn finish(mut self, start: Lsn, stop: Lsn) -> BadPages {
        self.suspects.sort_unstable_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        let bad =
            self.suspects.into_iter().filter(|suspect| !(start..=stop).contains(&suspect.lsn));
        let bad: Vec<BadPage> =
            bad.map(|suspect| BadPage { path: suspect.path, block: suspect.block }).collect();
        let count = bad.len() as u64 + self.more;
        BadPages { count, first: bad.into_iter().take(MAX_BAD_PAGES).collect() }
    }
}

/// Verifies the pages of one file.
#[derive(Debug)]
pub struct FileCheck<'c> {
    check: &'c mut PageCheck,
    path: &'c str,
    /// The number of the file's first block within the relation, and of the next one.
    first: u32,
    block: u32,
    partial: Vec<u8>,
}

impl FileCheck<'_> {
    /// Takes the next bytes of the file. A short page at its end is not verified, as PostgreSQL has
    /// it: the file was being extended.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(PAGE_SIZE - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = tail;
            if let Ok(page) = <&[u8; PAGE_SIZE]>::try_from(self.partial.as_slice()) {
                let page = *page;
                self.page(&page);
                self.partial.clear();
            } else {
                return;
            }
        }
        let (pages, rest) = bytes.as_chunks::<PAGE_SIZE>();
        pages.iter().for_each(|page| self.page(page));
        self.partial.extend_from_slice(rest);
    }

    /// Verifies the next bytes of the file, which begin with a page. One that is wrong may have been written while it was
    /// read: it is read `again`, which is told where in the bytes it is and says whether that gave anything else.
    pub fn update_or_read_again<E>(
        &mut self,
        bytes: &mut [u8],
        mut again: impl FnMut(usize, &mut [u8; PAGE_SIZE]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let (pages, rest) = bytes.as_chunks_mut::<PAGE_SIZE>();
        for (at, page) in pages.iter_mut().enumerate() {
            let (mut bad, mut tries) = (self.bad(page), 0);
            while bad.is_some() && tries < TRIES && again(at * PAGE_SIZE, page)? {
                bad = self.bad(page);
                tries += 1;
            }
            self.note(bad);
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Goes on with block `number` of the file.
    pub fn seek(&mut self, number: u32) {
        self.block = self.first.wrapping_add(number);
    }

    fn page(&mut self, page: &[u8; PAGE_SIZE]) {
        self.note(self.bad(page));
    }

    /// The LSN of the next page, if its checksum is wrong.
    fn bad(&self, page: &[u8; PAGE_SIZE]) -> Option<Lsn> {
        match verify_page(page, self.block) {
            PageVerdict::Bad { lsn, .. } => Some(lsn),
            PageVerdict::New | PageVerdict::Ok => None,
        }
    }

    /// Goes on to the page after, and notes if this one was bad.
    fn note(&mut self, bad: Option<Lsn>) {
        if let Some(lsn) = bad {
            self.check.suspect(Suspect { path: self.path.to_owned(), block: self.block, lsn });
        }
        self.block = self.block.wrapping_add(1);
    }
}
