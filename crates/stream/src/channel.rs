//! The two directions of one stream: of a SPDY connection, or of a channel of a WebSocket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::outbox::Outbox;
use crate::spdy::frame as spdy;
use crate::websocket::frame::{self as websocket, Encoding};

/// Bytes of data in one frame of SPDY: what the kubelet sends at once.
const SPDY_CHUNK: usize = 32 * 1024;
/// Bytes of data in one WebSocket message, which is to fit a TLS record.
const WEBSOCKET_CHUNK: usize = 16 * 1024;

/// Where a stream stands, known to both of its directions and to the task that reads the socket.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    /// This side has ended its direction.
    sent_fin: AtomicBool,
    /// The client has ended its direction.
    received_fin: AtomicBool,
    /// Either side has reset the stream.
    reset: AtomicBool,
    /// Nobody wants what the client still sends.
    discard: CancellationToken,
}

impl StreamState {
    /// Nothing can happen to the stream any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_reset() || (self.sent_fin.load(Ordering::Acquire) && self.received_fin())
    }

    pub(crate) fn received_fin(&self) -> bool {
        self.received_fin.load(Ordering::Acquire)
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }

    /// Marks the stream reset. False when it was already.
    pub(crate) fn set_reset(&self) -> bool {
        self.discard.cancel();
        !self.reset.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn set_received_fin(&self) {
        self.received_fin.store(true, Ordering::Release);
    }

    pub(crate) fn set_sent_fin(&self) {
        self.sent_fin.store(true, Ordering::Release);
    }
}

/// Where the task that reads the socket puts what the client sends on one stream.
pub(crate) struct Inlet {
    pipe: Option<DuplexStream>,
    pub(crate) state: Arc<StreamState>,
}

impl Inlet {
    /// Waits until the chunk is in the stream's buffer: this is the back-pressure. What nobody reads any more is dropped.
    pub(crate) async fn deliver(&mut self, chunk: &[u8]) {
        let Some(pipe) = &mut self.pipe else { return };
        tokio::select! {
            biased;
            () = self.state.discard.cancelled() => {}
            result = pipe.write_all(chunk) => if result.is_ok() { return },
        }
        self.pipe = None;
    }

    /// The client has ended its direction.
    pub(crate) fn end(&mut self) {
        self.state.set_received_fin();
        self.pipe = None;
    }
}

/// Makes the receiving direction of a stream that holds at most `capacity` bytes.
pub(crate) fn inlet(capacity: usize, state: &Arc<StreamState>) -> (Inlet, Reader) {
    let (inner, outer) = tokio::io::duplex(capacity);
    (Inlet { pipe: Some(inner), state: Arc::clone(state) }, Reader { pipe: outer })
}

/// What the client sends on one stream. It ends when the client ends its direction, resets the stream or is gone.
///
/// Dropped, whatever still comes is discarded. Not read, it fills its buffer and then holds up the whole connection: drop it when the
/// process that should read it has ended.
#[derive(Debug)]
pub struct Reader {
    pipe: DuplexStream,
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

/// How a stream is written on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    Spdy { id: u32 },
    WebSocket { channel: u8, encoding: Encoding },
}

impl Framing {
    /// Bytes of data in one frame.
    fn chunk(self) -> usize {
        match self {
            Self::Spdy { .. } => SPDY_CHUNK,
            Self::WebSocket { .. } => WEBSOCKET_CHUNK,
        }
    }
}

/// The sending direction of a stream. Clones are the same direction.
#[derive(Clone)]
pub(crate) struct Sender {
    outbox: Arc<Outbox>,
    pub(crate) state: Arc<StreamState>,
    framing: Framing,
}

impl Sender {
    pub(crate) fn new(outbox: &Arc<Outbox>, state: &Arc<StreamState>, framing: Framing) -> Self {
        Self { outbox: Arc::clone(outbox), state: Arc::clone(state), framing }
    }

    /// Nothing more can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.sent_fin.load(Ordering::Acquire) || self.state.is_reset()
    }

    fn encode(&self, buffer: &mut BytesMut, data: &[u8]) {
        match self.framing {
            Framing::Spdy { id } => spdy::data(buffer, id, data, false),
            Framing::WebSocket { channel, encoding } => websocket::channel_message(buffer, encoding, channel, data),
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let chunk = &data[..data.len().min(self.framing.chunk())];
        self.outbox.poll_push(cx, |buffer| {
            if self.is_closed() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.encode(buffer, chunk);
            Ok(chunk.len())
        })
    }

    /// Sends a message, also an empty one, without waiting for room: for the few words of the protocol itself.
    pub(crate) fn send_now(&self, data: &[u8]) {
        self.outbox.push(|buffer| {
            if self.is_closed() {
                return;
            }
            if data.is_empty() {
                self.encode(buffer, data);
            }
            for chunk in data.chunks(self.framing.chunk()) {
                self.encode(buffer, chunk);
            }
        });
    }

    /// Ends the direction, after what is queued. On a WebSocket nothing is said: its protocols have no such message from the server.
    pub(crate) fn fin(&self) {
        self.outbox.push(|buffer| {
            if self.is_closed() {
                return;
            }
            self.state.set_sent_fin();
            if let Framing::Spdy { id } = self.framing {
                spdy::data(buffer, id, &[], true);
            }
        });
    }

    /// Ends both directions, after what is queued.
    pub(crate) fn reset(&self) {
        self.outbox.push(|buffer| {
            if self.state.is_over() {
                return;
            }
            self.state.set_reset();
            if let Framing::Spdy { id } = self.framing {
                spdy::rst_stream(buffer, id, spdy::RST_CANCEL);
            }
        });
    }
}

/// What is sent to the client on one stream.
///
/// A write that returns has been queued in order, and will be sent without a flush; it waits while the client is slow. `shutdown` ends
/// the direction. Writing to a stream that the client has reset, or after the connection's end, gives `BrokenPipe`.
pub struct Writer(pub(crate) Sender);

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.fin();
        Poll::Ready(Ok(()))
    }
}
