//! What one container mounts of its pod's volumes.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube_pet_core::pod::pod_uid;
use kube_pet_core::volumes::{MountError, Propagation, absolute_mount_path, propagation, recursive_read_only, sub_path};
use kube_pet_host::subpath::{self, SubPathError};
use kube_pet_host::user_namespaces;
use kube_pet_host::{mounts, read_only};
use tracing::warn;

use super::layout::Layout;
use super::prepared::{PodVolumes, PreparedKind, PreparedVolume};
use super::{VolumeError, VolumeManager};

/// How long sub-paths may take: what they are in has just answered.
const BINDING: Duration = Duration::from_secs(60);

/// One bind mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerMount {
    /// What: a path on this machine that the pod cannot exchange.
    pub source: PathBuf,
    /// Where in the container; absolute.
    pub destination: String,
    /// Whether the container may not write.
    pub read_only: bool,
    /// Whether that holds for mounts below it, too.
    pub recursive_read_only: bool,
    /// Which later mounts appear on the other side.
    pub propagation: Propagation,
    /// Whether the files get the pod's SELinux label: ours do, the machine's own never.
    pub selinux_relabel: bool,
}

impl VolumeManager {
    /// What `container` mounts, with the variables of its environment, as the pod's user namespace sees it if it has one. Call it before
    /// each of its starts.
    ///
    /// # Errors
    /// The message of the container's `CreateContainerConfigError`. What would hang with a volume's server or disk is not begun.
    pub async fn container_mounts(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        volumes: Arc<PodVolumes>,
        environment: Vec<(String, String)>,
        user_namespace: Option<PathBuf>,
    ) -> Result<Vec<ContainerMount>, VolumeError> {
        for mount in container.volume_mounts.iter().flatten() {
            let Some(volume) = volumes.by_name.get(&mount.name) else { continue };
            if matches!(volume.kind, PreparedKind::Scratch | PreparedKind::Payload | PreparedKind::Image) {
                continue;
            }
            let answered = self.foreign.answers(&volume.path).await;
            answered.map_err(|hung| VolumeError::NoAnswer { volume: mount.name.clone(), seconds: hung.limit.as_secs() })?;
        }
        let (manager, pod, container) = (self.clone(), pod.clone(), container.clone());
        let name = container.name.clone();
        let binding = tokio::task::spawn_blocking(move || {
            let lookup = |name: &str| environment.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            manager.mounts_for(&pod, &container, &volumes, &lookup, user_namespace.as_deref())
        });
        match tokio::time::timeout(BINDING, binding).await {
            Ok(Ok(mounts)) => Ok(mounts?),
            Ok(Err(_)) => Err(VolumeError::Interrupted),
            Err(_) => Err(VolumeError::BindingHangs { container: name, seconds: BINDING.as_secs() }),
        }
    }

    /// The mounts of `container`, in the order of its spec. `variable` looks up the container's environment, for `subPathExpr`.
    /// Makes and binds sub-paths: to be called in a blocking thread. Errors tell nothing of this machine's files; the log does.
    pub(super) fn mounts_for(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: &PodVolumes,
        variable: &dyn Fn(&str) -> Option<String>,
        user_namespace: Option<&Path>,
    ) -> Result<Vec<ContainerMount>, MountError> {
        let layout = Layout::new(&self.paths, &pod_uid(pod));
        let mut mounts = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let (name, of) = (&mount.name, &container.name);
            let volume =
                volumes.by_name.get(name).ok_or_else(|| MountError::NoSuchVolume { volume: name.clone(), container: of.clone() })?;
            let source = match sub_path(mount, variable)? {
                Some(part) => {
                    let target = layout.sub_path(name, of, index);
                    subpath::bind(&volume.path, &part, &target).map_err(|error| {
                        warn!(volume = name, container = of, %error, "a subPath cannot be mounted");
                        match volume.kind {
                            PreparedKind::Image => MountError::ImageSubPath { volume: name.clone(), sub_path: part.clone() },
                            _ => sub_path_error(&error, name, of),
                        }
                    })?;
                    target
                }
                None => whole(volume)?,
            };
            let recursive_read_only = recursive_read_only(mount, self.recursive_read_only)?;
            let source = if recursive_read_only {
                let target = layout.read_only_view(name, of, index);
                read_only::bind(&source, &target).map_err(|error| {
                    warn!(volume = name, container = of, %error, "a volume cannot be mounted recursively read-only");
                    MountError::ReadOnlyView { volume: name.clone(), container: of.clone() }
                })?;
                target
            } else {
                source
            };
            let source = match user_namespace.filter(|_| volume.kind != PreparedKind::Image) {
                Some(user_namespace) => {
                    let target = layout.id_mapped_view(name, of, index);
                    let follows = match propagation(mount.mount_propagation.as_deref())? {
                        Propagation::Private => mounts::Propagation::Private,
                        Propagation::HostToContainer => mounts::Propagation::HostToContainer,
                        Propagation::Bidirectional => mounts::Propagation::Bidirectional,
                    };
                    user_namespaces::bind(&source, &target, user_namespace, follows).map_err(|error| {
                        warn!(volume = name, container = of, %error, "a volume cannot be mounted for a user namespace");
                        MountError::IdMappedView { volume: name.clone(), container: of.clone() }
                    })?;
                    target
                }
                // The files of an image have the IDs of the namespace in Podman's storage.
                None => source,
            };
            mounts.push(ContainerMount {
                source,
                destination: absolute_mount_path(mount),
                read_only: mount.read_only == Some(true) || volume.read_only || volume.kind == PreparedKind::Payload,
                recursive_read_only,
                propagation: propagation(mount.mount_propagation.as_deref())?,
                selinux_relabel: match volume.kind {
                    PreparedKind::Scratch | PreparedKind::Payload => true,
                    PreparedKind::Local => !volume.read_only,
                    PreparedKind::HostPath | PreparedKind::Server | PreparedKind::Image => false,
                },
            });
        }
        Ok(mounts)
    }
}

fn sub_path_error(error: &SubPathError, volume: &str, container: &str) -> MountError {
    let (volume, container) = (volume.to_owned(), container.to_owned());
    match error {
        SubPathError::Make { .. } => MountError::SubPathDirectory { volume, container },
        _ => MountError::SubPath { volume, container },
    }
}

/// A hostPath without a type that does not exist becomes a folder when it is mounted: container runtimes have always done so, and
/// Podman does not.
fn whole(volume: &PreparedVolume) -> Result<PathBuf, MountError> {
    let path = &volume.path;
    if volume.kind == PreparedKind::HostPath && !path.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
        made.map_err(|error| MountError::HostPath { path: path.display().to_string(), reason: error.kind() })?;
    }
    Ok(path.clone())
}
