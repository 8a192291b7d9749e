//! A long-running program on a machine of the lab, that any process of the lab can stop and start again.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    patience::eventually,
    process::{self, ProcessId},
    record,
};

/// How to start a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DaemonSpec {
    /// Name within its machine.
    pub name: String,
    /// Program and arguments, as the machine sees them.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Where its output is appended.
    pub log: PathBuf,
}

/// A program that was started at least once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// How it is started.
    pub spec: DaemonSpec,
    /// The process of the last start.
    pub process: ProcessId,
}

impl Daemon {
    /// Starts the program on `machine`.
    ///
    /// # Errors
    /// When it cannot be started, or ends within the first moments.
    pub async fn start(machine: &Machine, spec: DaemonSpec) -> Result<Self> {
        let log = File::options().create(true).append(true).open(&spec.log).with_context(|| format!("open {}", spec.log.display()))?;
        let mut command = machine.enter();
        command
            .args(&spec.argv)
            .env_clear()
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log);
        let mut nsenter = command.spawn().context("start `nsenter`")?;
        let outer = nsenter.id().and_then(|pid| i32::try_from(pid).ok()).context("`nsenter` has no PID")?;
        let what = format!("{} on {}", spec.name, machine.name);
        // nsenter forks once it is in the PID namespace; the child is the program. It shows within milliseconds or never.
        for _ in 0..200 {
            if let Some(pid) = process::children(outer).first().copied() {
                let daemon = Self { process: ProcessId::of(pid)?, spec };
                record::save(&Self::file(&machine.dir, &daemon.spec.name), &daemon)?;
                return Ok(daemon);
            }
            if let Some(status) = nsenter.try_wait().context("look after `nsenter`")? {
                bail!("{what}: {status}: {}", tail(&spec.log));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("{what}: no process after 1 s")
    }

    /// The program that was last started on `machine` under this name.
    ///
    /// # Errors
    /// When there was none.
    pub fn load(machine: &Machine, name: &str) -> Result<Self> {
        record::load(&Self::file(&machine.dir, name))
    }

    fn file(machine_dir: &Path, name: &str) -> PathBuf {
        machine_dir.join("daemons").join(format!("{name}.json"))
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.process.is_alive()
    }

    /// SIGTERM, and SIGKILL for one that does not end within `grace`.
    ///
    /// # Errors
    /// When it survives both.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        if !self.process.ended_within(grace).await {
            self.process.kill().await?;
        }
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it survives.
    pub async fn kill(&self) -> Result<()> {
        self.process.kill().await
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        read_lossy(&self.spec.log)
    }

    /// Waits until `text` is in its log, and fails at once when the program ends instead.
    ///
    /// # Errors
    /// When it ends or `limit` passes; the error has the end of the log.
    pub async fn logged(&self, text: &str, limit: Duration) -> Result<()> {
        let waited = eventually(limit, &format!("`{text}` in the log of {}", self.spec.name), || async {
            if self.log().contains(text) || !self.is_running() {
                return Ok(());
            }
            bail!("{}", tail(&self.spec.log))
        })
        .await;
        waited?;
        if !self.is_running() {
            bail!("{} ended: {}", self.spec.name, tail(&self.spec.log));
        }
        Ok(())
    }
}

/// The end of a log, for an error message.
pub fn tail(log: &Path) -> String {
    let text = read_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
