//! A lab as its user holds it: start or join one, add pets, talk to the cluster.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    builds::{self, Builds},
    cleanup, client, command,
    control_plane::{self, ControlPlaneOptions},
    daemon::Daemon,
    machine::Machine,
    pet::{Pet, PetOptions},
    process::ProcessId,
    record::{self, LabRecord},
    supervisor::{FAILED, OPTIONS, READY, RECORD},
};

/// What a lab should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabOptions {
    /// Unique among the labs that run; lower case letters, digits and `-`.
    pub name: String,
    /// Use this cluster instead of starting a control plane. Pets reach it through the host.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The lab's own control plane.
    #[serde(default)]
    pub control_plane: ControlPlaneOptions,
    /// Where to copy the logs to when the lab ends.
    #[serde(default)]
    pub keep_logs: Option<PathBuf>,
}

impl LabOptions {
    /// A lab with a control plane of its own, or with the one that `E2E_KUBECONFIG` names.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kubeconfig: std::env::var_os("E2E_KUBECONFIG").map(PathBuf::from),
            control_plane: ControlPlaneOptions::default(),
            keep_logs: None,
        }
    }
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    record: LabRecord,
    control_plane: Machine,
    /// The supervisor removes the lab when the last copy of this is closed; this process's death closes it.
    _lifeline: Option<OwnedFd>,
}

impl Lab {
    /// Starts a lab that lives as long as this value, and no longer than this process.
    ///
    /// # Errors
    /// When it does not come up; the error has the reason.
    pub async fn start(options: LabOptions) -> Result<Self> {
        Self::launch(options, true).await
    }

    /// Starts a lab that stays until [`Lab::stop`].
    ///
    /// # Errors
    /// When it does not come up; the error has the reason.
    pub async fn start_detached(options: LabOptions) -> Result<Self> {
        Self::launch(options, false).await
    }

    async fn launch(options: LabOptions, lifeline: bool) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces and mounts: run it as root");
        ensure!(
            !options.name.is_empty()
                && options.name.len() <= 32
                && options.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "lab name `{}`: 1 to 32 of a-z, 0-9 and -",
            options.name
        );
        cleanup::collect_dead().await?;
        let dir = record::default_dir(&options.name);
        if let Some(running) = record::live()?.into_iter().find(|lab| lab.name == options.name) {
            bail!(
                "lab {} is running already: `lab down --name {}` ends it; it is in {}",
                running.name,
                running.name,
                running.dir.display()
            );
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("empty {}", dir.display()));
            }
            _ => fs::create_dir_all(dir.join("logs")).with_context(|| format!("make {}", dir.display()))?,
        }
        record::save(&dir.join(OPTIONS), &options)?;
        let log = File::create(dir.join("logs/supervisor.log")).context("create the supervisor's log")?;
        let mut command = command::program(builds::own_program("lab", "KUBE_PET_LAB_BIN")?);
        command
            .arg("supervise")
            .arg(&dir)
            .current_dir("/")
            .process_group(0)
            .stdout(log.try_clone().context("share the supervisor's log")?)
            .stderr(log);
        if lifeline {
            command.arg("--lifeline").stdin(Stdio::piped());
        }
        let mut supervisor = command.spawn().context("start the lab's supervisor")?;
        let lifeline = match supervisor.stdin.take() {
            Some(pipe) => Some(pipe.into_owned_fd().context("keep the lifeline")?),
            None => None,
        };
        let pid = supervisor.id().and_then(|pid| i32::try_from(pid).ok());
        let process = ProcessId::of(pid.context("the supervisor ended at once")?)?;
        let start = Instant::now();
        while !dir.join(READY).exists() {
            if let Ok(reason) = fs::read_to_string(dir.join(FAILED)) {
                bail!("lab {} does not start: {reason}", options.name);
            }
            if !process.is_alive() {
                let log = crate::daemon::tail(&dir.join("logs/supervisor.log"));
                bail!("lab {}: its supervisor ended: {log}", options.name);
            }
            if start.elapsed() > Duration::from_secs(120) {
                process.signal(Signal::TERM)?;
                bail!("lab {} is not ready after 2 minutes", options.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self::open(&dir, lifeline)
    }

    /// The running lab of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(name: &str) -> Result<Self> {
        let Some(record) = record::live()?.into_iter().find(|lab| lab.name == name) else {
            bail!("no lab named {name} is running");
        };
        Self::open(&record.dir, None)
    }

    fn open(dir: &Path, lifeline: Option<OwnedFd>) -> Result<Self> {
        let record: LabRecord = record::load(&dir.join(RECORD))?;
        Ok(Self { control_plane: Machine::load(&record.machine_dir(control_plane::MACHINE))?, record, _lifeline: lifeline })
    }

    /// Ends the lab and waits until nothing of it is left.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn stop(self) -> Result<()> {
        let supervisor = self.record.supervisor;
        supervisor.signal(Signal::TERM)?;
        ensure!(supervisor.ended_within(Duration::from_secs(60)).await, "the supervisor of lab {} does not end", self.record.name);
        // Finds nothing when the supervisor was able to do its work.
        cleanup::collect_dead().await
    }

    /// Names and folders.
    pub fn record(&self) -> &LabRecord {
        &self.record
    }

    /// The control plane's machine: its network reaches every pod.
    pub fn control_plane(&self) -> &Machine {
        &self.control_plane
    }

    /// One of the control plane's programs, to stop it and to start it again.
    ///
    /// # Errors
    /// When the lab does not run it.
    pub fn daemon(&self, name: &str) -> Result<Daemon> {
        Daemon::load(&self.control_plane, name)
    }

    /// Starts a program of the control plane again after it was stopped.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&self, name: &str) -> Result<()> {
        let daemon = self.daemon(name)?;
        ensure!(!daemon.is_running(), "{name} is running");
        let daemon = Daemon::start(&self.control_plane, daemon.spec).await?;
        if name == "kube-apiserver" {
            control_plane::wait_ready(&self.record, &daemon).await?;
        }
        Ok(())
    }

    /// A client with the administrator's identity, for the async runtime that asks.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        client::connect(&self.record.kubeconfig()).await
    }

    /// Runs kubectl as the administrator and returns what it prints.
    ///
    /// # Errors
    /// When it fails; the error has what it wrote to standard error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.kubectl_command(arguments)?).await
    }

    /// Runs kubectl with `input` as standard input, as in `kubectl apply -f -`.
    ///
    /// # Errors
    /// As [`Lab::kubectl`].
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        command::run_with_input(self.kubectl_command(arguments)?, input).await
    }

    /// kubectl as the administrator, to be started by the caller.
    ///
    /// # Errors
    /// When it is not built.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Result<tokio::process::Command> {
        let mut command = command::program(Builds::locate()?.program("kubectl")?);
        command.arg("--kubeconfig").arg(self.record.kubeconfig()).args(arguments);
        Ok(command)
    }

    /// Adds a pet host and starts its agent; does not wait for the node to be Ready.
    ///
    /// # Errors
    /// When the machine does not boot or the agent ends at once.
    pub async fn pet(&self, options: PetOptions) -> Result<Pet> {
        let pet = Pet::create(self, options).await?;
        pet.start_agent().await?;
        Ok(pet)
    }

    /// A pet that was added before, perhaps by another process.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn existing_pet(&self, name: &str) -> Result<Pet> {
        Pet::find(self, name)
    }

    /// Whether requests for serving certificates are approved from now on.
    ///
    /// # Errors
    /// When the switch cannot be written.
    pub fn approve_serving_certificates(&self, approve: bool) -> Result<()> {
        let switch = self.record.approval_switch();
        if approve {
            match fs::remove_file(&switch) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("switch approval on"),
                _ => Ok(()),
            }
        } else {
            fs::write(&switch, "").context("switch approval off")
        }
    }
}
