//! The command line as a script sees it: output, JSON, exit codes.

mod beside;
mod check;
mod configuration;
mod help;
mod logging;
mod repository;
mod server;
mod setup;
mod standby;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// What the program said, and how it ended.
struct Said {
    out: String,
    err: String,
    code: i32,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// A configuration file in a directory of its own.
struct Setup(TempDir);

impl Setup {
    fn new(configuration: &str) -> Self {
        let setup = Setup(tempfile::tempdir().unwrap());
        let text = format!("[barman]\nlog_file = {}\n{configuration}", setup.log().display());
        std::fs::write(setup.file(), text).unwrap();
        setup
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("barman.conf")
    }

    fn log(&self) -> std::path::PathBuf {
        self.0.path().join("barman.log")
    }

    /// Runs `barman -c FILE` with the words of `arguments`.
    fn barman(&self, arguments: &str) -> Said {
        barman(self.0.path(), &format!("-c {} {arguments}", self.file().display()), &[])
    }
}

/// Runs the program with nothing in its environment but `variables` and a home without configuration.
fn barman(home: &Path, arguments: &str, variables: &[(&str, &str)]) -> Said {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_barman"))
        .args(arguments.split_whitespace())
        .env_clear()
        .env("HOME", home)
        .env("TZ", "UTC")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    Said {
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
        code: status.code().unwrap(),
    }
}
