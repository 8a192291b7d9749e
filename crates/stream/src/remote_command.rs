//! Exec and attach.
//!
//! ```no_run
//! # async fn run(socket: tokio::io::DuplexStream, protocol: kube_pet_stream::remote_command::Protocol) -> Result<(), Box<dyn std::error::Error>> {
//! use kube_pet_stream::{Settings, remote_command::{Options, RemoteCommand, Status}};
//!
//! let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
//! let RemoteCommand { streams, session } = RemoteCommand::open(socket, protocol, options, Settings::default()).await?;
//! // Copy the streams from and to the process, until it ends …
//! drop(streams);
//! session.finish(&Status::ExitCode(42)).await;
//! # Ok(())
//! # }
//! ```

mod resize;
mod spdy;
mod status;
mod websocket;

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(any(test, fuzzing))]
pub(crate) use resize::newest as sizes;
pub use resize::{ResizeReceiver, TerminalSize};
pub use status::Status;

use crate::channel::{Reader, Sender, Writer};
use crate::connection::{Connection, End};
use crate::error::OpenError;
use crate::limits::Settings;
use crate::websocket::frame::Encoding;

/// Versions of the protocol. What they differ in: from 3 on a terminal can be resized, from 4 on the status is JSON and always sent, from
/// 5 on (WebSocket only) the client can end its stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Version {
    V1,
    V2,
    V3,
    V4,
    V5,
}

/// A protocol as negotiated; see [`negotiation::remote_command`](crate::negotiation::remote_command).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1, versions 1 to 4.
    Spdy(Version),
    /// WebSocket, versions 1, 4 and 5.
    WebSocket {
        /// The version.
        version: Version,
        /// Messages are text: a digit and base64.
        base64: bool,
    },
}

/// What the request asks for (`input`, `output`, `error`, `tty`; for attach `stdin` and so on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, clippy::struct_excessive_bools, reason = "the names are those of the API")]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Options {
    /// As the API reads them: a terminal has no stderr of its own, so that it is dropped without a word.
    ///
    /// # Errors
    /// When nothing is wanted. Call it before the `101`: the API answers 400.
    pub fn checked(self) -> Result<Self, OpenError> {
        let options = Self { stderr: self.stderr && !self.tty, ..self };
        if options.stdin || options.stdout || options.stderr { Ok(options) } else { Err(OpenError::NothingWanted) }
    }
}

/// The streams of a session. Each is there when it was asked for.
///
/// They may be moved to other tasks and dropped at any time: [`Session::finish`] ends those that are still open. Drop `stdin` and `resize`
/// when nobody reads them any more, or what the client sends there holds up its pings.
pub struct Streams {
    /// Ends when the client ends it; with WebSocket below version 5 it cannot, and it ends with the connection.
    pub stdin: Option<Reader>,
    /// `shutdown` ends it early.
    pub stdout: Option<Writer>,
    /// `shutdown` ends it early.
    pub stderr: Option<Writer>,
    /// There with a terminal, unless the protocol is older than version 3.
    pub resize: Option<ResizeReceiver>,
}

/// A remote command whose streams are open.
pub struct RemoteCommand {
    /// What to copy.
    pub streams: Streams,
    /// Ends it.
    pub session: Session,
}

impl RemoteCommand {
    /// Begins a session on an upgraded connection. With SPDY it waits until the client has opened its streams.
    ///
    /// Needs a tokio runtime with time. Cancelled, it closes the connection.
    ///
    /// # Errors
    /// When nothing is wanted, or the client does not open its streams within [`Settings::stream_creation`]. The connection is closed
    /// then; there is no stream that the client could be told on.
    pub async fn open<S>(socket: S, protocol: Protocol, options: Options, settings: Settings) -> Result<Self, OpenError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let options = options.checked()?;
        match protocol {
            Protocol::Spdy(version) => spdy::open(socket, version, options, settings).await,
            Protocol::WebSocket { version, base64 } => {
                let encoding = if base64 { Encoding::Base64 } else { Encoding::Binary };
                Ok(websocket::open(socket, version, encoding, options, settings))
            }
        }
    }
}

/// The end of a remote command, and the connection that carries it. Dropped, the connection is aborted and the client learns no status:
/// it then takes the command for successful.
pub struct Session {
    connection: Connection,
    version: Version,
    settings: Settings,
    spdy: bool,
    /// What the client writes: reset at the end, so that it stops.
    inputs: Vec<Sender>,
    /// stdout and stderr.
    outputs: Vec<Sender>,
    error: Sender,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("version", &self.version).field("spdy", &self.spdy).finish_non_exhaustive()
    }
}

impl Session {
    /// Waits until the connection ends, most often because the client has gone. For a `select!` beside the copying.
    pub async fn closed(&self) -> End {
        self.connection.ended().await
    }

    /// Sends the status and ends the session in the order that loses nothing: what the client still sends is discarded, the status, the
    /// ends of the streams; then waits until the client has read it all and closes.
    ///
    /// Everything that was written to stdout and stderr before is sent before. Writers that are still held fail from now on.
    /// [`End::Client`] means that the client has closed by itself; [`End::Aborted`] that it did not within [`Settings::close`].
    /// Cancelled, the connection is aborted: what the client has not read by then may be lost.
    pub async fn finish(self, status: &Status) -> End {
        let Self { connection, version, settings, spdy, inputs, outputs, error } = self;
        for input in inputs {
            input.reset();
        }
        let text = if version >= Version::V4 { Some(status.to_json()) } else { status.to_text() };
        if let Some(text) = text {
            error.send_now(text.as_bytes());
        }
        for output in outputs {
            output.fin();
        }
        error.fin();
        let goodbye = if spdy {
            crate::spdy::goodbye
        } else {
            // A WebSocket has no end of a single stream: its close is the end of all.
            connection.outbox.push(crate::websocket::goodbye);
            |_: &mut bytes::BytesMut| {}
        };
        connection.close_after_client(settings.close, goodbye).await
    }
}
