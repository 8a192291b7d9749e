//! Whether a container has to be made anew.

use k8s_openapi::api::core::v1::Container;
use sha2::{Digest as _, Sha256};

/// Hash of what a change of which means a new container: name and image, as the kubelet's `HashContainer` since 1.30. All other
/// mutable fields of a running pod are applied without a restart.
pub fn container_hash(container: &Container) -> String {
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_and_image_count() {
        let one = Container { name: "a".into(), image: Some("x:1".into()), ..Container::default() };
        let mut two = one.clone();
        two.args = Some(vec!["b".into()]);
        assert_eq!(container_hash(&one), container_hash(&two));
        two.image = Some("x:2".into());
        assert_ne!(container_hash(&one), container_hash(&two));
    }
}
