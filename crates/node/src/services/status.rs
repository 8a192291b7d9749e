//! What kube-proxy answers on ports of its own (1.37, `healthcheck/proxy_health.go`, `app/server.go`): load balancers of the traffic
//! policy `Cluster` and monitoring ask there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use jiff::Timestamp;
use kube_pet_core::node::NodeInfo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::instruments::service_proxy as instruments;
use crate::server::{Response, plain_json, plain_metrics, plain_text, serve_plain};
use crate::stats::text::Text;

/// A port that somebody else has is tried again, as kube-proxy does: it may be a kube-proxy that goes.
const RETRY: Duration = Duration::from_secs(5);
/// Set on a node that the cluster autoscaler is about to delete: new connections shall go elsewhere.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// How the proxy does; cheap to clone.
#[derive(Clone)]
pub(super) struct ProxyStatus(Arc<Mutex<State>>);

#[derive(Clone, Copy)]
struct State {
    healthy: bool,
    updated: Option<Timestamp>,
}

impl Default for ProxyStatus {
    /// Healthy while it starts.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { healthy: true, updated: None })))
    }
}

impl ProxyStatus {
    /// Whether it gets its rules into the kernel, and when it just has.
    pub(super) fn set(&self, healthy: bool, updated: Option<Timestamp>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { healthy, updated: updated.or(state.updated) };
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.state().healthy
    }

    fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves at these addresses until it is dropped.
pub(super) async fn serve(
    healthz: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    status: ProxyStatus,
    node: watch::Receiver<Arc<NodeInfo>>,
) {
    let health = move |path: &str| match path {
        "/healthz" => health(status.state(), Some(eligible(&node.borrow())), Timestamp::now()),
        "/livez" => health(status.state(), None, Timestamp::now()),
        _ => plain_text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    tokio::join!(listen(healthz, health), listen(metrics, about));
}

async fn listen(address: Option<SocketAddr>, answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static) {
    let Some(address) = address else { return };
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                warn!(%address, %error, "the service proxy's health or metrics are not to be had there; trying again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    info!(%address, "the service proxy tells its health or metrics");
    serve_plain(listener, answer, CancellationToken::new()).await;
}

/// Whether new connections may come to this node.
fn eligible(node: &NodeInfo) -> bool {
    !node.uid.is_empty() && !node.taints.iter().any(|taint| taint.key == TO_BE_DELETED)
}

/// `eligible`: whether the node is, where it counts.
fn health(State { healthy, updated }: State, eligible: Option<bool>, now: Timestamp) -> Response {
    let fine = healthy && eligible != Some(false);
    // Go's zero time where nothing has been programmed; recent where all is well.
    let never = "0001-01-01T00:00:00Z".to_owned();
    let last = updated.map_or(never, |updated| updated.to_string());
    let family = json!({"lastUpdated": last, "healthy": healthy});
    let mut body = json!({
        "lastUpdated": if fine { now.to_string() } else { last },
        "currentTime": now.to_string(),
        "healthy": healthy,
        // Both families are programmed together.
        "status": if updated.is_some() { json!({"IPv4": family, "IPv6": family}) } else { json!({}) },
    });
    if let Some(eligible) = eligible {
        body["nodeEligible"] = eligible.into();
    }
    let mut response = plain_json(&body);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !fine {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn about(path: &str) -> Response {
    match path {
        "/proxyMode" => plain_text(StatusCode::OK, "nftables"),
        "/healthz" => plain_text(StatusCode::OK, "ok"),
        "/metrics" => {
            let mut text = Text::default();
            instruments::write(&mut text);
            plain_metrics(text.into_string())
        }
        _ => plain_text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use k8s_openapi::api::core::v1::Taint;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn node(uid: &str, taint: &str) -> NodeInfo {
        NodeInfo { uid: uid.into(), taints: vec![Taint { key: taint.into(), ..Taint::default() }], ..NodeInfo::default() }
    }

    #[tokio::test]
    async fn health_is_the_proxys_and_for_load_balancers_also_the_nodes() {
        let (now, then): (Timestamp, Timestamp) = ("2026-01-01T00:00:09Z".parse().unwrap(), "2026-01-01T00:00:01Z".parse().unwrap());
        for (healthy, eligible, status, last) in [
            (true, Some(true), 200, now),
            (true, None, 200, now),
            (true, Some(false), 503, then),
            (false, Some(true), 503, then),
            (false, None, 503, then),
        ] {
            let response = health(State { healthy, updated: Some(then) }, eligible, now);
            assert_eq!(response.status(), status);
            let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
            let family = json!({"lastUpdated": then.to_string(), "healthy": healthy});
            assert_eq!(body["status"], json!({"IPv4": family, "IPv6": family}));
            assert_eq!((&body["lastUpdated"], &body["healthy"]), (&json!(last.to_string()), &json!(healthy)));
            assert_eq!(body.get("nodeEligible"), eligible.map(Value::from).as_ref());
        }
        assert_eq!(health(State { healthy: true, updated: None }, None, now).status(), 200, "it starts");
        assert!(eligible(&node("u", "other")) && !eligible(&node("u", TO_BE_DELETED)) && !eligible(&node("", "other")));
    }

    async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test(start_paused = true)]
    async fn component_a_port_that_is_taken_is_used_once_it_is_free() {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (health, mode) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
        drop(free);
        let (_tx, rx) = watch::channel(Arc::new(node("u", "other")));
        tokio::spawn(serve(Some(health), Some(mode), ProxyStatus::default(), rx));
        tokio::time::sleep(RETRY * 3).await;
        // Real connections need real time.
        tokio::time::resume();
        assert!(ask(mode, "/proxyMode").await.unwrap().ends_with("\r\n\r\nnftables"), "one port does not wait for the other");
        assert!(ask(mode, "/metrics").await.unwrap().contains("kubeproxy_sync_proxy_rules_duration_seconds"));
        drop(taken);
        tokio::time::pause();
        tokio::time::sleep(RETRY * 2).await;
        tokio::time::resume();
        let answer = ask(health, "/healthz").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"nodeEligible\":true"), "{answer}");
        assert!(ask(health, "/livez").await.unwrap().starts_with("HTTP/1.1 200 OK"));
        assert!(ask(health, "/other").await.unwrap().starts_with("HTTP/1.1 404"));
    }
}
