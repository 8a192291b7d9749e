//! Sandboxes: the namespaces, the network link and the shared memory that a pod's containers join.
//!
//! A sandbox is not a process and nothing in it can die: files under `/run/kube-pet/sandboxes/<uid>/` hold its namespaces, so
//! it outlives every container, the agent and the Podman service. A record in the pod's folder on disk brings it back with
//! the same address after a reboot.
//!
//! Addresses are given before anything is made, and taken back only when the link is known to be gone: whatever step fails or
//! is killed, no address has two pods, and none is lost.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube_pet_core::id_ranges::IdRangeError;
use kube_pet_core::ids::PodUid;
use kube_pet_core::ipam::{Cidr, IpamError};
use kube_pet_core::services::HostPort;
use kube_pet_host::files::FileError;
use kube_pet_host::mounts::MountError;
use kube_pet_host::namespaces::NamespaceError;
use kube_pet_host::user_namespaces::IdRange;
use kube_pet_net::pod_links::{self, PodLinkError};
use tracing::{info, warn};

use crate::json_file;
use crate::paths::Paths;
use crate::services::{HostPortError, HostPorts};

mod books;
mod kernel;
mod record;

use books::{Books, Entry};
use kernel::Pins;
use record::Record;

/// Settings that hold for all sandboxes of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// How the names of the node's links begin; at most 5 letters and digits. Agents that share a network namespace need
    /// different ones.
    pub link_prefix: String,
    /// Bytes per packet.
    pub mtu: u32,
    /// The node's address towards its pods; the kernel's choice without.
    pub source_address: Option<IpAddr>,
    /// Size of a pod's /dev/shm.
    pub shm_bytes: u64,
    /// `/etc/subuid` and `/etc/subgid`: whose subordinate IDs pods with user namespaces have.
    pub subordinate_ids: [PathBuf; 2],
    /// How many ranges of IDs there are where these say nothing.
    pub max_pods: u32,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            link_prefix: "kp".to_owned(),
            mtu: 1500,
            source_address: None,
            shm_bytes: 64 << 20,
            subordinate_ids: ["/etc/subuid".into(), "/etc/subgid".into()],
            max_pods: 110,
        }
    }
}

/// What a pod needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The pod.
    pub uid: PodUid,
    /// Its namespace, for people.
    pub namespace: String,
    /// Its name, for people.
    pub name: String,
    /// Host name in the pod.
    pub hostname: String,
    /// NIS domain name in the pod; the host's without.
    pub domainname: Option<String>,
    /// `hostNetwork`: the host's network and host name.
    pub host_network: bool,
    /// `hostIPC`
    pub host_ipc: bool,
    /// `hostPID`: decided per container, nothing is made here.
    pub host_pid: bool,
    /// Not `hostUsers: false`: the host's users and groups.
    pub host_users: bool,
    /// Set inside the new namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The node's networks for pods; those in use go on if empty.
    pub pod_cidrs: Vec<String>,
    /// The node's ports that lead into the pod.
    pub host_ports: Vec<HostPort>,
}

/// A pod's sandbox. A path that is `None` stands for the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's addresses; none with `hostNetwork`.
    pub ips: Vec<IpAddr>,
    /// Network namespace.
    pub netns: Option<PathBuf>,
    /// IPC namespace.
    pub ipcns: Option<PathBuf>,
    /// UTS namespace.
    pub utsns: Option<PathBuf>,
    /// User namespace, which the others belong to.
    pub userns: Option<UserNamespace>,
    /// What the pod's containers have at /dev/shm.
    pub shm: Option<PathBuf>,
    /// Whether this call made a namespace: containers of an earlier sandbox are not in it.
    pub created: bool,
}

/// A pod's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// What holds it.
    pub path: PathBuf,
    /// Its users and groups on the host.
    pub ids: IdRange,
}

/// Why a sandbox is not there, or not gone.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Not usable as the name of a folder.
    #[error("pod UID {uid:?} cannot be used as the name of a folder")]
    InvalidUid {
        /// What was given.
        uid: String,
    },
    /// The node has no network for pods yet.
    #[error("pod {uid} gets no address: the node has no pod CIDR yet")]
    NoPodCidr {
        /// The pod.
        uid: PodUid,
    },
    /// The node's networks have changed while pods use the old ones.
    #[error(
        "pod CIDR cannot change from {current} to {wanted}: {pods} running pods have addresses of {current}; drain the node, or restore its CIDR"
    )]
    CidrInUse {
        /// What pods use.
        current: String,
        /// What the node should use.
        wanted: String,
        /// How many pods.
        pods: usize,
    },
    /// No address.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// A sysctl that would change the machine.
    #[error("sysctl {name} cannot be set for pod {uid}: it would be set on the host")]
    SysctlOnHost {
        /// The pod.
        uid: PodUid,
        /// The sysctl.
        name: String,
    },
    /// No users and groups for a user namespace.
    #[error(transparent)]
    IdRange(#[from] IdRangeError),
    /// A namespace.
    #[error("sandbox of pod {uid}: {source}")]
    Namespace {
        /// The pod.
        uid: PodUid,
        /// What failed.
        #[source]
        source: NamespaceError,
    },
    /// The network link.
    #[error("network of pod {uid}: {source}")]
    Link {
        /// The pod.
        uid: PodUid,
        /// What failed.
        #[source]
        source: PodLinkError,
    },
    /// The shared memory.
    #[error("shared memory of pod {uid}: {source}")]
    Mount {
        /// The pod.
        uid: PodUid,
        /// What failed.
        #[source]
        source: MountError,
    },
    /// A folder or file.
    #[error("{doing} {path}: {source}")]
    Folder {
        /// What was being done.
        doing: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The node's ports.
    #[error(transparent)]
    HostPorts(#[from] HostPortError),
    /// A record.
    #[error(transparent)]
    File(#[from] FileError),
    /// A record cannot be written as JSON.
    #[error("encoding the sandbox record of pod {uid}: {source}")]
    Encode {
        /// The pod.
        uid: PodUid,
        /// What failed.
        #[source]
        source: serde_json::Error,
    },
    /// Links cannot be listed.
    #[error("looking for leftover network links: {0}")]
    Links(#[source] PodLinkError),
    /// Parts of a sandbox are still there.
    #[error("removing the sandbox of pod {uid}: {}", texts(errors))]
    Teardown {
        /// The pod.
        uid: PodUid,
        /// All that failed.
        errors: Vec<SandboxError>,
    },
    /// The work ended in a panic.
    #[error("work on the sandbox of pod {uid} was interrupted")]
    Interrupted {
        /// The pod.
        uid: PodUid,
    },
}

fn texts(errors: &[SandboxError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl SandboxError {
    /// Whether the same call can succeed later without a change of the pod.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::InvalidUid { .. } | Self::SysctlOnHost { .. } | Self::Encode { .. })
    }
}

/// Whether a UID can name a folder, and nothing else than one.
fn is_valid_uid(uid: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.';
    (1..=128).contains(&uid.len()) && !uid.starts_with('.') && uid.bytes().all(plain)
}

/// Where the last addresses given are kept, so that the next run goes on behind them.
#[derive(serde::Serialize, serde::Deserialize)]
struct Cursors {
    cidrs: Vec<Cidr>,
    cursors: Vec<u64>,
}

/// Makes, finds and removes the sandboxes of one agent's pods. Cheap to clone.
#[derive(Clone)]
pub struct SandboxManager {
    inner: Arc<Inner>,
}

struct Inner {
    paths: Paths,
    config: SandboxConfig,
    books: Mutex<Books>,
    host_ports: HostPorts,
}

impl SandboxManager {
    /// Knows of no sandbox yet: call [`SandboxManager::recover`] first.
    pub fn new(paths: Paths, config: SandboxConfig, host_ports: HostPorts) -> Self {
        Self { inner: Arc::new(Inner { paths, config, books: Mutex::default(), host_ports }) }
    }

    /// Makes what is missing of a pod's sandbox. Idempotent; what exists is not touched. Once started, the work goes on also if
    /// the future is dropped, and a later call for the same pod waits for it.
    pub async fn ensure(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        let (uid, ports) = (&spec.uid, &spec.host_ports);
        let spec = spec.clone();
        let sandbox = self.locked(uid, move |inner| inner.ensure(&spec)).await?;
        if !ports.is_empty() {
            self.inner.host_ports.set(uid, &sandbox.ips, ports).await?;
            // Not before: the rules keep the pod itself away from the node's loopback.
            let pod = uid.clone();
            self.locked(uid, move |inner| kernel::answer_loopback(&inner.config, &pod)).await?;
        }
        Ok(sandbox)
    }

    /// Removes a pod's sandbox. Idempotent; goes on after an error and reports all. The addresses are free when the link is
    /// gone and not before.
    pub async fn teardown(&self, uid: &PodUid) -> Result<(), SandboxError> {
        self.close_ports(uid).await;
        let pod = uid.clone();
        self.locked(uid, move |inner| inner.teardown(&pod)).await
    }

    /// Before the address goes to another pod. What the kernel refuses now is no reason to keep the rest: the rules of a pod that
    /// is not known any more go when the kernel is well again.
    async fn close_ports(&self, uid: &PodUid) {
        let open = self.inner.books().get(uid).is_some_and(|entry| !entry.record.host_ports.is_empty());
        if open && let Err(error) = self.inner.host_ports.set(uid, &[], &[]).await {
            warn!(%uid, error = &error as &dyn std::error::Error, "the host ports of a pod are not closed yet");
        }
    }

    /// Work on one pod, on a blocking thread, never twice at once.
    async fn locked<T: Send + 'static>(
        &self,
        uid: &PodUid,
        work: impl FnOnce(&Inner) -> Result<T, SandboxError> + Send + 'static,
    ) -> Result<T, SandboxError> {
        if !is_valid_uid(uid.as_str()) {
            return Err(SandboxError::InvalidUid { uid: uid.as_str().to_owned() });
        }
        let lock = self.inner.books().lock_of(uid);
        let guard = lock.lock_owned().await;
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&inner);
            drop(guard);
            result
        });
        done.await.unwrap_or_else(|_| Err(SandboxError::Interrupted { uid: uid.clone() }))
    }

    /// Finds the sandboxes of an earlier run: records on disk and pinned namespaces. Existing ones are adopted as they are.
    /// Returns the pods that have anything.
    pub async fn recover(&self) -> Vec<PodUid> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || inner.recover()).await {
            Ok(Ok(uids)) => uids,
            Ok(Err(error)) => {
                warn!(%error, "not all sandboxes of an earlier run can be found");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// The name of the node's end of a pod's link, whether it exists or not.
    pub fn link_name(&self, uid: &PodUid) -> String {
        kernel::link_name(&self.inner.config.link_prefix, uid)
    }

    /// A pod's sandbox, if its namespaces exist.
    pub fn get(&self, uid: &PodUid) -> Option<Sandbox> {
        self.inner.books().get(uid)?.sandbox.clone()
    }

    /// Whether it is the address of one of this node's pods.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let books = self.inner.books();
        books.uids().filter_map(|uid| books.get(uid)).any(|entry| entry.attached && entry.record.ips.contains(&address))
    }

    /// Why new pods get no address although the node has a network for them: the text of the last
    /// [`SandboxError::CidrInUse`], until it is resolved.
    pub fn cidr_conflict(&self) -> Option<String> {
        self.inner.books().conflict()
    }

    /// Tells the node's networks as soon as they are known, so that a conflict shows before the next pod comes.
    pub fn use_networks(&self, pod_cidrs: &[String]) -> Result<(), SandboxError> {
        self.inner.books().use_networks(pod_cidrs)
    }

    /// Removes what belongs to no pod: sandboxes found by [`SandboxManager::recover`] whose pod is not in `known` and was not
    /// asked for since, and links without a sandbox. `known` must come from complete lists. Returns what failed.
    pub async fn remove_orphans(&self, known: &HashSet<PodUid>) -> Vec<SandboxError> {
        let orphans: Vec<PodUid> = {
            let books = self.inner.books();
            books.uids().filter(|uid| !known.contains(*uid) && books.get(uid).is_some_and(|entry| entry.recovered)).cloned().collect()
        };
        let mut errors = Vec::new();
        for uid in orphans {
            info!(%uid, "removing the sandbox of a pod that does not exist any more");
            if self.inner.books().get(&uid).is_some_and(|entry| entry.recovered) {
                self.close_ports(&uid).await;
            }
            let pod = uid.clone();
            // Asked for meanwhile: not an orphan.
            let done = self.locked(&uid, move |inner| {
                let still = inner.books().get(&pod).is_some_and(|entry| entry.recovered);
                if still { inner.teardown(&pod) } else { Ok(()) }
            });
            errors.extend(done.await.err());
        }
        let (inner, known) = (self.inner.clone(), known.clone());
        let links = tokio::task::spawn_blocking(move || inner.remove_orphan_links(&known)).await;
        errors.extend(links.unwrap_or_default());
        errors
    }
}

impl Inner {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self, uid: &PodUid) -> Pins {
        Pins::new(self.paths.sandbox_dir(uid))
    }

    fn ensure(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        if let Some(name) = kernel::sysctl_on_host(spec) {
            return Err(SandboxError::SysctlOnHost { uid: spec.uid.clone(), name: name.to_owned() });
        }
        let (record, known, cursors) = {
            let mut books = self.books();
            let (known, before) = (books.get(&spec.uid).map(|entry| entry.record.clone()), books.cursors());
            let record = books.open(spec, &self.config)?;
            let after = books.cursors();
            (record, known, after.filter(|after| before.as_ref() != Some(after)))
        };
        if known.as_ref() != Some(&record) || !record::exists(&self.paths, &spec.uid) {
            record::write(&self.paths, &record)?;
        }
        if let Some((cidrs, cursors)) = cursors {
            self.store(&Cursors { cidrs, cursors });
        }
        let pins = self.pins(&spec.uid);
        let created = kernel::make(&pins, &self.config, spec, &record)?;
        let sandbox = pins.sandbox(&record, created);
        self.books().made(&spec.uid, &sandbox);
        Ok(sandbox)
    }

    fn teardown(&self, uid: &PodUid) -> Result<(), SandboxError> {
        let mut errors = Vec::new();
        let link = kernel::remove_link(&self.config, uid);
        let link_gone = link.is_ok();
        errors.extend(link.err());
        kernel::remove_pins(&self.pins(uid), uid, &mut errors);
        if link_gone {
            // The record last: while it is there, the next run of the agent knows whose address it is.
            match record::remove(&self.paths, uid) {
                Ok(()) => self.books().close(uid),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(SandboxError::Teardown { uid: uid.clone(), errors }) }
    }

    fn recover(&self) -> Result<Vec<PodUid>, SandboxError> {
        if let Ok(Some(Cursors { cidrs, cursors })) = json_file::read(&self.paths.addresses(), 4096) {
            self.books().resume((cidrs, cursors));
        }
        let mut uids = record::list(&self.paths)?;
        uids.extend(record::folders(&self.paths.sandboxes_dir())?);
        uids.sort();
        uids.dedup();
        let found: Vec<Entry> = uids.iter().map(|uid| self.find(uid)).collect();
        let living = found.iter().filter(|entry| entry.sandbox.is_some()).count();
        info!(sandboxes = found.len(), living, "sandboxes of an earlier run");
        for Entry { record, sandbox, .. } in found.iter().filter(|entry| !entry.record.host_ports.is_empty()) {
            if let Some(sandbox) = sandbox {
                self.host_ports.adopt(&record.uid, &sandbox.ips, &record.host_ports);
            }
        }
        let mut books = self.books();
        books.adopt(found, &self.config);
        drop(books);
        Ok(uids)
    }

    /// What there is of one pod. Without a usable record, the namespace itself tells the address.
    fn find(&self, uid: &PodUid) -> Entry {
        let pins = self.pins(uid);
        let record = record::read(&self.paths, uid).unwrap_or_else(|| {
            let ips = if pins.has_network() { pod_links::pod_addresses(pins.net()) } else { Ok(Vec::new()) };
            let ips = ips.unwrap_or_else(|error| {
                warn!(%uid, %error, "the addresses of a pod cannot be read from its namespace");
                Vec::new()
            });
            Record {
                uid: uid.clone(),
                namespace: String::new(),
                name: String::new(),
                host_network: !pins.has_network(),
                host_ipc: !pins.has_ipc(),
                ips,
                cidrs: Vec::new(),
                host_ports: Vec::new(),
                first_id: pins.first_id(),
            }
        });
        let attached = pins.has_network();
        let sandbox = pins.alive(&record).then(|| pins.sandbox(&record, false));
        Entry { record, sandbox, attached, recovered: true }
    }

    fn remove_orphan_links(&self, known: &HashSet<PodUid>) -> Vec<SandboxError> {
        // Listed before the books are read: a link of a new pod is made after the pod is in the books.
        let found = match pod_links::list(&self.config.link_prefix, kernel::LINK_DIGITS) {
            Ok(found) => found,
            Err(error) => return vec![SandboxError::Links(error)],
        };
        let owned: HashSet<String> = {
            let books = self.books();
            books.uids().chain(known).map(|uid| kernel::link_name(&self.config.link_prefix, uid)).collect()
        };
        let mut errors = Vec::new();
        for link in found.into_iter().filter(|link| !owned.contains(&link.name)) {
            info!(link = link.name, alias = link.alias, "removing a network link without a pod");
            errors.extend(pod_links::remove(&link.name).err().map(SandboxError::Links));
        }
        errors
    }

    /// A convenience: without it, addresses are given from the start again after a restart.
    fn store(&self, cursors: &Cursors) {
        if let Err(error) = json_file::write(&self.paths.addresses(), cursors) {
            warn!(%error, "the state of the address allocation cannot be stored");
        }
    }
}

#[cfg(test)]
mod tests;
