//! What waits to be written to the socket: frames, already encoded, in the order of the wire.
//!
//! One buffer for the whole connection. Data waits while it is full; what answers the peer (replies, pings, resets) is always taken, and
//! the reading side stops reading when too much of it has gathered. So memory is bounded from both sides and nothing overtakes: a FIN
//! cannot pass the data before it.

use std::future::poll_fn;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Data waits while this many bytes are queued.
const DATA_MARK: usize = 64 * 1024;
/// The peer is not read while this many bytes are queued. Above [`DATA_MARK`], so that pings are answered and stdin flows while the
/// output stands still.
const CONTROL_MARK: usize = 2 * DATA_MARK;

#[derive(Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    /// How much of what is queued goes into one write; all of it where this is not given.
    unit: Option<fn(&[u8]) -> usize>,
}

#[derive(Default)]
struct Inner {
    buffer: BytesMut,
    stage: Stage,
    /// The task that writes.
    writer: Option<Waker>,
    /// Tasks that wait for room.
    waiting: Vec<Waker>,
}

#[derive(Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// Takes nothing more; what is queued is still written.
    Finishing,
    /// Everything is dropped.
    Closed,
}

impl Outbox {
    /// Every unit that `unit` measures at the beginning of what is queued is a write of its own, and so a TLS record of its own.
    pub(crate) fn in_units(unit: fn(&[u8]) -> usize) -> Self {
        Self { inner: Mutex::default(), unit: Some(unit) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues whatever `encode` appends, full or not. False when nothing is taken any more; `encode` is not called then.
    pub(crate) fn push(&self, encode: impl FnOnce(&mut BytesMut)) -> bool {
        let mut inner = self.lock();
        if inner.stage != Stage::Open {
            return false;
        }
        encode(&mut inner.buffer);
        inner.wake_writer();
        true
    }

    /// Queues what `encode` appends as soon as there is room.
    pub(crate) fn poll_push<T>(&self, cx: &mut Context<'_>, encode: impl FnOnce(&mut BytesMut) -> io::Result<T>) -> Poll<io::Result<T>> {
        let mut inner = self.lock();
        if inner.stage != Stage::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if inner.buffer.len() >= DATA_MARK {
            inner.wait(cx);
            return Poll::Pending;
        }
        let result = encode(&mut inner.buffer);
        inner.wake_writer();
        Poll::Ready(result)
    }

    /// Waits until the answers to the peer have been written but for a bounded rest. The reading side calls it before each read.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.stage == Stage::Closed || inner.buffer.len() < CONTROL_MARK {
                return Poll::Ready(());
            }
            inner.wait(cx);
            Poll::Pending
        })
        .await;
    }

    /// Takes nothing more. [`Self::write_to`] returns when the rest is written.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        if inner.stage == Stage::Open {
            inner.stage = Stage::Finishing;
        }
        inner.wake_all();
    }

    /// Drops what is queued and fails everyone who waits.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.stage = Stage::Closed;
        inner.buffer = BytesMut::new();
        inner.wake_all();
    }

    /// Writes what is queued until [`Self::finish`], then closes the writing side. `moved` is called after each write.
    pub(crate) async fn write_to(&self, socket: &mut (impl AsyncWrite + Unpin), moved: impl Fn()) -> io::Result<()> {
        while let Some(batch) = poll_fn(|cx| self.poll_batch(cx)).await {
            let mut rest = &batch[..];
            while !rest.is_empty() {
                let unit = self.unit.map_or(rest.len(), |unit| unit(rest).clamp(1, rest.len()));
                let (mut now, later) = rest.split_at(unit);
                while !now.is_empty() {
                    let written = socket.write(now).await?;
                    if written == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    now = &now[written..];
                    moved();
                }
                rest = later;
            }
            socket.flush().await?;
        }
        socket.shutdown().await
    }

    fn poll_batch(&self, cx: &mut Context<'_>) -> Poll<Option<BytesMut>> {
        let mut inner = self.lock();
        if !inner.buffer.is_empty() {
            let batch = inner.buffer.split();
            inner.wake_waiting();
            return Poll::Ready(Some(batch));
        }
        if inner.stage != Stage::Open {
            return Poll::Ready(None);
        }
        inner.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Inner {
    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wake_all(&mut self) {
        self.wake_writer();
        self.wake_waiting();
    }
}
