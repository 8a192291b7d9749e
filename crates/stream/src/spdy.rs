//! SPDY/3.1 as Kubernetes uses it: the client opens streams, the server answers each with an empty SYN_REPLY, bytes flow both ways.
//!
//! **No flow control.** Go's spdystream neither sends nor obeys WINDOW_UPDATE: who counts windows towards it stands still after 64 KiB.
//! Back-pressure is that of the socket.

mod decoder;
mod dictionary;
pub(crate) mod frame;
mod headers;
mod reading;

#[cfg(any(test, fuzzing))]
pub(crate) use decoder::{Decoder, Frame};
#[cfg(any(test, fuzzing))]
pub(crate) use headers::Deflater;
pub(crate) use headers::Headers;
#[cfg(any(test, fuzzing))]
pub(crate) use headers::Inflater;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::channel::{Framing, Reader, Sender, StreamState};
use crate::connection::Connection;
use crate::limits::Settings;
use crate::outbox::Outbox;

/// What the reading task and the streams that it hands over share.
struct Shared {
    outbox: Arc<Outbox>,
    /// One compressor for the connection: its lock is held until the block is queued, so that blocks are sent in the order of compression.
    deflater: Mutex<headers::Deflater>,
}

/// A stream that the client wants to open. It waits for [`Self::accept`] or [`Self::refuse`].
pub(crate) struct Incoming {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    reader: Reader,
    sender: Sender,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Answers with SYN_REPLY and gives the stream's two directions. Go peers drop data that comes before the reply.
    pub(crate) fn accept(self) -> (Reader, Sender) {
        let mut deflater = self.shared.deflater.lock().unwrap_or_else(PoisonError::into_inner);
        match deflater.deflate(&[]) {
            Ok(block) => {
                self.shared.outbox.push(|buffer| frame::syn_reply(buffer, self.id, &block));
            }
            // Without the compressor no stream of the connection can be answered.
            Err(_) => self.shared.outbox.close(),
        }
        drop(deflater);
        (self.reader, self.sender)
    }

    pub(crate) fn refuse(self) {
        self.sender.reset();
    }
}

/// Starts a connection. Streams come out of the receiver; once that is dropped, further ones are refused.
pub(crate) fn serve<S>(socket: S, settings: &Settings) -> (Connection, mpsc::Receiver<Incoming>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let outbox = Arc::new(Outbox::default());
    let shared = Arc::new(Shared { outbox: Arc::clone(&outbox), deflater: Mutex::default() });
    let (sender, incoming) = mpsc::channel(settings.limits.streams.max(1));
    let reading = reading::Reading::new(shared, sender, settings.limits.clone());
    let span = tracing::debug_span!("spdy");
    (Connection::spawn(socket, outbox, settings.idle, span, |input| reading.run(input)), incoming)
}

/// The frame with which a server says that it is about to close.
pub(crate) fn goodbye(buffer: &mut bytes::BytesMut) {
    // The last good id is not needed by anyone: a client that is told to go away opens no stream again on this connection.
    frame::goaway(buffer, 0, frame::GOAWAY_OK);
}

fn stream(shared: &Arc<Shared>, id: u32, headers: Headers, capacity: usize) -> (crate::channel::Inlet, Incoming) {
    let state = Arc::new(StreamState::default());
    let (inlet, reader) = crate::channel::inlet(capacity, &state);
    let sender = Sender::new(&shared.outbox, &state, Framing::Spdy { id });
    (inlet, Incoming { id, headers, reader, sender, shared: Arc::clone(shared) })
}
