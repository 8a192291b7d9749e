//! Connections: accepted within limits that hold before anybody is known.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::handler::Handler;
use super::health::{self, HealthFn};
use super::place::Place;
use super::response::Response;
use super::stall::Bounded;

const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For headers and answers of the plain health address.
const HEALTH_PATIENCE: Duration = Duration::from_secs(10);
/// When a silent connection is probed for the first time, how often then, and how many probes may be lost: a peer that has
/// vanished is noticed within two minutes, though nothing is written to it.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(15), 6);
/// What a stop waits for open requests; a followed log would never end.
const GRACE: Duration = Duration::from_secs(2);
/// How often the client CA file is compared with what is in use.
const CA_CHECK: Duration = Duration::from_secs(15);

/// What a client may use up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_connections: usize,
    pub(super) max_header_bytes: usize,
    pub(super) header_timeout: Duration,
    /// How long a client may take nothing of what is written to it.
    pub(super) stall: Duration,
}

impl Limits {
    fn http(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            // hyper's own minimum.
            .max_buf_size(self.max_header_bytes.max(8192))
            .max_headers(100);
        builder
    }
}

/// Follows the client CA file. Never ends.
pub(super) async fn reload_cas(handler: &Handler) {
    loop {
        tokio::time::sleep(CA_CHECK).await;
        match handler.authenticator().cas().reload() {
            Ok(true) => info!("client CA file reloaded"),
            Ok(false) => {}
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the changed client CA file is not usable; the CAs before it stay in use");
            }
        }
    }
}

/// Accepts connections one by one and hands each to `serve`, no more than `limit` at the same time.
async fn accept<F>(
    listener: TcpListener,
    limit: usize,
    shutdown: CancellationToken,
    serve: impl Fn(TcpStream, Place, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limit));
    let tasks = TaskTracker::new();
    let stop_now = CancellationToken::new();
    let mut full = false;
    loop {
        if slots.available_permits() == 0 && !full {
            warn!(limit, "all connections are in use; new ones wait");
        }
        full = slots.available_permits() == 0;
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((slot, listener.accept().await))
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = Place::new(slot, peer, tasks.clone(), stop_now.clone());
                notice_dead_peers(&stream);
                place.clone().spawn(serve(stream, place, shutdown.clone()));
            }
            Err(error) => {
                // No file descriptors left, or a client that was gone before it was accepted.
                warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        stop_now.cancel();
        tasks.wait().await;
    }
}

fn notice_dead_peers(stream: &TcpStream) {
    use rustix::net::sockopt;
    let (idle, interval, count) = PROBES;
    let set = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, idle))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, interval))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, count));
    if let Err(error) = set {
        debug!(%error, "a connection without keep-alive");
    }
}

/// 10250.
pub(super) async fn serve_api(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    handler: Arc<Handler>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    accept(listener, limits.max_connections, shutdown, |stream, place, shutdown| {
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        async move {
            let _ = stream.set_nodelay(true);
            let stream = Bounded::new(stream, limits.stall);
            let handshake = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream));
            let stream = match handshake.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    debug!(%error, "TLS handshake failed");
                    return;
                }
                Err(_) => return,
            };
            let certificates: Arc<[CertificateDer<'static>]> =
                stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
            let answer = move |request: Request<Incoming>| {
                let (handler, certificates, place) = (handler.clone(), certificates.clone(), place.clone());
                async move {
                    let (mut parts, _) = request.into_parts();
                    parts.extensions.insert(place);
                    handler.answer(&certificates, &parts).await
                }
            };
            Box::pin(serve_connection(stream, limits, shutdown, answer)).await;
        }
    })
    .await;
}

/// 10248: no TLS, no credentials, on loopback.
pub(super) async fn serve_health(listener: TcpListener, health: HealthFn, shutdown: CancellationToken) {
    serve_plain(listener, move |path| health::local(&health, path), shutdown).await;
}

/// Answers, by their path, small questions that anybody may ask.
pub(crate) async fn serve_plain(
    listener: TcpListener,
    answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let limits = Limits { max_connections: 16, max_header_bytes: 8192, header_timeout: HEALTH_PATIENCE, stall: HEALTH_PATIENCE };
    accept(listener, limits.max_connections, shutdown, |stream, _, shutdown| {
        let answer = answer.clone();
        let answer = move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move { answer(request.uri().path()) }
        };
        serve_connection(Bounded::new(stream, limits.stall), limits, shutdown, answer)
    })
    .await;
}

async fn serve_connection<S, A, F>(stream: S, limits: Limits, shutdown: CancellationToken, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response>,
{
    let service = service_fn(|request| {
        let response = answer(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = limits.http().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}
