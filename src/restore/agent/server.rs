//! The agent: does on its host what it is told.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, bounded};

use super::protocol::{self, Answer, MAX_PIECE, Question, Sum, WirePath, WirePlace, greeting};
use crate::error::{Error, Kind, Result};
use crate::restore::destination::{Destination, Output, ThisHost, cannot_read};
use crate::restore::place::Entry;
use crate::restore::programs::Programs;

/// So many threads write files; each file is of one of them.
const WRITERS: u32 = 4;

/// So many questions wait for each of them.
const WAITING: usize = 16;

/// So many files are open for each of them at most.
const MAX_FILES: usize = 4096;

/// Answers questions until there are no more.
///
/// # Errors
/// If what comes is no question, or answers do not get away.
pub fn serve(mut input: impl Read, output: impl Write + Send) -> Result<()> {
    let lost = |error: std::io::Error| {
        Error::new(Kind::Io, "the connection to barman is broken").because(error)
    };
    let output = Mutex::new(output);
    let answer = |number: u64, answer: &Answer| {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::send(&mut *output, number, answer).map_err(lost)
    };
    {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        let greeted = output.write_all(greeting().as_bytes()).and_then(|()| output.flush());
        greeted.map_err(lost)?;
    }
    let host = ThisHost::default();
    std::thread::scope(|scope| {
        let mut writers = vec![];
        for _ in 0..WRITERS {
            let (sender, questions) = bounded(WAITING);
            let (host, answer) = (&host, &answer);
            scope.spawn(move || write_files(host, &questions, answer));
            writers.push(sender);
        }
        while let Some((number, question)) =
            protocol::receive::<Question>(&mut input).map_err(lost)?
        {
            match file_of(&question) {
                None => answer(number, &do_it(&host, question))?,
                Some(file) => {
                    let writer = writers.get((file % WRITERS) as usize);
                    if writer.is_none_or(|writer| writer.send((number, question)).is_err()) {
                        break;
                    }
                }
            }
        }
        drop(writers);
        Ok(())
    })
}

/// The file that a question is about.
fn file_of(question: &Question) -> Option<u32> {
    match question {
        Question::Create { file, .. }
        | Question::Reopen { file, .. }
        | Question::ReadPart { file, .. }
        | Question::Write { file, .. }
        | Question::Finish { file, .. }
        | Question::Sync { file }
        | Question::Close { file } => Some(*file),
        _ => None,
    }
}

/// Does what is about no open file.
fn do_it(host: &ThisHost, question: Question) -> Answer {
    let path = |path: WirePath| PathBuf::from(path);
    let done = |result: Result<()>| result.map(|()| Answer::Done);
    let answer = match question {
        Question::Look { path: at } => {
            host.look(&path(at)).map(|place| Answer::Place(WirePlace::from(&place)))
        }
        Question::ChooseOwner { destination, wanted } => {
            host.choose_owner(&path(destination), wanted.as_deref()).map(Answer::Owner)
        }
        Question::Installed => host.installed().map(|installed| {
            let wire = |programs: Programs| (programs.major, programs.directory.as_path().into());
            Answer::Installed(installed.into_iter().map(wire).collect())
        }),
        Question::Machine => host.machine().map(Answer::Machine),
        Question::MissingLibraries { major, directory, names, path: search } => host
            .missing_libraries(&Programs::from((major, directory)), &names, search.as_deref())
            .map(Answer::Names),
        Question::MakeParent { path: at } => done(host.make_parent(&path(at))),
        Question::MakeDirectory { path: at, mode } => done(host.make_directory(&path(at), mode)),
        Question::MakeLink { path: at, target } => done(host.make_link(&path(at), &path(target))),
        Question::Put { path: at, mode, content } => done(host.put(&path(at), &content, mode)),
        Question::SyncDirectory { path: at } => done(host.sync_directories(&[path(at)])),
        Question::Begin { marker, content } => done(host.begin(&path(marker), &content)),
        Question::Read { path: at, limit } => {
            host.read(&path(at), limit.min(MAX_PIECE as u64)).map(Answer::Bytes)
        }
        Question::List { directory, after } => {
            let directory = path(directory);
            Entry::list(&directory, after.as_deref())
                .map(|(entries, is_all)| Answer::Entries { entries, is_all })
                .map_err(|error| cannot_read(&directory, error))
        }
        Question::Remove { paths } => {
            done(host.remove(&paths.into_iter().map(path).collect::<Vec<_>>()))
        }
        _ => Err(Error::new(Kind::Internal, "a question about a file came astray")),
    };
    answer.unwrap_or_else(|error| Answer::failed(&error))
}

/// A file that is being written.
struct OpenFile {
    /// Where it is written to, or the first thing that went wrong with it.
    output: Result<Box<dyn Output>, Answer>,
    /// The sums of its parts.
    sums: BTreeMap<u32, Sum>,
}

/// Does what is about files, until nothing more comes.
fn write_files(
    host: &ThisHost,
    questions: &Receiver<(u64, Question)>,
    answer: &impl Fn(u64, &Answer) -> Result<()>,
) {
    let mut files: HashMap<u32, OpenFile> = HashMap::new();
    for (number, question) in questions {
        let reply = match question {
            Question::Write { file, part, offset, bytes } => {
                if let Some(open) = files.get_mut(&file) {
                    open.write(part, offset, &bytes);
                }
                continue;
            }
            Question::Close { file } => {
                files.remove(&file);
                continue;
            }
            Question::Create { file, path, mode, size } => {
                open(&mut files, file, || host.create(&PathBuf::from(path), mode, size));
                continue;
            }
            Question::Reopen { file, path, mode, size } => {
                open(&mut files, file, || host.reopen(&PathBuf::from(path), mode, size));
                continue;
            }
            Question::ReadPart { file, offset, length } => on_file(&files, file, |output, _| {
                let mut bytes = vec![0; MAX_PIECE.min(length as usize)];
                output.read(offset, &mut bytes).map(|()| Answer::Bytes(Some(bytes)))
            }),
            Question::Finish { file, mtime } => on_file(&files, file, |output, sums| {
                let sums = sums.iter().map(|(part, sum)| (*part, sum.value()));
                output.finish(mtime).map(|()| Answer::Written(sums.collect()))
            }),
            Question::Sync { file } => {
                on_file(&files, file, |output, _| output.sync().map(|()| Answer::Done))
            }
            _ => continue,
        };
        if answer(number, &reply).is_err() {
            // Nobody listens any more; what reads the questions finds that out too.
            return;
        }
    }
}

/// Opens a file under a number, unless there are too many.
fn open(
    files: &mut HashMap<u32, OpenFile>,
    file: u32,
    output: impl FnOnce() -> Result<Box<dyn Output>>,
) {
    if files.len() < MAX_FILES {
        let output = output().map_err(|error| Answer::failed(&error));
        files.insert(file, OpenFile { output, sums: BTreeMap::new() });
    }
}

/// Does something with an open file, unless something went wrong with it before.
fn on_file(
    files: &HashMap<u32, OpenFile>,
    file: u32,
    work: impl FnOnce(&dyn Output, &BTreeMap<u32, Sum>) -> Result<Answer>,
) -> Answer {
    match files.get(&file) {
        None => Answer::failed(&Error::new(Kind::Internal, "there is no such open file")),
        Some(OpenFile { output: Err(failure), .. }) => failure.clone(),
        Some(OpenFile { output: Ok(output), sums }) => {
            work(output.as_ref(), sums).unwrap_or_else(|error| Answer::failed(&error))
        }
    }
}

impl OpenFile {
    fn write(&mut self, part: u32, offset: u64, bytes: &[u8]) {
        let Ok(output) = &self.output else { return };
        match output.write(part as usize, offset, bytes) {
            Ok(()) => self.sums.entry(part).or_default().add(offset, bytes),
            Err(error) => self.output = Err(Answer::failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::protocol::{receive, send};
    use super::*;

    /// What an agent answers, by the numbers of the questions.
    fn answers(questions: &[Question]) -> BTreeMap<u64, Answer> {
        let mut input = vec![];
        for (number, question) in (1..).zip(questions) {
            send(&mut input, number, question).unwrap();
        }
        let mut output = vec![];
        serve(input.as_slice(), &mut output).unwrap();
        let mut said = output.strip_prefix(greeting().as_bytes()).unwrap();
        let mut answers = BTreeMap::new();
        while let Some((number, answer)) = receive(&mut said).unwrap() {
            assert_eq!(answers.insert(number, answer), None);
        }
        answers
    }

    #[test]
    fn files_are_written_and_accounted_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let write = |part, offset, bytes: &[u8]| Question::Write {
            file: 5,
            part,
            offset,
            bytes: bytes.to_vec(),
        };
        let create =
            Question::Create { file: 5, path: path.as_path().into(), mode: 0o640, size: 6 };
        let said = answers(&[
            create.clone(),
            write(1, 4, b"ef"),
            write(0, 0, b"ab"),
            Question::Finish { file: 5, mtime: 1_000_000_000 },
            Question::Sync { file: 5 },
            Question::Close { file: 5 },
            Question::Sync { file: 5 },
            create,
            Question::Finish { file: 5, mtime: 0 },
        ]);
        assert_eq!(std::fs::read(&path).unwrap(), b"ab\0\0ef");
        let (mut first, mut second) = (Sum::default(), Sum::default());
        first.add(0, b"ab");
        second.add(4, b"ef");
        let sums = vec![(0, first.value()), (1, second.value())];
        assert_eq!(said.get(&4), Some(&Answer::Written(sums)));
        assert_eq!(said.get(&5), Some(&Answer::Done));
        assert!(matches!(said.get(&7), Some(Answer::Failed { .. })), "it is closed");
        assert!(matches!(said.get(&9), Some(Answer::Failed { .. })), "nothing is overwritten");
        assert_eq!(said.keys().copied().collect::<Vec<_>>(), [4, 5, 7, 9]);
    }

    #[test]
    fn what_is_there_is_read_corrected_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"abcdef").unwrap();
        let marker = directory.path().join("marker");
        let said = answers(&[
            Question::Read { path: path.as_path().into(), limit: 6 },
            Question::Read { path: path.as_path().into(), limit: 5 },
            Question::Reopen { file: 1, path: path.as_path().into(), mode: 0o600, size: 4 },
            Question::Write { file: 1, part: 0, offset: 1, bytes: b"x".to_vec() },
            Question::ReadPart { file: 1, offset: 0, length: 4 },
            Question::ReadPart { file: 1, offset: 0, length: 5 },
            Question::Begin { marker: marker.as_path().into(), content: b"m".to_vec() },
        ]);
        assert_eq!(said.get(&1), Some(&Answer::Bytes(Some(b"abcdef".to_vec()))));
        assert_eq!(said.get(&2), Some(&Answer::Bytes(None)));
        assert_eq!(said.get(&5), Some(&Answer::Bytes(Some(b"axcd".to_vec()))));
        assert!(matches!(said.get(&6), Some(Answer::Failed { .. })), "{said:?}");
        assert_eq!(std::fs::read(&marker).unwrap(), b"m");
        let said = answers(&[
            Question::List { directory: directory.path().into(), after: Some(b"file".to_vec()) },
            Question::Remove { paths: [&path, &marker].map(|p| p.as_path().into()).to_vec() },
            Question::Remove { paths: vec![directory.path().into(), path.as_path().into()] },
            Question::List { directory: directory.path().into(), after: None },
        ]);
        let Some(Answer::Entries { entries, is_all: true }) = said.get(&1) else {
            panic!("{said:?}");
        };
        assert_eq!(entries.iter().map(|e| e.name.as_slice()).collect::<Vec<_>>(), [b"marker"]);
        assert_eq!((said.get(&2), said.get(&3)), (Some(&Answer::Done), Some(&Answer::Done)));
        assert!(matches!(said.get(&4), Some(Answer::Failed { .. })), "{said:?}");
    }

    #[test]
    fn questions_about_the_host_are_answered() {
        let path = || WirePath::from(Path::new("/nonexistent/x"));
        let said = answers(&[
            Question::Look { path: path() },
            Question::ChooseOwner { destination: path(), wanted: Some("no such user".into()) },
            Question::MakeDirectory { path: path(), mode: 0o700 },
        ]);
        assert!(matches!(said.get(&1), Some(Answer::Place(_))), "{said:?}");
        for number in [2, 3] {
            assert!(matches!(said.get(&number), Some(Answer::Failed { .. })), "{said:?}");
        }
        assert!(serve(&b"\xff\xff\xff\xff"[..], vec![]).is_err());
    }
}
