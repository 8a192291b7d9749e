//! `kube-pet leave`: the machine is a node no more. Pods end, what the agent has made is removed; the operator's own files stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams};
use kube::{Client, Error as KubeError};
use kube_pet_api::Pet;
use kube_pet_core::ids::labels;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Say, UnitError, drop_in, unit, waiting};
use crate::app::{self, StartError};
use crate::config::NodeConfiguration;
use crate::identity;
use crate::podman_service::{PodmanService, PodmanServiceError};

/// Pods have this long to end.
const PODS: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(500);

/// Why the machine has not left.
#[derive(Debug, Error)]
pub enum LeaveError {
    /// The agent would make everything again.
    #[error("the agent is running: stop it first, where its supervisor was told to start it")]
    AgentRuns,
    /// The service.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// What ends pods.
    #[error("ending the pods")]
    Start(#[from] StartError),
    /// Podman.
    #[error(transparent)]
    Podman(#[from] PodmanServiceError),
    /// They do not end.
    #[error("{left} pods or containers have not ended after {} s; nothing is removed; leave again to go on", PODS.as_secs())]
    Pods {
        /// How many there are.
        left: usize,
    },
    /// Removing would go through a mount, into somebody else's files.
    #[error("{path} is still mounted: nothing is removed while something is mounted below {folder}; unmount it, then leave again")]
    Mounted {
        /// What is mounted.
        path: PathBuf,
        /// What was to be removed.
        folder: PathBuf,
    },
    /// A file.
    #[error("{what} {path}")]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Leaves. Done twice it is harmless.
pub async fn leave(config: &NodeConfiguration, config_file: &Path, version: &str, say: Say<'_>) -> Result<(), LeaveError> {
    unit::stop(config, say).await?;
    if waiting::agent_answers(config).await {
        return Err(LeaveError::AgentRuns);
    }
    end_pods(config, version, say).await?;
    // While there are credentials.
    sign_off(config, say).await;
    for folder in [config.paths().run_dir(), config.paths().state_dir()] {
        remove(&folder, say)?;
    }
    for file in [config.bootstrap_kubeconfig.clone(), drop_in(config_file)] {
        match std::fs::remove_file(&file) {
            Ok(()) => say(&format!("removed {}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(LeaveError::File { what: "removing", path: file, source }),
        }
    }
    say(&format!("this machine is no node any more; {} is left as it is", config_file.display()));
    Ok(())
}

/// Ends all pods as the agent ends those that are no longer wanted: it is run with none to run.
async fn end_pods(config: &NodeConfiguration, version: &str, say: Say<'_>) -> Result<(), LeaveError> {
    if !config.paths().pods_dir().exists() {
        return Ok(());
    }
    say("ending the pods");
    let stop = CancellationToken::new();
    let agent = app::run_nothing(config.clone(), version, stop.clone());
    let gone = async {
        let (service, _) = PodmanService::new(&config.podman, &config.paths().run_dir())?;
        let podman = service.client();
        let end = Instant::now() + PODS;
        loop {
            sleep(PAUSE).await;
            let of_node = [(labels::NODE, config.node_name.as_str())];
            let containers = podman.list_containers(&of_node).await.map(|list| list.len());
            let folders = std::fs::read_dir(config.paths().pods_dir()).map_or(0, Iterator::count);
            match containers {
                Ok(0) if folders == 0 => return Ok(service),
                _ if Instant::now() >= end => return Err(LeaveError::Pods { left: containers.unwrap_or(0).max(folders) }),
                _ => {}
            }
        }
    };
    let mut agent = Box::pin(agent);
    let service = tokio::select! {
        ended = &mut agent => {
            ended?;
            return Err(LeaveError::Start(StartError::Ended("the agent that ends the pods")));
        }
        gone = Box::pin(gone) => gone?,
    };
    stop.cancel();
    agent.await?;
    service.end().await;
    say("the pods have ended");
    Ok(())
}

/// Takes away what the cluster knows of this node, as far as the node may.
async fn sign_off(config: &NodeConfiguration, say: Say<'_>) {
    let name = &config.node_name;
    let stored = identity::stored_kubeconfig(&config.paths().pki_dir());
    let by_hand =
        || say(&format!("take the node out of the cluster: kubectl delete node {name}; kubectl delete pet {name} --ignore-not-found"));
    if !identity::is_current(&stored).await {
        return;
    }
    let Some(client) = identity::load_config(&stored).await.and_then(|config| Client::try_from(config).ok()) else {
        return by_hand();
    };
    let (pets, nodes): (Api<Pet>, Api<Node>) = (Api::all(client.clone()), Api::all(client));
    let is_done = |deleted: Result<_, KubeError>| match deleted {
        Ok(()) => true,
        Err(KubeError::Api(status)) => status.code == 404,
        Err(_) => false,
    };
    let pet = is_done(pets.delete(name, &DeleteParams::default()).await.map(drop));
    // Most clusters do not let a node delete itself.
    let node = is_done(nodes.delete(name, &DeleteParams::default()).await.map(drop));
    if pet && node {
        say("the cluster has forgotten this node");
    } else {
        by_hand();
    }
}

/// Removes a folder of the agent's own, if nothing is mounted in it.
fn remove(folder: &Path, say: Say<'_>) -> Result<(), LeaveError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|source| LeaveError::File {
        what: "reading",
        path: PathBuf::from("/proc/self/mountinfo"),
        source,
    })?;
    if let Some(path) = mounted_below(&mounts, folder) {
        return Err(LeaveError::Mounted { path, folder: folder.to_owned() });
    }
    match std::fs::remove_dir_all(folder) {
        Ok(()) => say(&format!("removed {}", folder.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(LeaveError::File { what: "removing", path: folder.to_owned(), source }),
    }
    Ok(())
}

fn mounted_below(mountinfo: &str, folder: &Path) -> Option<PathBuf> {
    let places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    places.map(|place| PathBuf::from(place.replace(r"\040", " "))).find(|place| place.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_a_folder_is_seen() {
        let info = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    30 22 0:5 / /var/lib/kube-pet/pods/1/volumes/a\\040b rw - tmpfs tmpfs rw\n\
                    31 22 0:5 / /var/lib/kube-pet-other rw - tmpfs tmpfs rw\n";
        let below = |folder: &str| mounted_below(info, Path::new(folder));
        assert_eq!(below("/var/lib/kube-pet"), Some(PathBuf::from("/var/lib/kube-pet/pods/1/volumes/a b")));
        assert_eq!(below("/run/kube-pet"), None);
    }
}
