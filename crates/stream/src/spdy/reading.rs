//! What the server does with the frames of the client.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::decoder::{Decoder, Frame};
use super::{Headers, Incoming, Shared, frame, stream};
use crate::channel::Inlet;
use crate::connection::Input;
use crate::error::{ConnectionError, ProtocolError};
use crate::limits::Limits;

/// Whether the client goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Frame,
    End,
}

pub(super) struct Reading {
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
    limits: Limits,
    streams: HashMap<u32, Inlet>,
    /// The client's ids only grow.
    last_id: u32,
}

impl Reading {
    pub(super) fn new(shared: Arc<Shared>, incoming: mpsc::Sender<Incoming>, limits: Limits) -> Self {
        Self { shared, incoming, limits, streams: HashMap::new(), last_id: 0 }
    }

    pub(super) async fn run<S: AsyncRead + AsyncWrite>(mut self, mut input: Input<S>) -> Result<(), ConnectionError> {
        let result = self.read(&mut input).await;
        if let Err(ConnectionError::Protocol(_)) = &result {
            self.shared.outbox.push(|buffer| frame::goaway(buffer, self.last_id, frame::GOAWAY_PROTOCOL_ERROR));
        }
        result
    }

    async fn read<S: AsyncRead + AsyncWrite>(&mut self, input: &mut Input<S>) -> Result<(), ConnectionError> {
        let mut decoder = Decoder::new(self.limits.clone());
        loop {
            while let Some(frame) = decoder.decode(&mut input.buffer)? {
                if self.handle(frame).await? == Next::End {
                    return Ok(());
                }
            }
            self.shared.outbox.room().await;
            if !input.fill().await? {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<Next, ProtocolError> {
        match frame {
            Frame::SynStream { id, headers, fin, unidirectional } => self.open(id, headers, fin, unidirectional),
            Frame::Data { id, chunk, fin } => {
                // A stream that is not known, or no more, is no error: its end may have crossed the client's data.
                if let Some(inlet) = self.streams.get_mut(&id) {
                    inlet.deliver(&chunk).await;
                    if fin {
                        inlet.end();
                    }
                    self.forget_if_over(id);
                }
            }
            Frame::RstStream { id } => {
                if let Some(inlet) = self.streams.remove(&id) {
                    inlet.state.set_reset();
                }
            }
            // The client's ids are odd; even ones would be echoes of pings that this side does not send.
            Frame::Ping { id } if !id.is_multiple_of(2) => {
                self.shared.outbox.push(|buffer| frame::ping(buffer, id));
            }
            Frame::Ping { .. } => {}
            // Clients say it right before they close. Their streams are reset by then.
            Frame::GoAway => return Ok(Next::End),
            Frame::SynReply { id } => tracing::debug!(id, "SYN_REPLY to a stream that was not opened"),
            Frame::Ignored { kind } => tracing::trace!(kind, "SPDY frame without a meaning here"),
        }
        Ok(Next::Frame)
    }

    fn open(&mut self, id: u32, headers: Headers, fin: bool, unidirectional: bool) {
        if id.is_multiple_of(2) || id <= self.last_id {
            self.reset(id, frame::RST_PROTOCOL_ERROR);
            return;
        }
        self.last_id = id;
        self.streams.retain(|_, inlet| !inlet.state.is_over());
        if self.streams.len() >= self.limits.streams {
            self.reset(id, frame::RST_REFUSED_STREAM);
            return;
        }
        let (mut inlet, incoming) = stream(&self.shared, id, headers, self.limits.stream_buffer);
        if unidirectional {
            inlet.state.set_sent_fin();
        }
        if fin {
            inlet.end();
        }
        if self.incoming.try_send(incoming).is_err() {
            self.reset(id, frame::RST_REFUSED_STREAM);
            return;
        }
        self.streams.insert(id, inlet);
    }

    fn forget_if_over(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|inlet| inlet.state.is_over()) {
            self.streams.remove(&id);
        }
    }

    fn reset(&self, id: u32, status: u32) {
        self.shared.outbox.push(|buffer| frame::rst_stream(buffer, id, status));
    }
}
