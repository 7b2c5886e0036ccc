//! What is said between a restore and its agent.
//!
//! The agent begins with a line, [`greeting`]. Then there are frames: a length of four bytes, the number
//! of the question in eight, and a question or an answer in Borsh. Questions are answered in any order,
//! under their numbers; that files are made and written is not answered, but accounted for when they are
//! finished, so that many small files do not wait for the way there and back.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};

use super::super::environment::Machine;
use super::super::place::{Content, Entry, Place};
use super::super::programs::Programs;
use crate::error::{Error, Kind};

/// The version of everything here. Both sides must have the same.
pub const VERSION: u32 = 2;

/// The longest content of one message, in bytes; longer ones come in pieces.
pub const MAX_PIECE: usize = 512 * 1024;

/// The longest message. Lists of paths are the longest ones beside pieces.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What an agent says first.
pub fn greeting() -> String {
    format!("{GREETING}{VERSION}\n")
}

/// The beginning of what an agent says first, before its version.
pub const GREETING: &str = "barman-agent ";

/// A path: bytes, as file systems have them.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WirePath(Vec<u8>);

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        WirePath(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<WirePath> for PathBuf {
    fn from(path: WirePath) -> Self {
        OsString::from_vec(path.0).into()
    }
}

/// What an agent is asked.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[allow(missing_docs)]
pub enum Question {
    /// What is there?
    Look { path: WirePath },
    /// Choose who owns what is made from now on.
    ChooseOwner { destination: WirePath, wanted: Option<String> },
    /// Which versions of PostgreSQL are installed?
    Installed,
    /// What is the machine like?
    Machine,
    /// Which of these libraries are missing?
    MissingLibraries { major: u32, directory: WirePath, names: Vec<String>, path: Option<String> },
    /// Make a directory above those that are restored.
    MakeParent { path: WirePath },
    /// Make a directory.
    MakeDirectory { path: WirePath, mode: u32 },
    /// Make a symbolic link.
    MakeLink { path: WirePath, target: WirePath },
    /// Write a small file, durably.
    Put { path: WirePath, mode: Option<u32>, content: Vec<u8> },
    /// Make the entries of a directory durable.
    SyncDirectory { path: WirePath },
    /// Put the marker of a restore, and hold it.
    Begin { marker: WirePath, content: Vec<u8> },
    /// What is the content of a file that is at most so long?
    Read { path: WirePath, limit: u64 },
    /// What is in a directory, after a name?
    List { directory: WirePath, after: Option<Vec<u8>> },
    /// Remove files, links and empty directories.
    Remove { paths: Vec<WirePath> },
    /// Make a file, and call it by this number from now on. There is no answer: whether it could be made
    /// is told when it is finished.
    Create { file: u32, path: WirePath, mode: u32, size: u64 },
    /// Open a file that is there, as [`Question::Create`].
    Reopen { file: u32, path: WirePath, mode: u32, size: u64 },
    /// What does it have there? At most [`MAX_PIECE`] bytes are asked for.
    ReadPart { file: u32, offset: u64, length: u32 },
    /// Write into it. There is no answer.
    Write { file: u32, part: u32, offset: u64, bytes: Vec<u8> },
    /// Give it its time, and say what was written.
    Finish { file: u32, mtime: i64 },
    /// Make it durable.
    Sync { file: u32 },
    /// Forget it. There is no answer.
    Close { file: u32 },
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[allow(missing_docs)]
pub enum Answer {
    /// It is done.
    Done,
    /// It cannot be done.
    Failed { failure: Failure, message: String, hint: Option<String> },
    /// What is at a path.
    Place(WirePlace),
    /// Who owns what is made, if not the user who writes.
    Owner(Option<String>),
    /// The versions that are installed, and where.
    Installed(Vec<(u32, WirePath)>),
    /// What the machine is like.
    Machine(Machine),
    /// Some names.
    Names(Vec<String>),
    /// The content of a file, if there is such a file, or of a part of it.
    Bytes(Option<Vec<u8>>),
    /// What is in a directory, and whether that is all.
    Entries { entries: Vec<Entry>, is_all: bool },
    /// The sums of all parts of a file, as [`Sum`] makes them, in the order of their numbers.
    Written(Vec<(u32, [u8; 32])>),
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Failure {
    /// It makes no sense.
    Usage,
    /// It would do harm, or cannot be met.
    Refused,
    /// A file.
    Io,
}

/// [`Place`], as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WirePlace {
    path: WirePath,
    real: WirePath,
    content: WireContent,
    inside: Option<WirePath>,
    existing: WirePath,
    is_writable: bool,
    device: u64,
    free_bytes: u64,
    free_files: Option<u64>,
}

/// [`Content`], as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum WireContent {
    Missing,
    Empty,
    Something,
    DataDirectory { server: Option<u32> },
    Unfinished,
    Tablespace,
    Other,
}

impl From<&Place> for WirePlace {
    fn from(place: &Place) -> Self {
        WirePlace {
            path: place.path.as_path().into(),
            real: place.real.as_path().into(),
            content: match place.content {
                Content::Missing => WireContent::Missing,
                Content::Empty => WireContent::Empty,
                Content::Something => WireContent::Something,
                Content::DataDirectory { server } => WireContent::DataDirectory { server },
                Content::Unfinished => WireContent::Unfinished,
                Content::Tablespace => WireContent::Tablespace,
                Content::Other => WireContent::Other,
            },
            inside: place.inside.as_deref().map(WirePath::from),
            existing: place.existing.as_path().into(),
            is_writable: place.is_writable,
            device: place.device,
            free_bytes: place.free_bytes,
            free_files: place.free_files,
        }
    }
}

impl From<WirePlace> for Place {
    fn from(place: WirePlace) -> Self {
        Place {
            path: place.path.into(),
            real: place.real.into(),
            content: match place.content {
                WireContent::Missing => Content::Missing,
                WireContent::Empty => Content::Empty,
                WireContent::Something => Content::Something,
                WireContent::DataDirectory { server } => Content::DataDirectory { server },
                WireContent::Unfinished => Content::Unfinished,
                WireContent::Tablespace => Content::Tablespace,
                WireContent::Other => Content::Other,
            },
            inside: place.inside.map(PathBuf::from),
            existing: place.existing.into(),
            is_writable: place.is_writable,
            device: place.device,
            free_bytes: place.free_bytes,
            free_files: place.free_files,
        }
    }
}

impl From<(u32, WirePath)> for Programs {
    fn from((major, directory): (u32, WirePath)) -> Self {
        Programs { major, directory: directory.into() }
    }
}

impl Answer {
    /// The answer that something failed.
    pub fn failed(error: &Error) -> Answer {
        let failure = match error.kind() {
            Kind::Usage => Failure::Usage,
            Kind::Refused => Failure::Refused,
            _ => Failure::Io,
        };
        let hint = error.hint_text().map(str::to_owned);
        Answer::Failed { failure, message: error.to_string(), hint }
    }
}

/// The sum of what is written of a part of a file, and where: no key is needed for it.
#[derive(Debug, Default)]
pub struct Sum(blake3::Hasher);

impl Sum {
    /// Adds bytes.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) {
        self.0.update(&offset.to_le_bytes());
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The sum.
    pub fn value(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Sends a message.
pub fn send(to: &mut impl Write, number: u64, message: &impl BorshSerialize) -> io::Result<()> {
    let body = borsh::to_vec(message)?;
    if body.len() > MAX_MESSAGE {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a message to the agent is too long"));
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(body.len() + 12);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)?;
    to.flush()
}

/// Receives a message with its number; nothing at the end.
pub fn receive<M: BorshDeserialize>(from: &mut impl Read) -> io::Result<Option<(u64, M)>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        let message = format!("a message of {length} bytes is too long");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    let mut number = [0; 8];
    from.read_exact(&mut number)?;
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some((u64::from_le_bytes(number), M::try_from_slice(&body)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_as_they_went() {
        let path = WirePath::from(Path::new("/a"));
        let question = Question::Write { file: 1, part: 2, offset: 3, bytes: vec![4; 5] };
        let mut bytes = vec![];
        send(&mut bytes, 7, &question).unwrap();
        send(&mut bytes, 8, &Question::Look { path: path.clone() }).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(receive(&mut from).unwrap(), Some((7, question)));
        assert_eq!(receive(&mut from).unwrap(), Some((8, Question::Look { path })));
        assert_eq!(receive::<Question>(&mut from).unwrap(), None);
        let place = Place::look(Path::new("/nonexistent/x")).unwrap();
        assert_eq!(Place::from(WirePlace::from(&place)), place);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let too_long = [&u32::MAX.to_le_bytes()[..], &[0; 100]].concat();
        for bytes in [&too_long[..], &[1, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]] {
            assert!(receive::<Question>(&mut &*bytes).is_err(), "{bytes:?}");
        }
        let long =
            Question::Put { path: WirePath(vec![]), mode: None, content: vec![0; MAX_MESSAGE] };
        assert!(send(&mut vec![], 1, &long).is_err());
    }
}
