//! What a peer can get wrong, and how a connection can fail.

use std::io;
use std::time::Duration;

/// Bytes that are not the negotiated protocol, or more of it than the limits allow. The connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProtocolError {
    #[error("SPDY control frame of version {version}, only 3 is spoken")]
    SpdyVersion { version: u16 },
    #[error("SPDY frame of type {kind} and {length} bytes is longer than {limit} bytes")]
    FrameTooLong { kind: u16, length: usize, limit: usize },
    #[error("SPDY frame of type {kind} is malformed: {length} bytes")]
    FrameMalformed { kind: u16, length: usize },
    #[error("SPDY header block does not inflate")]
    HeaderCompression,
    #[error("SPDY header block is larger than {limit} bytes or {headers} headers")]
    HeadersTooLarge { limit: usize, headers: usize },
    #[error("SPDY header block is malformed")]
    HeadersMalformed,
    #[error("WebSocket frame uses reserved bits or the unknown opcode {opcode}")]
    WebSocketOpcode { opcode: u8 },
    #[error("WebSocket frame of a client is not masked")]
    WebSocketUnmasked,
    #[error("WebSocket control frame is fragmented or too long")]
    WebSocketControl,
    #[error("WebSocket frame has an impossible length")]
    WebSocketLength,
    #[error("WebSocket message is continued before it has begun, or begun before it has ended")]
    WebSocketContinuation,
    #[error("message on channel {channel} is not base64")]
    Base64 { channel: usize },
    #[error("the signal that closes a channel names no channel")]
    CloseSignal,
}

/// Why a connection ended otherwise than by a close.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The transport failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer broke the protocol.
    #[error("the client broke the protocol")]
    Protocol(#[from] ProtocolError),
}

/// Why a session could not begin on an upgraded connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither stdin, stdout nor stderr is wanted. Check it before the `101`: the API answers it with 400.
    #[error("none of stdin, stdout and stderr is wanted")]
    NothingWanted,
    /// The client has not opened all the streams that it has announced.
    #[error("waited {waited:?} for the client to open its streams, still missing: {missing}")]
    StreamsMissing {
        /// How long was waited.
        waited: Duration,
        /// Names of the streams, separated by commas.
        missing: String,
    },
    /// The connection ended while its streams were waited for.
    #[error("the client closed the connection before it had opened its streams, still missing: {missing}")]
    ClientClosed {
        /// Names of the streams, separated by commas.
        missing: String,
    },
    /// More ports than channels can be numbered, or none.
    #[error("{count} ports cannot be forwarded over the channels of one WebSocket")]
    PortCount {
        /// Ports asked for.
        count: usize,
    },
}
