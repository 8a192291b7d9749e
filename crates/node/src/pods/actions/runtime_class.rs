//! `runtimeClassName`: looked up when the pod's sandbox is made, as the kubelet does (`pkg/kubelet/runtimeclass`,
//! `kuberuntime_sandbox.go`), so that a class that comes later, or changes its handler, still helps.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

use crate::pods::runtime::{API_DEADLINE, PodRuntime};

impl PodRuntime {
    /// Whether the pod's class, if it has one, can be run.
    ///
    /// # Errors
    /// In words: no such class, a handler that this node has not, no answer.
    pub(super) async fn check_runtime_class(&self, pod: &Pod) -> Result<(), String> {
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).filter(|name| !name.is_empty());
        let Some(name) = class else { return Ok(()) };
        let Some(api) = &self.api else {
            return Err(format!("failed to lookup RuntimeClass {name}: there is no API server"));
        };
        let classes: Api<RuntimeClass> = Api::all(api.client());
        match tokio::time::timeout(API_DEADLINE, classes.get_opt(name)).await {
            Ok(Ok(Some(class))) => check_handler(&class.handler),
            Ok(Ok(None)) => Err(format!("runtimeclass.node.k8s.io \"{name}\" not found")),
            Ok(Err(error)) => Err(format!("failed to lookup RuntimeClass {name}: {error}")),
            Err(_) => {
                Err(format!("failed to lookup RuntimeClass {name}: no answer from the API server within {} s", API_DEADLINE.as_secs()))
            }
        }
    }
}

/// The one handler is the default one, which has no name.
fn check_handler(handler: &str) -> Result<(), String> {
    if handler.is_empty() { Ok(()) } else { Err(format!("no runtime for \"{handler}\" is configured")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_handler_is_there() {
        assert_eq!(check_handler(""), Ok(()));
        assert_eq!(check_handler("gvisor").unwrap_err(), "no runtime for \"gvisor\" is configured");
    }
}
