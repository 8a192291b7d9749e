//! The API server's pods of this node, by list and watch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube_pet_core::ids::PodUid;
use kube_pet_core::pod::pod_uid;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{PodUpdate, Source};
use crate::api::ApiHandle;

/// Watches until the receiver is dropped. Disconnections are retried with back-off; after each complete list, pods that are
/// no longer there are reported as gone.
pub async fn watch(mut api: ApiHandle, node_name: String, out: mpsc::Sender<PodUpdate>) {
    let mut known: BTreeSet<PodUid> = BTreeSet::new();
    loop {
        let pods: Api<Pod> = Api::all(api.client());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}")).timeout(240);
        let stream = watcher::watcher(pods, config);
        let mut stream = std::pin::pin!(stream);
        let mut delay = Duration::from_millis(200);
        let mut listed: BTreeSet<PodUid> = BTreeSet::new();
        let mut failing = false;
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = api.replaced() => {
                    info!("API client replaced; watching pods with the new identity");
                    break;
                }
            };
            match event {
                Some(Ok(event)) => {
                    // `Init` only says that a list is being tried.
                    if !matches!(event, Event::Init) {
                        if std::mem::take(&mut failing) {
                            info!("pod watch is back");
                        }
                        delay = Duration::from_millis(200);
                    }
                    if deliver(event, &mut known, &mut listed, &out).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "watching pods failed; retrying");
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
                None => break,
            }
        }
    }
}

struct ReceiverGone;

async fn deliver(
    event: Event<Pod>,
    known: &mut BTreeSet<PodUid>,
    listed: &mut BTreeSet<PodUid>,
    out: &mpsc::Sender<PodUpdate>,
) -> Result<(), ReceiverGone> {
    let send = |update| async { out.send(update).await.map_err(|_| ReceiverGone) };
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(pod) => {
            let uid = pod_uid(&pod);
            listed.insert(uid.clone());
            known.insert(uid);
            send(PodUpdate::Put(Source::Api, Arc::new(slim(pod)))).await?;
        }
        Event::InitDone => {
            for uid in known.difference(listed).cloned().collect::<Vec<_>>() {
                known.remove(&uid);
                send(PodUpdate::Gone(Source::Api, uid)).await?;
            }
            send(PodUpdate::Synced(Source::Api)).await?;
        }
        Event::Apply(pod) => {
            known.insert(pod_uid(&pod));
            send(PodUpdate::Put(Source::Api, Arc::new(slim(pod)))).await?;
        }
        Event::Delete(pod) => {
            let uid = pod_uid(&pod);
            known.remove(&uid);
            // The last state of the object tells the grace period.
            send(PodUpdate::Put(Source::Api, Arc::new(slim(pod)))).await?;
            send(PodUpdate::Gone(Source::Api, uid)).await?;
        }
    }
    Ok(())
}

/// Without `managedFields`, which are large and never used.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}
