//! Events, as a kubelet writes them (core/v1), with client-go's aggregation and spam filter.

mod correlator;
mod rate;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::correlator::{Correlated, Correlator};
use self::rate::Bucket;
use crate::api::ApiHandle;

/// Events waiting to be written; more are dropped, and counted in the log.
const QUEUE: usize = 1000;
/// What leaves room for a point and 16 digits in an object's name.
const MAX_NAME: usize = 253 - 17;
/// client-go's `maxTriesPerEvent`.
const TRIES: u32 = 12;

/// An event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Normal
    Normal,
    /// Warning
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events without ever making its caller wait. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    queue: Option<mpsc::Sender<Recorded>>,
    node_name: Arc<str>,
    node_uid: Arc<OnceLock<String>>,
}

/// How many events may be written (`eventRecordQPS`, `eventBurst`).
#[derive(Clone, Copy, Debug)]
pub struct EventRate {
    /// Per second; 0 is no limit.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// One thing that happened.
#[derive(Clone, Debug)]
struct Recorded {
    object: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl EventRecorder {
    /// A recorder that only writes to the log.
    pub fn disabled() -> Self {
        Self { queue: None, node_name: Arc::from(""), node_uid: Arc::default() }
    }

    /// A recorder, and the task that writes what it records until every clone of it is dropped.
    pub fn new(api: ApiHandle, node_name: &str, rate: EventRate) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let node_name: Arc<str> = Arc::from(node_name);
        let recorder = Self { queue: Some(tx), node_name: node_name.clone(), node_uid: Arc::default() };
        (recorder, write(api, node_name, rate, rx))
    }

    /// The UID that events about this node carry from now on: that of the Node as the API server first showed it.
    pub fn node_is(&self, uid: &str) {
        let _ = self.node_uid.set(uid.to_owned());
    }

    /// An event about a pod, or about the container that `field_path` names (`spec.containers{app}`).
    /// About a static pod, the object is its mirror: same name, and the hash as UID, as the kubelet does.
    pub fn pod_event(&self, pod: &Pod, field_path: Option<String>, kind: EventType, reason: &str, message: String) {
        let meta = &pod.metadata;
        self.record(Recorded {
            object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                field_path,
            },
            kind,
            reason: reason.to_owned(),
            message,
            at: Timestamp::now(),
        });
    }

    /// An event about this node.
    pub fn node_event(&self, kind: EventType, reason: &str, message: String) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node_name.to_string()),
            uid: self.node_uid.get().cloned(),
            ..ObjectReference::default()
        };
        self.record(Recorded { object, kind, reason: reason.to_owned(), message, at: Timestamp::now() });
    }

    fn record(&self, event: Recorded) {
        debug!(object = event.object.name, path = event.object.field_path, reason = event.reason, message = event.message, "event");
        if let Some(queue) = &self.queue
            && queue.try_send(event).is_err()
        {
            warn!("too many events are waiting for the API server; one is dropped");
        }
    }
}

async fn write(api: ApiHandle, node_name: Arc<str>, rate: EventRate, mut queue: mpsc::Receiver<Recorded>) {
    let mut correlator = Correlator::default();
    let mut limit = (rate.per_second > 0).then(|| Bucket::new(f64::from(rate.burst), f64::from(rate.per_second), Timestamp::now()));
    while let Some(recorded) = queue.recv().await {
        let Some(correlated) = correlator.correlate(recorded) else { continue };
        if let Some(limit) = &mut limit {
            while !limit.take(Timestamp::now()) {
                tokio::time::sleep(limit.wait()).await;
            }
        }
        let mut pause = Duration::from_millis(500);
        for attempt in 1..=TRIES {
            match send(&api, &node_name, &correlated).await {
                Ok(name) => {
                    correlator.written(&correlated, name);
                    break;
                }
                Err(error) if error.is_final => {
                    debug!(error = error.text, "event refused");
                    break;
                }
                Err(error) => {
                    if attempt == TRIES {
                        warn!(error = error.text, reason = correlated.event.reason, "event given up");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }
}

struct SendError {
    is_final: bool,
    text: String,
}

/// Creates the event, or raises the count of the one that was written before. Returns its name.
async fn send(api: &ApiHandle, node_name: &str, correlated: &Correlated) -> Result<String, SendError> {
    let namespace = correlated.event.object.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(api.client(), namespace);
    let deadline = Duration::from_secs(15);
    if let Some(name) = &correlated.known_as {
        let body = json!({
            "count": correlated.count,
            "message": correlated.event.message,
            "lastTimestamp": Time(correlated.event.at),
        });
        let (params, body) = (PatchParams::default(), Patch::Strategic(body));
        match tokio::time::timeout(deadline, events.patch(name, &params, &body)).await {
            Ok(Ok(_)) => return Ok(name.clone()),
            // It was expired by the API server meanwhile: made anew below.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(SendError { is_final: false, text: "no answer".into() }),
        }
    }
    let event = event_object(node_name, namespace, correlated);
    match tokio::time::timeout(deadline, events.create(&PostParams::default(), &event)).await {
        Ok(Ok(made)) => Ok(made.metadata.name.unwrap_or_default()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(SendError { is_final: false, text: "no answer".into() }),
    }
}

fn failed(error: &kube::Error) -> SendError {
    // What the API server has understood and refused (namespace gone, name taken) stays refused.
    let is_final = matches!(error, kube::Error::Api(status) if status.code < 500 && status.code != 429);
    SendError { is_final, text: error.to_string() }
}

fn event_object(node_name: &str, namespace: &str, correlated: &Correlated) -> Event {
    let recorded = &correlated.event;
    let name = recorded.object.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            // A pod's name may be so long that nothing more fits.
            name: Some(format!("{}.{:x}", name.get(..MAX_NAME).unwrap_or(name), recorded.at.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: recorded.object.clone(),
        type_: Some(recorded.kind.as_str().to_owned()),
        reason: Some(recorded.reason.clone()),
        message: Some(recorded.message.chars().take(1024).collect()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node_name.to_owned()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node_name.to_owned()),
        first_timestamp: Some(Time(correlated.first)),
        last_timestamp: Some(Time(recorded.at)),
        count: Some(correlated.count),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests;
