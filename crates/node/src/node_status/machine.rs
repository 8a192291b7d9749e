//! One look at the machine: everything that the node's status is computed from.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{NodeSwapStatus, NodeSystemInfo};
use kube_pet_host::machine::{self, Filesystem, MachineError, Memory, Pids};
use tracing::warn;

/// What was read. A reading that failed is missing, and was logged.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    pub(super) cpus: Option<u32>,
    pub(super) memory: Option<Memory>,
    pub(super) pids: Option<Pids>,
    /// The file system of the agent's state.
    pub(super) nodefs: Option<Filesystem>,
    /// The file system of Podman's store.
    pub(super) imagefs: Option<Filesystem>,
    /// Page size and number of pages.
    pub(super) huge_pages: Vec<(u64, u64)>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) state: PathBuf,
    pub(super) store: PathBuf,
}

/// Looks at everything that changes.
pub(super) fn read(places: &Places) -> Readings {
    Readings {
        cpus: told(machine::cpu_count()),
        memory: told(machine::memory()),
        pids: told(machine::pids()),
        nodefs: told(machine::filesystem(existing(&places.state))),
        imagefs: told(machine::filesystem(existing(&places.store))),
        huge_pages: machine::huge_pages(),
    }
}

/// `status.nodeInfo`
pub(super) fn system_info(build_version: &str, podman: Option<String>) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: machine::architecture().to_owned(),
        boot_id: told(machine::boot_id()).unwrap_or_default(),
        container_runtime_version: format!("podman://{}", podman.as_deref().unwrap_or("Unknown")),
        kernel_version: machine::kernel_release(),
        // Deprecated; the kubelet clears it too.
        kube_proxy_version: String::new(),
        kubelet_version: build_version.to_owned(),
        machine_id: machine::machine_id(),
        operating_system: "linux".to_owned(),
        os_image: machine::os_name(),
        running_in_user_namespace: told(machine::in_user_namespace()),
        swap: told(machine::memory())
            .filter(|memory| memory.swap_total > 0)
            .map(|memory| NodeSwapStatus { capacity: i64::try_from(memory.swap_total).ok() }),
        system_uuid: machine::system_uuid(),
    }
}

fn told<T>(reading: Result<T, MachineError>) -> Option<T> {
    reading.inspect_err(|error| warn!(%error, "the node's status lacks a reading")).ok()
}

/// A folder that is not made yet will be on the file system of the one that it is made in.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_counts_as_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
    }
}
