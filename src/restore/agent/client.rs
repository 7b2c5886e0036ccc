//! The side of the restore: another host as a place to restore to.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Sender, bounded};

use super::protocol::{self, Answer, Failure, GREETING, MAX_PIECE, Question, Sum, VERSION};
use crate::error::{Error, Kind, Result};
use crate::restore::destination::{Destination, Output};
use crate::restore::environment::Machine;
use crate::restore::place::{Entry, Place};
use crate::restore::programs::Programs;

/// The command that the other host's shell runs.
const COMMAND: &str = "barman agent";

/// So many lines may come before the greeting: shells sometimes say something.
const MAX_LINES: usize = 100;

/// The longest of them, in bytes.
const MAX_LINE: u64 = 16 * 1024;

/// So many paths are sent at once to be removed: of the longest ones half of a message.
const MAX_REMOVED: usize = 500;

/// A host that is reached by a command, such as `ssh postgres@host`.
#[derive(Debug)]
pub struct OtherHost(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    /// The command, by which people know the host.
    command: String,
    questions: Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
    next_question: AtomicU64,
    next_file: AtomicU32,
    child: Mutex<Child>,
}

/// Who waits for which answer.
#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, Sender<Answer>>,
    has_ended: bool,
    /// The last line of what the command complained.
    complaint: String,
}

impl OtherHost {
    /// Starts an agent with a command that takes what the other host's shell shall run.
    ///
    /// # Errors
    /// If there is no agent, or one of another version.
    pub fn connect(command: &str) -> Result<OtherHost> {
        let failed = |error: std::io::Error| {
            Error::new(Kind::Io, format!("cannot run {command:?}")).because(error)
        };
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("exec {command} '{COMMAND}'")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let missing = || Error::new(Kind::Internal, "a process has no streams");
        let questions = child.stdin.take().ok_or_else(missing)?;
        let mut answers = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        let complaints = child.stderr.take().ok_or_else(missing)?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let listener = {
            let waiting = waiting.clone();
            std::thread::spawn(move || keep_last_line(complaints, &waiting))
        };
        if let Err(error) = read_greeting(&mut answers, command) {
            // What it complained says why.
            let _ = child.kill();
            let _ = child.wait();
            let _ = listener.join();
            let complaint = lock(&waiting).complaint.clone();
            return Err(if complaint.is_empty() { error } else { error.because(complaint) });
        }
        {
            let waiting = waiting.clone();
            std::thread::spawn(move || hand_out(answers, &waiting));
        }
        Ok(OtherHost(Arc::new(Connection {
            command: command.to_owned(),
            questions: Mutex::new(questions),
            waiting,
            next_question: AtomicU64::new(1),
            next_file: AtomicU32::new(1),
            child: Mutex::new(child),
        })))
    }
}

/// Reads what comes first.
fn read_greeting(answers: &mut BufReader<ChildStdout>, command: &str) -> Result<()> {
    let hint = "the same version of barman must be in PATH on that host";
    for _ in 0..MAX_LINES {
        let mut line = vec![];
        let read = answers.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if !read.is_ok_and(|length| length > 0) {
            break;
        }
        let line = String::from_utf8_lossy(&line);
        let Some(version) = line.trim_end().strip_prefix(GREETING) else { continue };
        if version == VERSION.to_string() {
            return Ok(());
        }
        let message = format!("the agent of {command:?} speaks version {version}, not {VERSION}");
        return Err(Error::new(Kind::Refused, message).hint(hint));
    }
    Err(Error::new(Kind::Io, format!("{command:?} started no agent")).hint(hint))
}

/// Hands out answers until there are no more.
fn hand_out(mut answers: BufReader<ChildStdout>, waiting: &Mutex<Waiting>) {
    while let Ok(Some((number, answer))) = protocol::receive::<Answer>(&mut answers) {
        if let Some(asker) = lock(waiting).answers.remove(&number) {
            // Who asked may have given up.
            let _ = asker.send(answer);
        }
    }
    let mut waiting = lock(waiting);
    waiting.has_ended = true;
    waiting.answers.clear();
}

fn keep_last_line(complaints: impl Read, waiting: &Mutex<Waiting>) {
    let mut complaints = BufReader::new(complaints);
    loop {
        let mut line = vec![];
        let read = complaints.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if !read.is_ok_and(|length| length > 0) {
            return;
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() {
            tracing::debug!("agent: {line}");
            lock(waiting).complaint = line;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Asks, and waits for the answer.
    fn ask(&self, question: &Question) -> Result<Answer> {
        let (sender, answer) = bounded(1);
        let number = self.next_question.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = lock(&self.waiting);
            if waiting.has_ended {
                drop(waiting);
                return Err(self.lost());
            }
            waiting.answers.insert(number, sender);
        }
        self.send(number, question)?;
        match answer.recv() {
            Ok(Answer::Failed { failure, message, hint }) => {
                let kind = match failure {
                    Failure::Usage => Kind::Usage,
                    Failure::Refused => Kind::Refused,
                    Failure::Io => Kind::Io,
                };
                let error = Error::new(kind, message).context(&self.command);
                Err(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.lost()),
        }
    }

    /// Tells what is not answered.
    fn tell(&self, question: &Question) -> Result<()> {
        self.send(0, question)
    }

    fn send(&self, number: u64, question: &Question) -> Result<()> {
        protocol::send(&mut *lock(&self.questions), number, question).map_err(|error| {
            tracing::debug!("cannot ask the agent: {error}");
            self.lost()
        })
    }

    fn done(&self, question: &Question) -> Result<()> {
        match self.ask(question)? {
            Answer::Done => Ok(()),
            _ => Err(self.confused()),
        }
    }

    fn lost(&self) -> Error {
        let error = Error::new(
            Kind::Io,
            format!("the connection to the agent of {:?} is lost", self.command),
        );
        match lock(&self.waiting).complaint.clone() {
            complaint if complaint.is_empty() => error,
            complaint => error.because(complaint),
        }
    }

    fn confused(&self) -> Error {
        let message = format!("the agent of {:?} gave an answer to another question", self.command);
        Error::new(Kind::Io, message)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It ends with its input; one that hangs is not waited for.
        let _ = lock(&self.child).kill();
        let _ = lock(&self.child).wait();
    }
}

impl Destination for OtherHost {
    fn host(&self) -> Option<String> {
        Some(self.0.command.clone())
    }

    fn look(&self, path: &Path) -> Result<Place> {
        match self.0.ask(&Question::Look { path: path.into() })? {
            Answer::Place(place) => Ok(place.into()),
            _ => Err(self.0.confused()),
        }
    }

    fn choose_owner(&self, destination: &Path, wanted: Option<&str>) -> Result<Option<String>> {
        let (destination, wanted) = (destination.into(), wanted.map(str::to_owned));
        match self.0.ask(&Question::ChooseOwner { destination, wanted })? {
            Answer::Owner(owner) => Ok(owner),
            _ => Err(self.0.confused()),
        }
    }

    fn installed(&self) -> Result<Vec<Programs>> {
        match self.0.ask(&Question::Installed)? {
            Answer::Installed(installed) => Ok(installed.into_iter().map(Programs::from).collect()),
            _ => Err(self.0.confused()),
        }
    }

    fn machine(&self) -> Result<Machine> {
        match self.0.ask(&Question::Machine)? {
            Answer::Machine(machine) => Ok(machine),
            _ => Err(self.0.confused()),
        }
    }

    fn missing_libraries(
        &self,
        programs: &Programs,
        names: &[String],
        search_path: Option<&str>,
    ) -> Result<Vec<String>> {
        let question = Question::MissingLibraries {
            major: programs.major,
            directory: programs.directory.as_path().into(),
            names: names.to_vec(),
            path: search_path.map(str::to_owned),
        };
        match self.0.ask(&question)? {
            Answer::Names(names) => Ok(names),
            _ => Err(self.0.confused()),
        }
    }

    fn make_parent(&self, path: &Path) -> Result<()> {
        self.0.done(&Question::MakeParent { path: path.into() })
    }

    fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        self.0.done(&Question::MakeDirectory { path: path.into(), mode })
    }

    fn make_link(&self, path: &Path, target: &Path) -> Result<()> {
        self.0.done(&Question::MakeLink { path: path.into(), target: target.into() })
    }

    fn create(&self, path: &Path, mode: u32, size: u64) -> Result<Box<dyn Output>> {
        let file = self.0.next_file.fetch_add(1, Ordering::Relaxed);
        self.0.tell(&Question::Create { file, path: path.into(), mode, size })?;
        let (connection, path) = (self.0.clone(), path.to_owned());
        Ok(Box::new(RemoteFile { connection, file, path, sums: Mutex::default() }))
    }

    fn put(&self, path: &Path, content: &[u8], mode: Option<u32>) -> Result<()> {
        if content.len() <= MAX_PIECE {
            let content = content.to_vec();
            return self.0.done(&Question::Put { path: path.into(), mode, content });
        }
        // What is larger needs no name of its own meanwhile: without pg_control nothing is a server.
        self.remove(&[path.to_owned()])?;
        let output = self.create(path, mode.unwrap_or(0o600), content.len() as u64)?;
        output.write(0, 0, content)?;
        output.finish(jiff::Timestamp::now().as_second())?;
        output.sync()
    }

    fn sync_directories(&self, paths: &[PathBuf]) -> Result<()> {
        let sync =
            |path: &PathBuf| self.0.done(&Question::SyncDirectory { path: path.as_path().into() });
        paths.iter().try_for_each(sync)
    }

    fn begin(&self, marker: &Path, content: &[u8]) -> Result<()> {
        self.0.done(&Question::Begin { marker: marker.into(), content: content.to_vec() })
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.0.ask(&Question::Read { path: path.into(), limit })? {
            Answer::Bytes(content) => Ok(content),
            _ => Err(self.0.confused()),
        }
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>> {
        let mut all: Vec<Entry> = vec![];
        loop {
            let after = all.last().map(|entry| entry.name.clone());
            match self.0.ask(&Question::List { directory: directory.into(), after })? {
                Answer::Entries { entries, is_all } if is_all || !entries.is_empty() => {
                    all.extend(entries);
                    if is_all {
                        return Ok(all);
                    }
                }
                _ => return Err(self.0.confused()),
            }
        }
    }

    fn remove(&self, paths: &[PathBuf]) -> Result<()> {
        paths.chunks(MAX_REMOVED).try_for_each(|some| {
            let paths = some.iter().map(|path| path.as_path().into()).collect();
            self.0.done(&Question::Remove { paths })
        })
    }

    fn reopen(&self, path: &Path, mode: u32, size: u64) -> Result<Box<dyn Output>> {
        let file = self.0.next_file.fetch_add(1, Ordering::Relaxed);
        self.0.tell(&Question::Reopen { file, path: path.into(), mode, size })?;
        let (connection, path) = (self.0.clone(), path.to_owned());
        Ok(Box::new(RemoteFile { connection, file, path, sums: Mutex::default() }))
    }
}

/// A file on the other host.
struct RemoteFile {
    connection: Arc<Connection>,
    file: u32,
    path: PathBuf,
    /// The sums of what was sent of each part.
    sums: Mutex<BTreeMap<u32, Sum>>,
}

impl Output for RemoteFile {
    fn write(&self, part: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let part = u32::try_from(part)
            .map_err(|_| Error::new(Kind::Internal, "a file has too many parts"))?;
        let mut at = offset;
        for piece in bytes.chunks(MAX_PIECE) {
            lock(&self.sums).entry(part).or_default().add(at, piece);
            let bytes = piece.to_vec();
            self.connection.tell(&Question::Write { file: self.file, part, offset: at, bytes })?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (file, mut at) = (self.file, offset);
        for piece in buffer.chunks_mut(MAX_PIECE) {
            let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            match self.connection.ask(&Question::ReadPart { file, offset: at, length })? {
                Answer::Bytes(Some(bytes)) if bytes.len() == piece.len() => {
                    piece.copy_from_slice(&bytes);
                }
                _ => return Err(self.connection.confused()),
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn finish(&self, mtime: i64) -> Result<()> {
        let written = match self.connection.ask(&Question::Finish { file: self.file, mtime })? {
            Answer::Written(sums) => sums,
            _ => return Err(self.connection.confused()),
        };
        let sent = lock(&self.sums);
        let sent: Vec<(u32, [u8; 32])> =
            sent.iter().map(|(part, sum)| (*part, sum.value())).collect();
        if written != sent {
            let message =
                format!("what was written as {} is not what was sent", self.path.display());
            return Err(Error::new(Kind::Damaged, message).hint("suspect the memory of both hosts"));
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.connection.done(&Question::Sync { file: self.file })
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        // Without a connection there is nothing to close.
        let _ = self.connection.tell(&Question::Close { file: self.file });
    }
}
