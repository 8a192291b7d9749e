//! The cluster's Services, as far as environment variables need them.

use std::sync::Arc;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube_pet_core::container_env::{ServiceFacts, ServicePortFacts};
use tokio::sync::watch;
use tracing::warn;

use crate::api::ApiHandle;

/// How long the start of a container waits for the first list: an API server that answers does so within it.
const FIRST_LIST: std::time::Duration = std::time::Duration::from_secs(5);

/// A read-only view of all Services, trimmed to what is used.
#[derive(Clone)]
pub struct ServiceReader {
    state: watch::Receiver<State>,
}

#[derive(Clone, Default)]
struct State {
    services: Arc<Vec<ServiceFacts>>,
    synced: bool,
}

impl ServiceReader {
    /// Without an API server: no Services, at once.
    pub fn none() -> Self {
        let (_, state) = watch::channel(State { synced: true, ..State::default() });
        Self { state }
    }

    /// All Services, once the first list is complete; `None` if that takes longer than [`FIRST_LIST`].
    pub async fn all(&self) -> Option<Arc<Vec<ServiceFacts>>> {
        let mut state = self.state.clone();
        let synced = tokio::time::timeout(FIRST_LIST, state.wait_for(|s| s.synced)).await;
        match synced {
            Ok(Ok(state)) => Some(state.services.clone()),
            // The watch has ended with the agent: what it knew last.
            Ok(Err(_)) => Some(self.state.borrow().services.clone()),
            Err(_) => None,
        }
    }

    /// Whether the first list is complete.
    pub fn synced(&self) -> bool {
        self.state.borrow().synced
    }
}

/// The reader, and the task that keeps it up to date until it is dropped.
pub fn watch(api: ApiHandle) -> (ServiceReader, impl Future<Output = ()> + Send) {
    let (tx, state) = watch::channel(State::default());
    (ServiceReader { state }, run(api, tx))
}

async fn run(mut api: ApiHandle, tx: watch::Sender<State>) {
    loop {
        let services: Api<Service> = Api::all(api.client());
        let stream = watcher::watcher(services, watcher::Config::default().timeout(240));
        let mut stream = std::pin::pin!(stream);
        let mut listed: Vec<ServiceFacts> = Vec::new();
        let mut delay = std::time::Duration::from_millis(200);
        loop {
            let event = tokio::select! {
                event = stream.try_next() => event,
                () = api.replaced() => break,
                () = tx.closed() => return,
            };
            match event {
                Ok(Some(event)) => {
                    delay = std::time::Duration::from_millis(200);
                    apply(event, &mut listed, &tx);
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(%error, "watching services failed; retrying");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(std::time::Duration::from_secs(5));
                }
            }
        }
    }
}

fn apply(event: Event<Service>, listed: &mut Vec<ServiceFacts>, tx: &watch::Sender<State>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(service) => listed.push(facts(&service)),
        Event::InitDone => {
            let services = Arc::new(std::mem::take(listed));
            tx.send_replace(State { services, synced: true });
        }
        Event::Apply(service) => {
            let new = facts(&service);
            tx.send_modify(|state| {
                let services = Arc::make_mut(&mut state.services);
                services.retain(|s| (&s.namespace, &s.name) != (&new.namespace, &new.name));
                services.push(new);
            });
        }
        Event::Delete(service) => {
            let gone = facts(&service);
            tx.send_modify(|state| {
                Arc::make_mut(&mut state.services).retain(|s| (&s.namespace, &s.name) != (&gone.namespace, &gone.name));
            });
        }
    }
}

fn facts(service: &Service) -> ServiceFacts {
    let spec = service.spec.as_ref();
    ServiceFacts {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        name: service.metadata.name.clone().unwrap_or_default(),
        cluster_ip: spec.and_then(|s| s.cluster_ip.clone()).unwrap_or_default(),
        ports: spec
            .and_then(|s| s.ports.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|p| ServicePortFacts { name: p.name.clone(), port: p.port, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_list_is_waited_for_and_not_without_end() {
        let (tx, state) = watch::channel(State::default());
        let reader = ServiceReader { state };
        assert!(reader.all().await.is_none(), "the API server does not answer");
        let late = async {
            tokio::time::sleep(FIRST_LIST / 2).await;
            apply(Event::InitDone, &mut vec![facts(&Service::default())], &tx);
        };
        let (found, ()) = tokio::join!(reader.all(), late);
        assert_eq!(found.unwrap().len(), 1);
        assert!(ServiceReader::none().all().await.unwrap().is_empty(), "without a cluster there is nothing to wait for");
    }
}
