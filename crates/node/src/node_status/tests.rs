mod fake_api;
mod tables;

use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kube_pet_core::eviction::Signal;
use kube_pet_podman::Version;
use serde_json::json;
use tokio::task::JoinHandle;

use self::fake_api::FakeApi;
use super::*;
use crate::pods::store::PodStoreWriter;

struct Agent {
    podman: watch::Sender<RuntimeHealth>,
    info: watch::Receiver<Arc<NodeInfo>>,
    conflict: Arc<std::sync::Mutex<Option<String>>>,
    shutdown: watch::Sender<bool>,
    _store: PodStoreWriter,
    _client: Option<watch::Sender<kube::Client>>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(root: &tempfile::TempDir) -> NodeConfiguration {
    let mut config = NodeConfiguration::defaults(root.path());
    config.node_name = "pet-1".into();
    config.node_ip = vec!["192.0.2.5".parse().unwrap()];
    config.node_labels = [("example.com/rack".to_owned(), "7".to_owned())].into();
    config.register_with_taints = vec![Taint { key: "example.com/pet".into(), effect: "NoExecute".into(), ..Taint::default() }];
    // Whatever the machine that runs the tests has left.
    config.eviction_hard.clear();
    std::fs::create_dir_all(config.paths().state_dir()).unwrap();
    config
}

fn ready() -> RuntimeHealth {
    RuntimeHealth { ready: true, message: String::new(), version: Some(Version::new(4, 3, 1)) }
}

impl Agent {
    fn start(config: NodeConfiguration, api: Option<&FakeApi>) -> Self {
        Self::with_gauge(config, api).0
    }

    /// One whose node is registered, has a network, and is ready.
    async fn ready(root: &tempfile::TempDir, api: &FakeApi) -> Self {
        let agent = Self::start(config(root), Some(api));
        eventually("registered", || api.node().is_some()).await;
        assign_network(api);
        eventually("ready", || is_ready(api)).await;
        agent
    }

    fn with_gauge(config: NodeConfiguration, api: Option<&FakeApi>) -> (Self, Gauge) {
        let (podman, health) = watch::channel(ready());
        let (store, pods) = PodStoreWriter::new();
        let (client, api) = api.map(|api| ApiHandle::new(api.client())).unzip();
        let conflict = Arc::new(std::sync::Mutex::new(None));
        let told = conflict.clone();
        let (shutdown, shutting_down) = watch::channel(false);
        let inputs = Inputs {
            paths: config.paths(),
            config,
            build_version: "v1.37.1+kube-pet.0.1.0".into(),
            api,
            podman: health,
            pods,
            cidr_conflict: Arc::new(move || told.lock().unwrap().clone()),
            events: EventRecorder::disabled(),
            shutdown: shutting_down,
            tunnel: watch::channel(None).1,
            user_namespaces: true,
        };
        let image = ContainerImage { names: Some(vec!["example.org/a:1".into()]), size_bytes: Some(5) };
        let images: ImageLister = Arc::new(move || {
            let image = image.clone();
            Box::pin(async move { Some(vec![image]) })
        });
        let (manager, info) = NodeManager::with_images(inputs, images);
        let gauge = manager.gauge();
        (Self { podman, info, conflict, shutdown, _store: store, _client: client, task: tokio::spawn(manager.run()) }, gauge)
    }
}

/// Waits, in paused time, until `check` holds.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..600 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn assign_network(api: &FakeApi) {
    api.edit(|node| {
        node["spec"]["podCIDR"] = "10.244.3.0/24".into();
        node["spec"]["podCIDRs"] = json!(["10.244.3.0/24"]);
    });
}

fn is_ready(api: &FakeApi) -> bool {
    api.condition("Ready").is_some_and(|(status, ..)| status == "True")
}

#[tokio::test(start_paused = true)]
async fn component_a_node_registers_and_becomes_ready_when_it_has_a_network() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::start(config(&root), Some(&api));
    eventually("registered", || api.node().is_some()).await;
    let node = api.node().unwrap();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "pet-1");
    assert_eq!(node["metadata"]["labels"]["example.com/rack"], "7");
    assert_eq!(node["spec"]["taints"], json!([{ "key": "example.com/pet", "effect": "NoExecute" }]));
    let status = &node["status"];
    let addresses = json!([{ "type": "InternalIP", "address": "192.0.2.5" }, { "type": "Hostname", "address": "pet-1" }]);
    assert_eq!(status["addresses"], addresses);
    assert_eq!(status["nodeInfo"]["containerRuntimeVersion"], "podman://4.3.1");
    assert_eq!(status["nodeInfo"]["kubeletVersion"], "v1.37.1+kube-pet.0.1.0");
    assert_eq!(status["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    let (ready, reason, message) = api.condition("Ready").unwrap();
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "KubeletNotReady"));
    assert!(message.contains("no pod CIDR"), "{message}");
    assert_eq!(api.condition("NetworkUnavailable"), None);

    assign_network(&api);
    eventually("ready", || is_ready(&api)).await;
    let (_, reason, message) = api.condition("Ready").unwrap();
    assert_eq!((reason.as_str(), message.as_str()), ("KubeletReady", "kubelet is posting ready status"));
    assert_eq!(api.condition("NetworkUnavailable").unwrap().0, "False");
    eventually("images", || api.node().unwrap()["status"]["images"][0]["sizeBytes"] == 5).await;
    let info = agent.info.borrow().clone();
    assert_eq!((info.uid.as_str(), info.pod_cidrs.as_slice()), ("uid-1", &["10.244.3.0/24".to_owned()][..]));
    assert_eq!(info.taints.len(), 1);
    eventually("lease", || api.lease().is_some()).await;
    let lease = api.lease().unwrap();
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "uid-1");
    assert_eq!((&lease["spec"]["leaseDurationSeconds"], &lease["spec"]["holderIdentity"]), (&json!(40), &json!("pet-1")));
}

#[tokio::test(start_paused = true)]
async fn component_a_steady_node_is_quiet_but_for_its_heartbeats() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let _agent = Agent::ready(&root, &api).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    api.take_seen();
    tokio::time::sleep(Duration::from_secs(200)).await;
    let seen = api.take_seen();
    let status: Vec<_> = seen.iter().filter(|seen| seen.path.ends_with("/status")).collect();
    assert!(status.is_empty(), "{status:?}");
    let renewals = seen.iter().filter(|seen| seen.path.contains("/leases/")).count();
    assert!((19..=22).contains(&renewals), "{renewals} renewals in 200 s");
    // Every five minutes the status is written anyway.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let seen = api.take_seen();
    let status: Vec<_> = seen.iter().filter(|seen| seen.path.ends_with("/status")).collect();
    assert_eq!(status.len(), 1, "{status:?}");
    assert_eq!(status[0].body["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
}

#[tokio::test(start_paused = true)]
async fn component_podmans_health_is_the_nodes_at_once() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::ready(&root, &api).await;
    let started = tokio::time::Instant::now();
    agent.podman.send_replace(RuntimeHealth { ready: false, message: "no answer to 3 pings".into(), version: None });
    eventually("not ready", || !is_ready(&api)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(api.condition("Ready").unwrap().2, "container runtime is down: no answer to 3 pings");
    agent.podman.send_replace(ready());
    eventually("ready again", || is_ready(&api)).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn component_a_node_that_is_shut_down_is_not_ready_at_once() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::ready(&root, &api).await;
    let started = tokio::time::Instant::now();
    agent.shutdown.send_replace(true);
    eventually("not ready", || !is_ready(&api)).await;
    let (_, reason, message) = api.condition("Ready").unwrap();
    assert_eq!((reason.as_str(), message.as_str()), ("KubeletNotReady", "node is shutting down"));
    agent.shutdown.send_replace(false);
    eventually("ready again", || is_ready(&api)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn component_pressure_is_the_nodes_at_once_and_what_is_asked_is_measured_anew() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let mut config = config(&root);
    // More than any machine has.
    config.eviction_soft = [(Signal::MemoryAvailable, "1Pi".parse().unwrap())].into();
    config.eviction_soft_grace_period = [(Signal::MemoryAvailable, Duration::from_secs(15))].into();
    let (agent, mut gauge) = Agent::with_gauge(config, Some(&api));
    assert_eq!(agent.info.borrow().pressures.iter().collect::<Vec<_>>(), ["MemoryPressure"]);
    eventually("told", || api.condition("MemoryPressure").is_some_and(|(status, ..)| status == "True")).await;
    assert!(gauge.last().shortages.is_empty());
    assert!(gauge.now().await.shortages.is_empty());
    tokio::time::sleep(Duration::from_secs(15)).await;
    let look = gauge.now().await;
    assert_eq!(look.shortages.iter().map(|shortage| shortage.signal).collect::<Vec<_>>(), [Signal::MemoryAvailable]);
    let started = tokio::time::Instant::now();
    assert_eq!(gauge.next().await.shortages.len(), 1);
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn component_a_deleted_node_comes_back_as_it_was() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::start(config(&root), Some(&api));
    eventually("registered", || api.node().is_some()).await;
    assign_network(&api);
    api.edit(|node| {
        node["metadata"]["labels"]["operators/own"] = "yes".into();
        // Only an administrator may set it: a node that tried would be refused.
        node["metadata"]["labels"]["node-role.kubernetes.io/pet"] = "".into();
        let taints = node["spec"]["taints"].as_array_mut().unwrap();
        taints.push(json!({ "key": "operators/taint", "effect": "NoSchedule" }));
        taints.push(json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }));
    });
    eventually("learnt", || agent.info.borrow().taints.len() == 3).await;
    eventually("ready", || is_ready(&api)).await;
    eventually("lease", || api.lease().is_some()).await;

    api.delete_node();
    let started = tokio::time::Instant::now();
    eventually("registered again", || api.node().is_some()).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let node = api.node().unwrap();
    assert_eq!(node["metadata"]["uid"], "uid-2");
    let labels = &node["metadata"]["labels"];
    assert_eq!((&labels["example.com/rack"], &labels["operators/own"]), (&json!("7"), &json!("yes")));
    assert!(labels.get("node-role.kubernetes.io/pet").is_none());
    let taints: Vec<_> = node["spec"]["taints"].as_array().unwrap().iter().map(|taint| taint["key"].as_str().unwrap()).collect();
    assert_eq!(taints, ["example.com/pet", "operators/taint"]);
    // The pods keep their network until the new Node has one.
    assert_eq!(agent.info.borrow().pod_cidrs, ["10.244.3.0/24"]);
    eventually("lease of the new Node", || api.lease().is_some_and(|lease| lease["metadata"]["ownerReferences"][0]["uid"] == "uid-2"))
        .await;
    eventually("told", || agent.info.borrow().uid == "uid-2").await;
}

#[tokio::test(start_paused = true)]
async fn component_an_offline_start_knows_the_last_network_and_the_node_converges_later() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::ready(&root, &api).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(agent);

    api.set_offline(true);
    let agent = Agent::start(config(&root), Some(&api));
    let info = agent.info.borrow().clone();
    assert_eq!(info.pod_cidrs, ["10.244.3.0/24"]);
    assert_eq!((info.uid.as_str(), info.labels["example.com/rack"].as_str()), ("uid-1", "7"));
    assert!(info.capacity.contains_key("cpu") && info.allocatable.contains_key("memory"));
    tokio::time::sleep(Duration::from_secs(120)).await;
    api.take_seen();
    api.set_offline(false);
    eventually("heartbeat", || api.take_seen().iter().any(|seen| seen.path.contains("/leases/"))).await;
    eventually("still ready", || is_ready(&api)).await;
}

#[tokio::test(start_paused = true)]
async fn component_an_agent_that_starts_again_does_not_make_its_node_unready() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::ready(&root, &api).await;
    drop(agent);
    api.take_seen();

    let agent = Agent::start(config(&root), Some(&api));
    agent.podman.send_replace(RuntimeHealth { ready: false, message: "being started".into(), version: None });
    tokio::time::sleep(Duration::from_secs(1)).await;
    agent.podman.send_replace(ready());
    tokio::time::sleep(Duration::from_secs(15)).await;
    for seen in api.take_seen() {
        let conditions = seen.body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let unready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] != "True");
        assert!(!unready, "{seen:?}");
    }
    assert!(is_ready(&api));
}

#[tokio::test(start_paused = true)]
async fn component_what_a_node_may_not_do_is_never_asked_for() {
    let (root, api) = (tempfile::tempdir().unwrap(), FakeApi::default());
    let agent = Agent::start(config(&root), Some(&api));
    eventually("registered", || api.node().is_some()).await;
    assign_network(&api);
    api.edit(|node| {
        node["metadata"]["labels"].as_object_mut().unwrap().remove("kubernetes.io/os");
        node["spec"]["taints"] = json!([]);
        node["spec"]["unschedulable"] = true.into();
    });
    eventually("label restored", || api.node().unwrap()["metadata"]["labels"]["kubernetes.io/os"] == "linux").await;
    *agent.conflict.lock().unwrap() = Some("10.9.0.0/24: 3 pods use 10.244.3.0/24".into());
    eventually("conflict told", || api.condition("PodCIDRChangeRefused").is_some_and(|(status, ..)| status == "True")).await;
    *agent.conflict.lock().unwrap() = None;
    eventually("conflict over", || api.condition("PodCIDRChangeRefused").is_some_and(|(status, ..)| status == "False")).await;
    api.delete_lease();
    eventually("lease made again", || api.lease().is_some()).await;
    for seen in api.take_seen() {
        let allowed = match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/api/v1/nodes" | "/api/v1/nodes/pet-1") | ("POST", "/api/v1/nodes") => true,
            // Labels only: a node that writes its taints is refused.
            ("PATCH", "/api/v1/nodes/pet-1") => seen.body.get("spec").is_none() && seen.body["metadata"].as_object().unwrap().len() == 1,
            ("PATCH", "/api/v1/nodes/pet-1/status") => seen.body.as_object().unwrap().len() == 1,
            (_, path) => path.starts_with("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"),
        };
        assert!(allowed, "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn component_without_a_cluster_the_machine_is_described_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    let agent = Agent::start(config(&root), None);
    let info = agent.info.borrow().clone();
    assert_eq!(info.pod_cidrs, ["10.85.0.0/24"]);
    assert_eq!(info.host_ips, ["192.0.2.5".parse::<IpAddr>().unwrap()]);
    assert_eq!(info.labels["kubernetes.io/hostname"], "pet-1");
    assert!(info.uid.is_empty() && info.allocatable.contains_key("cpu"));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!config(&root).paths().state_dir().join("node.json").exists());
}
