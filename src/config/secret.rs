//! Where the key of a repository comes from, and secrets that cannot be printed.
//!
//! A source is one of: a key file (only named here; the repository reads it), a file or a command that
//! gives a password, or the password itself from the environment. Of the three levels environment,
//! server section, `[barman]` section the first that names any source decides alone: two levels are
//! never mixed. Two sources on the same level are an error, since either could be the one meant.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The longest password accepted, and the most that is read of a file or command.
const MAX_PASSWORD: usize = 4096;

/// Bytes that must not be seen: wiped when dropped, hidden in `Debug`, not printable.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Secret(Zeroizing::new(bytes.into()))
    }

    /// The bytes; keep them out of messages.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the key of a repository comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A key file.
    KeyFile(PathBuf),
    /// A file whose first line is the password.
    PasswordFile(PathBuf),
    /// A shell command whose first line of output is the password.
    PasswordCommand(String),
    /// The password.
    Password(Secret),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::KeyFile(path) => f.debug_tuple("KeyFile").field(path).finish(),
            KeySource::PasswordFile(path) => f.debug_tuple("PasswordFile").field(path).finish(),
            KeySource::PasswordCommand(_) => f.write_str("PasswordCommand(…)"),
            KeySource::Password(_) => f.write_str("Password(…)"),
        }
    }
}

/// What opens a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The key in this file.
    File(PathBuf),
    /// This password.
    Password(Secret),
}

/// A password that cannot be had.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The password file cannot be read.
    #[error("cannot read the password file '{path}'")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The command cannot be started, or its output not be read.
    #[error("cannot run the password command")]
    Run(#[source] io::Error),
    /// The command says that it failed.
    #[error("the password command failed ({0})")]
    Command(ExitStatus),
    /// No password where one was promised.
    #[error("{0} gave an empty first line instead of a password")]
    Empty(String),
    /// Far too much for a password.
    #[error("{0} gave more than {MAX_PASSWORD} bytes in its first line: that is no password")]
    TooLong(String),
}

impl From<SecretError> for crate::error::Error {
    fn from(error: SecretError) -> Self {
        let hint = match &error {
            SecretError::File { .. } => {
                "check repository_password_file (or BARMAN_REPOSITORY_PASSWORD_FILE) and that the \
                 user running barman can read the file"
            }
            _ => {
                "check repository_password_file, repository_password_command, or the environment \
                 variables BARMAN_REPOSITORY_PASSWORD…"
            }
        };
        crate::error::Error::new(crate::error::Kind::Key, "no password for the repository")
            .because(error)
            .hint(hint)
    }
}

impl KeySource {
    /// The kind of source and its place, safe to show.
    pub fn describe(&self) -> String {
        match self {
            KeySource::KeyFile(path) => format!("key file '{}'", path.display()),
            KeySource::PasswordFile(path) => format!("password file '{}'", path.display()),
            KeySource::PasswordCommand(_) => "the password command".to_owned(),
            KeySource::Password(_) => "the environment variable BARMAN_REPOSITORY_PASSWORD".into(),
        }
    }

    /// Reads the file or runs the command. A second value is a warning for the user.
    ///
    /// Blocks as long as the command does; a command may well ask a person on the terminal, so there
    /// is no time limit, and its standard error goes where ours goes.
    pub fn read(&self) -> Result<(Key, Option<String>), SecretError> {
        match self {
            KeySource::KeyFile(path) => Ok((Key::File(path.clone()), None)),
            KeySource::PasswordFile(path) => {
                let (password, warning) = read_file(path)?;
                Ok((Key::Password(password), warning))
            }
            KeySource::PasswordCommand(command) => Ok((Key::Password(run(command)?), None)),
            KeySource::Password(password) => Ok((Key::Password(password.clone()), None)),
        }
    }
}

fn read_file(path: &Path) -> Result<(Secret, Option<String>), SecretError> {
    let error = |source| SecretError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    let mode = file.metadata().map_err(error)?.mode();
    let warning = (mode & 0o007 != 0).then(|| {
        format!("the password file '{}' can be read by everybody (chmod 600 it)", path.display())
    });
    let password = first_line(file, &format!("'{}'", path.display()), error)?;
    Ok((password, warning))
}

fn run(command: &str) -> Result<Secret, SecretError> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(SecretError::Run)?;
    let stdout =
        child.stdout.take().ok_or_else(|| SecretError::Run(io::ErrorKind::Other.into()))?;
    // Dropping our end of the pipe ends a command that goes on writing; so the wait comes to an end.
    let line = first_line(stdout, "the password command", SecretError::Run);
    let status = child.wait().map_err(SecretError::Run)?;
    if !status.success() && !matches!(line, Err(SecretError::TooLong(_))) {
        return Err(SecretError::Command(status));
    }
    line
}

/// The first line, without its end.
fn first_line(
    source: impl Read,
    name: &str,
    error: impl Fn(io::Error) -> SecretError,
) -> Result<Secret, SecretError> {
    // Sized beforehand: growing would leave copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 3));
    let limit = MAX_PASSWORD as u64 + 2;
    source.take(limit).read_to_end(&mut bytes).map_err(error)?;
    let end = bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len());
    bytes[end..].zeroize();
    bytes.truncate(end);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    match bytes.len() {
        0 => Err(SecretError::Empty(name.to_owned())),
        1..=MAX_PASSWORD => Ok(Secret(bytes)),
        _ => Err(SecretError::TooLong(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password_file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn command(text: &str) -> Result<(Key, Option<String>), SecretError> {
        KeySource::PasswordCommand(text.into()).read()
    }

    #[test]
    fn a_secret_is_never_shown() {
        let source = KeySource::Password(Secret::new("hunter2"));
        let command = KeySource::PasswordCommand("echo hunter2".into());
        let shown = format!("{:?} {:?} {}", source, command, command.describe());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn the_first_line_of_the_file_is_the_password() {
        for content in ["pass word\n", "pass word", "pass word\r\nmore\n"] {
            let (_dir, path) = password_file(content.as_bytes(), 0o600);
            let (key, warning) = KeySource::PasswordFile(path).read().unwrap();
            assert_eq!(key, Key::Password(Secret::new("pass word")));
            assert_eq!(warning, None);
        }
    }

    #[test]
    fn a_file_everybody_reads_is_warned_of() {
        let (_dir, path) = password_file(b"x\n", 0o644);
        let (_, warning) = KeySource::PasswordFile(path).read().unwrap();
        assert!(warning.unwrap().contains("everybody"));
    }

    #[test]
    fn empty_missing_and_huge_files_are_errors() {
        for content in [&b""[..], b"\nsecond\n"] {
            let (_dir, path) = password_file(content, 0o600);
            let error = KeySource::PasswordFile(path).read().unwrap_err();
            assert!(matches!(error, SecretError::Empty(_)));
        }
        let (_dir, path) = password_file(&[b'x'; 10_000], 0o600);
        let error = KeySource::PasswordFile(path).read().unwrap_err();
        assert!(matches!(error, SecretError::TooLong(_)));
        let error = KeySource::PasswordFile("/nonexistent/x".into()).read().unwrap_err();
        assert!(matches!(error, SecretError::File { .. }));
    }

    #[test]
    fn commands_must_succeed_and_print_something() {
        assert_eq!(command("echo a; echo b").unwrap().0, Key::Password(Secret::new("a")));
        assert!(matches!(command("echo a; exit 3"), Err(SecretError::Command(_))));
        assert!(matches!(command("true"), Err(SecretError::Empty(_))));
        assert!(matches!(command("yes | tr -d '\\n'"), Err(SecretError::TooLong(_))));
    }
}
