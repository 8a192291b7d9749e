//! The files of an image, which Podman shows by way of containers only: one of it that never runs is made and mounted. As long as it is
//! there, neither Podman nor the garbage collection removes the image. Its labels say what it is and whose: it goes with the pod.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::labels;
use kube_pet_core::pod::pod_uid;
use kube_pet_podman::SpecGenerator;

use super::prepare::pod_name;
use crate::containers::{IMAGE_VOLUME_KIND, join_user_namespace, pod_labels};
use crate::pods::runtime::PodRuntime;

/// The name of a container that never runs: `k8s_<KIND>_<pod>_<namespace>_<uid>_<what>`.
pub(super) fn holder_name(pod: &Pod, kind: &str, what: &str) -> String {
    format!("{}_{what}", pod_name(pod).replacen("k8s_", &format!("k8s_{kind}_"), 1))
}

impl PodRuntime {
    /// Where the files of an image are, by a container of this name, which is made unless it is there.
    pub(super) async fn hold_image(&self, pod: &Pod, name: &str, image_id: &str) -> kube_pet_podman::Result<PathBuf> {
        let mut spec = SpecGenerator::new(name.to_owned(), image_id.to_owned());
        spec.labels = pod_labels(pod, self.node_name());
        spec.labels.insert(labels::KIND.to_owned(), IMAGE_VOLUME_KIND.to_owned());
        // Never run, but Podman makes no container of an image that names no program without one.
        spec.entrypoint = vec!["/never".to_owned()];
        spec.image_volume_mode = "ignore".to_owned();
        // The files keep the label of images' content, which all containers may read.
        spec.selinux_opts = vec!["disable".to_owned()];
        spec.cgroup_parent = self.pod_cgroup(pod);
        if let Some(user) = self.sandboxes.get(&pod_uid(pod)).and_then(|sandbox| sandbox.userns) {
            join_user_namespace(&mut spec, &user);
        }
        match self.podman.create_container(&spec).await {
            Err(error) if !error.is_name_in_use() => return Err(error),
            _ => {}
        }
        self.podman.mount_container(name).await
    }
}
