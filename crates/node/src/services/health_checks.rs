//! Health-check node ports: what a load balancer asks to find out which nodes have endpoints of a Service with
//! `externalTrafficPolicy: Local`. Answers and codes are kube-proxy's (1.37, `healthcheck/service_health.go`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use kube_pet_core::services::HealthCheck;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::status::ProxyStatus;
use crate::server::{Response, plain_json, serve_plain};

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// The servers of all Services that have one.
#[derive(Default)]
pub(super) struct HealthChecks {
    servers: BTreeMap<Arc<str>, Server>,
    status: ProxyStatus,
}

struct Server {
    port: u16,
    local: Arc<AtomicUsize>,
    /// `None`: the port cannot be had.
    _running: Option<DropGuard>,
}

impl HealthChecks {
    /// `status`: whether the proxy gets its rules into the kernel.
    pub(super) fn new(status: ProxyStatus) -> Self {
        Self { servers: BTreeMap::new(), status }
    }

    /// Opens, closes, counts.
    pub(super) fn follow(&mut self, wanted: &BTreeMap<Arc<str>, HealthCheck>) {
        self.servers.retain(|key, server| wanted.get(key).is_some_and(|check| check.port == server.port));
        for (key, check) in wanted {
            let server = self.servers.entry(key.clone()).or_insert_with(|| open(key, check.port, &self.status));
            server.local.store(check.local, Ordering::Relaxed);
        }
    }
}

fn open(key: &Arc<str>, port: u16, status: &ProxyStatus) -> Server {
    let local = Arc::new(AtomicUsize::new(0));
    let running = match listen(port) {
        Ok(listener) => {
            info!(service = &**key, port, "health checks are answered");
            let stop = CancellationToken::new();
            let (key, counted, status) = (key.clone(), local.clone(), status.clone());
            let answer = move |_: &str| answer(&key, counted.load(Ordering::Relaxed), status.is_healthy());
            tokio::spawn(serve_plain(listener, answer, stop.clone()));
            Some(stop.drop_guard())
        }
        Err(error) => {
            warn!(service = &**key, port, %error, "the health-check node port cannot be opened: load balancers will leave this node out");
            None
        }
    };
    Server { port, local, _running: running }
}

/// On all addresses; those of IPv4 where the machine has no IPv6.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind((std::net::Ipv6Addr::UNSPECIFIED, port).into()).or_else(|_| bind((Ipv4Addr::UNSPECIFIED, port).into()))
}

fn answer(key: &str, local: usize, healthy: bool) -> Response {
    let (namespace, name) = key.split_once('/').unwrap_or_default();
    let status = if local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = plain_json(&serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local,
        "serviceProxyHealthy": healthy,
    }));
    *response.status_mut() = status;
    response.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(WEIGHT, HeaderValue::from(local));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_node_without_ready_endpoints_is_left_out() {
        for (local, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let response = answer("ns/web", local, healthy);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[&WEIGHT], local.to_string());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let service = serde_json::json!({"namespace": "ns", "name": "web"});
            assert_eq!(body, serde_json::json!({"service": service, "localEndpoints": local, "serviceProxyHealthy": healthy}));
        }
    }

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn ports_open_count_and_close() {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut checks = HealthChecks::default();
        let wanted = |local| BTreeMap::from([(Arc::from("ns/web"), HealthCheck { port, local })]);
        checks.follow(&wanted(1));
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 200"));
        checks.follow(&wanted(0));
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503"));
        checks.follow(&BTreeMap::new());
        for _ in 0..100 {
            if ask(port).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the port is still open");
    }
}
