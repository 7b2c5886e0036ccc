//! Space that is set aside in a directory, so that a full disk can be emptied.
//!
//! To delete is to write first: a note, a record of what will go. The reserve is a file that takes up the space for
//! that. Only what makes room gives it free, so that WAL and backups cannot use it up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::Space;
use super::sharing::Rights;

/// The name of the file. It begins with a dot: no object's name does.
pub const RESERVE: &str = ".reserve";

/// What is set aside of a large file system.
const USUAL: u64 = 1 << 30;

/// Of a small one, this part of it.
const PART: u64 = 20;

/// What is set aside of a file system of `total` bytes unless the user says something else.
pub fn usual(total: u64) -> u64 {
    USUAL.min(total / PART)
}

/// The space on the file system of `directory`, and what is set aside there.
pub fn space(directory: &Path) -> io::Result<Space> {
    let system = statvfs(directory)?;
    let reserve = match fs::metadata(directory.join(RESERVE)) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    Ok(Space { total: bytes(system.f_blocks), available: bytes(system.f_bavail), reserve })
}

/// Sets `wanted` bytes aside, or what is usual; whether that much is set aside now. A disk that has not twice the room
/// is left as it is: the reserve is not to be what fills it.
pub fn ensure(directory: &Path, wanted: Option<u64>, rights: Rights) -> io::Result<bool> {
    let Space { total, available, reserve } = space(directory)?;
    let wanted = wanted.unwrap_or_else(|| usual(total));
    let path = directory.join(RESERVE);
    if wanted == 0 {
        return release(directory).map(|_| true);
    }
    if reserve >= wanted {
        if reserve > wanted {
            OpenOptions::new().write(true).open(&path)?.set_len(wanted)?;
        }
        return Ok(true);
    }
    if available < (wanted - reserve).saturating_add(wanted) {
        return Ok(false);
    }
    let mut options = OpenOptions::new();
    let mut file = match options.write(true).create_new(true).mode(rights.bits).open(&path) {
        Ok(made) => {
            rights.give(&made)?;
            made
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).open(&path)?
        }
        Err(error) => return Err(error),
    };
    fill(&mut file, reserve, wanted)?;
    file.sync_all()?;
    Ok(true)
}

/// Gives the space free; whether there was any.
pub fn release(directory: &Path) -> io::Result<bool> {
    match fs::remove_file(directory.join(RESERVE)) {
        Ok(()) => {
            File::open(directory)?.sync_all()?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the file take `to` bytes on the disk, where it takes `from` now.
fn fill(file: &mut File, from: u64, to: u64) -> io::Result<()> {
    match fallocate(&*file, FallocateFlags::empty(), from, to - from) {
        Ok(()) => return Ok(()),
        // Not every file system (NFS before 4.2, some FUSE) can do it without being written to.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    file.seek(SeekFrom::Start(from))?;
    let zeros = vec![0; 1 << 20];
    let mut left = to - from;
    while left > 0 {
        let length = left.min(zeros.len() as u64);
        file.write_all(zeros.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default())?;
        left -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_grows_shrinks_and_goes() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let rights = Rights { bits: 0o640, group: None };
        let set_aside = |wanted| {
            assert!(ensure(path, Some(wanted), rights).unwrap());
            space(path).unwrap().reserve
        };
        assert_eq!(set_aside(1 << 20), 1 << 20);
        assert!(fs::metadata(path.join(RESERVE)).unwrap().blocks() * 512 >= 1 << 20);
        assert_eq!(set_aside(3 << 20), 3 << 20);
        assert!(fs::metadata(path.join(RESERVE)).unwrap().blocks() * 512 >= 3 << 20);
        assert_eq!(set_aside(2 << 20), 2 << 20);
        assert!(release(path).unwrap() && !release(path).unwrap());
        assert_eq!(set_aside(0), 0);
        // Nobody has that much.
        assert!(!ensure(path, Some(u64::MAX / 4), rights).unwrap());
        assert_eq!(space(path).unwrap().reserve, 0);
    }

    #[test]
    fn a_small_file_system_keeps_a_part_of_itself() {
        assert_eq!(usual(100 << 30), 1 << 30);
        assert_eq!(usual(10 << 30), 512 << 20);
        assert_eq!(usual(0), 0);
    }
}
