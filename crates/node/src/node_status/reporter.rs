//! The loop that measures, tells the agent, and writes the Node: registration, labels, status.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeStatus,
};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube_pet_core::node::NodeInfo;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::call::{CallError, Complaint, call};
use super::conditions::{self, Health};
use super::machine::{self, Places, Readings};
use super::memory::{Record, Remembered};
use super::{Inputs, Known, addresses, object, observation, patch, resources};
use crate::api::ApiHandle;
use crate::events::EventType;

/// How long the first report waits for Podman: an agent that is started again must not make its node unready.
const PODMAN_START: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(7);
/// Without them the API server lets nobody resize a pod's common resources, or its init containers, and the scheduler brings no pod whose
/// containers may ask for a restart of all. In order of the alphabet, as the API server wants them.
const DECLARED_FEATURES: [&str; 3] =
    ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits"];
/// Where no cluster tells a pod network and none is configured.
const STANDALONE_NETWORK: &str = "10.85.0.0/24";

/// What other parts find out.
pub(super) struct Sources {
    pub(super) external: watch::Receiver<Vec<IpAddr>>,
    pub(super) images: watch::Receiver<Option<Vec<ContainerImage>>>,
    pub(super) pressures: watch::Receiver<BTreeSet<&'static str>>,
}

/// See the module.
pub(super) struct Reporter {
    inputs: Inputs,
    known: watch::Sender<Known>,
    sources: Sources,
    info: watch::Sender<Arc<NodeInfo>>,
    record: Record,
    remembered: Remembered,
    /// The conditions of the last computation, for where there is no Node to compare with.
    conditions: Vec<NodeCondition>,
    told: BTreeMap<String, &'static str>,
    unschedulable: Option<bool>,
    labelled: bool,
    last_report: Option<Instant>,
    complaint: Complaint,
}

impl Reporter {
    pub(super) fn new(inputs: Inputs, known: watch::Sender<Known>, sources: Sources) -> (Self, watch::Receiver<Arc<NodeInfo>>) {
        let (record, remembered) = Record::open(&inputs.paths, &inputs.config.node_name);
        let (info, told) = watch::channel(Arc::new(NodeInfo::default()));
        let mut reporter = Self {
            inputs,
            known,
            sources,
            info,
            record,
            remembered,
            conditions: Vec::new(),
            told: BTreeMap::new(),
            unschedulable: None,
            labelled: false,
            last_report: None,
            complaint: Complaint::new("the Node's status is not written"),
        };
        let readings = machine::read(&reporter.places());
        let internal = addresses::internal(&reporter.inputs.config, reporter.inputs.tunnel.borrow().as_ref());
        reporter.publish(&readings, internal);
        (reporter, told)
    }

    fn places(&self) -> Places {
        Places { state: self.inputs.paths.state_dir(), store: self.inputs.config.podman.store() }
    }

    pub(super) async fn run(mut self) {
        let mut podman = self.inputs.podman.clone();
        let _ = tokio::time::timeout(PODMAN_START, podman.wait_for(|health| health.ready)).await;
        let mut known = self.known.subscribe();
        let mut shutdown = self.inputs.shutdown.clone();
        let mut tunnel = self.inputs.tunnel.clone();
        let frequency = self.inputs.config.node_status_update_frequency;
        let mut retry = FIRST_RETRY;
        loop {
            podman.mark_unchanged();
            known.mark_unchanged();
            let pause = match self.report().await {
                Ok(()) => {
                    self.complaint.over();
                    retry = FIRST_RETRY;
                    frequency
                }
                Err(error) => {
                    self.complaint.tell(&error);
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY).min(frequency);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = podman.changed() => {}
                Ok(()) = known.changed() => {}
                Ok(()) = self.sources.external.changed() => {}
                Ok(()) = self.sources.images.changed() => {}
                Ok(()) = self.sources.pressures.changed() => {}
                Ok(()) = shutdown.changed() => {}
                Ok(()) = tunnel.changed() => {}
            }
        }
    }

    /// One round: measure, tell the agent, write what differs.
    async fn report(&mut self) -> Result<(), CallError> {
        let (places, config) = (self.places(), self.inputs.config.clone());
        let (podman, version) = {
            let health = self.inputs.podman.borrow();
            let failing = (!health.ready).then(|| health.message.clone());
            (failing, health.version.as_ref().map(ToString::to_string))
        };
        let build = self.inputs.build_version.clone();
        let allocation = self.inputs.tunnel.borrow().clone();
        let measured = tokio::task::spawn_blocking(move || {
            (machine::read(&places), addresses::internal(&config, allocation.as_ref()), machine::system_info(&build, version))
        });
        let Ok((readings, internal, system)) = measured.await else {
            warn!("a reading of the machine broke down");
            return Ok(());
        };
        let known = self.known.borrow().clone();
        if let Some(node) = known.node() {
            self.remembered.learn(node);
            self.inputs.events.node_is(&self.remembered.uid);
        }
        let internal = self.publish(&readings, internal);
        let before = known.node().and_then(|node| node.status.clone()).unwrap_or_default();
        let capacity = patch::with_foreign(resources::capacity(&readings, self.inputs.config.max_pods), before.capacity.as_ref());
        let allocatable = resources::allocatable(&capacity, &readings, &self.inputs.config);
        let health = Health {
            runtime: podman,
            network: !self.info.borrow().pod_cidrs.is_empty(),
            cidr_conflict: (self.inputs.cidr_conflict)(),
            missing: ["cpu", "memory", "pods", "ephemeral-storage"]
                .into_iter()
                .filter(|name| !capacity.contains_key(*name))
                .map(str::to_owned)
                .collect(),
            shutting_down: *self.inputs.shutdown.borrow(),
        };
        let status = NodeStatus {
            conditions: Some(self.conditions(&before, &health)),
            addresses: Some(addresses::list(&internal, &self.sources.external.borrow(), &self.inputs.config.node_name)),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.inputs.config.port) }),
            }),
            declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
            features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
            images: self.sources.images.borrow().clone().or_else(|| before.images.clone()),
            node_info: Some(system),
            runtime_handlers: Some(vec![NodeRuntimeHandler {
                // The default handler. The API server leaves an empty name out.
                name: before.runtime_handlers.iter().flatten().next().and_then(|handler| handler.name.clone()),
                features: Some(NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: Some(kube_pet_host::read_only::is_supported()),
                    user_namespaces: Some(self.inputs.user_namespaces),
                }),
            }]),
            ..NodeStatus::default()
        };
        let Some(api) = self.inputs.api.clone() else { return Ok(()) };
        self.record.save(&self.remembered).await;
        match known {
            // The watch tells soon, or says why it cannot.
            Known::Unknown => Ok(()),
            Known::Absent if self.inputs.config.register_node => self.register(&api, status).await,
            Known::Absent => Ok(()),
            Known::Present(node) => {
                self.note_changes(&node, &before, &status);
                self.label(&api, &node).await?;
                self.write(&api, &before, &status).await
            }
        }
    }

    fn conditions(&mut self, before: &NodeStatus, health: &Health) -> Vec<NodeCondition> {
        let config = &self.inputs.config;
        let old = before.conditions.as_deref().unwrap_or(&self.conditions);
        let pressures = self.sources.pressures.borrow().clone();
        let computed = conditions::compute(old, &pressures, health, Timestamp::now());
        for (kind, event) in computed.events {
            // A condition whose write failed is computed again, and is no news then.
            if self.told.insert(kind, event) != Some(event) {
                let message = format!("Node {} status is now: {event}", config.node_name);
                self.inputs.events.node_event(EventType::Normal, event, message);
            }
        }
        self.conditions.clone_from(&computed.conditions);
        computed.conditions
    }

    /// Tells the agent. Returns the InternalIPs, which are the last known ones while the machine has none.
    fn publish(&mut self, readings: &Readings, internal: Vec<IpAddr>) -> Vec<IpAddr> {
        let config = &self.inputs.config;
        if !internal.is_empty() {
            self.remembered.internal_ips = internal;
        }
        let known = self.known.borrow().clone();
        let before = known.node().and_then(|node| node.status.as_ref()?.capacity.as_ref());
        let capacity = patch::with_foreign(resources::capacity(readings, config.max_pods), before);
        let pod_cidrs = if let Some(allocation) = self.inputs.tunnel.borrow().as_ref() {
            allocation.pod_cidrs.clone()
        } else if !config.pod_cidr.is_empty() {
            config.pod_cidr.iter().map(ToString::to_string).collect()
        } else if self.inputs.api.is_none() && self.remembered.pod_cidrs.is_empty() {
            vec![STANDALONE_NETWORK.to_owned()]
        } else {
            self.remembered.pod_cidrs.clone()
        };
        let registered = !self.remembered.uid.is_empty();
        let info = NodeInfo {
            name: config.node_name.clone(),
            uid: self.remembered.uid.clone(),
            labels: if registered { self.remembered.labels.clone() } else { object::labels(config, &self.remembered) },
            allocatable: resources::allocatable(&capacity, readings, config),
            capacity,
            host_ips: self.remembered.internal_ips.clone(),
            pod_cidrs,
            pressures: self.sources.pressures.borrow().iter().map(|kind| (*kind).to_owned()).collect(),
            taints: if registered { self.remembered.taints.clone() } else { object::taints(config, &self.remembered) },
        };
        self.info.send_if_modified(|old| {
            let changed = **old != info;
            if changed {
                *old = Arc::new(info);
            }
            changed
        });
        self.remembered.internal_ips.clone()
    }

    async fn register(&mut self, api: &ApiHandle, status: NodeStatus) -> Result<(), CallError> {
        let name = &self.inputs.config.node_name;
        let nodes: Api<Node> = Api::all(api.client());
        let again = !self.remembered.uid.is_empty();
        if again {
            warn!(node = name, "the Node was deleted; it is created again, and the pods run on");
        }
        let uses_network = self.inputs.pods.list().iter().any(|pod| !pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false));
        let node = object::node(&self.inputs.config, &self.remembered, status, uses_network);
        let node = match call(nodes.create(&PostParams::default(), &node)).await {
            Ok(node) => node,
            Err(error) if error.is_conflict() => call(nodes.get(name)).await?,
            Err(error) => return Err(error),
        };
        info!(node = name, uid = node.metadata.uid, "the Node is registered");
        self.last_report = Some(Instant::now());
        self.labelled = true;
        observation::set(&self.known, Some(node));
        Ok(())
    }

    /// The required labels always; the configured ones once per start, so that an operator's later change holds.
    async fn label(&mut self, api: &ApiHandle, node: &Node) -> Result<(), CallError> {
        let config = &self.inputs.config;
        let mut wanted = object::required_labels(&config.node_name);
        if !self.labelled {
            wanted.extend(config.node_labels.clone());
        }
        wanted.retain(|key, value| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)) != Some(value));
        if !wanted.is_empty() {
            let nodes: Api<Node> = Api::all(api.client());
            let body = Patch::Merge(json!({ "metadata": { "labels": wanted } }));
            let node = call(nodes.patch(&config.node_name, &PatchParams::default(), &body)).await?;
            observation::set(&self.known, Some(node));
        }
        self.labelled = true;
        Ok(())
    }

    async fn write(&mut self, api: &ApiHandle, before: &NodeStatus, status: &NodeStatus) -> Result<(), CallError> {
        let config = &self.inputs.config;
        let due = self.last_report.is_none_or(|last| last.elapsed() >= config.node_status_report_frequency);
        let Some(body) = patch::status(before, status, due) else { return Ok(()) };
        let nodes: Api<Node> = Api::all(api.client());
        match call(nodes.patch_status(&config.node_name, &PatchParams::default(), &Patch::Strategic(body))).await {
            Ok(node) => {
                self.last_report = Some(Instant::now());
                observation::set(&self.known, Some(node));
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                observation::set(&self.known, None);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Events of what changed around the node: its boot, and whether it takes pods.
    fn note_changes(&mut self, node: &Node, before: &NodeStatus, now: &NodeStatus) {
        let name = &self.inputs.config.node_name;
        let boot = |status: &NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone()).filter(|id| !id.is_empty());
        if let (Some(was), Some(is)) = (boot(before), boot(now))
            && was != is
            && self.told.insert("boot".to_owned(), "Rebooted") != Some("Rebooted")
        {
            let message = format!("Node {name} has been rebooted, boot id: {is}");
            self.inputs.events.node_event(EventType::Warning, "Rebooted", message);
        }
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if self.unschedulable.replace(unschedulable).unwrap_or(false) != unschedulable {
            let event = if unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
            self.inputs.events.node_event(EventType::Normal, event, format!("Node {name} status is now: {event}"));
        }
    }
}
