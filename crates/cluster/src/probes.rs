//! `/healthz`, `/readyz` and `/metrics`, plain, for the cluster's probes and Prometheus.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::debug;

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("listening on {address} for probes")]
pub struct ProbesError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// What is answered.
pub trait Probed: Send + Sync + 'static {
    /// Whether it works; the error says what does not.
    fn healthy(&self) -> Result<(), String>;
    /// Whether it has begun to work.
    fn ready(&self) -> Result<(), String>;
    /// The metrics, as text.
    fn metrics(&self) -> String;
}

/// Listens.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ProbesError> {
    TcpListener::bind(address).await.map_err(|source| ProbesError { address, source })
}

/// Answers; never returns. May be dropped at any time.
pub async fn serve(listener: TcpListener, probed: Arc<dyn Probed>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "a connection for a probe is not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let probed = probed.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let probed = probed.clone();
                async move { Ok::<_, Infallible>(answer(&request, &*probed)) }
            });
            let served =
                hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                debug!(error = &error as &dyn std::error::Error, "a probe's connection");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, probed: &dyn Probed) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/healthz" | "/livez" => state(probed.healthy()),
        "/readyz" => state(probed.ready()),
        "/metrics" => (StatusCode::OK, probed.metrics()),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}

fn state(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}
