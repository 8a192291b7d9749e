//! Port-forward: many connections to ports of a pod over one connection of a client.
//!
//! ```no_run
//! # async fn run(socket: tokio::io::DuplexStream, protocol: kube_pet_stream::port_forward::Protocol) -> Result<(), Box<dyn std::error::Error>> {
//! use kube_pet_stream::{Settings, port_forward::PortForward};
//!
//! let mut session = PortForward::open(socket, protocol, &[], Settings::default())?;
//! while let Some(mut forwarded) = session.accept().await {
//!     tokio::spawn(async move {
//!         let result = match tokio::net::TcpStream::connect(("127.0.0.1", forwarded.port)).await {
//!             Ok(mut backend) => tokio::io::copy_bidirectional(&mut forwarded.data, &mut backend).await.map(|_| ()),
//!             Err(error) => Err(error),
//!         };
//!         match result {
//!             Ok(()) => forwarded.finish(),
//!             Err(error) => forwarded.fail(&format!("error forwarding port: {error}")),
//!         }
//!     });
//! }
//! session.close().await;
//! # Ok(())
//! # }
//! ```

mod pairs;
mod websocket;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use websocket::{InvalidPorts, MAX_PORTS, parse_ports};

use crate::channel::{Reader, Sender};
use crate::connection::End;
use crate::error::OpenError;
use crate::limits::Settings;
use crate::websocket::Tunnel;
use crate::websocket::frame::Encoding;

/// A protocol as negotiated; see [`negotiation::port_forward`](crate::negotiation::port_forward).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1: the client opens a pair of streams for each connection.
    Spdy,
    /// SPDY/3.1 in the messages of a WebSocket.
    Tunnel,
    /// WebSocket: one connection for each port of the request, all open from the start.
    WebSocket {
        /// Messages are text: a digit and base64.
        base64: bool,
    },
}

/// A session of port-forward. Dropped, its connection is aborted.
pub struct PortForward(Kind);

enum Kind {
    Spdy(Box<pairs::Pairs>),
    WebSocket(websocket::Ports),
}

impl fmt::Debug for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortForward")
    }
}

impl PortForward {
    /// Begins a session on an upgraded connection. `ports` are those of the query, for [`Protocol::WebSocket`]; the others take no notice of
    /// them.
    ///
    /// Must be called in a tokio runtime with time.
    ///
    /// # Errors
    /// When there are no ports, or too many to be numbered. Call [`parse_ports`] before the `101`.
    pub fn open<S>(socket: S, protocol: Protocol, ports: &[u16], settings: Settings) -> Result<Self, OpenError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Ok(Self(match protocol {
            Protocol::Spdy => Kind::Spdy(Box::new(pairs::Pairs::new(socket, settings))),
            Protocol::Tunnel => Kind::Spdy(Box::new(pairs::Pairs::new(Tunnel::new(socket), settings))),
            Protocol::WebSocket { base64 } => {
                let encoding = if base64 { Encoding::Base64 } else { Encoding::Binary };
                Kind::WebSocket(websocket::Ports::new(socket, encoding, ports, &settings)?)
            }
        }))
    }

    /// Waits for the next connection to forward. None: the client has gone, or, over the channels of a WebSocket, every port has ended.
    /// May be cancelled without a loss.
    ///
    /// It must be called again soon: it also ends pairs of streams of which only one has come in time.
    pub async fn accept(&mut self) -> Option<Forwarded> {
        match &mut self.0 {
            Kind::Spdy(pairs) => pairs.accept().await,
            Kind::WebSocket(ports) => ports.accept().await,
        }
    }

    /// Says goodbye, writes what is queued, closes. Connections that are still forwarded are cut.
    pub async fn close(self) -> End {
        match self.0 {
            Kind::Spdy(pairs) => pairs.close().await,
            Kind::WebSocket(ports) => ports.close().await,
        }
    }
}

/// One forwarded connection.
#[derive(Debug)]
pub struct Forwarded {
    /// The port of the pod that the client wants.
    pub port: u16,
    /// What the client calls it, for logs.
    pub request_id: String,
    /// The bytes of the connection.
    pub data: DataStream,
    /// Where a failure is told.
    pub error: ErrorStream,
}

impl Forwarded {
    /// It ended as connections do: both streams end, the empty error stream means success.
    pub fn finish(self) {
        let Self { port: _, request_id: _, data, error } = self;
        data.sender.fin();
        drop(error);
    }

    /// It failed; the client shows the text. Clients end their whole session then, as upstream's do. When the client itself has given the
    /// connection up, which copying sees as a failure, it is told nothing.
    pub fn fail(self, message: &str) {
        let Self { port: _, request_id: _, data, error } = self;
        if data.sender.state.is_reset() {
            return;
        }
        error.sender.send_now(message.as_bytes());
        data.sender.reset();
        error.sender.reset();
    }
}

/// The bytes of a forwarded connection, in both directions.
///
/// Reading ends when the client ends its direction; when it resets the stream or is gone, the error is `ConnectionReset`, so that a copy in
/// both directions ends at once. `shutdown` ends the other direction (with SPDY; channels of a WebSocket have no such end). Dropped before
/// that, the stream is reset.
pub struct DataStream {
    reader: Reader,
    sender: Sender,
    /// Held as long as the port is served.
    _open: Option<websocket::OpenPort>,
}

impl fmt::Debug for DataStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataStream")
    }
}

impl AsyncRead for DataStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let result = Pin::new(&mut self.reader).poll_read(cx, buffer);
        let ended = matches!(result, Poll::Ready(Ok(()))) && room > 0 && buffer.filled().len() == before;
        if ended && (self.sender.state.is_reset() || !self.sender.state.received_fin()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        result
    }
}

impl AsyncWrite for DataStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.sender.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.fin();
        Poll::Ready(Ok(()))
    }
}

impl Drop for DataStream {
    fn drop(&mut self) {
        if !self.sender.is_closed() {
            self.sender.reset();
        }
    }
}

/// Where the client hears of a failure. Dropped, it ends empty: success.
pub struct ErrorStream {
    sender: Sender,
}

impl ErrorStream {
    /// Tells the client of a failure without ending the data stream. [`Forwarded::fail`] does both.
    pub fn write(&self, message: &str) {
        self.sender.send_now(message.as_bytes());
    }
}

impl fmt::Debug for ErrorStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorStream")
    }
}

impl Drop for ErrorStream {
    fn drop(&mut self) {
        self.sender.fin();
    }
}
