//! Frames of SPDY/3, the writing side (draft-mbelshe-httpbis-spdy-00, section 2; all integers big-endian).

use bytes::{BufMut, BytesMut};

pub(crate) const SYN_STREAM: u16 = 1;
pub(crate) const SYN_REPLY: u16 = 2;
pub(crate) const RST_STREAM: u16 = 3;
#[cfg(test)]
pub(crate) const SETTINGS: u16 = 4;
pub(crate) const PING: u16 = 6;
pub(crate) const GOAWAY: u16 = 7;
pub(crate) const HEADERS: u16 = 8;
#[cfg(test)]
pub(crate) const WINDOW_UPDATE: u16 = 9;

/// Set in the first two bytes of a control frame, beside the version.
pub(crate) const CONTROL: u16 = 0x8000;
pub(crate) const VERSION: u16 = 3;
pub(crate) const FLAG_FIN: u8 = 1;
pub(crate) const FLAG_UNIDIRECTIONAL: u8 = 2;
/// Stream ids have 31 bits.
pub(crate) const ID_MASK: u32 = 0x7fff_ffff;
/// Bytes before the payload of every frame.
pub(crate) const HEADER_LENGTH: usize = 8;

pub(crate) const RST_PROTOCOL_ERROR: u32 = 1;
pub(crate) const RST_REFUSED_STREAM: u32 = 3;
pub(crate) const RST_CANCEL: u32 = 5;
pub(crate) const GOAWAY_OK: u32 = 0;
pub(crate) const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// The length field has 24 bits. Everything written here is far shorter.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX).min(0x00ff_ffff)
}

pub(crate) fn control(buffer: &mut BytesMut, kind: u16, flags: u8, payload: &[&[u8]]) {
    buffer.put_u16(CONTROL | VERSION);
    buffer.put_u16(kind);
    buffer.put_u32((u32::from(flags) << 24) | length(payload.iter().map(|part| part.len()).sum()));
    for part in payload {
        buffer.put_slice(part);
    }
}

pub(crate) fn data(buffer: &mut BytesMut, id: u32, data: &[u8], fin: bool) {
    buffer.put_u32(id & ID_MASK);
    buffer.put_u32((u32::from(fin) * u32::from(FLAG_FIN)) << 24 | length(data.len()));
    buffer.put_slice(data);
}

/// The block is a header block, compressed.
pub(crate) fn syn_reply(buffer: &mut BytesMut, id: u32, block: &[u8]) {
    control(buffer, SYN_REPLY, 0, &[&id.to_be_bytes(), block]);
}

pub(crate) fn rst_stream(buffer: &mut BytesMut, id: u32, status: u32) {
    control(buffer, RST_STREAM, 0, &[&id.to_be_bytes(), &status.to_be_bytes()]);
}

pub(crate) fn ping(buffer: &mut BytesMut, id: u32) {
    control(buffer, PING, 0, &[&id.to_be_bytes()]);
}

pub(crate) fn goaway(buffer: &mut BytesMut, last_good_id: u32, status: u32) {
    control(buffer, GOAWAY, 0, &[&last_good_id.to_be_bytes(), &status.to_be_bytes()]);
}
