//! Rows of one length each, in memory while they are few and in a file that has no name when they are
//! many: what an index is made of stays small in memory however large the repository is.

use std::borrow::Cow;
use std::collections::BinaryHeap;
use std::collections::{HashSet, binary_heap::PeekMut};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// So many rows of one kind are kept in memory.
const IN_MEMORY: usize = 1 << 19;

/// Rows between two fences: what a search reads at once.
const BLOCK: usize = 128;

/// Sorted files are merged into one when there are so many.
const FILES: usize = 16;

/// The bytes of rows.
#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    File(File),
}

impl Bytes {
    /// The `length` bytes from `offset` on; fewer at the end.
    fn read(&self, offset: u64, length: usize) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Bytes::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(length).min(bytes.len());
                Ok(Cow::Borrowed(bytes.get(start..end).unwrap_or_default()))
            }
            Bytes::File(file) => {
                let mut bytes = vec![0; length];
                let mut filled = 0;
                while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset + filled as u64)? {
                        0 => break,
                        count => filled += count,
                    }
                }
                bytes.truncate(filled);
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// All bytes, from the beginning.
    fn reader(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Bytes::Memory(bytes) => Box::new(bytes.as_slice()),
            Bytes::File(file) => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::with_capacity(64 * 1024, file))
            }
        })
    }
}

/// Rows in the order in which they were added, found by their number.
#[derive(Debug)]
pub struct NumberedRows<const N: usize> {
    directory: PathBuf,
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
    count: u32,
}

impl<const N: usize> NumberedRows<N> {
    /// No rows; a file that becomes necessary is in `directory`.
    pub fn new(directory: &Path) -> Self {
        NumberedRows { directory: directory.to_owned(), memory: vec![], file: None, count: 0 }
    }

    /// How many rows there are, which is the number of the next one.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Adds a row.
    pub fn push(&mut self, row: &[u8; N]) -> io::Result<()> {
        self.count = self.count.checked_add(1).ok_or_else(|| io::Error::other("over 2^32 rows"))?;
        if let Some(file) = &mut self.file {
            return file.write_all(row);
        }
        self.memory.extend_from_slice(row);
        if self.memory.len() >= IN_MEMORY * N {
            let mut file = BufWriter::new(tempfile::tempfile_in(&self.directory)?);
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// The rows, which can be read from now on.
    pub fn finish(self) -> io::Result<FinishedRows<N>> {
        let bytes = match self.file {
            Some(file) => Bytes::File(file.into_inner().map_err(io::IntoInnerError::into_error)?),
            None => Bytes::Memory(self.memory),
        };
        Ok(FinishedRows { bytes, count: self.count })
    }
}

/// [`NumberedRows`] that are complete.
#[derive(Debug)]
pub struct FinishedRows<const N: usize> {
    bytes: Bytes,
    count: u32,
}

impl<const N: usize> FinishedRows<N> {
    /// `count` rows from number `first` on; none if there are not so many.
    pub fn get(&self, first: u32, count: u32) -> io::Result<Vec<[u8; N]>> {
        if u64::from(first) + u64::from(count) > u64::from(self.count) {
            return Ok(vec![]);
        }
        let bytes = self.bytes.read(u64::from(first) * N as u64, count as usize * N)?;
        Ok(bytes.as_chunks().0.to_vec())
    }

    /// How many rows there are.
    pub fn len(&self) -> u32 {
        self.count
    }
}

/// Rows in the order of their bytes, found by how they begin. Rows begin with hashes.
#[derive(Debug)]
pub struct SortedRows<const N: usize> {
    bytes: Bytes,
    count: u64,
    /// How the first row of each block begins.
    fences: Vec<u64>,
}

impl<const N: usize> SortedRows<N> {
    fn in_memory(mut rows: Vec<[u8; N]>) -> Self {
        rows.sort_unstable();
        let fences = rows.iter().step_by(BLOCK).map(|row| beginning(row)).collect();
        let count = rows.len() as u64;
        SortedRows { bytes: Bytes::Memory(rows.into_flattened()), count, fences }
    }

    /// Merges sorted rows into a file in `directory`.
    fn merge(parts: &[SortedRows<N>], directory: &Path) -> io::Result<Self> {
        let mut readers =
            parts.iter().map(|part| part.bytes.reader()).collect::<Result<Vec<_>, _>>()?;
        let mut heap = BinaryHeap::new();
        for (number, reader) in readers.iter_mut().enumerate() {
            if let Some(row) = next_row::<N>(reader)? {
                heap.push(std::cmp::Reverse((row, number)));
            }
        }
        let mut file = BufWriter::with_capacity(64 * 1024, tempfile::tempfile_in(directory)?);
        let (mut count, mut fences) = (0u64, vec![]);
        while let Some(mut lowest) = heap.peek_mut() {
            let std::cmp::Reverse((row, number)) = *lowest;
            if count.is_multiple_of(BLOCK as u64) {
                fences.push(beginning(&row));
            }
            file.write_all(&row)?;
            count += 1;
            let reader = readers.get_mut(number).ok_or_else(|| io::Error::other("no such part"))?;
            match next_row(reader)? {
                Some(row) => *lowest = std::cmp::Reverse((row, number)),
                None => drop(PeekMut::pop(lowest)),
            }
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(SortedRows { bytes: Bytes::File(file), count, fences })
    }

    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Every row, in order.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8; N]) -> io::Result<()>) -> io::Result<()> {
        let mut reader = self.bytes.reader()?;
        while let Some(row) = next_row::<N>(&mut reader)? {
            visit(&row)?;
        }
        Ok(())
    }

    /// The rows that begin with `start`, which has eight bytes or more, in their order.
    pub fn starting_with(&self, start: &[u8]) -> io::Result<Vec<[u8; N]>> {
        let key = beginning(start);
        let mut block = self.fences.partition_point(|fence| *fence < key).saturating_sub(1);
        let mut found = vec![];
        loop {
            let offset = (block * BLOCK * N) as u64;
            let bytes = self.bytes.read(offset, BLOCK * N)?;
            let rows: &[[u8; N]] = bytes.as_chunks().0;
            let first = rows.partition_point(|row| row.as_slice() < start);
            for row in rows.get(first..).unwrap_or_default() {
                if !row.starts_with(start) {
                    return Ok(found);
                }
                found.push(*row);
            }
            if rows.len() < BLOCK {
                return Ok(found);
            }
            block += 1;
        }
    }
}

/// Takes rows in any order and sorts them.
#[derive(Debug)]
pub struct RowSorter<const N: usize> {
    directory: PathBuf,
    rows: Vec<[u8; N]>,
    sorted: Vec<SortedRows<N>>,
}

impl<const N: usize> RowSorter<N> {
    /// No rows; files that become necessary are in `directory`.
    pub fn new(directory: &Path) -> Self {
        RowSorter { directory: directory.to_owned(), rows: vec![], sorted: vec![] }
    }

    /// Adds a row.
    pub fn push(&mut self, row: [u8; N]) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() >= IN_MEMORY {
            let rows = SortedRows::in_memory(std::mem::take(&mut self.rows));
            spill(&mut self.sorted, rows, &self.directory)?;
        }
        Ok(())
    }

    /// The sorted rows.
    pub fn finish(mut self) -> io::Result<SortedRows<N>> {
        let rows = SortedRows::in_memory(self.rows);
        if self.sorted.is_empty() {
            return Ok(rows);
        }
        self.sorted.push(rows);
        SortedRows::merge(&self.sorted, &self.directory)
    }
}

/// A set of rows that grows.
#[derive(Debug)]
pub struct RowSet<const N: usize> {
    directory: PathBuf,
    latest: HashSet<[u8; N]>,
    sorted: Vec<SortedRows<N>>,
}

impl<const N: usize> RowSet<N> {
    /// An empty set; files that become necessary are in `directory`.
    pub fn new(directory: &Path) -> Self {
        RowSet { directory: directory.to_owned(), latest: HashSet::new(), sorted: vec![] }
    }

    /// Whether a row is in the set.
    pub fn contains(&self, row: &[u8; N]) -> io::Result<bool> {
        if self.latest.contains(row) {
            return Ok(true);
        }
        for sorted in &self.sorted {
            if !sorted.starting_with(row)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a row; whether it was not in the set.
    pub fn insert(&mut self, row: [u8; N]) -> io::Result<bool> {
        if self.contains(&row)? {
            return Ok(false);
        }
        self.latest.insert(row);
        if self.latest.len() >= IN_MEMORY {
            let rows = SortedRows::in_memory(self.latest.drain().collect());
            spill(&mut self.sorted, rows, &self.directory)?;
        }
        Ok(true)
    }
}

/// Writes sorted rows to a file next to the others, and merges the files when they are many.
fn spill<const N: usize>(
    files: &mut Vec<SortedRows<N>>,
    rows: SortedRows<N>,
    directory: &Path,
) -> io::Result<()> {
    files.push(SortedRows::merge(&[rows], directory)?);
    if files.len() >= FILES {
        *files = vec![SortedRows::merge(files, directory)?];
    }
    Ok(())
}

fn beginning(row: &[u8]) -> u64 {
    row.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn next_row<const N: usize>(reader: &mut impl Read) -> io::Result<Option<[u8; N]>> {
    let mut row = [0; N];
    match reader.read_exact(&mut row) {
        Ok(()) => Ok(Some(row)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row with number `n` of a fixed shuffled sequence.
    fn row(n: u32) -> [u8; 20] {
        let mut row = [0; 20];
        row[..8].copy_from_slice(&u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        row[16..].copy_from_slice(&n.to_be_bytes());
        row
    }

    #[test]
    fn rows_are_found_in_memory_and_in_files() {
        let directory = tempfile::tempdir().unwrap();
        for count in [0, 1, 127, 128, 129, 5000, IN_MEMORY as u32 * 3 + 5] {
            let mut sorter = RowSorter::<20>::new(directory.path());
            (0..count).for_each(|n| sorter.push(row(n)).unwrap());
            let sorted = sorter.finish().unwrap();
            assert_eq!(sorted.len(), u64::from(count));
            for n in (0..count).step_by(1 + count as usize / 1000) {
                assert_eq!(sorted.starting_with(&row(n)[..16]).unwrap(), [row(n)]);
            }
            assert!(sorted.starting_with(&row(count)).unwrap().is_empty());
            let mut reader = sorted.bytes.reader().unwrap();
            let next = || next_row::<20>(&mut reader).unwrap();
            let all: Vec<_> = std::iter::from_fn(next).collect();
            assert!(all.is_sorted());
            assert_eq!(all.len() as u32, count);
        }
    }

    #[test]
    fn rows_that_begin_alike_are_found_across_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = RowSorter::<12>::new(directory.path());
        let alike = |tail: u32| {
            let mut row = [7; 12];
            row[8..].copy_from_slice(&tail.to_be_bytes());
            row
        };
        (0..1000).for_each(|tail| sorter.push(alike(tail)).unwrap());
        sorter.push([1; 12]).unwrap();
        sorter.push([9; 12]).unwrap();
        let sorted = sorter.finish().unwrap();
        assert_eq!(sorted.starting_with(&[7; 8]).unwrap().len(), 1000);
    }

    #[test]
    fn a_set_knows_what_it_has_in_files_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut set = RowSet::<20>::new(directory.path());
        let count = IN_MEMORY as u32 * 2 + 10;
        (0..count).for_each(|n| assert!(set.insert(row(n)).unwrap()));
        (0..count).step_by(997).for_each(|n| assert!(!set.insert(row(n)).unwrap()));
        assert!(set.insert(row(count)).unwrap());
    }

    #[test]
    fn numbered_rows_are_found_in_memory_and_in_files() {
        let directory = tempfile::tempdir().unwrap();
        for count in [3, IN_MEMORY as u32 + 3] {
            let mut rows = NumberedRows::<20>::new(directory.path());
            (0..count).for_each(|n| rows.push(&row(n)).unwrap());
            let rows = rows.finish().unwrap();
            assert_eq!(rows.get(1, 2).unwrap(), [row(1), row(2)]);
            assert_eq!(rows.get(count - 1, 1).unwrap(), [row(count - 1)]);
            assert!(rows.get(count - 1, 2).unwrap().is_empty());
        }
    }
}
