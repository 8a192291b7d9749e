//! Where everything lives on disk: one root, so that several agents can run on one machine.

use std::path::{Path, PathBuf};

use kube_pet_core::ids::PodUid;

/// All folders and files of one agent, below one root (`/` on a real machine).
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Paths below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// `/etc/kube-pet`: configuration, static pods.
    pub fn config_dir(&self) -> PathBuf {
        self.root.join("etc/kube-pet")
    }
    /// `/var/lib/kube-pet`: what must survive a reboot.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("var/lib/kube-pet")
    }
    /// `/run/kube-pet`: what ends with a reboot.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run/kube-pet")
    }
    /// The settings that make systemd-logind wait for pods at a shutdown.
    pub fn logind_drop_in(&self) -> PathBuf {
        self.root.join("etc/systemd/logind.conf.d/99-kube-pet.conf")
    }
    /// When the last shutdown of the machine began and ended.
    pub fn shutdown_record(&self) -> PathBuf {
        self.state_dir().join("graceful_node_shutdown_state")
    }
    /// What is known of the Node, for a start without the API server.
    pub fn node_record(&self) -> PathBuf {
        self.state_dir().join("node.json")
    }
    /// Which addresses pods get next.
    pub fn addresses(&self) -> PathBuf {
        self.state_dir().join("addresses.json")
    }
    /// Which pods NetworkPolicies isolate.
    pub fn network_policies(&self) -> PathBuf {
        self.state_dir().join("network-policies.json")
    }
    /// What the DNS cache knows.
    pub fn dns_cache(&self) -> PathBuf {
        self.state_dir().join("dns-cache")
    }
    /// What is known of the tunnel, for a start without the API server.
    pub fn tunnel(&self) -> PathBuf {
        self.state_dir().join("tunnel.json")
    }
    /// The tunnel's private key.
    pub fn tunnel_key(&self) -> PathBuf {
        self.pki_dir().join("tunnel.key")
    }
    /// The key that the tunnel will have next.
    pub fn tunnel_next_key(&self) -> PathBuf {
        self.pki_dir().join("tunnel.key.next")
    }
    /// The key that the tunnel had before, until the one that it has is known to work.
    pub fn tunnel_key_before(&self) -> PathBuf {
        self.pki_dir().join("tunnel.key.before")
    }
    /// Which times were told with the tunnel's key.
    pub fn tunnel_key_clock(&self) -> PathBuf {
        self.state_dir().join("tunnel-clock.json")
    }
    /// The last known ConfigMaps and Services of pods' namespaces, and Secrets if they are kept. Mode 0700.
    pub fn object_copies(&self) -> PathBuf {
        self.state_dir().join("objects")
    }
    /// A file of one namespace's copies; `None` for names that would lead elsewhere: those of static pods' objects were checked by nobody.
    pub fn object_copy(&self, namespace: &str, file: &str) -> Option<PathBuf> {
        let plain = |name: &str| !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0']);
        (plain(namespace) && plain(file)).then(|| self.object_copies().join(namespace).join(file))
    }
    /// The key for Secrets that are kept.
    pub fn secrets_key(&self) -> PathBuf {
        self.pki_dir().join("secrets.key")
    }
    /// Which images were pulled with whose credentials.
    pub fn image_pulls(&self) -> PathBuf {
        self.state_dir().join("image-pulls")
    }
    /// Localhost profiles of seccomp, the operator's.
    pub fn seccomp_dir(&self) -> PathBuf {
        self.state_dir().join("seccomp")
    }
    /// Keys and certificates, mode 0700.
    pub fn pki_dir(&self) -> PathBuf {
        self.state_dir().join("pki")
    }
    /// One pod's folder on disk: checkpoint, emptyDirs, hosts files, termination logs.
    pub fn pod_dir(&self, uid: &PodUid) -> PathBuf {
        self.pods_dir().join(uid.as_str())
    }
    /// The folder of all pods' folders.
    pub fn pods_dir(&self) -> PathBuf {
        self.state_dir().join("pods")
    }
    /// One pod's folder in memory (tmpfs): secrets and tokens.
    pub fn pod_run_dir(&self, uid: &PodUid) -> PathBuf {
        self.run_dir().join("pods").join(uid.as_str())
    }
    /// One pod's pinned namespaces.
    pub fn sandbox_dir(&self, uid: &PodUid) -> PathBuf {
        self.sandboxes_dir().join(uid.as_str())
    }
    /// The folder of all pinned namespaces.
    pub fn sandboxes_dir(&self) -> PathBuf {
        self.run_dir().join("sandboxes")
    }
    /// `/var/log`: the machine's logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("var/log")
    }
    /// `/var/log/pods`.
    pub fn pod_logs_dir(&self) -> PathBuf {
        self.root.join("var/log/pods")
    }
    /// `/var/log/containers`: the links that log shippers read.
    pub fn container_logs_dir(&self) -> PathBuf {
        self.root.join("var/log/containers")
    }
    /// `/var/log/pods/<namespace>_<name>_<uid>`.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &PodUid) -> PathBuf {
        self.pod_logs_dir().join(format!("{namespace}_{name}_{uid}"))
    }
    /// `<pod log dir>/<container>/<attempt>.log`: CRI lines, written by conmon.
    pub fn container_log(&self, namespace: &str, name: &str, uid: &PodUid, container: &str, attempt: u32) -> PathBuf {
        self.pod_log_dir(namespace, name, uid).join(container).join(format!("{attempt}.log"))
    }
    /// The socket of the agent's own Podman service.
    pub fn podman_socket(&self) -> PathBuf {
        self.run_dir().join("podman.sock")
    }
}
