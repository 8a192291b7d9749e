//! The client of the API server as kube makes it, with keepalives of TCP.
//!
//! By a watch the API server says nothing for minutes, and the agent nothing at all. Where the machine has got another address, or a router
//! has forgotten the connection, what the API server says does not come, and nobody notices before the watch's own end after minutes.
//! The kubelet finds that out by pings of HTTP/2, 30 s after the last word (`readIdleTimeout` of apimachinery's `net/http.go`).

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::counting::CountRequests;

/// After the last word.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Without an answer the connection ends after 15 s more, as the kubelet's.
const INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// A client that counts. By a proxy it is kube's own: the connection to that is another matter.
pub(super) fn build(config: Config, counting: &CountRequests) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Ok(ClientBuilder::try_from(config)?.with_layer(counting).build());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(INTERVAL));
    tcp.set_keepalive_retries(Some(RETRIES));
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
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).with_layer(counting).build())
}
