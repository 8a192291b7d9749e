//! How much a peer may ask for, and how long it may take.

use std::time::Duration;

/// What bounds the memory of one connection.
///
/// With the defaults a connection holds at most `streams × stream_buffer` (16 MiB, when 512 consumers all stand still) plus about 256 KiB.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streams that a SPDY client may have open at a time; more are refused with RST_STREAM.
    pub streams: usize,
    /// Bytes received for one stream and not read yet; beyond, the socket is not read.
    pub stream_buffer: usize,
    /// Length of a SPDY control frame, in bytes.
    pub control_frame: usize,
    /// Length of a SPDY header block once it is inflated, in bytes.
    pub header_block: usize,
    /// Headers in one SPDY header block.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 512, stream_buffer: 32 * 1024, control_frame: 32 * 1024, header_block: 64 * 1024, headers: 64 }
    }
}

/// Deadlines and limits of a session. The defaults are the kubelet's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A connection on which nothing moves, not even a ping, is closed after this time (`streamingConnectionIdleTimeout`: 4 h).
    pub idle: Duration,
    /// How long the client may take to open the streams it has announced (30 s).
    pub stream_creation: Duration,
    /// How long a session that is at its end waits for the client to read the rest and to close (15 min).
    pub close: Duration,
    /// What bounds memory.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(4 * 3600),
            stream_creation: Duration::from_secs(30),
            close: Duration::from_secs(15 * 60),
            limits: Limits::default(),
        }
    }
}
