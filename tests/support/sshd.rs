//! An SSH server on loopback, by which one account reaches `barman` as another host would.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::account;
use super::barman::Barman;
use super::process::{self, Background, wait_until};

/// A running sshd in which `barman` is the command of a sandbox; stopped when dropped.
#[derive(Debug)]
pub struct Sshd {
    directory: TempDir,
    port: u16,
    server: Option<Background>,
}

impl Sshd {
    /// Starts a server whose sessions find `barman` with the configuration of this sandbox.
    #[track_caller]
    pub fn start(barman: &Barman) -> Sshd {
        let directory = account::temp_dir();
        let path = |name: &str| directory.path().join(name);
        for key in ["host", "client"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"]).arg(path(key));
            process::run(keygen).expect_success();
        }
        std::fs::copy(path("client.pub"), path("authorized_keys")).unwrap();
        account::make_dir(&path("bin"));
        barman.wrapper(&path("bin/barman"));
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let directory_name = directory.path().display();
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory_name}/host\nPidFile none\n\
             AuthorizedKeysFile {directory_name}/authorized_keys\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             SetEnv PATH={directory_name}/bin:/usr/bin:/bin\n"
        );
        account::write_file(&path("sshd_config"), &configuration);
        let host_key = std::fs::read_to_string(path("host.pub")).unwrap();
        account::write_file(&path("known_hosts"), &format!("[127.0.0.1]:{port} {host_key}"));
        account::write_file(
            &path("ssh_config"),
            &format!(
                "IdentityFile {directory_name}/client\nIdentitiesOnly yes\n\
                 UserKnownHostsFile {directory_name}/known_hosts\n"
            ),
        );
        account::hand_over(directory.path());
        let mut sshd = Sshd { directory, port, server: None };
        sshd.resume();
        sshd
    }

    /// Options and names that lead a program of a database host here.
    pub fn arguments(&self) -> Vec<String> {
        let ssh = format!("ssh -F {}", self.directory.path().join("ssh_config").display());
        let user = account::current().name.clone();
        let port = self.port.to_string();
        ["--ssh-command", &ssh, "-U", &user, "--port", &port, "127.0.0.1"].map(str::to_owned).into()
    }

    /// A command that reaches this host, to be given what its shell shall run.
    pub fn command(&self) -> String {
        let configuration = self.directory.path().join("ssh_config");
        let user = &account::current().name;
        format!("ssh -F {} -p {} {user}@127.0.0.1", configuration.display(), self.port)
    }

    /// Stops the server: nobody gets through any more.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the server again.
    #[track_caller]
    pub fn resume(&mut self) {
        let mut command = Command::new("/usr/sbin/sshd");
        account::prepare(&mut command, self.directory.path());
        command.args(["-D", "-e", "-f"]).arg(self.directory.path().join("sshd_config"));
        self.server = Some(Background::spawn(command));
        let port = self.port;
        wait_until(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// This program under the name of one for database hosts.
    pub fn program(&self, barman: &Barman, name: &str) -> PathBuf {
        let link = self.directory.path().join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(barman.binary(), &link).unwrap();
        }
        link
    }

    /// The directory of the server's files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
