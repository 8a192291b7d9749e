//! The hash that decides whether a container must be made anew.

use k8s_openapi::api::core::v1::Container;
use sha2::{Digest as _, Sha256};

/// Hash of the parts of a container whose change means a new container: name and image, the only ones that the API lets change
/// (the kubelet's `pickFieldsToHash`). A ConfigMap, a Service or a default that changes never restarts anything.
///
/// Stable across releases: it is written into labels of running containers.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let mut hasher = Sha256::new();
    // Lengths keep ("ab", "c") and ("a", "bc") apart.
    for part in [container.name.as_str(), image] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: &str) -> Container {
        Container { name: name.to_owned(), image: Some(image.to_owned()), ..Container::default() }
    }

    #[test]
    fn only_name_and_image_count() {
        let base = container_hash(&container("web", "nginx:1"));
        assert_ne!(base, container_hash(&container("web", "nginx:2")));
        assert_ne!(base, container_hash(&container("webn", "ginx:1")));
        let mut other = container("web", "nginx:1");
        other.command = Some(vec!["sh".to_owned()]);
        assert_eq!(base, container_hash(&other));
    }

    #[test]
    fn is_what_running_containers_carry() {
        // A change of this value restarts every container at an upgrade of the agent.
        assert_eq!(container_hash(&container("web", "nginx:1")), "19301f0375c597dd");
    }
}
