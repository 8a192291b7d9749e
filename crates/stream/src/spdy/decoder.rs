//! Frames of SPDY/3, the reading side. No I/O: bytes in, frames out, data frames in pieces.

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{self, CONTROL, FLAG_FIN, FLAG_UNIDIRECTIONAL, HEADER_LENGTH, ID_MASK, VERSION};
use super::headers::{Headers, Inflater};
use crate::error::ProtocolError;
use crate::limits::Limits;

/// A frame, as far as this side does something with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        id: u32,
        headers: Headers,
        fin: bool,
        unidirectional: bool,
    },
    SynReply {
        id: u32,
    },
    RstStream {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// A piece of a data frame; `fin` only with the last one.
    Data {
        id: u32,
        chunk: Bytes,
        fin: bool,
    },
    /// Nothing to do: SETTINGS, HEADERS, WINDOW_UPDATE, and types that are not known.
    Ignored {
        kind: u16,
    },
}

/// Turns the bytes of one connection into frames.
pub(crate) struct Decoder {
    inflater: Inflater,
    limits: Limits,
    /// The data frame whose payload is not complete yet.
    data: Option<Data>,
}

#[derive(Clone, Copy)]
struct Data {
    id: u32,
    rest: usize,
    fin: bool,
}

impl Decoder {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { inflater: Inflater::new(), limits, data: None }
    }

    /// Takes the next frame, or piece of one, off the buffer. None: more bytes are needed. After an error the connection is lost: the
    /// decompressor may be out of step.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        if let Some(data) = self.data {
            return Ok(self.piece(data, buffer));
        }
        let Some((header, payload)) = buffer.split_first_chunk::<HEADER_LENGTH>() else { return Ok(None) };
        let [a, b, c, d, flags, e, f, g] = *header;
        let length = usize::from(e) << 16 | usize::from(f) << 8 | usize::from(g);
        let (first, kind) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if first & CONTROL == 0 {
            buffer.advance(HEADER_LENGTH);
            let data = Data { id: u32::from_be_bytes([a, b, c, d]), rest: length, fin: flags & FLAG_FIN != 0 };
            return Ok(self.piece(data, buffer));
        }
        if first & !CONTROL != VERSION {
            return Err(ProtocolError::SpdyVersion { version: first & !CONTROL });
        }
        if length > self.limits.control_frame {
            return Err(ProtocolError::FrameTooLong { kind, length, limit: self.limits.control_frame });
        }
        if payload.len() < length {
            return Ok(None);
        }
        buffer.advance(HEADER_LENGTH);
        let payload = buffer.split_to(length);
        self.control(kind, flags, &payload).map(Some)
    }

    fn piece(&mut self, data: Data, buffer: &mut BytesMut) -> Option<Frame> {
        let available = buffer.len().min(data.rest);
        let rest = data.rest - available;
        self.data = (rest > 0).then_some(Data { rest, ..data });
        if available == 0 && rest > 0 {
            return None;
        }
        Some(Frame::Data { id: data.id, chunk: buffer.split_to(available).freeze(), fin: data.fin && rest == 0 })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Frame, ProtocolError> {
        let malformed = ProtocolError::FrameMalformed { kind, length: payload.len() };
        // The number that all frames with a meaning here begin with, but for SETTINGS, where it is not looked at.
        let number = payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(malformed.clone());
        let block = |from: usize| payload.get(from..).ok_or(malformed.clone());
        match kind {
            frame::SYN_STREAM => {
                let id = number? & ID_MASK;
                let headers = self.inflater.inflate(block(10)?, &self.limits)?;
                let (fin, unidirectional) = (flags & FLAG_FIN != 0, flags & FLAG_UNIDIRECTIONAL != 0);
                if id == 0 { Err(malformed) } else { Ok(Frame::SynStream { id, headers, fin, unidirectional }) }
            }
            frame::SYN_REPLY => {
                let id = number? & ID_MASK;
                self.inflater.inflate(block(4)?, &self.limits)?;
                Ok(Frame::SynReply { id })
            }
            frame::HEADERS => {
                self.inflater.inflate(block(4)?, &self.limits)?;
                Ok(Frame::Ignored { kind })
            }
            frame::RST_STREAM => {
                block(8)?;
                Ok(Frame::RstStream { id: number? & ID_MASK })
            }
            frame::PING => Ok(Frame::Ping { id: number? }),
            frame::GOAWAY => Ok(Frame::GoAway),
            // SETTINGS and WINDOW_UPDATE too: see the module `spdy` on flow control.
            _ => Ok(Frame::Ignored { kind }),
        }
    }
}

#[cfg(test)]
mod tests;
