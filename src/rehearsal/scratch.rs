//! The directories of a rehearsal, which are gone when it is over, however that ends.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::error::{Error, Kind, Result};
use crate::restore::owner::Owner;

/// Directories of one rehearsal, and who cleans up after it.
///
/// A shell, the *keeper*, waits for the end of its standard input: that comes when the rehearsal is over, and no less
/// when this process is killed. Then it stops the server and removes the directories, and nobody else does.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    sockets: PathBuf,
    owner: Option<Owner>,
    keeper: Child,
    orders: ChildStdin,
}

/// What the keeper does. Each line that it is told is the process id of the server, or empty when there is none.
const KEEPER: &str = r#"
trap '' HUP INT TERM
server=
while read -r line; do server=$line; done
if [ -n "$server" ]; then
    kill -s QUIT "$server"
    tries=0
    while kill -s 0 "$server" && [ "$tries" -lt 100 ]; do sleep 0.1 || sleep 1; tries=$((tries + 1)); done
    kill -s KILL "$server"
fi
tries=0
until rm -rf -- "$@" || [ "$tries" -ge 20 ]; do sleep 0.5 || sleep 1; tries=$((tries + 1)); done
for left do [ ! -e "$left" ] || exit 1; done
"#;

/// Socket names have 107 bytes at most, so that their directory is not where the data is.
const SOCKETS: &str = "/tmp";

impl Scratch {
    /// Makes the directories, below `parent`; with `keeps`, what is restored stays.
    ///
    /// # Errors
    /// If nothing can be made there, or the user that the server will run as cannot get there.
    pub fn make(parent: &Path, keeps: bool) -> Result<Scratch> {
        let cannot = |path: &Path, error: io::Error| {
            let message = format!("cannot make a scratch directory in {}", path.display());
            Error::new(Kind::Io, message)
                .because(error)
                .hint("name a directory that can be written to: --scratch-directory")
        };
        let parent = std::path::absolute(parent).map_err(|error| cannot(parent, error))?;
        let owner = Owner::of(&parent.join("barman-rehearsal"), None)?;
        let make = |parent: &Path| {
            let made = tempfile::Builder::new().prefix("barman-rehearsal-").tempdir_in(parent)?;
            fs::set_permissions(made.path(), Permissions::from_mode(0o700))?;
            owner.map_or(Ok(()), |owner| owner.give(made.path()))?;
            Ok(made)
        };
        let directory = make(&parent).map_err(|error| cannot(&parent, error))?;
        let sockets = Path::new(SOCKETS);
        let sockets = make(sockets).map_err(|error| cannot(sockets, error))?;
        if let Some(owner) = owner.filter(|owner| !can_enter(*owner, directory.path())) {
            let path = parent.display();
            let message =
                format!("{} cannot get into {path}, to run PostgreSQL there", owner.name());
            return Err(Error::new(Kind::Refused, message)
                .hint("name a directory that every user can go through: --scratch-directory"));
        }
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "barman-rehearsal"]).arg(sockets.path());
        if !keeps {
            keeper.arg(directory.path());
        }
        // A terminal's Ctrl-C is not for it.
        keeper.process_group(0).current_dir("/");
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = keeper.spawn().and_then(|mut keeper| {
            let orders = keeper.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
            Ok((keeper, orders))
        });
        let (keeper, orders) =
            spawned.map_err(|error| Error::new(Kind::Io, "cannot run /bin/sh").because(error))?;
        // From here on they are the keeper's.
        let (directory, sockets) = (directory.keep(), sockets.keep());
        Ok(Scratch { directory, sockets, owner, keeper, orders })
    }

    /// The directory that everything is in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The directory of the server's socket.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Makes a small file that the server can read.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let written = fs::write(&path, text)
            .and_then(|()| self.owner.map_or(Ok(()), |owner| owner.give(&path)));
        written.map_err(|error| {
            Error::new(Kind::Io, format!("cannot write {}", path.display())).because(error)
        })?;
        Ok(path)
    }

    /// A program as the server's user, with nothing of this process's environment but where programs are: what is
    /// restored is none of its business.
    pub fn command(&self, program: &Path) -> StdCommand {
        let mut command = StdCommand::new(program);
        command.env_clear().env("LC_ALL", "C").env("HOME", &self.directory);
        for name in ["PATH", "LD_LIBRARY_PATH", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir(&self.directory).stdin(Stdio::null());
        if let Some(owner) = self.owner {
            owner.run(&mut command);
        }
        command
    }

    /// Tells the keeper which process the server is, if there is one.
    pub async fn tell(&mut self, server: Option<u32>) -> Result<()> {
        let line = server.map_or_else(|| "\n".to_owned(), |server| format!("{server}\n"));
        let told = self.orders.write_all(line.as_bytes()).await;
        told.map_err(|error| Error::new(Kind::Io, "the keeper has gone").because(error))
    }

    /// Has the server stopped and everything removed, and waits for that.
    ///
    /// # Errors
    /// If something is left.
    pub async fn clear(self) -> Result<()> {
        let Scratch { directory, mut keeper, orders, .. } = self;
        drop(orders);
        let left = || format!("not all of {} could be removed", directory.display());
        match keeper.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Error::new(Kind::Io, left())),
            Err(error) => Err(Error::new(Kind::Io, left()).because(error)),
        }
    }
}

/// Whether a user can go to a directory.
fn can_enter(owner: Owner, directory: &Path) -> bool {
    let mut shell = StdCommand::new("/bin/sh");
    shell.args(["-c", "cd -- \"$1\"", "sh"]).arg(directory).current_dir("/");
    owner.run(&mut shell);
    shell.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
