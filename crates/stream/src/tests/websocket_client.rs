//! A WebSocket client, as small as it can be.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::soon;
use crate::websocket::frame::{self, tests::client_frame};

pub(super) const FIN: u8 = 0x80;

pub(super) struct Client {
    pub(super) socket: DuplexStream,
    buffer: BytesMut,
}

impl Client {
    pub(super) fn new(socket: DuplexStream) -> Self {
        Self { socket, buffer: BytesMut::new() }
    }

    /// Sends one frame; `first` is its first byte.
    pub(super) async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut buffer = BytesMut::new();
        client_frame(&mut buffer, first, payload);
        soon(self.socket.write_all(&buffer)).await.unwrap();
    }

    pub(super) async fn binary(&mut self, payload: &[u8]) {
        self.send(FIN | frame::OP_BINARY, payload).await;
    }

    pub(super) async fn close(&mut self) {
        self.send(FIN | frame::OP_CLOSE, &1000_u16.to_be_bytes()).await;
    }

    /// The opcode and payload of the next message; None at the end of the connection. Servers send each message in one frame.
    pub(super) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            if soon(self.socket.read_buf(&mut self.buffer)).await.unwrap() == 0 {
                assert!(self.buffer.is_empty(), "ended within a frame");
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut peek = &self.buffer[..];
        if peek.len() < 2 {
            return None;
        }
        let (first, length) = (peek.get_u8(), peek.get_u8());
        assert_eq!((first & 0xf0, length & 0x80), (FIN, 0), "whole, not masked");
        let length = match length {
            126 => usize::from(peek.try_get_u16().ok()?),
            127 => usize::try_from(peek.try_get_u64().ok()?).unwrap(),
            length => usize::from(length),
        };
        if peek.len() < length {
            return None;
        }
        let head = self.buffer.len() - peek.len();
        self.buffer.advance(head);
        Some((first & 0x0f, self.buffer.split_to(length).to_vec()))
    }
}
