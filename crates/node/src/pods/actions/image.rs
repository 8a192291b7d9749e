//! Making sure of an image, with the kubelet's events.

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::ContainerName;
use kube_pet_core::pod::ContainerKind;

use super::ImageError;
use crate::images::{PullSecretSource, Pulled};
use crate::pods::runtime::PodRuntime;

impl PodRuntime {
    /// Pulls the container's image if its policy and the store ask for it.
    pub(in crate::pods) async fn ensure_image(&self, pod: &Pod, name: &ContainerName) -> Result<(), ImageError> {
        let Some((kind, container)) = kube_pet_core::pod::containers(pod).find(|(_, c)| c.name == name.as_str()) else {
            return Err(ImageError { reason: "InvalidImageName", message: format!("container {name} is not in the spec"), backs_off: false });
        };
        let _ = (kind, container);
        todo_image(self, pod, kind, container).await
    }
}
