use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What environment variables need to know of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.clusterIP`; empty or `None` for a headless one.
    pub cluster_ip: String,
    /// `spec.ports`, in order.
    pub ports: Vec<ServicePortFacts>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePortFacts {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Variables that tell a pod where Services are: those of its namespace if `links`, and always `default/kubernetes`, which
/// clients in pods find the API server by.
pub fn service_env(services: &[ServiceFacts], pod_namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &ServiceFacts> = BTreeMap::new();
    for service in services {
        if matches!(service.cluster_ip.as_str(), "" | "None") {
            continue;
        }
        if service.namespace == "default" && service.name == "kubernetes" {
            // One of that name in the pod's own namespace wins.
            chosen.entry(&service.name).or_insert(service);
        } else if service.namespace == pod_namespace && links {
            chosen.insert(&service.name, service);
        }
    }
    let mut env = BTreeMap::new();
    for service in chosen.into_values() {
        add(&mut env, service);
    }
    env
}

fn variable_name(text: &str) -> String {
    text.replace('-', "_").to_ascii_uppercase()
}

fn add(env: &mut BTreeMap<String, String>, service: &ServiceFacts) {
    let ip = &service.cluster_ip;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let prefix = variable_name(&service.name);
    env.insert(format!("{prefix}_SERVICE_HOST"), ip.clone());
    for (index, port) in service.ports.iter().enumerate() {
        let number = port.port.to_string();
        if index == 0 {
            env.insert(format!("{prefix}_SERVICE_PORT"), number.clone());
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), number.clone());
        }
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let lower = protocol.to_ascii_lowercase();
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        env.insert(format!("{link}_PROTO"), lower);
        env.insert(format!("{link}_PORT"), number);
        env.insert(format!("{link}_ADDR"), ip.clone());
        env.insert(link, url);
    }
}
