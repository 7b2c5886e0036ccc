//! Clocks that are wrong, and nights that have an hour twice: libfaketime, in front of what a program asks.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The environment of a program whose clock shows `moment` ("2026-10-25T00:30:00Z") now, and goes on from there;
/// its time zone is `zone`. Files keep the times that the kernel gives them, as on a store of another host.
#[track_caller]
pub fn showing(moment: &str, zone: &str) -> Vec<(String, String)> {
    let moment: jiff::Timestamp = moment.parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    apart(moment.as_second() as f64 - now, zone)
}

/// The environment of a program whose clock is so many seconds ahead of ours.
#[track_caller]
pub fn apart(seconds: f64, zone: &str) -> Vec<(String, String)> {
    with_time(&format!("{seconds:+.3}"), zone)
}

/// The environment of a program whose clock stands still, in UTC.
#[track_caller]
pub fn standing(moment: &str) -> Vec<(String, String)> {
    with_time(moment, "UTC")
}

#[track_caller]
fn with_time(time: &str, zone: &str) -> Vec<(String, String)> {
    let library = library();
    let library = library.to_str().unwrap();
    [
        ("LD_PRELOAD", library),
        ("FAKETIME", time),
        ("NO_FAKE_STAT", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("TZ", zone),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

#[track_caller]
fn library() -> PathBuf {
    let directories =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = directories.map(|it| PathBuf::from(it).join("faketime/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|path| path.exists());
    found.expect("libfaketime is not installed: run `make test`, or install Debian's package")
}
