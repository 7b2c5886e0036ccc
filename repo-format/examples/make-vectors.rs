//! Writes `vectors/` again: `cargo run -p repo-format --example make-vectors`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/fixtures/mod.rs"]
#[allow(dead_code)]
mod fixtures;

fn main() {
    let directory = fixtures::directory();
    for old in ["repository", "content"] {
        let _ = std::fs::remove_dir_all(directory.join(old));
    }
    for (path, bytes) in fixtures::files() {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
