//! The cluster's Services, as far as environment variables need them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kube_pet_core::container_env::{ServiceFacts, ServicePortFacts};
use kube_pet_core::services::Service;
use tokio::sync::watch;

use super::last::LastServices;

/// How long the start of a container waits for the first list: an API server that answers does so within it.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// The Service that pods of all namespaces are told of.
const API_SERVER: &str = "default/kubernetes";

type Services = Arc<RwLock<BTreeMap<Arc<str>, Arc<Service>>>>;

/// A read-only view of all Services.
#[derive(Clone)]
pub struct ServiceReader {
    services: Services,
    last: Option<Arc<LastServices>>,
    synced: watch::Receiver<bool>,
}

/// The one who knows of changes.
pub(super) struct ServiceWriter {
    services: Services,
    synced: watch::Sender<bool>,
}

/// Both ends; what pods are told is kept in `last` for the next run.
pub(super) fn store(last: Option<LastServices>) -> (ServiceWriter, ServiceReader) {
    let services = Services::default();
    let (tx, synced) = watch::channel(false);
    (ServiceWriter { services: services.clone(), synced: tx }, ServiceReader { services, last: last.map(Arc::new), synced })
}

impl ServiceWriter {
    pub(super) fn put(&self, service: Arc<Service>) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).insert(service.key.clone(), service);
    }

    pub(super) fn remove(&self, key: &str) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// A list is complete.
    pub(super) fn synced(&self) {
        self.synced.send_replace(true);
    }
}

impl ServiceReader {
    /// Without an API server: no Services, at once.
    pub fn none() -> Self {
        let (writer, reader) = store(None);
        writer.synced();
        reader
    }

    /// The Services that a pod of this namespace is told of, once the first list is complete. If that takes longer than [`FIRST_LIST`], those
    /// that an earlier run has told last; `None` if there was none.
    pub async fn for_pods_in(&self, namespace: &str) -> Option<Vec<ServiceFacts>> {
        let mut synced = self.synced.clone();
        // An error of the watch: it has ended with the agent, what it knew last counts.
        let in_time = tokio::time::timeout(FIRST_LIST, synced.wait_for(|synced| *synced)).await.is_ok();
        if !in_time {
            return self.last.as_ref()?.read(namespace).await;
        }
        let known = self.known(namespace);
        Some(match &self.last {
            Some(last) => last.write(namespace, known).await,
            None => known,
        })
    }

    fn known(&self, namespace: &str) -> Vec<ServiceFacts> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let from = format!("{namespace}/");
        let own =
            services.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&from));
        let api_server = services.get_key_value(API_SERVER).filter(|(key, _)| !key.starts_with(&from));
        own.chain(api_server).map(|(_, service)| facts(service)).collect()
    }

    /// Whether the first list is complete.
    pub fn synced(&self) -> bool {
        *self.synced.borrow()
    }
}

fn facts(service: &Service) -> ServiceFacts {
    let (namespace, name) = service.key.split_once('/').unwrap_or_default();
    ServiceFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        cluster_ip: service.cluster_ips.first().map(ToString::to_string).unwrap_or_default(),
        ports: service
            .ports
            .iter()
            .map(|port| ServicePortFacts {
                name: (!port.name.is_empty()).then(|| port.name.to_string()),
                port: i32::from(port.port),
                protocol: port.protocol.name().to_owned(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use kube_pet_core::services::{Protocol, ServicePort};

    use super::*;

    fn service(key: &str) -> Arc<Service> {
        Arc::new(Service {
            key: key.into(),
            created: 0,
            proxied: true,
            cluster_ips: ["10.96.0.1".parse().unwrap()].into(),
            external_ips: [].into(),
            load_balancer_ips: [].into(),
            source_ranges: [].into(),
            ports: [ServicePort { name: "".into(), protocol: Protocol::Udp, port: 53, node_port: 0 }].into(),
            internal_local: false,
            external_local: false,
            affinity: None,
            health_check_port: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_list_is_waited_for_and_not_without_end() {
        let (writer, reader) = store(None);
        writer.put(service("a/web"));
        assert!(reader.for_pods_in("a").await.is_none(), "the API server does not answer");
        let late = async {
            tokio::time::sleep(FIRST_LIST / 2).await;
            writer.synced();
        };
        let (found, ()) = tokio::join!(reader.for_pods_in("a"), late);
        assert_eq!(found.unwrap().len(), 1);
        assert!(ServiceReader::none().for_pods_in("a").await.unwrap().is_empty(), "without a cluster there is nothing to wait for");
    }

    #[tokio::test]
    async fn a_pod_is_told_of_its_namespace_and_of_the_api_server() {
        let (writer, reader) = store(None);
        for key in ["a/web", "a-b/web", "a/db", "b/web", "default/kubernetes", "default/other"] {
            writer.put(service(key));
        }
        writer.synced();
        let told = async |namespace| {
            let found = reader.for_pods_in(namespace).await.unwrap();
            found.into_iter().map(|service| format!("{}/{}", service.namespace, service.name)).collect::<Vec<_>>()
        };
        assert_eq!(told("a").await, ["a/db", "a/web", "default/kubernetes"]);
        assert_eq!(told("default").await, ["default/kubernetes", "default/other"]);
        writer.remove("a/db");
        let found = reader.for_pods_in("a").await.unwrap();
        let port = ServicePortFacts { name: None, port: 53, protocol: "UDP".into() };
        let web = ServiceFacts { namespace: "a".into(), name: "web".into(), cluster_ip: "10.96.0.1".into(), ports: vec![port] };
        assert_eq!(found[0], web);
    }
}
