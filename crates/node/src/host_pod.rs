//! The machine itself as a pod (`hostPod`, off by default): a mirror pod without containers that stands for it, so that `kubectl logs`
//! reads the machine's log and `kubectl exec` runs commands on it. Nobody needs a second way in, and nobody has one who may not run
//! commands in pods of its namespace: the API server asks for that, the node's API for its own permission, and each session is in the log.
//!
//! It is no pod to the rest of the agent: nothing is made for it, nothing counts or ends it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube_pet_core::node::NodeInfo;
use kube_pet_core::pod::{status_differs, status_patch};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tracing::{debug, info};

use crate::api::ApiHandle;
use crate::pods::mirror::{Mirrors, newest_status, resource_version};

/// The one container's name, and what stands for its image.
const CONTAINER: &str = "host";

/// How often it is looked whether the mirror has its status.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The pod.
#[derive(Clone, Debug)]
pub struct HostPod {
    namespace: String,
    node_name: String,
    boot_id: String,
    booted: Option<Timestamp>,
    node: watch::Receiver<Arc<NodeInfo>>,
}

impl HostPod {
    /// Of a machine that was started at `boot_time`, in seconds since 1970.
    pub fn new(
        namespace: String,
        node_name: String,
        boot_id: String,
        boot_time: Option<u64>,
        node: watch::Receiver<Arc<NodeInfo>>,
    ) -> Self {
        let booted = boot_time.and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
        Self { namespace, node_name, boot_id, booted, node }
    }

    /// Its name: `host-<node>`, as static pods are named.
    fn name(&self) -> String {
        format!("host-{}", self.node_name)
    }

    /// Its namespace and name, which no other pod of the node may have.
    pub(crate) fn key(&self) -> (String, String) {
        (self.namespace.clone(), self.name())
    }

    /// The pod as it is now, if this is its name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        (namespace == self.namespace && name == self.name()).then(|| self.pod())
    }

    /// With its status.
    fn pod(&self) -> Pod {
        let mut pod = self.object();
        pod.status = Some(self.status());
        pod
    }

    fn object(&self) -> Pod {
        let hash = Sha256::digest(format!("host pod of {}", self.node_name));
        let uid: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        of_json(json!({
            "metadata": {
                "name": self.name(),
                "namespace": self.namespace,
                "uid": uid,
                "annotations": {"kubernetes.io/config.source": "host", "kubernetes.io/config.hash": uid},
            },
            "spec": {
                "nodeName": self.node_name,
                "hostNetwork": true,
                "hostPID": true,
                "hostIPC": true,
                "enableServiceLinks": false,
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": CONTAINER,
                    "image": CONTAINER,
                    "imagePullPolicy": "Never",
                    "securityContext": {"privileged": true},
                }],
            },
        }))
    }

    fn status(&self) -> PodStatus {
        let ips: Vec<String> = self.node.borrow().host_ips.iter().map(ToString::to_string).collect();
        let ip_list: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let booted = self.booted.map(|at| at.to_string());
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": booted});
        let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
        of_json(json!({
            "phase": "Running",
            "startTime": booted,
            "hostIP": ips.first(),
            "hostIPs": ip_list,
            "podIP": ips.first(),
            "podIPs": ip_list,
            "conditions": conditions,
            "containerStatuses": [{
                "name": CONTAINER,
                "image": CONTAINER,
                "imageID": "",
                "containerID": format!("host://{}", self.boot_id),
                "ready": true,
                "started": true,
                "restartCount": 0,
                "state": {"running": {"startedAt": booted}},
            }],
        }))
    }

    /// Keeps the mirror pod there, with its status, until dropped. Others write to it, too: the controllers set all pods of a node to not
    /// ready that they do not hear of for a while, and it is the node that takes that back.
    pub async fn run(self, api: ApiHandle, mirrors: Mirrors) {
        let pod = Arc::new(self.object());
        info!(namespace = self.namespace, name = self.name(), "a pod stands for this machine: who may exec into it is root here");
        mirrors.want(pod.clone());
        let mut written: Option<(u64, PodStatus)> = None;
        loop {
            if let Some(mirror) = mirrors.of(&pod) {
                let status = self.status();
                let known = newest_status(written.as_ref(), Some((mirror.version, &mirror.status)));
                if known.is_none_or(|known| status_differs(known, &status)) {
                    let pods: Api<Pod> = Api::namespaced(api.client(), &self.namespace);
                    let body = Patch::Strategic(status_patch(&mirror.uid, &status));
                    match pods.patch_status(&self.name(), &PatchParams::default(), &body).await {
                        Ok(pod) => written = Some((resource_version(&pod), status)),
                        Err(error) => {
                            debug!(%error, namespace = self.namespace, name = self.name(), "the status of the host's pod is not written yet");
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Written down here in the API's own words, which its types take.
fn of_json<T: serde::de::DeserializeOwned + Default>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use kube_pet_testkit::api;

    use super::*;

    fn host() -> (HostPod, watch::Sender<Arc<NodeInfo>>) {
        let node = NodeInfo { host_ips: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()], ..NodeInfo::default() };
        let (sender, node) = watch::channel(Arc::new(node));
        (HostPod::new("kube-system".into(), "pet".into(), "b1".into(), Some(1_800_000_000), node), sender)
    }

    #[test]
    fn it_is_found_by_its_own_name_only_and_runs_since_the_boot() {
        let (host, _sender) = host();
        assert!(host.find("default", "host-pet").is_none() && host.find("kube-system", "host-other").is_none());
        let pod = host.find("kube-system", "host-pet").unwrap();
        let status = pod.status.unwrap();
        assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("192.0.2.7")));
        assert_eq!(status.host_ips.unwrap().len(), 2);
        let container = &status.container_statuses.unwrap()[0];
        assert_eq!((container.name.as_str(), container.container_id.as_deref()), ("host", Some("host://b1")));
        let since = container.state.as_ref().unwrap().running.as_ref().unwrap().started_at.as_ref().unwrap();
        assert_eq!(since.0.as_second(), 1_800_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn component_its_status_is_written_again_when_others_have_changed_it() {
        let (host, _sender) = host();
        let (mirrors, version) = (Mirrors::default(), Arc::new(AtomicU64::new(10)));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (noted, counted) = (written.clone(), version.clone());
        let client = api::client(move |request, body| {
            assert_eq!((request.method.as_str(), request.uri.path()), ("PATCH", "/api/v1/namespaces/kube-system/pods/host-pet/status"));
            noted.lock().unwrap().push(serde_json::from_slice::<Value>(&body).unwrap());
            let version = counted.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(api::reply(200, &json!({"metadata": {"name": "host-pet", "resourceVersion": version.to_string()}})))
        });
        let seen = |uid: &str, status: PodStatus| {
            let mut mirror = host.object();
            let hash = mirror.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.hash"].clone();
            mirror.metadata.annotations.as_mut().unwrap().insert("kubernetes.io/config.mirror".into(), hash);
            mirror.metadata.uid = Some(uid.into());
            mirror.metadata.resource_version = Some(version.load(Ordering::SeqCst).to_string());
            mirror.status = Some(status);
            mirrors.seen(&mirror);
        };
        let task = tokio::spawn(host.clone().run(ApiHandle::new(client).1, mirrors.clone()));
        let writes = async || {
            tokio::time::sleep(LOOK_EVERY * 3).await;
            std::mem::take(&mut *written.lock().unwrap())
        };
        assert_eq!(writes().await, Vec::<Value>::new(), "there is no mirror");
        seen("m1", PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
        assert_eq!(writes().await.len(), 1);
        // As the API server shows it, with what it adds.
        seen("m1", PodStatus { qos_class: Some("BestEffort".into()), ..host.status() });
        assert_eq!(writes().await, Vec::<Value>::new());
        version.fetch_add(1, Ordering::SeqCst);
        let mut unready = host.status();
        unready.conditions.as_mut().unwrap().iter_mut().find(|c| c.type_ == "Ready").unwrap().status = "False".into();
        seen("m1", unready);
        let again = writes().await;
        assert_eq!((again.len(), &again[0]["metadata"]["uid"]), (1, &json!("m1")));
        let ready = again[0]["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
        assert_eq!(ready["status"], "True");
        version.fetch_add(1, Ordering::SeqCst);
        seen("m2", PodStatus::default());
        let new = writes().await;
        assert_eq!((new.len(), &new[0]["metadata"]["uid"]), (1, &json!("m2")));
        task.abort();
    }

    #[test]
    fn its_object_says_what_it_is() {
        let (host, _sender) = host();
        let pod = host.object();
        assert_eq!(pod.metadata.uid, host.object().metadata.uid, "the same after a restart of the agent");
        let spec = pod.spec.unwrap();
        assert_eq!((spec.host_network, spec.host_pid, spec.host_ipc), (Some(true), Some(true), Some(true)));
        assert_eq!(spec.containers[0].security_context.as_ref().unwrap().privileged, Some(true));
        assert_eq!(pod.metadata.annotations.unwrap()["kubernetes.io/config.source"], "host");
    }
}
