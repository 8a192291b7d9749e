//! The client of the API server as kube makes it, with keepalives of TCP: of the agent, the controller and the gateway.
//!
//! By a watch the API server says nothing for minutes, and its client nothing at all. Where the machine has got another address, or a router
//! has forgotten the connection, what the API server says does not come, and nobody notices before the watch's own end after minutes.
//! What was sent and is not answered holds its sender up for a quarter of an hour. The kubelet finds that out by pings of HTTP/2, 30 s after
//! the last word (`readIdleTimeout` of apimachinery's `net/http.go`).

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _, DynBody};
use tower::retry::RetryLayer;
use tower::util::BoxService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

/// After the last word.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Without an answer the connection ends after 15 s more, as the kubelet's.
const INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// The same for what was sent and is not answered by TCP: no keepalives are sent meanwhile.
const UNANSWERED: Duration = Duration::from_secs(45);

/// What a client sends requests by, below its own layers.
pub type Service = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

/// A client to be built. By a proxy it is kube's own: the connection to that is another matter.
///
/// # Errors
/// When the credentials cannot be used.
pub fn builder(config: Config) -> kube::Result<ClientBuilder<Service>> {
    if config.proxy_url.is_some() {
        return ClientBuilder::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(INTERVAL));
    tcp.set_keepalive_retries(Some(RETRIES));
    tcp.set_tcp_user_timeout(Some(UNANSWERED));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http)
        .map_response(|answer| answer.map(|body| Box::new(body.map_err(BoxError::from)) as Box<DynBody>));
    Ok(ClientBuilder::new(service.boxed(), config.default_namespace))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use kube::client::Body;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// The timer of the client's connection to this port, of `/proc/net/tcp`: 2 of a keepalive.
    fn timer(port: u16) -> Option<(String, Duration)> {
        let connections = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let ours = connections.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[2] == format!("0100007F:{port:04X}") && fields[3] == "01").then(|| fields[5].to_owned())
        })?;
        let (kind, ticks) = ours.split_once(':')?;
        // `USER_HZ`
        Some((kind.to_owned(), Duration::from_millis(u64::from_str_radix(ticks, 16).unwrap() * 10)))
    }

    #[tokio::test]
    async fn component_a_connection_on_which_nothing_is_said_is_asked_about_after_half_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = builder(Config::new(format!("http://127.0.0.1:{port}").parse().unwrap())).unwrap().build();
        let watch = tokio::spawn(async move { client.send(Request::get("/watch").body(Body::empty()).unwrap()).await });
        let (mut server, _) = listener.accept().await.unwrap();
        let mut request = [0; 10];
        assert_eq!((server.read_exact(&mut request).await.unwrap(), &request), (10, b"GET /watch"));
        // Its packet is acknowledged, and no other timer runs any more.
        let mut found = timer(port);
        for _ in 0..100 {
            if found.as_ref().is_some_and(|(kind, _)| kind == "02") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            found = timer(port);
        }
        let (kind, left) = found.unwrap();
        assert_eq!(kind, "02", "{left:?}");
        assert!(left > KEEPALIVE - Duration::from_secs(5) && left <= KEEPALIVE, "{left:?}");
        watch.abort();
    }
}
