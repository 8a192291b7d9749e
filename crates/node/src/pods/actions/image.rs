//! Making sure of an image, with the kubelet's events.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::ContainerName;
use kube_pet_core::pod::ContainerKind;
use tracing::debug;

use super::ImageError;
use crate::images::{Keyring, PullPolicy, PulledImage, pulling_message};
use crate::objects::SecretObject;
use crate::pods::runtime::PodRuntime;

impl PodRuntime {
    /// Pulls the container's image, and those of the volumes that it mounts, if their policies and the store ask for it.
    pub(in crate::pods) async fn ensure_image(&self, pod: &Pod, name: &ContainerName) -> Result<(), ImageError> {
        let Some((kind, container)) = kube_pet_core::pod::find_container(pod, name.as_str()) else {
            let message = format!("container {name} is not in the spec");
            return Err(ImageError { image: String::new(), reason: "InvalidImageName", message, backs_off: false });
        };
        self.ensure_volume_images(pod, kind, &container).await?;
        let place = Some((kind, name.as_str()));
        let image = container.image.as_deref().unwrap_or_default();
        match self.image_for(pod, place, image, container.image_pull_policy.as_deref()).await {
            Ok(image) => {
                self.note(pod, place, "Pulled", image.message.clone());
                Ok(())
            }
            Err(error) => {
                self.warn(pod, place, "Failed", format!("Error: {}", error.reason));
                Err(error)
            }
        }
    }

    /// An image, with the events of its pull; `place` is the container that they are about, if it is one.
    pub(super) async fn image_for(
        &self,
        pod: &Pod,
        place: Option<(ContainerKind, &str)>,
        image: &str,
        policy: Option<&str>,
    ) -> Result<PulledImage, ImageError> {
        let policy = PullPolicy::of(policy, image);
        let secrets = self.pull_secrets(pod).await;
        let keyring = Keyring::from_secrets(secrets.iter().map(|s| &***s)).map_err(|e| ImageError {
            image: image.to_owned(),
            reason: "ErrImagePull",
            message: e.to_string(),
            backs_off: true,
        })?;
        let on_pulling = || self.note(pod, place, "Pulling", pulling_message(image));
        self.images.ensure(image, policy, &keyring, on_pulling).await.map_err(|error| {
            let (reason, message) = error.event();
            self.warn(pod, place, reason, message);
            ImageError { image: image.to_owned(), reason: error.reason(), message: error.to_string(), backs_off: error.backs_off() }
        })
    }

    /// The pod's `imagePullSecrets`. One that is missing is no error: the image may be public.
    async fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<SecretObject>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let references = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for reference in references {
            match self.objects.secret(namespace, &reference.name).await {
                Ok(Some(secret)) => found.push(secret),
                Ok(None) => missing.push(reference.name.as_str()),
                Err(error) => {
                    debug!(secret = reference.name, %error, "pull secret not read");
                    missing.push(reference.name.as_str());
                }
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.warn(pod, None, "FailedToRetrieveImagePullSecret", message);
        }
        found
    }
}
