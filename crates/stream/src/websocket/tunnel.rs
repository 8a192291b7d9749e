//! A byte stream in the messages of a WebSocket: `SPDY/3.1+portforward.k8s.io`. Where a message begins or ends means nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::frame::{self, Decoder, Event};

/// Bytes in one message.
const CHUNK: usize = 16 * 1024;
/// While so many bytes wait to be written, nothing is taken.
const OUT_MARK: usize = 32 * 1024;

/// The byte stream in a WebSocket. Pings are answered while it is read.
pub(crate) struct Tunnel<S> {
    socket: S,
    decoder: Decoder,
    input: BytesMut,
    /// What of the message at hand was not read yet.
    piece: Bytes,
    output: BytesMut,
    /// The client has said close, or is gone.
    ended: bool,
    /// This side has said close.
    closed: bool,
}

impl<S> Tunnel<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            input: BytesMut::new(),
            piece: Bytes::new(),
            output: BytesMut::new(),
            ended: false,
            closed: false,
        }
    }

    fn say_close(&mut self, code: u16) {
        if !self.closed {
            self.closed = true;
            frame::close(&mut self.output, code);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// Writes until at most `rest` bytes wait.
    fn poll_drain(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.output.len() > rest {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes and flushes what waits, as far as it goes: answers given while reading must not wait for the next write.
    fn push_out(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_drain(cx, 0) {
            Poll::Ready(result) => result?,
            Poll::Pending => return Ok(()),
        }
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.piece.is_empty() {
                let count = this.piece.len().min(buffer.remaining());
                buffer.put_slice(&this.piece.split_to(count));
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                this.push_out(cx)?;
                return Poll::Ready(Ok(()));
            }
            match this.decoder.decode(&mut this.input) {
                Ok(Some(Event::Data { bytes, .. })) => this.piece = bytes,
                Ok(Some(Event::Ping(payload))) => frame::pong(&mut this.output, &payload),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close)) => {
                    this.say_close(frame::CLOSE_NORMAL);
                    this.ended = true;
                }
                Ok(None) => {
                    // A peer that pings and does not read must not make this side gather answers.
                    this.push_out(cx)?;
                    ready!(this.poll_drain(cx, OUT_MARK))?;
                    this.input.reserve(CHUNK);
                    let count = ready!(poll_read_buf(Pin::new(&mut this.socket), cx, &mut this.input))?;
                    this.ended = count == 0;
                }
                Err(error) => {
                    this.say_close(frame::CLOSE_PROTOCOL_ERROR);
                    this.push_out(cx)?;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_drain(cx, OUT_MARK))?;
        let chunk = &data[..data.len().min(CHUNK)];
        if !chunk.is_empty() {
            frame::message(&mut this.output, frame::OP_BINARY, &[], chunk);
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx, 0))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.say_close(frame::CLOSE_NORMAL);
        ready!(self.poll_drain(cx, 0))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
