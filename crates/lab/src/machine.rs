//! A machine of the lab: namespaces of its own, held by an init process. Ending that one process ends all that runs on it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::{
    command::program,
    process::{self, ProcessId},
    record,
};

/// A machine that is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Host name, and name within the lab.
    pub name: String,
    /// The machine's PID 1.
    pub keeper: ProcessId,
    /// The machine's folder outside: record, boot log, the folders that it sees as its own.
    pub dir: PathBuf,
}

const RECORD: &str = "machine.json";

/// What every machine does first. `/` is made shared again within the new namespace (nothing reaches the host: the
/// namespace was made private first), because mounts must propagate from the agent to containers as on a real machine.
const PRELUDE: &str = "set -eu\nmount --make-rshared /\n";

/// The machine runs from here on. It waits for a line from us: were we to die before we have written down that it exists,
/// it would end by itself.
const EPILOGUE: &str = "echo ready\nread go\nexec catatonit -P >/dev/null 2>&1\n";

impl Machine {
    /// Makes the namespaces, runs the shell commands of `setup` in them as root, and leaves an init process there.
    ///
    /// # Errors
    /// When the kernel refuses or a command of `setup` fails; the error carries what it wrote.
    pub async fn boot(name: &str, dir: &Path, setup: &str) -> Result<Self> {
        fs::create_dir_all(dir.join("daemons")).with_context(|| format!("make {}", dir.display()))?;
        let boot_log = dir.join("boot.log");
        let script = format!("{PRELUDE}hostname {name}\n{setup}\n{EPILOGUE}");
        let mut unshare = program("unshare")
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork"])
            .args(["--kill-child=KILL", "--mount-proc", "--propagation=private"])
            .args(["--", "/bin/sh", "-c", &script])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&boot_log).context("create the boot log")?)
            .spawn()
            .context("start `unshare`")?;
        let (stdin, stdout) = (unshare.stdin.take(), unshare.stdout.take());
        let mut line = String::new();
        if let Some(stdout) = stdout {
            tokio::time::timeout(Duration::from_secs(20), BufReader::new(stdout).read_line(&mut line))
                .await
                .with_context(|| format!("machine {name} does not boot"))??;
        }
        if line.trim() != "ready" {
            let log = fs::read_to_string(&boot_log).unwrap_or_default();
            bail!("machine {name} does not boot: {}", log.trim());
        }
        let parent = unshare.id().and_then(|pid| i32::try_from(pid).ok());
        let keeper = parent
            .and_then(|pid| process::children(pid).first().copied())
            .with_context(|| format!("machine {name} ended while it booted"))?;
        let machine = Self { name: name.to_owned(), keeper: ProcessId::of(keeper)?, dir: dir.to_owned() };
        record::save(&dir.join(RECORD), &machine)?;
        if let Some(mut stdin) = stdin {
            stdin.write_all(b"go\n").await.with_context(|| format!("let machine {name} go"))?;
        }
        Ok(machine)
    }

    /// The machine that was recorded in `dir`.
    ///
    /// # Errors
    /// When there is no record.
    pub fn load(dir: &Path) -> Result<Self> {
        record::load(&dir.join(RECORD))
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.keeper.is_alive()
    }

    /// A command whose arguments, once added, run on the machine, in all its namespaces. Its working directory is `/`.
    pub fn enter(&self) -> Command {
        let mut command = self.nsenter();
        command.args(["-m", "-n", "-p", "-u", "-i", "--"]);
        command
    }

    /// A command whose arguments, once added, run in the machine's network but with the host's files.
    pub fn enter_network(&self) -> Command {
        let mut command = self.nsenter();
        command.args(["-n", "--"]);
        command
    }

    fn nsenter(&self) -> Command {
        let mut command = program("nsenter");
        command.arg("-t").arg(self.keeper.pid.to_string());
        command
    }

    /// Runs shell commands on the machine and returns what they print.
    ///
    /// # Errors
    /// When they fail.
    pub async fn shell(&self, script: &str) -> Result<String> {
        let mut command = self.enter();
        command.args(["/bin/sh", "-c", script]);
        crate::command::output(command).await.with_context(|| format!("on machine {}", self.name))
    }

    /// A file of the machine as it can be opened from outside, mounts made on the machine included.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        PathBuf::from(format!("/proc/{}/root", self.keeper.pid)).join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Runs blocking code in the machine's network, on a thread of its own.
    ///
    /// # Errors
    /// When the network namespace cannot be entered or the thread panics.
    pub async fn in_network<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.keeper.pid);
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // The thread is never reused: it stays in the other namespace until it ends.
        std::thread::Builder::new()
            .name(format!("in-{}", self.name))
            .spawn(move || {
                use std::os::fd::AsFd;
                let entered =
                    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network));
                let _ = sender.send(entered.map(|()| work()));
            })
            .context("start a thread")?;
        receiver.await.context("the thread ended early")?.with_context(|| format!("enter {path}"))
    }

    /// All processes of the machine, by their PID outside: those in its PID namespace. Not those that descend from its init:
    /// what `nsenter` started has its parent outside.
    pub fn processes(&self) -> Vec<i32> {
        process::in_namespace_of(self.keeper.pid)
    }

    /// Pulls the plug: every process ends at once, mounts and links of the machine go with it.
    ///
    /// # Errors
    /// When the kernel does not end them within 20 s.
    pub async fn power_off(&self) -> Result<()> {
        self.keeper.kill().await.with_context(|| format!("turn machine {} off", self.name))
    }
}
