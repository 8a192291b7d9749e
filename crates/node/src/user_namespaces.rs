//! Pods with user namespaces (`hostUsers: false`): whether this machine can have them, and Podman's hook that joins them.

pub mod hook;

use crate::config::NodeConfiguration;

/// Why this machine cannot run pods with user namespaces, if it cannot. Blocks.
pub fn missing(config: &NodeConfiguration) -> Option<String> {
    if let Some(socket) = &config.podman.socket {
        return Some(format!("the Podman service at {} is not the agent's own, and has not its hook", socket.display()));
    }
    let pods = config.paths().pods_dir();
    // The nearest that is there: the doctor runs on machines without an agent, too.
    let folder = pods.ancestors().skip(1).find(|folder| folder.exists())?;
    kube_pet_host::user_namespaces::check(folder).err()
}
