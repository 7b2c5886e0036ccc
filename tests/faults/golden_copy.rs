//! A copy of the golden repository to do harm to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Barman;
use crate::support::account::hand_over;

/// The golden repository, in a sandbox.
pub fn sandbox() -> Barman {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let barman = Barman::new();
    for (from, to) in [("repository", barman.repository()), ("repository.key", barman.key_file())] {
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("-R").arg(golden.join(from)).arg(to).status().unwrap().success());
    }
    fs::set_permissions(barman.key_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    hand_over(&barman.repository());
    hand_over(&barman.key_file());
    barman.write_config("[main]\nconninfo = host=/nowhere\n");
    barman
}

/// All files in a directory, sorted.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Replaces a file.
pub fn write(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    hand_over(path);
}
