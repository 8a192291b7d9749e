//! The Node object as this agent creates it, and the labels that it keeps on it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_pet_host::machine::architecture;

use super::memory::Remembered;
use crate::config::{NodeConfiguration, may_set_label};

/// Labels that every kubelet sets.
pub(super) fn required_labels(node_name: &str) -> BTreeMap<String, String> {
    [
        ("kubernetes.io/hostname", node_name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Labels of a new Node: the required and configured ones, and those that it had before and that a node may set itself
/// (NodeRestriction refuses the whole Node for one that it may not).
pub(super) fn labels(config: &NodeConfiguration, before: &Remembered) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> =
        before.labels.iter().filter(|(key, value)| may_set_label(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.extend(config.node_labels.clone());
    labels.extend(required_labels(&config.node_name));
    labels
}

/// Taints of a new Node: the configured ones and those that it had before, but for those that controllers set and take away.
pub(super) fn taints(config: &NodeConfiguration, before: &Remembered) -> Vec<Taint> {
    let mut taints = config.register_with_taints.clone();
    for taint in &before.taints {
        let known = taints.iter().any(|other| other.key == taint.key && other.effect == taint.effect);
        let of_controllers = taint.key.starts_with("node.kubernetes.io/") || taint.key.starts_with("node.cloudprovider.kubernetes.io/");
        if !known && !of_controllers {
            taints.push(Taint { time_added: None, ..taint.clone() });
        }
    }
    taints
}

/// A new Node. `keep_network` keeps the pod network of the one before, which pods still use.
pub(super) fn node(config: &NodeConfiguration, before: &Remembered, status: NodeStatus, keep_network: bool) -> Node {
    let cidrs = Some(&before.pod_cidrs).filter(|cidrs| keep_network && config.pod_cidr.is_empty() && !cidrs.is_empty());
    Node {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels(config, before)), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            taints: Some(taints(config, before)).filter(|taints| !taints.is_empty()),
            provider_id: config.provider_id.clone(),
            pod_cidr: cidrs.and_then(|cidrs| cidrs.first().cloned()),
            pod_cidrs: cidrs.cloned(),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}
