//! New keys: key files that are made, passwords that are asked for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use repo_format::keys::Secret;
use repo_format::recovery_code;
use repo_format::slot::Credential;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::cli::open;
use crate::config::KeySource;
use crate::error::{Error, Kind, Result};
use crate::repository::slots::{self, PasswordCost};
use crate::repository::{self, host, key_file};
use crate::storage::Storage;

/// Passwords longer than that are no passwords; the configuration has the same limit.
const MAX_PASSWORD: usize = 4096;

/// For tests only: the memory of Argon2id in KiB, so that a password does not take a second each.
const TEST_COST: &str = "BARMAN_TEST_ARGON2_KIB";

/// A key file that was read, or made just now.
#[derive(Debug)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was made just now.
    pub made: bool,
    secret: Secret,
}

impl KeyFile {
    /// Reads the key file at `path`; makes one if there is none. The users of `group` may read it then.
    pub fn read_or_make(path: &Path, group: Option<u32>) -> Result<Self> {
        let path = path.to_owned();
        if path.exists() {
            let secret = key_file::read(&path)?;
            if let Some(group) = group {
                key_file::share(&path, group)?;
            }
            return Ok(KeyFile { path, made: false, secret });
        }
        let secret = key_file::create(&path, group)?;
        Ok(KeyFile { path, made: true, secret })
    }

    /// What opens a slot with it.
    pub fn credential(&self) -> Credential {
        Credential::KeyFile(self.secret.clone())
    }

    /// The secret for paper.
    pub fn recovery_code(&self) -> Zeroizing<String> {
        recovery_code::encode(&self.secret)
    }

    /// Removes a file that was made for a slot that could not be put, unless one may have been.
    pub async fn discard(&self, storage: &dyn Storage) {
        if !self.made {
            return;
        }
        let used = match slots::unlock(storage, &self.credential()).await {
            Ok(_) => true,
            Err(repository::Error::Locked { .. } | repository::Error::NotARepository { .. }) => {
                false
            }
            // A place that cannot even be listed may still have taken the slot, unless it is not there.
            Err(_) => !storage.list("").await.is_err_and(|error| error.is_no_place()),
        };
        if !used && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(
                "{} is of no use and could not be removed: {error}",
                self.path.display()
            );
        }
    }
}

/// What trying a password shall cost.
pub fn cost() -> PasswordCost {
    let lowered = std::env::var(TEST_COST).ok().and_then(|kib| kib.parse().ok());
    match lowered {
        Some(memory_kib) => PasswordCost { memory_kib, passes: 1 },
        None => PasswordCost::default(),
    }
}

/// The label of a slot that the user gave none: who made it.
pub fn label() -> String {
    format!("{}@{}", host::user(), host::name())
}

/// A new password: the first line of `file`, or what the user types twice.
pub async fn new_password(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(path) = file {
        let source = KeySource::PasswordFile(path.to_owned());
        return match open::credential(&source, |warning| tracing::warn!("{warning}")).await? {
            Credential::Password(password) => Ok(password),
            Credential::KeyFile(_) => Err(Error::new(Kind::Key, "that is a key file")),
        };
    }
    const INSTEAD: &str = "give it in a file: --new-password-file";
    let first = ask("New password: ", Typing::Hidden, INSTEAD).await?;
    if first.is_empty() {
        return Err(Error::new(Kind::Key, "the password is empty"));
    }
    if *first != *ask("The same again: ", Typing::Hidden, INSTEAD).await? {
        return Err(Error::new(Kind::Key, "the two passwords differ"));
    }
    Ok(first)
}

/// Whether the terminal shows what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typing {
    /// It does.
    Shown,
    /// It does not.
    Hidden,
}

/// Asks on the terminal for a line; `instead` is the hint where there is none.
pub async fn ask(
    prompt: &'static str,
    typing: Typing,
    instead: &'static str,
) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: io::Error| {
        Error::new(Kind::Io, "cannot ask for a secret on the terminal").because(error).hint(instead)
    };
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let before = tcgetattr(&terminal).map_err(|e| failed(e.into()))?;
    // Dropped too when a signal ends the command while somebody types.
    let quiet = match typing {
        Typing::Hidden => Some(Quiet::new(&terminal, before).map_err(failed)?),
        Typing::Shown => None,
    };
    let mut prompting = &terminal;
    prompting.write_all(prompt.as_bytes()).map_err(failed)?;
    let keyboard = terminal.try_clone().map_err(failed)?;
    let (sender, line) = oneshot::channel();
    // Not a thread of the runtime, which would wait for it when the user gives up.
    std::thread::spawn(move || sender.send(read_line(keyboard)));
    let line = line.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(failed);
    drop(quiet);
    line
}

fn read_line(terminal: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 2));
    let mut reader = BufReader::with_capacity(1, terminal);
    io::Read::take(&mut reader, MAX_PASSWORD as u64 + 1).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ => Err(io::Error::other("it is cut short, or too long")),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn new(terminal: &'t File, before: Termios) -> io::Result<Self> {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing any more.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
        // Nor was the end of the line shown.
        let mut terminal = self.terminal;
        let _ = terminal.write_all(b"\n");
    }
}
