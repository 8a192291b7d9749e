//! Services and EndpointSlices as they are read: all that is not needed is dropped while the JSON is read, so that a list of
//! thousands needs little memory even for a moment.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube_pet_core::services::{Endpoint, Family, Protocol, Service, ServicePort, Slice, SlicePort};
use serde::{Deserialize, Deserializer};

use crate::follower::key_of;

/// Another proxy serves the Service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A Service.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServiceObject {
    #[serde(deserialize_with = "trimmed")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    load_balancer_source_ranges: Option<Vec<String>>,
    ports: Option<Vec<ServicePortObject>>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    health_check_node_port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePortObject {
    name: Option<String>,
    protocol: Option<String>,
    port: u16,
    node_port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIpConfig {
    timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceObject {
    #[serde(deserialize_with = "trimmed")]
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    ports: Option<Vec<SlicePortObject>>,
    #[serde(default)]
    endpoints: Option<Vec<EndpointObject>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePortObject {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointObject {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    hints: Option<Hints>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<Hint>>,
    for_nodes: Option<Vec<Hint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Hint {
    name: String,
}

/// The few fields of the metadata that somebody looks at.
fn trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Metadata {
        namespace: Option<String>,
        name: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Time>,
        labels: Option<Labels>,
        annotations: Option<Annotations>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Labels {
        #[serde(rename = "service.kubernetes.io/service-proxy-name")]
        proxy: Option<String>,
        #[serde(rename = "kubernetes.io/service-name")]
        service: Option<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Annotations {
        #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
        trigger: Option<String>,
    }
    let Metadata { namespace, name, resource_version, creation_timestamp, labels, annotations } = Metadata::deserialize(deserializer)?;
    let labels = labels.unwrap_or_default();
    let labels = [(PROXY_NAME, labels.proxy), (SERVICE_NAME, labels.service)];
    let named = |(name, value): (&str, Option<String>)| Some((name.to_owned(), value?));
    Ok(ObjectMeta {
        namespace,
        name,
        resource_version,
        creation_timestamp,
        labels: Some(labels.into_iter().filter_map(named).collect()),
        annotations: annotations.and_then(|annotations| named((TRIGGER, annotations.trigger))).map(|one| [one].into()),
        ..ObjectMeta::default()
    })
}

macro_rules! resource {
    ($object:ty, $kind:literal, $group:literal, $plural:literal) => {
        impl kube::Resource for $object {
            type DynamicType = ();
            type Scope = k8s_openapi::NamespaceResourceScope;
            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> Cow<'_, str> {
                $group.into()
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
resource!(ServiceObject, "Service", "", "services");
resource!(SliceObject, "EndpointSlice", "discovery.k8s.io", "endpointslices");

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Texts that are no addresses are left out: external IPs are not always validated.
fn addresses(texts: Option<Vec<String>>) -> Box<[IpAddr]> {
    texts.unwrap_or_default().iter().filter_map(|text| text.trim().parse().ok()).collect()
}

impl ServiceObject {
    /// What the node needs of it; `None` of one without an address in the cluster.
    pub(super) fn into_facts(self) -> Option<Service> {
        let Self { metadata, spec, status } = self;
        let kind = spec.kind.as_deref().unwrap_or("ClusterIP");
        let cluster_ips = addresses(spec.cluster_ips.or_else(|| Some(vec![spec.cluster_ip?])));
        if cluster_ips.is_empty() || kind == "ExternalName" {
            return None;
        }
        let external_ips = addresses(spec.external_ips);
        // The fields are looked at for these types only: they may have values of an earlier type.
        let external = matches!(kind, "LoadBalancer" | "NodePort") || !external_ips.is_empty();
        let external_local = external && spec.external_traffic_policy.as_deref() == Some("Local");
        let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
        let vip = |ingress: Ingress| matches!(ingress.ip_mode.as_deref(), None | Some("VIP")).then_some(ingress.ip).flatten();
        let timeout = || spec.session_affinity_config?.client_ip?.timeout_seconds;
        Some(Service {
            key: key_of(&metadata),
            created: metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
            proxied: label(&metadata, PROXY_NAME).is_none(),
            cluster_ips,
            external_ips,
            load_balancer_ips: addresses(Some(ingress.into_iter().filter_map(vip).collect())),
            source_ranges: spec.load_balancer_source_ranges.unwrap_or_default().iter().filter_map(|text| text.parse().ok()).collect(),
            ports: spec.ports.unwrap_or_default().into_iter().filter_map(service_port).collect(),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local,
            affinity: (spec.session_affinity.as_deref() == Some("ClientIP"))
                .then(|| Duration::from_secs(timeout().map_or(10_800, u64::from))),
            health_check_port: spec.health_check_node_port.filter(|port| *port != 0 && kind == "LoadBalancer" && external_local),
        })
    }
}

fn service_port(port: ServicePortObject) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.unwrap_or_default().into(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
        port: port.port,
        node_port: port.node_port.unwrap_or_default(),
    })
}

impl SliceObject {
    /// What the node called `node` needs of it, and when what it tells has happened; `None` of one that belongs to no Service or
    /// has no addresses.
    pub(super) fn into_facts(self, node: &str) -> Option<(Slice, Option<Timestamp>)> {
        let Self { metadata, address_type, ports, endpoints } = self;
        let family = match address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let service = label(&metadata, SERVICE_NAME).filter(|name| !name.is_empty())?;
        let trigger = metadata.annotations.as_ref().and_then(|annotations| annotations.get(TRIGGER)?.parse().ok());
        let slice = Slice {
            key: key_of(&metadata),
            service: format!("{namespace}/{service}").into(),
            family,
            ports: ports.unwrap_or_default().into_iter().filter_map(slice_port).collect(),
            endpoints: endpoints.unwrap_or_default().into_iter().filter_map(|endpoint| endpoint.into_facts(node, family)).collect(),
        };
        Some((slice, trigger))
    }
}

/// Without a name it is nobody's, without a number it is none.
fn slice_port(port: SlicePortObject) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name?.into(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
        port: port.port.filter(|number| *number != 0)?,
    })
}

impl EndpointObject {
    fn into_facts(self, node: &str, family: Family) -> Option<Endpoint> {
        let address: IpAddr = self.addresses?.first()?.parse().ok()?;
        let Conditions { ready, serving, terminating } = self.conditions.unwrap_or_default();
        let Hints { for_zones, for_nodes } = self.hints.unwrap_or_default();
        let for_nodes = for_nodes.filter(|hints| !hints.is_empty());
        (Family::of(address) == family).then(|| Endpoint {
            address,
            local: self.node_name.as_deref() == Some(node),
            ready: ready.unwrap_or(true),
            serving: serving.unwrap_or(true),
            terminating: terminating.unwrap_or(false),
            for_node: for_nodes.map(|hints| hints.iter().any(|hint| hint.name == node)),
            for_zones: for_zones.unwrap_or_default().into_iter().map(|hint| hint.name.into()).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
