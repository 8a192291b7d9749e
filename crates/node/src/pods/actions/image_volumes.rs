//! Volumes that are images: pulled as the images of containers are, and mounted read-only into the pod's folder.
//!
//! Podman mounts images for containers only. So each such volume has a container of its image that never runs ([`super::held_image`]),
//! whose root is what is mounted. It stays for the pod's life, so that after a restart of the agent, or of the machine, the same image is
//! mounted again, whatever the registry has by then.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube_pet_core::pod::{ContainerKind, pod_uid};
use kube_pet_core::volumes::image_volumes;

use super::held_image::holder_name;
use super::{ImageError, StartError};
use crate::images::Reference;
use crate::pods::runtime::PodRuntime;
use crate::volumes::PodVolumes;

/// What the containers are named by that hold volumes.
const KIND: &str = "IMAGE";

impl PodRuntime {
    /// Pulls the images of the volumes that `container` mounts, unless they are held already.
    pub(super) async fn ensure_volume_images(&self, pod: &Pod, kind: ContainerKind, container: &Container) -> Result<(), ImageError> {
        for (volume, source) in image_volumes(pod, container) {
            let image = source.reference.as_deref().unwrap_or_default();
            match self.podman.inspect_container(&holder_name(pod, KIND, volume)).await {
                Ok(_) => continue,
                Err(error) if error.is_not_found() => {}
                // Podman is not there now: looked at again without a back-off.
                Err(error) => {
                    let message = format!("Failed to inspect image {image:?}: {error}");
                    return Err(ImageError { image: image.to_owned(), reason: "ImageInspectError", message, backs_off: false });
                }
            }
            match self.image_for(pod, None, image, source.pull_policy.as_deref()).await {
                Ok(pulled) => self.note(pod, None, "Pulled", pulled.message),
                Err(error) => {
                    self.warn(pod, Some((kind, container.name.as_str())), "Failed", format!("Error: {}", error.message));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// `volumes` with those that are images and that `container` mounts.
    pub(super) async fn with_images(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: Arc<PodVolumes>,
    ) -> Result<Arc<PodVolumes>, StartError> {
        let mut all = volumes;
        for (volume, source) in image_volumes(pod, container) {
            let image = source.reference.as_deref().unwrap_or_default();
            let failed =
                |error: String| StartError::create(format!("ImageVolumeMountFailed: image {image:?} of volume {volume:?}: {error}"));
            let uid = pod_uid(pod);
            let mounted = match self.volumes.mounted_image(&uid, volume).await.map_err(|error| failed(error.to_string()))? {
                Some(mounted) => mounted,
                None => {
                    let root = self.held_image(pod, volume, image).await.map_err(failed)?;
                    self.volumes.mount_image(&uid, volume, root).await.map_err(|error| failed(error.to_string()))?
                }
            };
            Arc::make_mut(&mut all).add_image(volume, mounted);
        }
        Ok(all)
    }

    /// Where Podman has mounted a volume's image; the holder is made if there is none.
    async fn held_image(&self, pod: &Pod, volume: &str, image: &str) -> Result<PathBuf, String> {
        let name = holder_name(pod, KIND, volume);
        match self.podman.mount_container(&name).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map_err(|error| error.to_string()),
        }
        let reference = Reference::parse(image).map_err(|error| error.to_string())?;
        let found = self.images.inspect(&reference.to_string()).await.map_err(|error| error.to_string())?;
        let found = found.ok_or("it is no longer there")?;
        self.hold_image(pod, &name, &found.id).await.map_err(|error| {
            if error.is_image_unknown() {
                self.images.forget(&reference.to_string());
            }
            error.podman_message().map_or_else(|| error.to_string(), str::to_owned)
        })
    }
}
