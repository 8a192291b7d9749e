//! Pods and namespaces as they are read: all that policies do not look at is dropped while the JSON is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_pet_core::policies::{Labels, NamedPort, PeerPod};
use kube_pet_core::services::Protocol;
use serde::{Deserialize, Deserializer};

use crate::follower::key_of;

/// A pod.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodObject {
    #[serde(deserialize_with = "trimmed")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

/// A namespace.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NamespaceObject {
    #[serde(deserialize_with = "trimmed")]
    metadata: ObjectMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    host_network: Option<bool>,
    init_containers: Option<Vec<Container>>,
    containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// The few fields of the metadata that somebody looks at.
fn trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Metadata {
        namespace: Option<String>,
        name: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
    }
    let Metadata { namespace, name, resource_version, labels } = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta { namespace, name, resource_version, labels, ..ObjectMeta::default() })
}

macro_rules! resource {
    ($object:ty, $kind:literal, $plural:literal, $scope:ident) => {
        impl kube::Resource for $object {
            type DynamicType = ();
            type Scope = k8s_openapi::$scope;
            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> Cow<'_, str> {
                "".into()
            }
            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
resource!(PodObject, "Pod", "pods", NamespaceResourceScope);
resource!(NamespaceObject, "Namespace", "namespaces", ClusterResourceScope);

impl PodObject {
    /// What policies know of it; `None` of one that has no address of its own, or is over.
    pub(super) fn into_facts(self) -> Option<PeerPod> {
        let Self { metadata, spec, status } = self;
        if spec.host_network == Some(true) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let texts = status.pod_ips.unwrap_or_default().into_iter().map(|one| one.ip).chain(status.pod_ip);
        let mut ips: Vec<IpAddr> = Vec::new();
        for ip in texts.filter_map(|text| text.parse().ok()) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        if ips.is_empty() {
            return None;
        }
        let sidecars = spec.init_containers.into_iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = sidecars.chain(spec.containers.into_iter().flatten());
        Some(PeerPod {
            key: key_of(&metadata),
            ips: ips.into(),
            ports: containers.flat_map(|container| container.ports.into_iter().flatten()).filter_map(named).collect(),
            labels: metadata.labels.unwrap_or_default().into(),
        })
    }
}

fn named(port: ContainerPort) -> Option<NamedPort> {
    Some(NamedPort {
        name: port.name.filter(|name| !name.is_empty())?.into(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
        number: u16::try_from(port.container_port).ok()?,
    })
}

impl NamespaceObject {
    /// Its name and labels.
    pub(super) fn into_facts(self) -> (Arc<str>, Labels) {
        (self.metadata.name.unwrap_or_default().into(), self.metadata.labels.unwrap_or_default().into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_with_an_address_of_their_own_that_are_not_over() {
        let pod = |host: bool, phase: &str, ips: &[&str]| {
            let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            serde_json::from_value::<PodObject>(json!({
                "metadata": {"namespace": "ns", "name": "web", "labels": {"app": "web"}, "managedFields": [{}]},
                "spec": {
                    "hostNetwork": host,
                    "initContainers": [
                        {"name": "i", "ports": [{"name": "no", "containerPort": 1}]},
                        {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 53, "protocol": "UDP"}]},
                    ],
                    "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}],
                },
                "status": {"phase": phase, "podIP": "10.0.0.1", "podIPs": ips},
            }))
            .unwrap()
            .into_facts()
        };
        let facts = pod(false, "Running", &["10.0.0.1", "fd00::1"]).unwrap();
        assert_eq!((&*facts.key, &facts.labels), ("ns/web", &[("app", "web")].into()));
        assert_eq!(*facts.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        let ports: Vec<_> = facts.ports.iter().map(|port| format!("{} {} {}", port.name, port.protocol.name(), port.number)).collect();
        assert_eq!(ports, ["side UDP 53", "http TCP 80"]);
        assert!(pod(true, "Running", &[]).is_none() && pod(false, "Failed", &[]).is_none());
        assert!(pod(false, "Pending", &[]).is_some());
    }
}
