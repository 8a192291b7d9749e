//! Frames of WebSocket. No I/O: bytes in, pieces of messages out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::ProtocolError;

const OP_CONTINUATION: u8 = 0;
pub(crate) const OP_TEXT: u8 = 1;
pub(crate) const OP_BINARY: u8 = 2;
pub(crate) const OP_CLOSE: u8 = 8;
pub(crate) const OP_PING: u8 = 9;
pub(crate) const OP_PONG: u8 = 10;

pub(crate) const CLOSE_NORMAL: u16 = 1000;
pub(crate) const CLOSE_PROTOCOL_ERROR: u16 = 1002;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Payload of the longest control frame, in bytes.
const MAX_CONTROL: u64 = 125;

/// How a message on a numbered channel is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One byte, the number, then the data, in a binary message.
    Binary,
    /// One digit, then base64, in a text message.
    Base64,
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A piece of a message, text or binary; `start` and `end` with its first and last one, which may be empty.
    Data {
        bytes: Bytes,
        start: bool,
        end: bool,
    },
    Ping(Bytes),
    Pong,
    Close,
}

/// Turns the bytes of one connection into events.
#[derive(Default)]
pub(crate) struct Decoder {
    /// The frame whose payload is not complete yet.
    frame: Option<Open>,
    /// A message has begun and its last frame has not.
    in_message: bool,
}

#[derive(Clone, Copy)]
struct Open {
    rest: u64,
    mask: [u8; 4],
    start: bool,
    fin: bool,
}

impl Decoder {
    /// Takes the next event off the buffer. None: more bytes are needed. After an error the connection is lost.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, ProtocolError> {
        if let Some(open) = self.frame {
            return Ok(self.piece(open, buffer));
        }
        let Some((header, rest)) = buffer.split_first_chunk::<2>() else { return Ok(None) };
        let [first, second] = *header;
        let (opcode, fin) = (first & 0x0f, first & FIN != 0);
        if first & 0x70 != 0 || !matches!(opcode, OP_CONTINUATION | OP_TEXT | OP_BINARY | OP_CLOSE | OP_PING | OP_PONG) {
            return Err(ProtocolError::WebSocketOpcode { opcode });
        }
        if second & MASKED == 0 {
            return Err(ProtocolError::WebSocketUnmasked);
        }
        let (length, used) = match second & !MASKED {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        if length > i64::MAX as u64 {
            return Err(ProtocolError::WebSocketLength);
        }
        let control = opcode >= OP_CLOSE;
        if control && (length > MAX_CONTROL || !fin) {
            return Err(ProtocolError::WebSocketControl);
        }
        if !control && (opcode == OP_CONTINUATION) != self.in_message {
            return Err(ProtocolError::WebSocketContinuation);
        }
        let Some(mask) = buffer.get(used..).and_then(|rest| rest.first_chunk::<4>()).copied() else { return Ok(None) };
        if control {
            let length = usize::try_from(length).unwrap_or(0);
            if buffer.len() < used + 4 + length {
                return Ok(None);
            }
            buffer.advance(used + 4);
            let mut payload = buffer.split_to(length);
            unmask(&mut payload, mask);
            return Ok(Some(match opcode {
                OP_PING => Event::Ping(payload.freeze()),
                OP_PONG => Event::Pong,
                _ => Event::Close,
            }));
        }
        buffer.advance(used + 4);
        self.in_message = !fin;
        let open = Open { rest: length, mask, start: opcode != OP_CONTINUATION, fin };
        Ok(self.piece(open, buffer))
    }

    fn piece(&mut self, mut open: Open, buffer: &mut BytesMut) -> Option<Event> {
        let available = buffer.len().min(usize::try_from(open.rest).unwrap_or(usize::MAX));
        if available == 0 && open.rest > 0 {
            self.frame = Some(open);
            return None;
        }
        let mut bytes = buffer.split_to(available);
        unmask(&mut bytes, open.mask);
        open.rest -= available as u64;
        let event = Event::Data { bytes: bytes.freeze(), start: open.start, end: open.fin && open.rest == 0 };
        open.start = false;
        open.mask.rotate_left(available % 4);
        self.frame = (open.rest > 0).then_some(open);
        Some(event)
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes a frame that is a whole message, in two parts. Servers do not mask.
pub(crate) fn message(buffer: &mut BytesMut, opcode: u8, head: &[u8], payload: &[u8]) {
    buffer.put_u8(FIN | opcode);
    let length = head.len() + payload.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => buffer.put_u8(short),
        (_, Ok(length)) => {
            buffer.put_u8(126);
            buffer.put_u16(length);
        }
        _ => {
            buffer.put_u8(127);
            buffer.put_u64(length as u64);
        }
    }
    buffer.put_slice(head);
    buffer.put_slice(payload);
}

/// The length of the first of these messages, which [`message`] has written.
pub(crate) fn message_length(messages: &[u8]) -> usize {
    let Some((head, rest)) = messages.split_first_chunk::<2>() else { return messages.len() };
    let length = match head[1] {
        126 => rest.first_chunk::<2>().map(|length| 4 + u64::from(u16::from_be_bytes(*length))),
        127 => rest.first_chunk::<8>().map(|length| 10 + u64::from_be_bytes(*length)),
        short => Some(2 + u64::from(short)),
    };
    length.and_then(|length| usize::try_from(length).ok()).unwrap_or(messages.len())
}

pub(crate) fn channel_message(buffer: &mut BytesMut, encoding: Encoding, channel: u8, data: &[u8]) {
    match encoding {
        Encoding::Binary => message(buffer, OP_BINARY, &[channel], data),
        Encoding::Base64 => message(buffer, OP_TEXT, &[b'0'.wrapping_add(channel)], STANDARD.encode(data).as_bytes()),
    }
}

pub(crate) fn close(buffer: &mut BytesMut, code: u16) {
    message(buffer, OP_CLOSE, &[], &code.to_be_bytes());
}

pub(crate) fn pong(buffer: &mut BytesMut, payload: &[u8]) {
    message(buffer, OP_PONG, &[], payload);
}

#[cfg(test)]
pub(crate) mod tests;
