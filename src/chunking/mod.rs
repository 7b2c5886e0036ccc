//! Content in, chunks out: where files are cut, and what describes them.
//!
//! Files of pages are cut on the page grid by [`pages`], or, where there is a [`former`] version of them, by [`changes`];
//! everything else by [`stream`]. [`writer`] stores the chunks and makes the content and the digest of a file, whose
//! parts [`map`] describes. A [`page_map`] keeps the hashes of pages for the next time.

pub mod changes;
pub mod former;
pub mod map;
pub mod page_map;
pub mod pages;
pub mod stream;
pub mod writer;

#[cfg(test)]
mod tests;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Its pages are rewritten in place and never shift.
    Pages,
    /// What it holds may shift.
    Stream,
}
