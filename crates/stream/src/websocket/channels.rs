//! Numbered channels: the first byte of a message says to which one it belongs.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{self, Decoder, Encoding, Event};
use crate::channel::{Framing, Inlet, Reader, Sender, StreamState, inlet};
use crate::connection::{Connection, Input};
use crate::error::{ConnectionError, ProtocolError};
use crate::limits::Settings;
use crate::outbox::Outbox;

/// In place of a channel's number: the next byte is that of a channel whose client side has ended (version 5).
const CLOSE_SIGNAL: u8 = 255;

/// Both directions of a channel. A direction that the protocol does not have is dropped by the caller.
pub(crate) struct Channel {
    pub(crate) reader: Reader,
    pub(crate) sender: Sender,
}

/// A connection whose channels are made one after another, and which then starts.
pub(crate) struct Builder {
    outbox: Arc<Outbox>,
    inlets: Vec<Inlet>,
    encoding: Encoding,
    capacity: usize,
}

impl Builder {
    pub(crate) fn new(encoding: Encoding, settings: &Settings) -> Self {
        // Clients that wait for the socket to become readable before each message, as Python's does, see one message per TLS record:
        // what came with another is in a buffer by then, and the socket silent.
        Self {
            outbox: Arc::new(Outbox::in_units(frame::message_length)),
            inlets: Vec::new(),
            encoding,
            capacity: settings.limits.stream_buffer,
        }
    }

    /// The channel with the next number. There must be no more than 255.
    pub(crate) fn channel(&mut self) -> Channel {
        let state = Arc::new(StreamState::default());
        let (inlet, reader) = inlet(self.capacity, &state);
        let channel = u8::try_from(self.inlets.len()).unwrap_or(u8::MAX);
        self.inlets.push(inlet);
        let sender = Sender::new(&self.outbox, &state, Framing::WebSocket { channel, encoding: self.encoding });
        Channel { reader, sender }
    }

    /// Starts the connection. `half_close`: the client may end its direction of a channel (version 5).
    pub(crate) fn serve<S>(self, socket: S, half_close: bool, settings: &Settings) -> Connection
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { outbox, inlets, encoding, capacity: _ } = self;
        let reading = Reading { outbox: Arc::clone(&outbox), inlets, encoding, half_close, target: Target::Unknown, carry: Vec::new() };
        Connection::spawn(socket, outbox, settings.idle, tracing::debug_span!("websocket"), |input| reading.run(input))
    }
}

/// Where the message that is being received goes.
enum Target {
    /// Its first byte is not there yet.
    Unknown,
    Channel(usize),
    /// A close signal; the bytes after the first.
    Close(Option<u8>),
}

struct Reading {
    outbox: Arc<Outbox>,
    inlets: Vec<Inlet>,
    encoding: Encoding,
    half_close: bool,
    target: Target,
    /// Characters of base64 that are no group of four yet.
    carry: Vec<u8>,
}

impl Reading {
    async fn run<S: AsyncRead + AsyncWrite>(mut self, mut input: Input<S>) -> Result<(), ConnectionError> {
        let result = self.read(&mut input).await;
        if let Err(ConnectionError::Protocol(_)) = &result {
            self.outbox.push(|buffer| frame::close(buffer, frame::CLOSE_PROTOCOL_ERROR));
        }
        result
    }

    async fn read<S: AsyncRead + AsyncWrite>(&mut self, input: &mut Input<S>) -> Result<(), ConnectionError> {
        let mut decoder = Decoder::default();
        loop {
            while let Some(event) = decoder.decode(&mut input.buffer)? {
                match event {
                    Event::Data { bytes, start, end } => self.piece(bytes, start, end).await?,
                    Event::Ping(payload) => {
                        self.outbox.push(|buffer| frame::pong(buffer, &payload));
                    }
                    Event::Pong => {}
                    Event::Close => {
                        // The answer to the client's close. After a close of our own it is one too many, which clients ignore.
                        self.outbox.push(super::goodbye);
                        return Ok(());
                    }
                }
            }
            self.outbox.room().await;
            if !input.fill().await? {
                return Ok(());
            }
        }
    }

    async fn piece(&mut self, mut bytes: Bytes, start: bool, end: bool) -> Result<(), ProtocolError> {
        if start {
            self.target = Target::Unknown;
            self.carry.clear();
        }
        if let Target::Unknown = self.target
            && !bytes.is_empty()
        {
            self.target = match (bytes.get_u8(), self.encoding) {
                (CLOSE_SIGNAL, _) if self.half_close => Target::Close(None),
                (number, Encoding::Binary) => Target::Channel(usize::from(number)),
                (digit, Encoding::Base64) => Target::Channel(usize::from(digit.wrapping_sub(b'0'))),
            };
        }
        match &mut self.target {
            Target::Unknown => Ok(()),
            Target::Channel(channel) => {
                let channel = *channel;
                self.data(channel, bytes, end).await
            }
            Target::Close(channel) => {
                for byte in bytes {
                    if channel.replace(byte).is_some() {
                        return Err(ProtocolError::CloseSignal);
                    }
                }
                match (end, *channel) {
                    (false, _) => Ok(()),
                    (true, Some(channel)) => {
                        self.inlets.get_mut(usize::from(channel)).ok_or(ProtocolError::CloseSignal)?.end();
                        Ok(())
                    }
                    (true, None) => Err(ProtocolError::CloseSignal),
                }
            }
        }
    }

    /// Messages for channels that do not exist are ignored, as upstream does.
    async fn data(&mut self, channel: usize, bytes: Bytes, end: bool) -> Result<(), ProtocolError> {
        let Some(inlet) = self.inlets.get_mut(channel) else { return Ok(()) };
        match self.encoding {
            Encoding::Binary => inlet.deliver(&bytes).await,
            Encoding::Base64 => {
                self.carry.extend_from_slice(&bytes);
                let whole = self.carry.len() / 4 * 4;
                let error = ProtocolError::Base64 { channel };
                let data = STANDARD.decode(&self.carry[..whole]).map_err(|_| error.clone())?;
                self.carry.drain(..whole);
                if end && !self.carry.is_empty() {
                    return Err(error);
                }
                inlet.deliver(&data).await;
            }
        }
        Ok(())
    }
}
