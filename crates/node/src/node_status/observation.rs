//! The watch of this node's own object: its deletion, its pod network, labels and taints.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;

use super::Known;
use super::call::Complaint;
use crate::api::ApiHandle;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// Keeps `known` up to date, until dropped.
pub(super) async fn keep(mut api: ApiHandle, node_name: String, known: watch::Sender<Known>) {
    let mut complaint = Complaint::new("the Node cannot be watched");
    let mut delay = FIRST_DELAY;
    loop {
        let nodes: Api<Node> = Api::all(api.client());
        // By name: that is all that a node may see.
        let config = watcher::Config::default().fields(&format!("metadata.name={node_name}")).timeout(240);
        let mut stream = std::pin::pin!(watcher::watcher(nodes, config));
        let mut listed = None;
        loop {
            let event = tokio::select! {
                event = stream.try_next() => event,
                () = api.replaced() => break,
            };
            match event {
                Ok(Some(event)) => {
                    // `Init` only says that a list is being tried.
                    if !matches!(event, Event::Init) {
                        delay = FIRST_DELAY;
                        complaint.over();
                    }
                    match event {
                        Event::Init => listed = None,
                        Event::InitApply(node) => listed = Some(node),
                        Event::InitDone => set(&known, listed.take()),
                        Event::Apply(node) => set(&known, Some(node)),
                        Event::Delete(_) => set(&known, None),
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    complaint.tell(&error);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = api.replaced() => break,
                    }
                    delay = (delay * 2).min(LAST_DELAY);
                }
            }
        }
    }
}

/// Takes a sighting over. Readers are woken by what they act on; a status is our own, or seen at the next heartbeat.
pub(super) fn set(known: &watch::Sender<Known>, node: Option<Node>) {
    let new = node.map_or(Known::Absent, |node| Known::Present(Arc::new(node)));
    known.send_if_modified(|old| {
        let wakes = match (&*old, &new) {
            (Known::Present(old), Known::Present(new)) => {
                old.metadata.uid != new.metadata.uid || old.metadata.labels != new.metadata.labels || old.spec != new.spec
            }
            (Known::Absent, Known::Absent) => false,
            _ => true,
        };
        *old = new;
        wakes
    });
}
