//! Probes and hooks against servers that the test plays.

mod exec;
mod grpc;
mod http;
mod server;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use kube_pet_core::ids::ContainerId;
use kube_pet_podman::Client;
use kube_pet_testkit::pod::PodBuilder;
use serde_json::{Value, json};

use super::*;

const LOCALHOST: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::LOCALHOST)];

/// Handlers whose Podman is not there.
fn without_podman() -> Handlers {
    Handlers::new(Executor::by_podman(Client::new("/nonexistent/podman.sock")), "v1.37.1+kube-pet.0.1.0").unwrap()
}

fn pod(container: Value) -> (Pod, Container) {
    let pod = PodBuilder::new("web").container_from(container).build();
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    (pod, container)
}

async fn probe_of(handlers: &Handlers, probe: Value, container: Value) -> ProbeOutcome {
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let (pod, container) = pod(container);
    handlers.probe(&pod, &container, &probe, LOCALHOST, &ContainerId::new("c1")).await
}

async fn probe(probe: Value) -> ProbeOutcome {
    probe_of(&without_podman(), probe, json!({"name": "c"})).await
}

async fn hook_of(handlers: &Handlers, handler: Value) -> Result<HookDone, String> {
    let handler: LifecycleHandler = serde_json::from_value(handler).unwrap();
    let (pod, container) = pod(json!({"name": "c"}));
    handlers.hook(&pod, &container, &handler, LOCALHOST, &ContainerId::new("c1")).await
}

async fn hook(handler: Value) -> Result<HookDone, String> {
    hook_of(&without_podman(), handler).await
}

fn failure(text: impl Into<String>) -> ProbeOutcome {
    ProbeOutcome::Failure(text.into())
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn component_a_tcp_probe_wants_no_more_than_a_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(probe(json!({"tcpSocket": {"port": port}})).await, ProbeOutcome::Success(String::new()));
    let container = json!({"name": "c", "ports": [{"name": "db", "containerPort": port}]});
    let named = probe_of(&without_podman(), json!({"tcpSocket": {"port": "db"}}), container).await;
    assert_eq!(named, ProbeOutcome::Success(String::new()));
    assert_eq!(probe(json!({"tcpSocket": {"port": "db"}})).await, ProbeOutcome::Unknown("port \"db\" not found".into()));
    let closed = closed_port().await;
    let refused = format!("dial tcp 127.0.0.1:{closed}: connect: connection refused");
    assert_eq!(probe(json!({"tcpSocket": {"port": closed}})).await, failure(refused));
}

#[tokio::test]
async fn component_a_connection_that_nobody_answers_ends_with_the_time_limit() {
    // The queue of a listener that accepts nothing takes a few, and then the kernel drops what asks.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await {
        queued.push(stream);
    }
    let begun = Instant::now();
    let outcome = probe(json!({"tcpSocket": {"port": address.port()}, "timeoutSeconds": 1})).await;
    assert_eq!(outcome, failure(format!("dial tcp {address}: i/o timeout")));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn component_a_probe_or_hook_without_a_handler_says_so() {
    assert_eq!(probe(json!({})).await, ProbeOutcome::Unknown("missing probe handler for web_default(web-uid):c".into()));
    assert_eq!(
        hook(json!({"tcpSocket": {"port": 80}})).await.unwrap_err(),
        "Cannot run handler: invalid handler: &LifecycleHandler{Exec:nil,HTTPGet:nil,TCPSocket:&TCPSocketAction{Port:{0 80 },Host:,},Sleep:nil,}"
    );
}

#[tokio::test(start_paused = true)]
async fn component_a_sleep_hook_sleeps() {
    let begun = tokio::time::Instant::now();
    assert_eq!(hook(json!({"sleep": {"seconds": 7}})).await, Ok(HookDone::default()));
    assert_eq!(begun.elapsed().as_secs(), 7);
}
