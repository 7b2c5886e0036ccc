//! Restores to another host, over a real SSH server: an agent without a key writes there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::cluster::pg_verifybackup;
use crate::support::sshd::Sshd;
use crate::support::{Barman, Cluster, Output, Shutdown, account, python, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A backup host with a backup, and a host that has barman, but neither a repository nor a key.
struct Hosts {
    cluster: Cluster,
    barman: Barman,
    other: Barman,
    sshd: Sshd,
}

impl Hosts {
    fn new() -> Hosts {
        let mut cluster = Cluster::builder(15).initdb("--wal-segsize=1").start();
        let barman = Barman::initialised();
        barman.server("main", &cluster, "immediate_checkpoint = true\n");
        barman.archive_from("main", &mut cluster);
        cluster.create_tablespace("fast");
        cluster.psql(
            "CREATE TABLE t TABLESPACE fast AS SELECT n, md5(n::text) FROM generate_series(1, 90000) n; \
             CREATE TABLE u AS SELECT n, md5(n::text) FROM generate_series(1, 90000) n",
        );
        barman.ok(&["backup", "main", "--wait"]);
        cluster.psql("INSERT INTO t VALUES (0, 'later')");
        barman.ok(&["switch-wal", "main", "--force", "--archive"]);
        let other = Barman::new();
        fs::remove_file(other.config()).unwrap();
        let sshd = Sshd::start(&other);
        Hosts { cluster, barman, other, sshd }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.other.path(name)
    }

    fn arguments(&self, to: &Path, command: &str, more: &[&str]) -> Vec<String> {
        let tablespace = format!("fast:{}-fast", to.display());
        let to = to.to_str().unwrap();
        let all = ["restore", "main", "latest", to, "--tablespace", &tablespace];
        let all = all.into_iter().chain(["--remote-ssh-command", command]);
        let all = all.chain(more.iter().copied());
        all.map(str::to_owned).collect()
    }

    fn run(&self, to: &Path, command: &str, more: &[&str]) -> Output {
        let arguments = self.arguments(to, command, more);
        self.barman.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn a_server_comes_back_on_another_host() {
    let hosts = Hosts::new();
    let ssh = hosts.sshd.command();
    let (to, wal) = (hosts.path("new/restored"), hosts.path("wal"));
    let more = ["--waldir", wal.to_str().unwrap()];
    let dry = hosts.run(&to, &ssh, &[&more[..], &["--dry-run"]].concat()).expect_success();
    assert!(dry.stdout.contains("Nothing was written"), "{dry}");
    assert!(!hosts.path("new").exists() && !wal.exists(), "{dry}");
    let restored = hosts.run(&to, &ssh, &more).expect_success();
    assert!(restored.stdout.contains("(on the host of \"ssh "), "{restored}");
    pg_verifybackup(15, &to, &[]);
    assert_eq!(fs::read_link(to.join("pg_wal")).unwrap(), wal);
    let mut server = Cluster::on(15, &to);
    server.start();
    server.wait_for_recovery_end();
    for table in ["t", "u"] {
        assert_eq!(server.table_checksum(table), hosts.cluster.table_checksum(table), "{table}");
    }
    server.stop(Shutdown::Immediate);

    // What stands in the way there is found before anything is written.
    let taken = hosts.run(&to, &ssh, &[]);
    assert_eq!(taken.status, 1, "{taken}");
    assert!(taken.stderr.contains("it is the data directory of a PostgreSQL server"), "{taken}");
    let nowhere = hosts.run(Path::new("/proc/x"), &ssh, &[]);
    assert!(nowhere.stderr.contains("cannot be written"), "{nowhere}");
    let relative = hosts.run(Path::new("relative"), &ssh, &[]);
    assert_eq!(relative.status, 2, "{relative}");
    let owner = hosts.run(&hosts.path("owned"), &ssh, &["--owner", "no-such-user"]);
    assert!(owner.stderr.contains("there is no user \"no-such-user\""), "{owner}");
    assert!(!hosts.path("owned").exists());

    // restore_command there asks this host, without a key.
    let asking = hosts.run(&hosts.path("asking"), &ssh, &["--get-wal"]).expect_success();
    let auto = fs::read_to_string(hosts.path("asking/postgresql.auto.conf")).unwrap();
    assert!(auto.contains("restore_command = 'barman-wal-restore -U "), "{asking}{auto}");
    let named = hosts.path("named");
    let more = ["--get-wal", "--backup-host", "backup.example.com", "--dry-run"];
    let named = hosts.run(&named, &ssh, &more).expect_success();
    let asks = format!("barman-wal-restore -U {} backup.example.com main", account::current().name);
    for line in [format!("'{asks} \"%f\" \"%p\"'"), format!("{asks} --test")] {
        assert!(named.stdout.contains(&line), "{line}: {named}");
    }
}

#[test]
fn what_is_there_on_another_host_is_kept() {
    let hosts = Hosts::new();
    let ssh = hosts.sshd.command();
    let (to, whole) = (hosts.path("restored"), hosts.path("whole"));
    hosts.run(&whole, &ssh, &[]).expect_success();
    let arguments = hosts.arguments(&to, &ssh, &[]);
    let restore = hosts.barman.spawn(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    wait_until(LIMIT, || to.join("base/1").exists());
    kill_agent(&hosts.other);
    let ended = restore.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("--resume"), "{ended}");
    let taken = hosts.run(&to, &ssh, &[]);
    assert!(taken.stderr.contains("was not finished"), "{taken}");
    let resumed = hosts.run(&to, &ssh, &["--resume"]).expect_success();
    assert!(resumed.stdout.contains("was there already"), "{resumed}");
    pg_verifybackup(15, &to, &[]);
    assert!(!to.join("barman_restore_in_progress").exists());

    let mut server = Cluster::on(15, &to).option("archive_mode", "off");
    server.start();
    server.wait_for_recovery_end();
    server.psql("DELETE FROM t WHERE n < 100; CREATE TABLE new AS SELECT * FROM t");
    let running = hosts.run(&to, &ssh, &["--delta"]);
    assert!(running.stderr.contains("a PostgreSQL server runs on"), "{running}");
    server.stop(Shutdown::Fast);
    let restored = hosts.run(&to, &ssh, &["--delta"]).expect_success();
    assert!(restored.stdout.contains("were removed"), "{restored}");
    pg_verifybackup(15, &to, &[]);
    for name in ["base/1/1259", "global/pg_control", "PG_VERSION"] {
        assert_eq!(fs::read(to.join(name)).unwrap(), fs::read(whole.join(name)).unwrap(), "{name}");
    }
    server.start();
    server.wait_for_recovery_end();
    assert_eq!(server.table_checksum("t"), hosts.cluster.table_checksum("t"));
    server.stop(Shutdown::Fast);
}

#[test]
fn without_an_agent_the_reason_is_told() {
    let hosts = Hosts::new();
    let to = hosts.path("restored");
    let ssh = hosts.sshd.command();
    fs::remove_file(hosts.sshd.directory().join("bin/barman")).unwrap();
    let missing = hosts.run(&to, &ssh, &[]);
    assert_eq!(missing.status, 1, "{missing}");
    assert!(missing.stderr.contains("started no agent: "), "{missing}");
    assert!(missing.stderr.contains("not found"), "{missing}");
    let older = hosts.run(&to, "echo barman-agent 0 #", &[]);
    assert!(older.stderr.contains("speaks version 0"), "{older}");
    assert!(!to.exists());
}

#[test]
fn a_lost_connection_or_a_wrong_byte_leaves_no_server() {
    let hosts = Hosts::new();
    let to = hosts.path("lost");
    let ssh = hosts.sshd.command();
    let arguments = hosts.arguments(&to, &ssh, &[]);
    let restore = hosts.barman.spawn(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    // The connection that writes is the child of the sandbox's sshd whose agent has made the directory.
    wait_until(LIMIT, || to.join("base").exists());
    kill_agent(&hosts.other);
    let ended = restore.wait(LIMIT);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("the connection to the agent"), "{ended}");
    assert!(!to.join("global/pg_control").exists());

    // A byte in the middle of the data turns on the way.
    let script = hosts.path("turn.py");
    let text = "import sys, os, subprocess\n\
                agent = subprocess.Popen([sys.argv[1], 'agent'], stdin=subprocess.PIPE)\n\
                seen = 0\n\
                while True:\n\
                \x20   data = bytearray(os.read(0, 65536))\n\
                \x20   if not data: break\n\
                \x20   at = 4000000 - seen\n\
                \x20   if 0 <= at < len(data): data[at] ^= 1\n\
                \x20   seen += len(data)\n\
                \x20   agent.stdin.write(data)\n\
                \x20   agent.stdin.flush()\n";
    account::write_file(&script, text);
    let turn =
        format!("{} {} {}", python().display(), script.display(), hosts.other.binary().display());
    let to = hosts.path("turned");
    let ended = hosts.run(&to, &turn, &[]);
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.stderr.contains("is not what was sent"), "{ended}");
    assert!(!to.join("global/pg_control").exists());
}

/// Kills the agent that runs in a sandbox.
fn kill_agent(sandbox: &Barman) {
    let words = [sandbox.binary(), Path::new("-c"), &sandbox.config(), Path::new("agent")];
    let line: Vec<u8> =
        words.iter().flat_map(|w| [w.as_os_str().as_encoded_bytes(), b"\0"].concat()).collect();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let agents = processes.filter(|p| fs::read(p.path().join("cmdline")).is_ok_and(|l| l == line));
    let agents: Vec<i32> =
        agents.map(|p| p.file_name().to_str().unwrap().parse().unwrap()).collect();
    assert_eq!(agents.len(), 1, "{agents:?}");
    kill_process(Pid::from_raw(agents[0]).unwrap(), Signal::KILL).unwrap();
}
