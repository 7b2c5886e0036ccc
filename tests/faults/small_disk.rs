//! A small file system for a repository, to be filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::account;

/// A file system of 64 MiB, that is there until this is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one in a new directory. Only root can.
    pub fn mount(at: &Path) -> SmallDisk {
        account::make_dir(at);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs"]).arg(at);
        assert!(mount.status().unwrap().success());
        account::hand_over(at);
        SmallDisk(at.to_owned())
    }

    /// Makes it read-only, or writable again.
    pub fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }

    /// Takes all the space there is, with a file of this path.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join(".filler");
        let mut file = fs::File::create(&path).unwrap();
        let zeros = vec![0; 4096];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
