//! Recovery codes on the terminal: shown when a key file is made or asked for, typed to make it again.

use std::fs;
use std::io::{IsTerminal, Read, stdin, stdout};
use std::path::{Path, PathBuf};

use repo_format::recovery_code::{self, MAX_TEXT};
use repo_format::slot::Credential;
use zeroize::Zeroizing;

use super::secret::{self, KeyFile, Typing};
use crate::cli::output::Output;
use crate::cli::{Session, open};
use crate::config::KeySource;
use crate::error::{Error, Kind, Result};
use crate::repository::{key_file, slots};

/// Show a key file's recovery code, to be written down.
///
/// The code is the key in 65 characters that can be printed, written down and typed again: 'barman repo
/// key recover' makes the key file of it. Keep it where the backups are not, in a safe: whoever has the code
/// and a copy of the repository can read all backups.
#[derive(Debug, clap::Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    /// The key file; otherwise the configured one
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
}

const SHOW_EXAMPLES: &str = "EXAMPLES:
  barman repo key recovery-code
  barman repo key recovery-code --key-file /etc/barman/archive.key";

/// Make a lost key file again from its recovery code.
///
/// Asks for the code on the terminal, sees that it opens the repository, and writes the key file. A key
/// file that is there is never replaced. The group that shares the repository may read it. Blanks, hyphens and capital letters in the code do not matter.
#[derive(Debug, clap::Args)]
#[command(after_help = RECOVER_EXAMPLES)]
pub struct RecoverArgs {
    /// The key file to make; otherwise the configured one
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    /// Read the code from this file, or from standard input if it is '-'
    #[arg(long, value_name = "PATH")]
    code_file: Option<PathBuf>,
}

const RECOVER_EXAMPLES: &str = "EXAMPLES:
  barman repo key recover
  barman repo key recover --key-file /etc/barman/repository.key";

/// Shows the code of a key file that was made just now, if somebody sits there to write it down: in other
/// places output is kept in files, and the code is nothing for these.
pub fn offer(file: &KeyFile, output: &Output) {
    if !file.made {
        return;
    }
    if stdout().is_terminal() && !output.is_json() && !output.is_quiet() {
        output.print("\nIts recovery code, from which 'barman repo key recover' makes it again:\n");
        print(&file.recovery_code(), output);
        output.print(
            "\nPrint it or write it down, and keep it in a safe place away from the backups. Whoever \
             has it and the repository can read all backups.\n",
        );
    } else {
        output
            .info("For a copy on paper: 'barman repo key recovery-code' shows its recovery code.");
    }
}

/// Runs `recovery-code`.
pub fn show(args: ShowArgs, server: Option<&str>, session: &Session) -> Result<()> {
    let path = path(args.key_file, server, session)?;
    let code = recovery_code::encode(&key_file::read(&path)?);
    print(&code, &session.output);
    session.output.result("recovery_code", code.as_str());
    Ok(())
}

/// Runs `recover`.
pub async fn recover(args: RecoverArgs, server: Option<&str>, session: &Session) -> Result<()> {
    let path = path(args.key_file, server, session)?;
    if path.exists() {
        let message = format!("{} is there, and is not replaced", path.display());
        return Err(Error::new(Kind::Refused, message)
            .hint("give the new key file another place: --key-file, or move the old one away"));
    }
    let storage = open::storage(session.repository(server)?)?;
    let code = match &args.code_file {
        Some(file) => read(file)?,
        None => ask().await?,
    };
    let secret = recovery_code::decode(&code).map_err(|e| {
        Error::new(Kind::Key, e.to_string())
            .hint("after 'barman1' there are no 1, b, i and o: compare with what was written down")
    })?;
    let credential = Credential::KeyFile(secret.clone());
    let (id, _) = slots::unlock(storage.as_ref(), &credential).await.map_err(|error| {
        Error::from(error).context("the code is well written, but of no key of this repository")
    })?;
    // Whoever shares the repository may open it, as with the key file that is lost.
    key_file::write(&path, &secret, storage.group().await?)?;
    session.output.info(format!("Wrote {}, which is key {id}", path.display()));
    session.output.result("key", id.to_string());
    Ok(())
}

/// The code in two lines.
fn print(code: &str, output: &Output) {
    let half = code.match_indices(' ').nth(8).map_or(code.len(), |(at, _)| at);
    let (first, second) = code.split_at(half);
    output.print(Zeroizing::new(format!("  {first}")).as_str());
    output.print(Zeroizing::new(format!("         {second}")).as_str());
}

/// The key file that is meant.
fn path(given: Option<PathBuf>, server: Option<&str>, session: &Session) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path),
        None => match session.repository(server)?.key()? {
            KeySource::KeyFile(path) => Ok(path.clone()),
            other => Err(Error::new(
                Kind::Refused,
                format!("the repository is opened with {}, not with a key file", other.describe()),
            )
            .hint("name the key file: --key-file PATH")),
        },
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let mut code = Zeroizing::new(String::with_capacity(MAX_TEXT + 1));
    let limit = MAX_TEXT as u64;
    let read = if path == Path::new("-") {
        stdin().lock().take(limit).read_to_string(&mut code)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut code))
    };
    read.map_err(|e| {
        Error::new(Kind::Io, format!("cannot read the code from {}", path.display())).because(e)
    })?;
    Ok(code)
}

/// Asks until there are enough characters, or an empty line. What is typed is shown: nobody types so
/// much blindly.
async fn ask() -> Result<Zeroizing<String>> {
    const INSTEAD: &str = "give it in a file: --code-file";
    let mut code = Zeroizing::new(String::with_capacity(2 * MAX_TEXT));
    let mut prompt = "Recovery code: ";
    while !recovery_code::is_complete(&code) && code.len() < MAX_TEXT {
        let line = secret::ask(prompt, Typing::Shown, INSTEAD).await?;
        if line.trim_ascii().is_empty() {
            break;
        }
        // What is not text is no code either, and is refused as one.
        code.push_str(std::str::from_utf8(&line).unwrap_or("?"));
        prompt = "and the rest:  ";
    }
    Ok(code)
}
