//! The host ports that a pod asks for.

use k8s_openapi::api::core::v1::Pod;

use super::objects::HostPort;
use crate::resources::is_sidecar;
use kube_pet_rules::Protocol;

/// The ports of the node that lead into the pod: those of all containers that run as long as it does. None in the host's
/// network, where its ports are the node's already.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| !spec.host_network.unwrap_or(false)) else {
        return Vec::new();
    };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                address: port.host_ip.as_deref().and_then(|text| text.parse().ok()),
                protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
                port: u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let text = |port: HostPort| {
            let address = port.address.map_or_else(|| "*".to_owned(), |address| address.to_string());
            format!("{address}:{} {} {}", port.port, port.protocol.name(), port.container_port)
        };
        host_ports(&pod).into_iter().map(text).collect()
    }

    #[test]
    fn ports_of_containers_and_sidecars_lead_into_the_pod() {
        let with = |name: &str, port: Value| json!({"name": name, "ports": [{"containerPort": 1}, port]});
        let mut sidecar = with("s", json!({"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}));
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({
            "initContainers": [with("i", json!({"containerPort": 2, "hostPort": 2})), sidecar],
            "containers": [with("c", json!({"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}))],
        });
        assert_eq!(of(spec.clone()), ["*:5353 UDP 53", "127.0.0.1:8080 TCP 80"]);
        let mut on_host = spec;
        on_host["hostNetwork"] = true.into();
        assert!(of(on_host).is_empty());
    }
}
