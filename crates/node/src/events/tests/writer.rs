//! The writer against the part of an API server that keeps events.

use std::sync::Mutex;

use bytes::Bytes;
use http::request::Parts;
use kube_pet_testkit::api::{self, Answer};
use serde_json::Value;

use super::*;

#[derive(Default)]
struct State {
    offline: bool,
    code: Option<u16>,
    calls: Vec<(String, String, Value)>,
}

#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }
    fn calls(&self) -> Vec<(String, String, Value)> {
        self.0.lock().unwrap().calls.clone()
    }
    async fn wait_for(&self, count: usize) -> Vec<(String, String, Value)> {
        for _ in 0..2000 {
            if self.calls().len() >= count {
                return self.calls();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {count} calls: {:?}", self.calls());
    }
}

impl FakeApi {
    fn answer(&self, request: &Parts, body: &Bytes) -> std::io::Result<Answer> {
        let mut state = self.0.lock().unwrap();
        if state.offline {
            return Err(std::io::Error::other("network is unreachable"));
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        state.calls.push((request.method.to_string(), request.uri.path().to_owned(), body.clone()));
        Ok(match state.code {
            Some(code) => api::failure(code, "x", "x"),
            None if request.method == "POST" => api::reply(201, &body),
            None => api::reply(200, &json!({ "metadata": { "name": "a.1" }, "involvedObject": {} })),
        })
    }
}

struct Writer {
    api: FakeApi,
    events: EventRecorder,
    _client: tokio::sync::watch::Sender<kube::Client>,
}

fn start(rate: EventRate) -> Writer {
    let api = FakeApi::default();
    let (client, handle) = ApiHandle::new(api::client({
        let api = api.clone();
        move |request, body| api.answer(request, &body)
    }));
    let (events, writer) = EventRecorder::new(handle, "pet-1", rate);
    tokio::spawn(writer);
    Writer { api, events, _client: client }
}

const FAST: EventRate = EventRate { per_second: 1000, burst: 1000 };

fn pod() -> Pod {
    Pod {
        metadata: ObjectMeta { name: Some("web".into()), namespace: Some("ns".into()), uid: Some("u1".into()), ..ObjectMeta::default() },
        ..Pod::default()
    }
}

fn pulled(events: &EventRecorder) {
    events.pod_event(&pod(), Some("spec.containers{app}".into()), EventType::Normal, "Pulled", "Container image present".into());
}

#[tokio::test(start_paused = true)]
async fn component_an_event_is_created_and_then_counted() {
    let writer = start(FAST);
    pulled(&writer.events);
    pulled(&writer.events);
    let calls = writer.api.wait_for(2).await;
    let (method, path, event) = &calls[0];
    assert_eq!((method.as_str(), path.as_str()), ("POST", "/api/v1/namespaces/ns/events"));
    let object =
        json!({ "kind": "Pod", "apiVersion": "v1", "namespace": "ns", "name": "web", "uid": "u1", "fieldPath": "spec.containers{app}" });
    assert_eq!(event["involvedObject"], object);
    assert_eq!((&event["reason"], &event["type"], &event["count"]), (&json!("Pulled"), &json!("Normal"), &json!(1)));
    assert_eq!(event["source"], json!({ "component": "kubelet", "host": "pet-1" }));
    let name = event["metadata"]["name"].as_str().unwrap();
    let (method, path, patch) = &calls[1];
    assert_eq!((method.as_str(), path.as_str()), ("PATCH", format!("/api/v1/namespaces/ns/events/{name}").as_str()));
    assert_eq!(patch["count"], 2);
    assert!(patch.get("firstTimestamp").is_none());
}

#[tokio::test(start_paused = true)]
async fn component_an_expired_event_is_created_anew_with_its_count() {
    let writer = start(FAST);
    pulled(&writer.events);
    writer.api.wait_for(1).await;
    writer.api.set(|state| state.code = Some(404));
    pulled(&writer.events);
    let calls = writer.api.wait_for(3).await;
    assert_eq!((calls[1].0.as_str(), calls[2].0.as_str(), &calls[2].2["count"]), ("PATCH", "POST", &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn component_nobody_waits_while_the_api_server_is_away_and_nothing_is_lost() {
    let writer = start(FAST);
    writer.api.set(|state| state.offline = true);
    pulled(&writer.events);
    writer.events.node_event(EventType::Normal, "NodeReady", "Node pet-1 status is now: NodeReady".into());
    tokio::time::sleep(Duration::from_secs(40)).await;
    writer.api.set(|state| state.offline = false);
    let calls = writer.api.wait_for(2).await;
    assert_eq!((&calls[0].2["reason"], &calls[1].2["reason"]), (&json!("Pulled"), &json!("NodeReady")));
    assert_eq!(calls[1].1, "/api/v1/namespaces/default/events");
    assert_eq!(calls[1].2["involvedObject"], json!({ "kind": "Node", "apiVersion": "v1", "name": "pet-1" }));
}

#[tokio::test(start_paused = true)]
async fn component_a_refused_event_is_not_tried_again_and_holds_up_no_other() {
    let writer = start(FAST);
    writer.api.set(|state| state.code = Some(403));
    pulled(&writer.events);
    writer.api.wait_for(1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(writer.api.calls().len(), 1);
    writer.api.set(|state| state.code = None);
    writer.events.node_is("uid-1");
    writer.events.node_is("uid-2");
    writer.events.node_event(EventType::Warning, "Rebooted", "m".into());
    let calls = writer.api.wait_for(2).await;
    assert_eq!(calls[1].2["involvedObject"]["uid"], "uid-1");
}
