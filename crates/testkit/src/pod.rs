//! Pods for tests, in as few words as the test is about.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A pod under construction: valid from the start, with one name, one namespace, one UID and the container that the test adds.
#[derive(Clone, Debug)]
pub struct PodBuilder(Value);

impl PodBuilder {
    /// `default/<name>` with UID `<name>-uid`, on no node, with no container.
    pub fn new(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid")},
            "spec": {"containers": [], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30},
        }))
    }

    /// Adds a container of this name and image.
    #[must_use]
    pub fn container(self, name: &str, image: &str) -> Self {
        self.container_from(json!({"name": name, "image": image}))
    }

    /// Adds a container from its JSON.
    #[must_use]
    pub fn container_from(mut self, container: Value) -> Self {
        push(&mut self.0["spec"]["containers"], container);
        self
    }

    /// Adds an init container from its JSON.
    #[must_use]
    pub fn init_container_from(mut self, container: Value) -> Self {
        push(&mut self.0["spec"]["initContainers"], container);
        self
    }

    /// Adds a volume from its JSON.
    #[must_use]
    pub fn volume_from(mut self, volume: Value) -> Self {
        push(&mut self.0["spec"]["volumes"], volume);
        self
    }

    /// Sets a field of the spec.
    #[must_use]
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// Sets a field of the metadata.
    #[must_use]
    pub fn metadata(mut self, field: &str, value: Value) -> Self {
        self.0["metadata"][field] = value;
        self
    }

    /// The pod.
    ///
    /// # Panics
    /// When what was set is not a pod; the panic names the field.
    pub fn build(self) -> Pod {
        match serde_json::from_value(self.0) {
            Ok(pod) => pod,
            Err(error) => panic!("not a pod: {error}"),
        }
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_what_was_set() {
        let pod = PodBuilder::new("p")
            .container("a", "image")
            .container("b", "image")
            .volume_from(json!({"name": "v", "emptyDir": {}}))
            .spec("hostNetwork", json!(true))
            .metadata("labels", json!({"k": "v"}))
            .build();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.containers.len(), 2);
        assert_eq!(spec.volumes.unwrap().len(), 1);
        assert_eq!(spec.host_network, Some(true));
        assert_eq!(pod.metadata.uid.as_deref(), Some("p-uid"));
    }
}
