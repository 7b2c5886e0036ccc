//! Runs `barman` on the backup host.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::error::{Error, Kind, Result};

/// The exit code of ssh itself when it gets no connection.
const NO_CONNECTION: i32 = 255;

/// How to get at barman on the backup host.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupHost {
    /// The backup host
    pub barman_host: String,
    /// The user there
    #[arg(short = 'U', long, default_value = "barman")]
    pub user: String,
    /// The port of SSH there
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The configuration file there
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// How SSH is started, with options of your own
    #[arg(long, value_name = "COMMAND", default_value = "ssh", env = "BARMAN_SSH_COMMAND")]
    pub ssh_command: String,
}

/// What a command on the backup host answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// The last line that it wrote to standard error.
    pub complaint: String,
}

impl BackupHost {
    /// Runs `barman` there with these arguments and `input`, and waits for it to end, but no longer than
    /// `limit`. It may answer with so many bytes.
    ///
    /// # Errors
    /// If ssh does not get there, or gets no end of it.
    pub async fn run(
        &self,
        arguments: &[&str],
        input: &[u8],
        limit: Duration,
        most: u64,
    ) -> Result<Answer> {
        let answer = tokio::time::timeout(limit, self.talk(arguments, input, limit, most)).await;
        let answer = answer.unwrap_or_else(|_| {
            let message = format!("{} gave no answer in {} s", self.barman_host, limit.as_secs());
            Err(Error::new(Kind::Storage, message))
        })?;
        if answer.code == NO_CONNECTION {
            let message = format!("cannot reach {}@{} by SSH", self.user, self.barman_host);
            return Err(Error::new(Kind::Storage, message).because(answer.complaint));
        }
        Ok(answer)
    }

    async fn talk(
        &self,
        arguments: &[&str],
        input: &[u8],
        limit: Duration,
        most: u64,
    ) -> Result<Answer> {
        let failed = |error: std::io::Error| {
            Error::new(Kind::Io, format!("cannot run {}", self.ssh_command)).because(error)
        };
        let mut child = self.command(arguments, limit)?.spawn().map_err(failed)?;
        let (mut stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let send = async {
            if let Some(stdin) = &mut stdin {
                // Who ends before it has read everything says why by its exit code.
                let _ = stdin.write_all(input).await;
            }
            drop(stdin);
        };
        let ((), answer, complaint) =
            tokio::join!(send, read(stdout, most + 1), read(stderr, 64 * 1024));
        let answer = answer.map_err(failed)?;
        if answer.len() as u64 > most {
            return Err(Error::new(Kind::Refused, "the answer is too long"));
        }
        let status = child.wait().await.map_err(failed)?;
        let complaint = String::from_utf8_lossy(&complaint.map_err(failed)?).into_owned();
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let last = last.trim().trim_start_matches("ERROR: ");
        let code = status.code().unwrap_or(NO_CONNECTION);
        Ok(Answer { code, stdout: answer, complaint: last.to_owned() })
    }

    fn command(&self, arguments: &[&str], limit: Duration) -> Result<Command> {
        let mut words = self.ssh_command.split_whitespace();
        let Some(program) = words.next() else {
            return Err(Error::new(Kind::Usage, "--ssh-command is empty"));
        };
        let is_option = |text: &str| text.is_empty() || text.starts_with('-');
        if is_option(&self.barman_host) || is_option(&self.user) {
            return Err(Error::new(Kind::Usage, "the host or user is no name"));
        }
        let mut command = Command::new(program);
        // Never a question that nobody answers, never a dead connection that is waited for.
        command.args(words).args(["-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5"]);
        command.arg("-o").arg(format!("ConnectTimeout={}", limit.as_secs().clamp(1, 20)));
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        command.arg(format!("{}@{}", self.user, self.barman_host));
        let config = self.config.iter().flat_map(|file| ["-c", file.as_str()]);
        let remote: Vec<String> = ["barman"]
            .into_iter()
            .chain(config)
            .chain(arguments.iter().copied())
            .map(quoted)
            .collect();
        command.arg(remote.join(" "));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        Ok(command)
    }
}

async fn read(
    pipe: Option<impl tokio::io::AsyncRead + Unpin>,
    most: u64,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    if let Some(pipe) = pipe {
        pipe.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// A word for the shell of the other host.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("put-wal"), "put-wal");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's; $HOME"), "'it'\\''s; $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_host_that_is_an_option_is_refused() {
        let host = BackupHost {
            barman_host: "-oProxyCommand=x".into(),
            user: "barman".into(),
            port: None,
            config: None,
            ssh_command: "ssh".into(),
        };
        assert!(host.command(&[], Duration::from_secs(1)).is_err());
    }
}
