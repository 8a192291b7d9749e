//! A virtual machine on the lab's wire, for what namespaces cannot show: a boot, systemd, cgroup v2, a kernel of its own, a power cut.
//!
//! Its emulator is a program of a [`Machine`]: whatever ends the lab's machines ends it. Its processors are
//! software (`KUBE_PET_LAB_ACCELERATOR=kvm` makes them real), and everything takes some ten times as long.

mod disk;
mod emulator;
mod shell;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::{
    builds::Builds,
    client, cluster,
    daemon::{self, Daemon},
    lab::Lab,
    machine::Machine,
    network::{self, Wire},
    patience::eventually,
    pet,
};
use disk::Disk;
use shell::Shell;

/// The agent's program on a virtual machine.
pub const PROGRAM: &str = "/usr/local/bin/kube-pet";
/// From the start of the emulator to the first command, on a machine without KVM and with something else to do.
const BOOT: Duration = Duration::from_secs(240);

/// What a virtual machine should be.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Host name, and so node name.
    pub name: String,
    /// Settings of `node.yaml` on top of the lab's own.
    pub settings: Map<String, Value>,
    /// Memory in MiB.
    pub memory: u32,
}

impl VmOptions {
    /// A machine with the lab's settings and 2 GiB.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), settings: Map::new(), memory: 2048 }
    }

    /// With this setting of `node.yaml`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.settings.insert(field.to_owned(), value);
        self
    }
}

/// A virtual machine with the agent's program on it, which has not joined yet.
#[derive(Debug)]
pub struct Vm {
    host: Machine,
    memory: u32,
    number: u8,
    wire: Wire,
    shell: Shell,
    log: PathBuf,
    kubeconfig: PathBuf,
    control_plane: Machine,
}

impl Vm {
    /// Makes a machine with a new disk, and boots it.
    ///
    /// # Errors
    /// When the disk cannot be made, or the machine does not boot; the error has the end of its console.
    pub async fn start(lab: &Lab, options: VmOptions) -> Result<Self> {
        let VmOptions { name, settings, memory } = options;
        let (record, wire) = (lab.record(), lab.record().wire());
        let dir = record.machine_dir(&name);
        ensure!(!dir.exists(), "lab {} has a machine named {name} already", record.name);
        let host = Machine::boot(&name, &dir, "").await?;
        let number = pet::take_number(&record.dir)?;
        let address = wire.pet(number);
        network::attach_tap(lab.control_plane(), &host, number).await?;
        let shell = Shell::new(&dir, address).await?;
        let disk = Disk { name: &name, address, wire, settings: &settings, key: shell.public_key()? };
        disk.make(&host, &Builds::locate()?.vm()?.join("root")).await?;
        let log = record.log(&format!("{name}-console"));
        let vm =
            Self { host, memory, number, wire, shell, log, kubeconfig: record.kubeconfig(), control_plane: lab.control_plane().clone() };
        vm.boot().await?;
        Ok(vm)
    }

    /// Host name, and so node name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Its address on the lab's wire.
    pub fn address(&self) -> Ipv4Addr {
        self.wire.pet(self.number)
    }

    /// Turns a machine on that is off; returns when it takes commands.
    ///
    /// # Errors
    /// When it is on, or does not come up; the error has the end of its console.
    pub async fn boot(&self) -> Result<()> {
        if let Ok(emulator) = self.emulator() {
            ensure!(!emulator.is_running(), "{} is on", self.name());
        }
        let files = Builds::locate()?.vm()?;
        let spec =
            emulator::spec(&files, &self.host.dir.join(disk::FILE), self.memory, self.wire.vm_hardware_address(self.number), &self.log);
        let emulator = Daemon::start(&self.host, spec).await?;
        let what = format!("{} takes commands", self.name());
        let up = eventually(BOOT, &what, || async {
            // Where it has ended there is nothing to wait for.
            if emulator.is_running() { self.shell.run("true").await.map(drop) } else { Ok(()) }
        });
        up.await.with_context(|| self.console_tail())?;
        ensure!(emulator.is_running(), "{} does not boot: {}", self.name(), self.console_tail());
        Ok(())
    }

    fn emulator(&self) -> Result<Daemon> {
        Daemon::load(&self.host, emulator::NAME)
    }

    /// The end of what it has written to its console.
    pub fn console_tail(&self) -> String {
        format!("console of {}:\n{}", self.name(), daemon::tail(&self.log))
    }

    /// Pulls the plug: what the machine had not written to its disk is lost.
    ///
    /// # Errors
    /// When the emulator survives.
    pub async fn power_cut(&self) -> Result<()> {
        self.emulator()?.kill().await
    }

    /// Waits until the machine has turned itself off, which it does for a reboot too.
    ///
    /// # Errors
    /// When it is still on after `limit`.
    pub async fn off(&self, limit: Duration) -> Result<()> {
        ensure!(self.emulator()?.process.ended_within(limit).await, "{} is still on: {}", self.name(), self.console_tail());
        Ok(())
    }

    /// Runs shell commands on the machine, as root, and returns what they print.
    ///
    /// # Errors
    /// When they fail, or the machine does not take them.
    pub async fn shell(&self, script: &str) -> Result<String> {
        self.shell.run(script).await.with_context(|| format!("on {}", self.name()))
    }

    /// Copies a file to the machine and makes it a program. Symbols for debuggers stay behind: they are most of a development build.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn install(&self, program: &Path, to: &str) -> Result<()> {
        let stripped = self.host.dir.join("stripped");
        disk::strip(program, &stripped).await?;
        self.shell.write(&stripped, to, "0755").await?;
        fs::remove_file(&stripped).with_context(|| format!("remove {}", stripped.display()))
    }

    /// Whether API server, registry and DNS answer it. The test reaches the machine either way.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_online(&self, online: bool) -> Result<()> {
        network::set_heard(&self.control_plane, self.address(), online).await
    }

    /// Waits until its node is Ready.
    ///
    /// # Errors
    /// When it is not within `limit`; the error has the end of the agent's log.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        match cluster::node_ready(&client::connect(&self.kubeconfig).await?, self.name(), limit).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let log = self.shell("journalctl --no-pager --unit=kube-pet --lines=15").await.unwrap_or_else(|error| format!("{error:#}"));
                Err(error.context(format!("agent's log: {log}")))
            }
        }
    }

    /// Turns the machine off without ado, and forgets it and its node.
    ///
    /// # Errors
    /// When something stays.
    pub async fn remove(self) -> Result<()> {
        self.host.power_off().await?;
        network::set_heard(&self.control_plane, self.address(), true).await?;
        cluster::forget_node(&client::connect(&self.kubeconfig).await?, self.name()).await?;
        fs::remove_dir_all(&self.host.dir).with_context(|| format!("remove {}", self.host.dir.display()))
    }
}
