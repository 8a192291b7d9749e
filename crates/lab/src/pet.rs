//! A pet host: a machine with a root folder and a Podman store of its own, and the agent on it.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    builds, cleanup, cluster,
    daemon::{Daemon, DaemonSpec},
    lab::Lab,
    machine::Machine,
    network::{self, Nat, cloud},
    patience::eventually,
    pet_files::{self, PetFiles},
    pet_root::{self, Suite},
    process::{self, ProcessId},
    record, wrong_clock,
};

/// What a pet should be.
#[derive(Clone, Debug)]
pub struct PetOptions {
    /// Node name and host name.
    pub name: String,
    /// Settings of `node.yaml` on top of the lab's own.
    pub settings: Map<String, Value>,
    /// Its operating system; without one, that of `KUBE_PET_SUITE`, or the lab's own.
    pub suite: Option<Suite>,
    /// Where it is.
    pub place: Place,
    /// How far its clock is ahead until [`Pet::set_clock`]; without one it is right, and stays so.
    pub clock: Option<SignedDuration>,
}

/// Where a pet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On the lab's wire; with a cloud in the lab, that is a machine with a public address.
    #[default]
    Wire,
    /// Behind a router of its own that translates addresses and lets nobody in.
    Home(Nat),
    /// In the cloud's own network.
    Cloud,
}

impl PetOptions {
    /// A pet with the lab's settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), settings: Map::new(), suite: None, place: Place::default(), clock: None }
    }

    /// At home, behind NAT.
    #[must_use]
    pub fn at_home(self) -> Self {
        self.behind(Nat::default())
    }

    /// At home, behind a router that translates like this.
    #[must_use]
    pub fn behind(self, nat: Nat) -> Self {
        Self { place: Place::Home(nat), ..self }
    }

    /// A node of the cloud's own, which needs no tunnel.
    #[must_use]
    pub fn in_cloud(self) -> Self {
        Self { place: Place::Cloud, ..self }
    }

    /// With a clock that is ahead by so much, or behind.
    #[must_use]
    pub fn with_clock(self, difference: SignedDuration) -> Self {
        Self { clock: Some(difference), ..self }
    }

    /// With this setting of `node.yaml`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.settings.insert(field.to_owned(), value);
        self
    }
}

/// A pet host.
#[derive(Clone, Debug)]
pub struct Pet {
    machine: Machine,
    record: PetRecord,
    cgroup: String,
    agent_log: PathBuf,
    kubeconfig: PathBuf,
    control_plane: Machine,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PetRecord {
    number: u8,
    address: Ipv4Addr,
    /// The root folder of another operating system.
    root: Option<PathBuf>,
    /// At home the address is that of the router.
    #[serde(default)]
    place: Place,
}

const RECORD: &str = "pet.json";
const AGENT: &str = "agent";
/// Where the machine sees the folder of the agent's program.
const PROGRAMS: &str = "/run/lab/bin";

impl Pet {
    /// A pet host without a running agent.
    ///
    /// # Errors
    /// When the machine does not boot, or a bootstrap token is refused.
    pub async fn create(lab: &Lab, options: PetOptions) -> Result<Self> {
        let record = lab.record();
        let dir = record.machine_dir(&options.name);
        ensure!(!dir.exists(), "lab {} has a machine named {} already", record.name, options.name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let suite = match options.suite {
            Some(suite) => Some(suite),
            None => Suite::from_env()?,
        };
        let root = suite.map(Suite::root).transpose()?;
        let number = take_number(&record.dir)?;
        let address = if options.place == Place::Cloud { cloud::address(number) } else { record.wire().pet(number) };
        record::save(&dir.join(RECORD), &PetRecord { number, address, root, place: options.place })?;
        let client = lab.client().await?;
        let files = PetFiles {
            name: options.name.clone(),
            address,
            wire: record.wire(),
            cgroup: record.cgroup(Some(&options.name)),
            server: server_of(&record.kubeconfig())?,
            token: cluster::bootstrap_token(&client).await?,
            settings: options.settings,
        };
        files.write(&dir)?;
        let pet = boot(lab, &options.name).await?;
        if let Some(difference) = options.clock {
            pet.set_clock(difference)?;
        }
        Ok(pet)
    }

    /// A pet that was created before.
    ///
    /// # Errors
    /// When there is none of this name, or its machine is down.
    pub fn find(lab: &Lab, name: &str) -> Result<Self> {
        let dir = lab.record().machine_dir(name);
        let machine = Machine::load(&dir).with_context(|| format!("no pet named {name}"))?;
        Self::assemble(lab, machine)
    }

    fn assemble(lab: &Lab, machine: Machine) -> Result<Self> {
        Ok(Self {
            record: record::load(&machine.dir.join(RECORD))?,
            cgroup: lab.record().cgroup(Some(&machine.name)),
            agent_log: lab.record().log(&format!("{}-agent", machine.name)),
            kubeconfig: lab.record().kubeconfig(),
            control_plane: lab.control_plane().clone(),
            machine,
        })
    }

    /// Node name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }
    /// Its address on the lab's wire.
    pub fn address(&self) -> Ipv4Addr {
        self.record.address
    }
    /// The machine: to run commands, to look at files and processes.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
    /// The router that it is behind, at home.
    ///
    /// # Errors
    /// When it is not at home.
    pub fn router(&self) -> Result<Machine> {
        Machine::load(&router_dir(&self.machine.dir))
    }
    /// The cgroup below which its pods are, as a path below each hierarchy's root.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }
    /// A file of the pet as it can be opened from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.machine.path(inside)
    }

    /// Runs shell commands on the pet and returns what they print.
    ///
    /// # Errors
    /// When they fail.
    pub async fn shell(&self, script: &str) -> Result<String> {
        self.machine.shell(script).await
    }

    /// Runs the pet's Podman, beside the agent's service but on the same store.
    ///
    /// # Errors
    /// When it fails.
    pub async fn podman(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.machine.enter();
        command.arg("podman").args(arguments).env_clear().envs(environment());
        crate::command::output(command).await.with_context(|| format!("on pet {}", self.name()))
    }

    /// Starts the agent. Its program is looked up anew: a build since the last start is used.
    ///
    /// # Errors
    /// When it runs already or does not start.
    pub async fn start_agent(&self) -> Result<()> {
        if let Ok(agent) = self.agent() {
            ensure!(!agent.is_running(), "the agent of {} is running", self.name());
        }
        let argv = [&format!("{PROGRAMS}/kube-pet"), "node", "--config", pet_files::NODE_CONFIG];
        let spec = DaemonSpec {
            name: AGENT.into(),
            argv: argv.map(str::to_owned).to_vec(),
            environment: [environment(), wrong_clock::environment(&self.machine)].concat(),
            log: self.agent_log.clone(),
        };
        Daemon::start(&self.machine, spec).await.map(drop)
    }

    /// Starts `kube-pet run`: pods from files of the pet, without a cluster. The agent must not run beside it.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn run_files(&self, files: &[&str]) -> Result<Daemon> {
        let mut argv = [&format!("{PROGRAMS}/kube-pet"), "run", "--config", pet_files::NODE_CONFIG].map(str::to_owned).to_vec();
        argv.extend(files.iter().map(|file| (*file).to_owned()));
        let log = self.agent_log.with_file_name(format!("{}-run.log", self.name()));
        Daemon::start(&self.machine, DaemonSpec { name: "run".into(), argv, environment: environment(), log }).await
    }

    /// Runs `kube-pet doctor` with these arguments and returns what it prints, whatever it finds.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn doctor(&self, arguments: &str) -> Result<String> {
        self.kube_pet(&format!("doctor --config {} {arguments} || [ $? = 1 ]", pet_files::NODE_CONFIG)).await
    }

    /// Runs `kube-pet` with these words of a shell, by the pet's clock, and returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kube_pet(&self, words: &str) -> Result<String> {
        let clock: String = wrong_clock::environment(&self.machine).iter().map(|(name, value)| format!("{name}={value} ")).collect();
        self.shell(&format!("{clock}{PROGRAMS}/kube-pet {words}")).await
    }

    /// Moves its clock: ahead of the real one, or behind. The agent must have been started with a clock of its own
    /// ([`PetOptions::with_clock`]).
    ///
    /// # Errors
    /// When libfaketime is missing.
    pub fn set_clock(&self, difference: SignedDuration) -> Result<()> {
        wrong_clock::set(&self.machine, difference)
    }

    /// SIGTERM to the agent, SIGKILL after 10 s.
    ///
    /// # Errors
    /// When it was never started.
    pub async fn stop_agent(&self) -> Result<()> {
        self.agent()?.stop(Duration::from_secs(10)).await
    }

    /// SIGKILL to the agent, and to nothing else.
    ///
    /// # Errors
    /// When it was never started.
    pub async fn kill_agent(&self) -> Result<()> {
        self.agent()?.kill().await
    }

    /// The agent as it was last started.
    ///
    /// # Errors
    /// When it was never started.
    pub fn agent(&self) -> Result<Daemon> {
        Daemon::load(&self.machine, AGENT)
    }

    /// All that the agent has written since the pet was created.
    pub fn agent_log(&self) -> String {
        fs::read(&self.agent_log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The processes of the agent's Podman service.
    pub fn podman_services(&self) -> Vec<ProcessId> {
        self.machine
            .processes()
            .into_iter()
            .filter(|pid| {
                let arguments = process::arguments(*pid);
                arguments.first().is_some_and(|program| program.ends_with("podman"))
                    && arguments.windows(2).any(|pair| pair == ["system", "service"])
            })
            .filter_map(|pid| ProcessId::of(pid).ok())
            .collect()
    }

    /// SIGKILL to the Podman service.
    ///
    /// # Errors
    /// When it survives, or none is found within 30 s: a test that kills nothing shows nothing.
    pub async fn kill_podman(&self) -> Result<()> {
        let services = eventually(Duration::from_secs(30), "a Podman service runs", || async {
            let services = self.podman_services();
            ensure!(!services.is_empty(), "none on {}", self.name());
            Ok(services)
        });
        for service in services.await? {
            service.kill().await?;
        }
        Ok(())
    }

    /// Cuts the pet off the lab's network, or connects it again.
    ///
    /// # Errors
    /// When the link cannot be changed.
    pub async fn set_online(&self, online: bool) -> Result<()> {
        network::set_link(&self.control_plane, self.record.number, online).await
    }

    /// Waits until the node is Ready.
    ///
    /// # Errors
    /// When it is not within `limit`; the error has the end of the agent's log.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        let waited = cluster::node_ready(&crate::client::connect(&self.kubeconfig).await?, self.name(), limit).await;
        waited.with_context(|| format!("agent's log: {}", crate::daemon::tail(&self.agent_log)))
    }

    /// Ends every process of the pet at once, as a power cut does: `/run` and all mounts are lost, the disk stays.
    /// The agent does not run afterwards.
    ///
    /// # Errors
    /// When it does not come up again.
    pub async fn power_cycle(&mut self, lab: &Lab) -> Result<()> {
        self.machine.power_off().await?;
        *self = boot(lab, self.name()).await?;
        Ok(())
    }

    /// Removes the pet with all its pods, and its node from the cluster.
    ///
    /// # Errors
    /// When something stays.
    pub async fn remove(self) -> Result<()> {
        self.machine.power_off().await?;
        if matches!(self.record.place, Place::Home(_)) {
            let router = router_dir(&self.machine.dir);
            Machine::load(&router)?.power_off().await?;
            fs::remove_dir_all(&router).with_context(|| format!("remove {}", router.display()))?;
        }
        cleanup::remove_cgroups(&self.cgroup)?;
        cluster::forget_node(&crate::client::connect(&self.kubeconfig).await?, self.name()).await?;
        fs::remove_dir_all(&self.machine.dir).with_context(|| format!("remove {}", self.machine.dir.display()))
    }
}

async fn boot(lab: &Lab, name: &str) -> Result<Pet> {
    let dir = lab.record().machine_dir(name);
    let agent = builds::own_program("kube-pet", "KUBE_PET_BIN")?;
    let programs = agent.parent().context("the agent's program has no folder")?;
    let record: PetRecord = record::load(&dir.join(RECORD))?;
    let mut script = record.root.map(|root| pet_root::script(&root, &dir, programs)).unwrap_or_default();
    script.push_str(&pet_files::boot_script(&dir, programs));
    let machine = Machine::boot(name, &dir, &script).await?;
    let pet = Pet::assemble(lab, machine)?;
    let (wire, number) = (lab.record().wire(), pet.record.number);
    match pet.record.place {
        Place::Wire => network::attach(wire, lab.control_plane(), &pet.machine, number).await?,
        Place::Cloud => {
            cloud::attach(lab.control_plane(), &pet.machine, number, "eth0").await?;
            cloud::route_default(&pet.machine).await?;
        }
        Place::Home(nat) => {
            let dir = router_dir(&dir);
            let router = match Machine::load(&dir) {
                Ok(router) if router.is_up() => router,
                _ => {
                    let router = Machine::boot(&format!("{name}-router"), &dir, "").await?;
                    network::attach(wire, lab.control_plane(), &router, number).await?;
                    network::translate(&router, nat).await?;
                    router
                }
            };
            network::plug_into_router(&router, &pet.machine).await?;
        }
    }
    Ok(pet)
}

/// The folder of the machine that a pet at home is behind.
fn router_dir(pet: &Path) -> PathBuf {
    let name = pet.file_name().unwrap_or_default().to_string_lossy();
    pet.with_file_name(format!("{name}-router"))
}

fn environment() -> Vec<(String, String)> {
    let mut environment = vec![
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        // Not root's own home: it may hold registry credentials and Podman settings of the person who runs the lab.
        ("HOME".to_owned(), "/var/root".to_owned()),
        ("RUST_BACKTRACE".to_owned(), "1".to_owned()),
    ];
    for name in ["RUST_LOG", "KUBE_PET_LOG"] {
        if let Ok(value) = std::env::var(name) {
            environment.push((name.to_owned(), value));
        }
    }
    environment
}

fn server_of(kubeconfig: &Path) -> Result<pet_files::Server> {
    let config = kube::config::Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let cluster = config.clusters.into_iter().find_map(|named| named.cluster).context("the kubeconfig names no cluster")?;
    let authority = match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(encoded), _) => {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).context("decode the kubeconfig's authority")?;
            String::from_utf8(bytes).context("the kubeconfig's authority is no PEM")?
        }
        (None, Some(file)) => fs::read_to_string(&file).with_context(|| format!("read {file}"))?,
        (None, None) => anyhow::bail!("the kubeconfig names no certificate authority"),
    };
    Ok(pet_files::Server { url: cluster.server.context("the kubeconfig names no server")?, authority })
}

pub(crate) fn take_number(lab: &Path) -> Result<u8> {
    let dir = lab.join("pet-numbers");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for number in 0..=239 {
        match fs::File::create_new(dir.join(number.to_string())) {
            Ok(_) => return Ok(number),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("take a number for the pet"),
        }
    }
    anyhow::bail!("the lab has no address left for another pet")
}
