//! A SPDY client, as small as it can be.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::soon;
use crate::Limits;
use crate::spdy::{Decoder, Deflater, Frame, frame};

pub(super) struct Client<S = DuplexStream> {
    socket: S,
    deflater: Deflater,
    decoder: Decoder,
    buffer: BytesMut,
    next_id: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(socket: S) -> Self {
        let decoder = Decoder::new(Limits::default());
        Self { socket, deflater: Deflater::default(), decoder, buffer: BytesMut::new(), next_id: 1 }
    }

    pub(super) async fn write(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let mut buffer = BytesMut::new();
        encode(&mut buffer);
        soon(self.socket.write_all(&buffer)).await.unwrap();
        soon(self.socket.flush()).await.unwrap();
    }

    /// Opens a stream without waiting for the reply.
    pub(super) async fn syn(&mut self, headers: &[(&str, &str)], flags: u8) -> u32 {
        let id = self.next_id;
        self.next_id += 2;
        self.syn_with_id(id, headers, flags).await;
        id
    }

    pub(super) async fn syn_with_id(&mut self, id: u32, headers: &[(&str, &str)], flags: u8) {
        let block = self.deflater.deflate(headers).unwrap();
        self.write(|buffer| frame::control(buffer, frame::SYN_STREAM, flags, &[&id.to_be_bytes(), &[0; 6], &block])).await;
    }

    /// Opens a stream as client-go does: it waits for the reply.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.syn(headers, 0).await;
        assert_eq!(self.next().await, Some(Frame::SynReply { id }));
        id
    }

    pub(super) async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.write(|buffer| frame::data(buffer, id, bytes, fin)).await;
    }

    /// The next frame, whole; None at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            // The decoder would give data in pieces.
            let length =
                self.buffer.get(5..8).map(|length| usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]));
            if length.is_some_and(|length| self.buffer.len() >= frame::HEADER_LENGTH + length) {
                return self.decoder.decode(&mut self.buffer).unwrap();
            }
            if soon(self.socket.read_buf(&mut self.buffer)).await.unwrap() == 0 {
                assert!(self.buffer.is_empty(), "ended within a frame");
                return None;
            }
        }
    }

    /// Reads until the stream ends, and gives its bytes. There must be nothing else on the connection.
    pub(super) async fn read_to_end(&mut self, stream: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.next().await {
                Some(Frame::Data { id, chunk, fin }) if id == stream => {
                    bytes.extend_from_slice(&chunk);
                    if fin {
                        return bytes;
                    }
                }
                other => panic!("{other:?} after {} bytes", bytes.len()),
            }
        }
    }
}

pub(super) fn data(id: u32, bytes: &[u8], fin: bool) -> Option<Frame> {
    Some(Frame::Data { id, chunk: Bytes::copy_from_slice(bytes), fin })
}
