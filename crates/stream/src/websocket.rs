//! WebSocket (RFC 6455), server side, without extensions: numbered channels in one connection, or a tunnel for SPDY.
//!
//! Written by hand because messages need not be gathered here: each piece of a message goes on at once, so that no message size has to be
//! allowed for and memory stays bounded.

mod channels;
pub(crate) mod frame;
mod tunnel;

pub(crate) use channels::{Builder, Channel};
pub(crate) use tunnel::Tunnel;

/// The end that both sides expect.
pub(crate) fn goodbye(buffer: &mut bytes::BytesMut) {
    frame::close(buffer, frame::CLOSE_NORMAL);
}
