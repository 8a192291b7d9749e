//! The streaming protocols of a kubelet's API, server side: exec and attach ("remote command") and port-forward, over SPDY/3.1 and over
//! WebSocket.
//!
//! Byte streams in, byte streams out: this crate knows neither Kubernetes objects nor a container engine. The caller
//!
//! 1. asks [`negotiation`] which protocol a request wants, and answers it with `101` and the headers given, or with the refusal;
//! 2. hands the upgraded stream to [`RemoteCommand::open`](remote_command::RemoteCommand::open) or
//!    [`PortForward::open`](port_forward::PortForward::open);
//! 3. copies bytes, and ends the session.
//!
//! Guarantees, for every protocol:
//!
//! - **No byte is dropped under load.** Each stream has a bounded buffer; when the one who reads it is slow, the socket is not read either.
//! - **Memory is bounded** whatever the peer sends: see [`Limits`]. Large frames and messages are passed on in pieces.
//! - **The client closes first.** A status is followed by the ends of the streams, then the connection stays readable until the client has
//!   closed it, with a deadline: a server that closes first lets the kernel drop queued output (kubelets up to 1.37 did).
//! - Dropping a session aborts its connection; everything that reads or writes through it then gets an end or an error, and no task is left.
//!
//! The rules come from `moby/spdystream`, `k8s.io/streaming` and `k8s.io/cri-streaming` as of Kubernetes 1.37, and RFC 6455.

mod channel;
mod connection;
mod error;
mod limits;
mod outbox;
mod spdy;
mod websocket;

pub mod negotiation;
pub mod port_forward;
pub mod remote_command;

/// What the fuzz targets (`fuzz/`) do; there only for them and for the test that does it with their corpus.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use channel::{Reader, Writer};
pub use connection::End;
pub use error::{ConnectionError, OpenError, ProtocolError};
pub use limits::{Limits, Settings};
