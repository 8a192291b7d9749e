use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::node::NodeInfo;
use crate::quantity::{Amount, QuantityError};
use crate::resources::{amounts, container_requests, has_pod_level_resources};
use crate::volumes::{FieldError, metadata_field};

/// Why a field of the downward API has no value.
#[derive(Debug, thiserror::Error)]
pub enum FieldValueError {
    /// Only `v1` is known.
    #[error("unsupported pod version: {version}")]
    Version {
        /// The version asked for.
        version: String,
    },
    /// The field is none that pods can ask for.
    #[error("field label not supported: {path}")]
    Unsupported {
        /// The path.
        path: String,
    },
    /// Only labels and annotations are read by key.
    #[error("field label does not support subscript: {path}")]
    Subscript {
        /// The path.
        path: String,
    },
    /// No label or annotation can have that key.
    #[error(
        "invalid key subscript in {path}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
    )]
    Key {
        /// The path.
        path: String,
    },
    /// The node has no address yet.
    #[error("failed to get host IPs: the node has no address")]
    NoHostIp,
    /// A field of the metadata has no value.
    #[error(transparent)]
    Metadata(#[from] FieldError),
    /// The container is none of the pod's.
    #[error("container {name} not found")]
    NoContainer {
        /// The name.
        name: String,
    },
    /// The resource is none that the downward API offers.
    #[error("unsupported container resource : {resource}")]
    Resource {
        /// The resource.
        resource: String,
    },
    /// The divisor cannot be read.
    #[error("divisor of {resource}: {source}")]
    Divisor {
        /// The resource.
        resource: String,
        /// What is wrong with it.
        source: QuantityError,
    },
}

/// Whether a text can be the key of a label or an annotation.
fn is_qualified_name(text: &str) -> bool {
    let part = |name: &str, most: usize, inner: &[u8]| {
        let bytes = name.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        name.len() <= most
            && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || inner.contains(b))
    };
    match text.split_once('/') {
        Some((prefix, name)) => part(prefix, 253, b"-.") && prefix == prefix.to_ascii_lowercase() && part(name, 63, b"-_."),
        None => part(text, 63, b"-_."),
    }
}

/// A field of the pod as text, for environment variables. Addresses come primary first.
///
/// # Errors
/// A path that the downward API does not offer.
pub fn field_value(
    pod: &Pod,
    path: &str,
    pod_ips: &[IpAddr],
    host_ips: &[IpAddr],
    node: Option<&NodeInfo>,
) -> Result<String, FieldValueError> {
    let joined = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            // The keys of annotations may be in upper case, but for the check.
            "metadata.annotations" | "metadata.labels" if is_qualified_name(&key.to_ascii_lowercase()) => Ok(metadata_field(pod, path)?),
            "metadata.annotations" | "metadata.labels" => Err(FieldValueError::Key { path: path.to_owned() }),
            _ => Err(FieldValueError::Subscript { path: path.to_owned() }),
        };
    }
    match path {
        "metadata.annotations" | "metadata.labels" | "metadata.name" | "metadata.namespace" | "metadata.uid" => {
            Ok(metadata_field(pod, path)?)
        }
        "spec.nodeName" | "spec.host" => {
            let bound = spec.and_then(|s| s.node_name.clone()).filter(|name| !name.is_empty());
            Ok(bound.or_else(|| node.map(|n| n.name.clone())).unwrap_or_default())
        }
        "spec.serviceAccountName" => Ok(spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()),
        "status.hostIP" | "status.hostIPs" if host_ips.is_empty() => Err(FieldValueError::NoHostIp),
        "status.hostIP" => Ok(first(host_ips)),
        "status.hostIPs" => Ok(joined(host_ips)),
        "status.podIP" => Ok(first(pod_ips)),
        "status.podIPs" => Ok(joined(pod_ips)),
        // Known to the API, offered to nobody.
        "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => Err(FieldError::UnsupportedPath { path: path.to_owned() }.into()),
        _ => Err(FieldValueError::Unsupported { path: path.to_owned() }),
    }
}

/// A resource of a container as a whole number of the selector's divisor, rounded up. A limit that is not set is the pod's, else
/// what the node can allocate. Without a container name, `container` is meant.
///
/// # Errors
/// A container or a resource that does not exist; an unreadable divisor.
pub fn resource_field_value(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    container: Option<&Container>,
    node: Option<&NodeInfo>,
) -> Result<String, FieldValueError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = match (name, container) {
        ("", Some(container)) => container,
        _ => {
            let spec = pod.spec.iter();
            let mut all = spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
            let found = all.find(|container| container.name == name);
            found.ok_or_else(|| FieldValueError::NoContainer { name: name.to_owned() })?
        }
    };
    let unsupported = || FieldValueError::Resource { resource: selector.resource.clone() };
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let defaulted = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if !defaulted && !resource.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let own = |list: &std::collections::BTreeMap<String, Amount>| list.get(resource).copied().filter(|a| !a.is_zero());
    let amount = match list {
        "requests" => own(&container_requests(container)),
        "limits" => {
            let limits = amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()));
            let allocatable = node.and_then(|n| own(&amounts(Some(&n.allocatable))));
            let pod_limits = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
            let of_pod = || {
                let counts = has_pod_level_resources(pod) && resource != "ephemeral-storage";
                counts.then(|| own(&amounts(pod_limits))).flatten()
            };
            let default = || if defaulted { of_pod().or(allocatable) } else { None };
            own(&limits).or_else(default)
        }
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().filter(|d| !d.0.is_empty()).map(Amount::of).transpose();
    let divisor = divisor.map_err(|source| FieldValueError::Divisor { resource: selector.resource.clone(), source })?;
    Ok(amount.unwrap_or_default().divided(divisor.unwrap_or_default(), resource == "cpu").to_string())
}
