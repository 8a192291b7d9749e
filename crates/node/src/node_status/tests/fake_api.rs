//! The part of an API server that holds one Node and its Lease.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use kube_pet_testkit::api::{self, Answer, reply};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
}

#[derive(Default)]
struct State {
    offline: bool,
    version: u64,
    uids: u64,
    node: Option<Value>,
    lease: Option<Value>,
    seen: Vec<Seen>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
}

#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(super) fn client(&self) -> kube::Client {
        let api = self.clone();
        api::client(move |request, body| {
            let mut state = api.0.lock().unwrap();
            if state.offline {
                return Err(std::io::Error::other("network is unreachable"));
            }
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let path = request.uri.path().to_owned();
            state.seen.push(Seen { method: request.method.clone(), path: path.clone(), body: body.clone() });
            Ok(state.answer(&request.method, &path, request.uri.query().unwrap_or_default(), body))
        })
    }
    pub(super) fn set_offline(&self, offline: bool) {
        let mut state = self.0.lock().unwrap();
        state.offline = offline;
        state.watchers.clear();
    }
    pub(super) fn node(&self) -> Option<Value> {
        self.0.lock().unwrap().node.clone()
    }
    pub(super) fn lease(&self) -> Option<Value> {
        self.0.lock().unwrap().lease.clone()
    }
    pub(super) fn delete_lease(&self) {
        self.0.lock().unwrap().lease = None;
    }
    /// All requests since the last call.
    pub(super) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }
    /// What somebody else does to the Node.
    pub(super) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        let mut node = state.node.clone().unwrap();
        change(&mut node);
        state.store(node, "MODIFIED");
    }
    pub(super) fn delete_node(&self) {
        let mut state = self.0.lock().unwrap();
        let node = state.node.take().unwrap();
        // The garbage collector follows the owner.
        state.lease = None;
        state.tell("DELETED", &node);
    }
    /// One condition: status, reason, message.
    pub(super) fn condition(&self, kind: &str) -> Option<(String, String, String)> {
        let node = self.node()?;
        let found = node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?.clone();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }
}

impl State {
    fn store(&mut self, mut node: Value, event: &str) -> Value {
        self.version += 1;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.node = Some(node.clone());
        self.tell(event, &node);
        node
    }

    fn tell(&mut self, event: &str, node: &Value) {
        let line = Bytes::from(format!("{}\n", json!({ "type": event, "object": node })));
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, mut body: Value) -> Answer {
        let node_path = "/api/v1/nodes/pet-1";
        let lease_path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        match (method.as_str(), path) {
            ("GET", "/api/v1/nodes") if query.contains("watch=true") => {
                let (tx, rx) = mpsc::unbounded_channel();
                self.watchers.push(tx);
                let stream =
                    futures::stream::unfold(rx, |mut rx| async move { Some((Ok::<_, Infallible>(Frame::data(rx.recv().await?)), rx)) });
                Response::new(StreamBody::new(stream.boxed()).boxed_unsync())
            }
            ("GET", "/api/v1/nodes") => {
                let items: Vec<_> = self.node.iter().cloned().collect();
                let metadata = json!({ "resourceVersion": self.version.max(1).to_string() });
                reply(200, &json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items }))
            }
            ("POST", "/api/v1/nodes") if self.node.is_some() => refuse(409, "AlreadyExists"),
            ("POST", "/api/v1/nodes") => {
                self.uids += 1;
                body["metadata"]["uid"] = format!("uid-{}", self.uids).into();
                let stored = self.store(body, "ADDED");
                reply(201, &stored)
            }
            (_, path) if path.starts_with(node_path) && self.node.is_none() => refuse(404, "NotFound"),
            ("GET", path) if path == node_path => reply(200, &self.node.clone().unwrap()),
            ("PATCH", path) if path.starts_with(node_path) => {
                let mut node = self.node.clone().unwrap();
                merge(&mut node, &body);
                let stored = self.store(node, "MODIFIED");
                reply(200, &stored)
            }
            ("PATCH", path) if path.starts_with(lease_path) => match self.lease.as_mut() {
                None => refuse(404, "NotFound"),
                Some(lease) => {
                    merge(lease, &body);
                    reply(200, lease)
                }
            },
            ("POST", path) if path == lease_path => {
                self.lease = Some(body.clone());
                reply(201, &body)
            }
            _ => refuse(403, "Forbidden"),
        }
    }
}

/// As far as strategic merging is needed here: conditions by type, addresses as a whole.
fn merge(into: &mut Value, patch: &Value) {
    for (key, new) in patch.as_object().unwrap() {
        let old = &mut into[key];
        match (key.as_str(), new) {
            (_, Value::Null) => {
                into.as_object_mut().unwrap().remove(key);
            }
            ("conditions", Value::Array(items)) => {
                let mut all: BTreeMap<String, Value> = BTreeMap::new();
                for item in old.as_array().into_iter().flatten().chain(items) {
                    all.insert(item["type"].as_str().unwrap().to_owned(), item.clone());
                }
                *old = all.into_values().collect();
            }
            ("addresses", Value::Array(items)) => {
                assert_eq!(items[0], json!({ "$patch": "replace" }));
                *old = items[1..].iter().cloned().collect();
            }
            (_, Value::Object(_)) if old.is_object() => merge(old, new),
            _ => *old = new.clone(),
        }
    }
}

fn refuse(code: u16, reason: &str) -> Answer {
    api::failure(code, reason, reason)
}
