//! Who did what in which pod: a line in the log when a session begins and one when it ends. What was typed or carried is
//! counted, never shown.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::info;

/// Numbers sessions, so that the lines of one are found together.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What a session is.
pub(super) struct Subject {
    /// `exec`, `attach`, `port-forward`, `run`.
    pub(super) kind: &'static str,
    pub(super) user: String,
    /// Address of the client: the API server's for whatever comes through it.
    pub(super) peer: String,
    /// `namespace/name`.
    pub(super) pod: String,
    pub(super) uid: String,
    /// Not for port-forward.
    pub(super) container: Option<String>,
    /// Only for exec and run. The API server's own audit log has it too.
    pub(super) command: Vec<String>,
    pub(super) tty: bool,
    pub(super) protocol: String,
}

/// A session that has begun. Its end is written when it is dropped, however it ends.
pub(super) struct Record {
    id: u64,
    subject: Subject,
    began: Instant,
    traffic: Arc<Traffic>,
    outcome: String,
}

/// Bytes on the session's connection, the protocol's own included.
#[derive(Default)]
pub(super) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Record {
    /// Writes the line of the beginning.
    pub(super) fn begin(subject: Subject) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let Subject { kind, user, peer, pod, uid, container, command, tty, protocol } = &subject;
        info!(session = id, kind, user, peer, pod, uid, container, ?command, tty, protocol, "session begins");
        Self { id, subject, began: Instant::now(), traffic: Arc::default(), outcome: "cut off: the server stops".to_owned() }
    }

    /// How it ended, in words.
    pub(super) fn ended(&mut self, outcome: String) {
        self.outcome = outcome;
    }

    /// Counts bytes that no counted connection carries.
    pub(super) fn sent(&self, bytes: usize) {
        add(&self.traffic.sent, bytes);
    }

    /// The connection, with its bytes counted.
    pub(super) fn count<S>(&self, inner: S) -> Counted<S> {
        Counted { inner, traffic: Arc::clone(&self.traffic) }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Subject { kind, user, pod, uid, container, .. } = &self.subject;
        let (received, sent) = (self.traffic.received.load(Ordering::Relaxed), self.traffic.sent.load(Ordering::Relaxed));
        let seconds = self.began.elapsed().as_secs_f64();
        info!(session = self.id, kind, user, pod, uid, container, seconds, received, sent, outcome = self.outcome, "session ended");
    }
}

/// A connection whose bytes are counted.
pub(super) struct Counted<S> {
    inner: S,
    traffic: Arc<Traffic>,
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        add(&self.traffic.received, buffer.filled().len() - before);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, data);
        if let Poll::Ready(Ok(count)) = result {
            add(&self.traffic.sent, count);
        }
        result
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, data);
        if let Poll::Ready(Ok(count)) = result {
            add(&self.traffic.sent, count);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
