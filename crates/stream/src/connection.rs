//! One task per connection: it reads, writes and watches for silence until one of the three ends it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::error::ConnectionError;
use crate::outbox::Outbox;

/// Bytes asked from the socket at a time.
const READ_SIZE: usize = 16 * 1024;
/// How long the last words to a peer may take: a GOAWAY, a close frame.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug, Clone)]
pub enum End {
    /// The client closed it, in order or by a reset.
    Client,
    /// This side closed it, all that was queued has been written.
    Server,
    /// Nothing moved for the time given.
    Idle(Duration),
    /// The session, or the deadline of its end, gave the connection up.
    Aborted,
    /// It broke.
    Failed(Arc<ConnectionError>),
}

impl End {
    /// Clients that do not wait for what is still queued for them, and TLS without its last message, look like failures.
    fn of(error: ConnectionError) -> Self {
        match &error {
            ConnectionError::Io(io) => match io.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => Self::Client,
                _ => Self::Failed(Arc::new(error)),
            },
            ConnectionError::Protocol(_) => Self::Failed(Arc::new(error)),
        }
    }
}

/// When something last moved on the socket.
#[derive(Clone)]
struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn silence(&self, limit: Duration) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= limit {
                return;
            }
            sleep_until(last + limit).await;
        }
    }
}

/// The reading side of the socket and what of it is not decoded yet.
pub(crate) struct Input<S> {
    socket: ReadHalf<S>,
    pub(crate) buffer: BytesMut,
    activity: Activity,
}

impl<S: AsyncRead + AsyncWrite> Input<S> {
    /// Reads some more. False at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_SIZE);
        let count = self.socket.read_buf(&mut self.buffer).await?;
        self.activity.touch();
        Ok(count > 0)
    }
}

/// Closes the outbox when the task ends, also when it is aborted: whoever waits for room must not wait for ever.
struct CloseOnDrop(Arc<Outbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A running connection. Dropped, it is aborted.
pub(crate) struct Connection {
    pub(crate) outbox: Arc<Outbox>,
    end: watch::Receiver<Option<End>>,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    /// Starts the task. `read` consumes the input until the client closes; before it fails it queues its last words, if it has any.
    pub(crate) fn spawn<S, F>(socket: S, outbox: Arc<Outbox>, idle: Duration, span: tracing::Span, read: impl FnOnce(Input<S>) -> F) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<(), ConnectionError>> + Send + 'static,
    {
        let (reading, mut writing) = tokio::io::split(socket);
        let activity = Activity(Arc::new(Mutex::new(Instant::now())));
        let read = read(Input { socket: reading, buffer: BytesMut::new(), activity: activity.clone() });
        let (sender, end) = watch::channel(None);
        let queue = Arc::clone(&outbox);
        let guard = CloseOnDrop(Arc::clone(&outbox));
        let task = async move {
            // Declared first, dropped last: readers see their end only once writers would fail.
            let guard = guard;
            let moved = activity.clone();
            let write = queue.write_to(&mut writing, move || moved.touch());
            tokio::pin!(read, write);
            // Not biased: reading and writing share the task's budget of operations, and the first of a fixed order would starve the
            // other as long as its side of the socket is always ready. A client that uploads would never see its reset.
            let end = tokio::select! {
                result = &mut read => match result {
                    Ok(()) => {
                        queue.finish();
                        // The answer to a close, if any: the client may be gone already.
                        let _ = timeout(LAST_WORDS, &mut write).await;
                        End::Client
                    }
                    Err(error) => {
                        queue.finish();
                        let _ = timeout(LAST_WORDS, &mut write).await;
                        End::of(error)
                    }
                },
                result = &mut write => match result {
                    Ok(()) => End::Server,
                    Err(error) => End::of(error.into()),
                },
                () = activity.silence(idle) => End::Idle(idle),
            };
            tracing::debug!(?end, "streaming connection ended");
            drop(guard);
            let _ = sender.send(Some(end));
        };
        Self { outbox, end, _task: AbortOnDropHandle::new(tokio::spawn(task.instrument(span))) }
    }

    /// Waits for the end of the connection.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.end.clone();
        let result = end.wait_for(Option::is_some).await.map(|end| end.clone());
        result.ok().flatten().unwrap_or(End::Aborted)
    }

    /// Waits until the client closes, for no longer than `limit`; then says `last_words` and closes.
    pub(crate) async fn close_after_client(self, limit: Duration, last_words: impl FnOnce(&mut BytesMut)) -> End {
        if let Ok(end) = timeout(limit, self.ended()).await {
            return end;
        }
        self.close(last_words).await;
        End::Aborted
    }

    /// Says `last_words`, writes what is queued, closes.
    pub(crate) async fn close(self, last_words: impl FnOnce(&mut BytesMut)) -> End {
        self.outbox.push(last_words);
        self.outbox.finish();
        timeout(LAST_WORDS, self.ended()).await.unwrap_or(End::Aborted)
    }
}
