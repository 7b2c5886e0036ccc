//! Running other programs: to their end within a time limit, or beside the test until it is over.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take before it counts as hung.
pub const TIME_LIMIT: Duration = Duration::from_secs(180);

/// What a program that ended left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The program and its arguments, for messages.
    pub command: String,
    /// The exit code; 128 + n where signal n ended it, as shells say it.
    pub status: i32,
    /// All it wrote to standard output.
    pub stdout: String,
    /// All it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// True where the exit code is 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Goes on only where the program succeeded; else panics with all it said.
    #[track_caller]
    pub fn expect_success(self) -> Output {
        assert!(self.success(), "{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ended with {}", self.command, self.status)?;
        writeln!(f, "--- standard output\n{}", self.stdout)?;
        writeln!(f, "--- standard error\n{}", self.stderr)
    }
}

/// Runs `command` to its end with nothing on its standard input.
#[track_caller]
pub fn run(command: Command) -> Output {
    run_with_input(command, "", TIME_LIMIT)
}

/// Runs `command` to its end with `input` on its standard input; panics when it outlasts `limit`.
///
/// Files, not pipes, take the output: a daemon that the program leaves behind may hold them open.
#[track_caller]
pub fn run_with_input(mut command: Command, input: &str, limit: Duration) -> Output {
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    stdin.rewind().unwrap();
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(stdin);
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = spawn(&mut command);
    let end = wait_for_exit(&mut child, limit);
    if end.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = Output {
        command: describe(&command),
        status: end.map_or(-1, exit_code),
        stdout: contents(&stdout),
        stderr: contents(&stderr),
    };
    assert!(end.is_some(), "still running after {limit:?}, killed: {output}");
    output
}

/// A program that runs beside the test and is killed, at the latest, when this is dropped.
#[derive(Debug)]
pub struct Background {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Background {
    /// Starts `command` with nothing on its standard input.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Background {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdin(Stdio::null());
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let child = spawn(&mut command);
        Background { command: describe(&command), child, stdout, stderr }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True while the program runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends `signal`, e.g. `Signal::TERM` to ask for an orderly end or `Signal::STOP` to pause it.
    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// What the program wrote to standard output so far.
    pub fn stdout(&self) -> String {
        contents(&self.stdout)
    }

    /// What the program wrote to standard error so far.
    pub fn stderr(&self) -> String {
        contents(&self.stderr)
    }

    /// Kills the program as a power cut would (SIGKILL) and returns what it had said.
    pub fn kill(mut self) -> Output {
        let _ = self.child.kill();
        self.finish()
    }

    /// Waits for the program to end by itself; panics when it outlasts `limit`.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        if wait_for_exit(&mut self.child, limit).is_none() {
            let output = self.kill();
            panic!("still running after {limit:?}, killed: {output}");
        }
        self.finish()
    }

    fn finish(&mut self) -> Output {
        let status = exit_code(self.child.wait().unwrap());
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Output { command: self.command.clone(), status, stdout, stderr }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `condition` again and again; panics where it is still false after `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain");
        sleep(Duration::from_millis(20));
    }
}

/// Sends `signal` to a child that has not been waited for yet.
pub fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to {pid:?}: {error}"));
}

/// Waits until `child` ends, at most `limit`.
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > limit {
            return None;
        }
        sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", describe(command)))
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// All of `file`, read without moving the position that a program still writing shares with us.
fn contents(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
