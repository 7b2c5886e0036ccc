//! Content in, chunks out: where files are cut, and what describes them.
//!
//! Files of pages are cut on the page grid by [`pages`], everything else by [`stream`]; [`writer`]
//! stores the chunks and makes the content and the digest of a file, whose parts [`map`] describes.

pub mod map;
pub mod pages;
pub mod stream;
pub mod writer;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Its pages are rewritten in place and never shift.
    Pages,
    /// What it holds may shift.
    Stream,
}
