//! Who besides its owner may use what is stored.
//!
//! A repository that several users of one host (or of a NAS) share belongs to a group. Its directory says so itself,
//! by being writable for its group and handing its group on (setgid): whoever writes there later does as the
//! others do, with no option, and whatever his umask is.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::reserve::RESERVE;

/// The bits of a directory that its group shares: setgid, and all rights for the group.
const SHARED_DIRECTORY: u32 = 0o2770;

/// Who may use a directory and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Its owner; his group may read, unless his umask forbids it.
    Owner,
    /// All users of the group with this number alike.
    Group(u32),
}

/// The permission bits of a file or directory that is made. Those that a group is given hold whatever the umask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// The bits.
    pub bits: u32,
    /// The group that it belongs to, where that matters.
    pub group: Option<u32>,
}

impl Sharing {
    /// What `directory` says.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(directory)?;
        let is_shared = metadata.mode() & 0o2070 == 0o2070;
        Ok(if is_shared { Sharing::Group(metadata.gid()) } else { Sharing::Owner })
    }

    /// The rights of a file that will not change any more.
    pub fn file(self) -> Rights {
        match self {
            Sharing::Owner => Rights { bits: 0o640, group: None },
            Sharing::Group(group) => Rights { bits: 0o440, group: Some(group) },
        }
    }

    /// The rights of a file that is written to.
    pub fn changing_file(self) -> Rights {
        match self {
            Sharing::Owner => Rights { bits: 0o640, group: None },
            Sharing::Group(group) => Rights { bits: 0o660, group: Some(group) },
        }
    }

    /// The rights of a directory.
    pub fn directory(self) -> Rights {
        match self {
            Sharing::Owner => Rights::DIRECTORY,
            Sharing::Group(group) => Rights { bits: SHARED_DIRECTORY, group: Some(group) },
        }
    }
}

impl Rights {
    /// Those of a directory that nobody in particular shares.
    pub const DIRECTORY: Rights = Rights { bits: 0o750, group: None };

    /// Those of a file that is its owner's alone.
    pub const PRIVATE_FILE: Rights = Rights { bits: 0o600, group: None };

    /// Gives a file or directory that was just made what making it could not: its group, and the bits that the umask
    /// took away.
    pub fn give(self, file: &File) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        // The file system may hand the group on; where it does not, only a member of the group can give it.
        if file.metadata()?.gid() != group {
            std::os::unix::fs::fchown(file, None, Some(group))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.bits))
    }
}

/// Gives `directory` and all that is below it to `group`. It comes before what is in it: what others make meanwhile is
/// for the group already.
pub fn share(directory: &Path, group: u32) -> io::Result<()> {
    let sharing = Sharing::Group(group);
    give(directory, sharing.directory())?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let shared = fs::symlink_metadata(&path).and_then(|metadata| {
            if metadata.is_dir() {
                share(&path, group)
            } else if !metadata.is_file() {
                Ok(())
            } else if path.file_name() == Some(RESERVE.as_ref()) {
                give(&path, sharing.changing_file())
            } else {
                give(&path, sharing.file())
            }
        });
        match shared {
            // Somebody deleted it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            shared => shared?,
        }
    }
    Ok(())
}

fn give(path: &Path, rights: Rights) -> io::Result<()> {
    let given = File::open(path).and_then(|file| rights.give(&file));
    given.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_shared_when_its_group_may_write_and_it_hands_its_group_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let group = fs::metadata(path).unwrap().gid();
        for (bits, expected) in [
            (0o2770, Sharing::Group(group)),
            (0o2775, Sharing::Group(group)),
            (0o770, Sharing::Owner),
            (0o2750, Sharing::Owner),
            (0o700, Sharing::Owner),
        ] {
            fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(Sharing::of(path).unwrap(), expected, "{bits:o}");
        }
    }
}
