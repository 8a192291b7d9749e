use std::collections::HashMap;
use std::convert::Infallible;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Response;
use hyper::body::{Frame, Incoming};

use super::server::{Server, reply, start_2};
use super::*;

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

fn response(content_type: &str, data: &[u8], trailers: &[(&'static str, &str)]) -> Response<Body> {
    let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let frames = [Ok(Frame::data(Bytes::copy_from_slice(data))), Ok(Frame::trailers(trailers))];
    Response::builder().header("content-type", content_type).body(StreamBody::new(stream::iter(frames)).boxed()).unwrap()
}

/// A health service: what it says depends on the service asked for.
async fn health(request: hyper::Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
    assert_eq!(head.uri.path(), "/grpc.health.v1.Health/Check");
    assert!(header("user-agent").starts_with("kube-probe/1.37 "));
    assert_eq!((header("content-type").as_str(), header("te").as_str()), ("application/grpc", "trailers"));
    let asked = body.collect().await.unwrap().to_bytes();
    let service = asked.get(7..).map(|name| String::from_utf8(name.to_vec()).unwrap()).unwrap_or_default();
    let serving = |status: u8| response("application/grpc", &[0, 0, 0, 0, 2, 8, status], &[("grpc-status", "0")]);
    match service.as_str() {
        "" => serving(1),
        "down" => serving(2),
        "late" => std::future::pending().await,
        "none" => response("application/grpc", &[], &[("grpc-status", "5"), ("grpc-message", "no%20service")]),
        "old" => response("application/grpc", &[], &[("grpc-status", "12"), ("grpc-message", "unknown service grpc.health.v1.Health")]),
        other => response("text/html", other.as_bytes(), &[]),
    }
}

#[tokio::test]
async fn component_the_health_service_decides() {
    let port = start_2(false, health).await;
    let expected = HashMap::from([
        ("", ProbeOutcome::Success("service healthy".into())),
        ("down", failure("service unhealthy (responded with \"NOT_SERVING\")")),
        ("late", failure("timeout: health rpc did not complete within 1s")),
        ("none", failure("error: health rpc probe failed: rpc error: code = NotFound desc = no service")),
        (
            "old",
            failure(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): \
                 unknown service grpc.health.v1.Health",
            ),
        ),
        (
            "web",
            failure(
                "error: health rpc probe failed: rpc error: code = Unknown desc = unexpected HTTP status code received from server: \
                 200 (OK); transport: received unexpected content-type \"text/html\"",
            ),
        ),
    ]);
    for (service, outcome) in expected {
        assert_eq!(probe(json!({"grpc": {"port": port, "service": service}})).await, outcome, "{service}");
    }
}

#[tokio::test]
async fn component_a_server_that_is_none_of_grpc_is_not_connected_to() {
    let plain = Server::start(|_| reply(400, "")).await;
    for port in [plain.port, closed_port().await] {
        let begun = Instant::now();
        let text = format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded");
        assert_eq!(probe(json!({"grpc": {"port": port}})).await, failure(text));
        assert!((900..2500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
}
