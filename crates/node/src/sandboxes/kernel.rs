//! Making a sandbox, and taking it apart. Runs on a blocking thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kube_pet_core::id_ranges::IDS_PER_POD;
use kube_pet_core::ids::PodUid;
use kube_pet_host::namespaces::{self, Kind, NamespaceError, SysctlScope};
use kube_pet_host::user_namespaces::{self, IdRange};
use kube_pet_host::{files, mounts};
use kube_pet_net::pod_links::{self, PodLink};
use sha2::{Digest as _, Sha256};

use super::record::{Record, make_folder};
use super::{Sandbox, SandboxConfig, SandboxError, SandboxSpec, UserNamespace};

/// Digits of the hash in a link's name.
pub(super) const LINK_DIGITS: usize = 10;

/// Says that a sandbox was finished: without it, what is set inside is set again.
const FINISHED: &str = "finished";

/// The name of the node's end of a pod's link: the same after a restart, different for each pod.
pub(super) fn link_name(prefix: &str, uid: &PodUid) -> String {
    let hash = Sha256::digest(uid.as_str().as_bytes());
    let digits: String = hash.iter().take(LINK_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{digits}")
}

/// The files of one sandbox.
pub(super) struct Pins {
    folder: PathBuf,
    net: PathBuf,
    ipc: PathBuf,
    uts: PathBuf,
    user: PathBuf,
    /// The first ID of the user namespace.
    first_id: PathBuf,
    shm: PathBuf,
}

impl Pins {
    pub(super) fn new(folder: PathBuf) -> Self {
        let file = |name| folder.join(name);
        Self {
            net: file("net"),
            ipc: file("ipc"),
            uts: file("uts"),
            user: file("user"),
            first_id: file("first-id"),
            shm: file("shm"),
            folder,
        }
    }

    pub(super) fn net(&self) -> &Path {
        &self.net
    }

    /// The namespaces that a pod has of its own. Like the kubelet: a pod in the host's network also has its host name.
    fn wanted(&self, host_network: bool, host_ipc: bool) -> Vec<(Kind, &Path)> {
        let mut wanted = Vec::new();
        if !host_network {
            wanted.push((Kind::Net, self.net.as_path()));
            wanted.push((Kind::Uts, self.uts.as_path()));
        }
        if !host_ipc {
            wanted.push((Kind::Ipc, self.ipc.as_path()));
        }
        wanted
    }

    /// Whether all that a pod of this kind needs is there and finished.
    pub(super) fn alive(&self, record: &Record) -> bool {
        self.folder.join(FINISHED).exists()
            && self.wanted(record.host_network, record.host_ipc).into_iter().all(|(kind, path)| namespaces::is_pinned(kind, path))
            && self.has_user_namespace(record.first_id)
    }

    /// Whether the pod's user namespace is the one with these IDs, or the host's if it should be.
    fn has_user_namespace(&self, first_id: Option<u32>) -> bool {
        self.first_id() == first_id && namespaces::holds_namespace(&self.user) == first_id.is_some()
    }

    /// The first ID of the user namespace that is there.
    pub(super) fn first_id(&self) -> Option<u32> {
        fs::read_to_string(&self.first_id).ok()?.trim().parse().ok()
    }

    /// Whether the pod's network namespace exists.
    pub(super) fn has_network(&self) -> bool {
        namespaces::is_pinned(Kind::Net, &self.net)
    }

    /// Whether the pod has an IPC namespace of its own.
    pub(super) fn has_ipc(&self) -> bool {
        namespaces::is_pinned(Kind::Ipc, &self.ipc)
    }

    /// As callers see it.
    pub(super) fn sandbox(&self, record: &Record, created: bool) -> Sandbox {
        let own = |own: bool, path: &Path| own.then(|| path.to_owned());
        Sandbox {
            ips: record.ips.clone(),
            netns: own(!record.host_network, &self.net),
            ipcns: own(!record.host_ipc, &self.ipc),
            utsns: own(!record.host_network, &self.uts),
            userns: record.first_id.map(|first| UserNamespace { path: self.user.clone(), ids: ids_from(first) }),
            shm: own(!record.host_ipc, &self.shm),
            created,
        }
    }
}

fn ids_from(first: u32) -> IdRange {
    IdRange { first, count: IDS_PER_POD }
}

/// Makes what is missing. What exists and is right is not touched. Says whether a namespace was made.
pub(super) fn make(pins: &Pins, config: &SandboxConfig, spec: &SandboxSpec, record: &Record) -> Result<bool, SandboxError> {
    let uid = &spec.uid;
    let marker = pins.folder.join(FINISHED);
    make_folder(&pins.folder)?;
    let wanted = pins.wanted(spec.host_network, spec.host_ipc);
    let mut missing: Vec<(Kind, &Path)> = wanted.iter().copied().filter(|(kind, path)| !namespaces::is_pinned(*kind, path)).collect();
    let namespace = |source| SandboxError::Namespace { uid: uid.clone(), source };
    let ids = record.first_id.map(ids_from);
    // Namespaces belong to the user namespace that they were made in: all of it or nothing.
    if !pins.has_user_namespace(record.first_id) || ids.is_some() && !missing.is_empty() {
        namespaces::unpin(&pins.user).map_err(namespace)?;
        remove_file(&pins.first_id)?;
        missing.clone_from(&wanted);
    }
    if !missing.is_empty() {
        remove_file(&marker)?;
        for (_, path) in &missing {
            // A file from before a reboot, or a namespace of another kind.
            namespaces::unpin(path).map_err(namespace)?;
        }
        match ids {
            Some(ids) => {
                files::write_atomic(&pins.first_id, ids.first.to_string().as_bytes(), 0o600)?;
                user_namespaces::create(&pins.user, ids, &missing).map_err(namespace)?;
            }
            None => namespaces::create(&missing, || Ok(())).map_err(namespace)?,
        }
    }
    if !spec.host_ipc {
        make_shm(pins, config.shm_bytes, ids).map_err(|source| SandboxError::Mount { uid: uid.clone(), source })?;
    }
    if !spec.host_network {
        let link = PodLink {
            netns: &pins.net,
            host_name: &link_name(&config.link_prefix, uid),
            alias: &format!("kube-pet pod {uid}"),
            addresses: &record.ips,
            mtu: config.mtu,
            source: config.source_address,
        };
        pod_links::ensure(&link).map_err(|source| SandboxError::Link { uid: uid.clone(), source })?;
    }
    if !marker.exists() {
        // After the link: sysctls of an interface need it.
        namespaces::run_in(&wanted, || set_inside(spec, ids)).map_err(namespace)??;
        files::write_atomic(&marker, b"", 0o600)?;
    }
    Ok(!missing.is_empty())
}

fn make_shm(pins: &Pins, bytes: u64, ids: Option<IdRange>) -> Result<(), mounts::MountError> {
    if mounts::is_mount_point(&pins.shm)? {
        return Ok(());
    }
    fs::create_dir_all(&pins.shm).map_err(|source| mounts::MountError::Tmpfs { target: pins.shm.clone(), source })?;
    mounts::tmpfs(&pins.shm, Some(bytes), 0o1777, false)?;
    let Some(IdRange { first, .. }) = ids else { return Ok(()) };
    std::os::unix::fs::chown(&pins.shm, Some(first), Some(first))
        .map_err(|source| mounts::MountError::Tmpfs { target: pins.shm.clone(), source })
}

/// Host name and sysctls; runs inside the pod's namespaces. A sysctl of a namespace that is the host's is refused: it would
/// change the machine.
fn set_inside(spec: &SandboxSpec, ids: Option<IdRange>) -> Result<(), SandboxError> {
    let namespace = |source| SandboxError::Namespace { uid: spec.uid.clone(), source };
    if !spec.host_network {
        namespaces::set_hostname(&spec.hostname).map_err(namespace)?;
        if let Some(domain) = &spec.domainname {
            namespaces::set_domainname(domain).map_err(namespace)?;
        }
    }
    let set = |(name, value): (&String, &String)| namespaces::write_sysctl(name, value).map_err(namespace);
    let of_ipc = |(name, _): &(&String, &String)| namespaces::sysctl_scope(name) == Some(SysctlScope::Ipc);
    spec.sysctls.iter().filter(|sysctl| !of_ipc(sysctl)).try_for_each(set)?;
    let mut of_ipc = spec.sysctls.iter().filter(of_ipc).peekable();
    if let Some(ids) = ids.filter(|_| of_ipc.peek().is_some()) {
        // Last: this root has no rights over the network.
        user_namespaces::act_as(ids).map_err(|source| namespace(NamespaceError::Make { kind: "user", source }))?;
    }
    of_ipc.try_for_each(set)?;
    Ok(())
}

/// The first sysctl that would be set on the host.
pub(super) fn sysctl_on_host(spec: &SandboxSpec) -> Option<&str> {
    let on_host = |name: &String| match namespaces::sysctl_scope(name) {
        Some(SysctlScope::Net | SysctlScope::Uts) => spec.host_network,
        Some(SysctlScope::Ipc) => spec.host_ipc,
        None => true,
    };
    spec.sysctls.keys().find(|name| on_host(name)).map(String::as_str)
}

/// Lets the pod's answers to the node's loopback in.
pub(super) fn answer_loopback(config: &SandboxConfig, uid: &PodUid) -> Result<(), SandboxError> {
    pod_links::answer_loopback(&link_name(&config.link_prefix, uid)).map_err(|source| SandboxError::Link { uid: uid.clone(), source })
}

/// Removes the link; its addresses and routes go with it.
pub(super) fn remove_link(config: &SandboxConfig, uid: &PodUid) -> Result<(), SandboxError> {
    let name = link_name(&config.link_prefix, uid);
    pod_links::remove(&name).map(drop).map_err(|source| SandboxError::Link { uid: uid.clone(), source })
}

/// Lets go of all namespaces and of the shared memory. Goes on after an error; each is added to `errors`.
pub(super) fn remove_pins(pins: &Pins, uid: &PodUid, errors: &mut Vec<SandboxError>) {
    for path in [&pins.net, &pins.ipc, &pins.uts, &pins.user] {
        errors.extend(namespaces::unpin(path).err().map(|source| SandboxError::Namespace { uid: uid.clone(), source }));
    }
    errors.extend(mounts::unmount_all(&pins.shm).err().map(|source| SandboxError::Mount { uid: uid.clone(), source }));
    errors.extend(remove_file(&pins.folder.join(FINISHED)).err());
    errors.extend(remove_file(&pins.first_id).err());
    errors.extend(remove_folder(&pins.shm).err());
    errors.extend(remove_folder(&pins.folder).err());
}

fn remove_file(path: &Path) -> Result<(), SandboxError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SandboxError::Folder { doing: "removing", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// Only empty ones: if something is still mounted in it, nothing behind that mount may be lost.
fn remove_folder(path: &Path) -> Result<(), SandboxError> {
    match fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SandboxError::Folder { doing: "removing", path: path.into(), source })
        }
        _ => Ok(()),
    }
}
