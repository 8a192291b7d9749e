//! Commands on a virtual machine, by ssh.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::command::{self, program};

/// The longest command runs the tests of another crate; one on a machine that hangs would never end.
const LONGEST: Duration = Duration::from_secs(1200);

/// Whoever has the machine's key.
#[derive(Debug)]
pub(super) struct Shell {
    key: PathBuf,
    address: Ipv4Addr,
}

impl Shell {
    /// Makes a key of the machine's own, in `dir`.
    pub(super) async fn new(dir: &Path, address: Ipv4Addr) -> Result<Self> {
        let key = dir.join("key");
        let mut command = program("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        command::output(command).await?;
        Ok(Self { key, address })
    }

    /// For the machine's `authorized_keys`.
    pub(super) fn public_key(&self) -> Result<String> {
        fs::read_to_string(self.key.with_extension("pub")).context("read the machine's public key")
    }

    /// Runs a script to its success and returns what it prints.
    pub(super) async fn run(&self, script: &str) -> Result<String> {
        let mut command = self.command();
        command.arg(script);
        within_reason(command).await
    }

    /// Writes a file of this machine there.
    pub(super) async fn write(&self, from: &Path, to: &str, mode: &str) -> Result<()> {
        let mut command = self.command();
        command.arg(format!("cat > {to} && chmod {mode} {to}"));
        command.stdin(File::open(from).with_context(|| format!("open {}", from.display()))?);
        within_reason(command).await.map(drop)
    }

    fn command(&self) -> Command {
        let mut command = program("ssh");
        // Nothing of the user's own. The machine is new, so nobody knows its key; it is at the other end of the lab's own wire.
        command.args(["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i"]).arg(&self.key);
        command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6"]);
        command.arg(format!("root@{}", self.address)).arg("--");
        command
    }
}

async fn within_reason(command: Command) -> Result<String> {
    tokio::time::timeout(LONGEST, command::output(command)).await.context("the command does not end")?
}
