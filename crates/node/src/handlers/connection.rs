//! Connections to containers, and the words in which Go tells what is wrong with them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::ProbeOutcome;
use super::target::host_port;

/// A `tcpSocket` probe: a connection that opens is enough.
pub(super) async fn probe(host: &str, port: u16, timeout: Duration) -> ProbeOutcome {
    match tokio::time::timeout(timeout, dial(host, port)).await {
        Ok(Ok(_)) => ProbeOutcome::Success(String::new()),
        Ok(Err(error)) => ProbeOutcome::Failure(error),
        Err(_) => ProbeOutcome::Failure(format!("dial tcp {}: i/o timeout", host_port(host, port))),
    }
}

/// Connects; the error is Go's.
///
/// The kubelet sets a lingering time of a second to get rid of TIME-WAIT sooner. A socket that lingers blocks the thread that
/// closes it, here one of few that serve everything; what waits costs the kernel little.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let place = host_port(host, port);
    if host.is_empty() {
        // Go would take the node's own loopback for it.
        return Err(format!("dial tcp {place}: missing address"));
    }
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => match tokio::net::lookup_host((host, port)).await {
            Ok(addresses) => addresses.collect(),
            Err(_) => return Err(format!("dial tcp: lookup {host}: no such host")),
        },
    };
    let mut first = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Requests are small and written at once.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => {
                first.get_or_insert_with(|| format!("dial tcp {address}: connect: {}", in_words(&error)));
            }
        }
    }
    Err(first.unwrap_or_else(|| format!("dial tcp: lookup {host}: no such host")))
}

/// The system's words for an error, as Go writes them.
pub(super) fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let Some(number) = error.raw_os_error() else { return text };
    let words = text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text);
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// The first bytes that came from the other side: they tell a server that speaks something else.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    const LIMIT: usize = 128;

    /// What came, at most 128 bytes.
    pub(super) fn get(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Self::LIMIT - kept.len().min(Self::LIMIT);
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A connection whose first bytes are kept.
pub(super) struct Opening<S> {
    inner: S,
    first: FirstBytes,
}

impl<S> Opening<S> {
    pub(super) fn new(inner: S) -> (Self, FirstBytes) {
        let first = FirstBytes::default();
        (Self { inner, first: first.clone() }, first)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.first.note(&buf.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Does `work` while `driver` carries the connection it works on.
pub(super) async fn driven<T>(driver: impl Future, work: impl Future<Output = T>) -> T {
    tokio::pin!(driver, work);
    tokio::select! {
        biased;
        done = &mut work => done,
        // The end of the connection reaches the work as an error, if it has not all that it needs.
        _ = &mut driver => work.await,
    }
}
