//! Whatever a client sends, the session ends in order: no panic, no wait without end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::spdy_client;
use super::{pipe, settings, soon};
use crate::port_forward::{self, PortForward};
use crate::remote_command::{Options, Protocol, RemoteCommand, Version};
use crate::spdy::{Frame, frame};

/// Sends the bytes, closes, and waits for the end of a session that reads all it is given.
fn survive(bytes: &[u8], serve: impl AsyncFnOnce(tokio::io::DuplexStream)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = pipe(256);
        let client = async {
            // The server may close before all is written.
            let _ = theirs.write_all(bytes).await;
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        };
        tokio::join!(soon(client), soon(serve(ours)));
    });
}

async fn forward(socket: tokio::io::DuplexStream, protocol: port_forward::Protocol) {
    let mut session = PortForward::open(socket, protocol, &[80], settings()).unwrap();
    while let Some(mut forwarded) = session.accept().await {
        tokio::spawn(async move {
            let _ = forwarded.data.read_to_end(&mut Vec::new()).await;
            forwarded.finish();
        });
    }
}

async fn command(socket: tokio::io::DuplexStream, protocol: Protocol) {
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    if let Ok(RemoteCommand { mut streams, session }) = RemoteCommand::open(socket, protocol, options, settings()).await {
        let _ = streams.stdin.take().unwrap().read_to_end(&mut Vec::new()).await;
        while streams.resize.as_mut().unwrap().recv().await.is_some() {}
        drop(streams);
        session.closed().await;
    }
}

/// The bytes of a valid session of port-forward.
fn valid_spdy() -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = pipe(1 << 16);
        let mut client = spdy_client::Client::new(ours);
        for request in ["0", "1"] {
            for kind in ["error", "data"] {
                let id = client.syn(&[("streamtype", kind), ("port", "80"), ("requestid", request)], 0).await;
                client.data(id, b"some data", kind == "data").await;
            }
        }
        client.write(|buffer| frame::ping(buffer, 1)).await;
        drop(client);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).await.unwrap();
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_end_a_session(bytes: Vec<u8>) {
        survive(&bytes, async |socket| forward(socket, port_forward::Protocol::Spdy).await);
        survive(&bytes, async |socket| forward(socket, port_forward::Protocol::Tunnel).await);
        survive(&bytes, async |socket| forward(socket, port_forward::Protocol::WebSocket { base64: true }).await);
        survive(&bytes, async |socket| command(socket, Protocol::WebSocket { version: Version::V5, base64: false }).await);
    }

    #[test]
    fn a_cut_and_damaged_session_ends(cut: prop::sample::Index, at: prop::sample::Index, value: u8) {
        let mut bytes = valid_spdy();
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes.truncate(cut.index(bytes.len()));
        survive(&bytes, async |socket| forward(socket, port_forward::Protocol::Spdy).await);
        survive(&bytes, async |socket| command(socket, Protocol::Spdy(Version::V4)).await);
    }

    #[test]
    fn any_messages_end_a_websocket(messages in prop::collection::vec((0_u8..16, prop::collection::vec(any::<u8>(), 0..300)), 0..8)) {
        let mut bytes = bytes::BytesMut::new();
        for (first, payload) in &messages {
            crate::websocket::frame::tests::client_frame(&mut bytes, 0x80 | first, payload);
        }
        for base64 in [false, true] {
            survive(&bytes, async |socket| command(socket, Protocol::WebSocket { version: Version::V5, base64 }).await);
            survive(&bytes, async |socket| forward(socket, port_forward::Protocol::WebSocket { base64 }).await);
        }
        survive(&bytes, async |socket| forward(socket, port_forward::Protocol::Tunnel).await);
    }
}

#[tokio::test(start_paused = true)]
async fn ids_that_are_even_or_do_not_grow_are_refused() {
    let (ours, theirs) = pipe(1024);
    let _session = PortForward::open(ours, port_forward::Protocol::Spdy, &[], settings()).unwrap();
    let mut client = spdy_client::Client::new(theirs);
    client.syn_with_id(5, &[("streamtype", "error"), ("port", "80")], 0).await;
    for id in [2, 3, 5] {
        client.syn_with_id(id, &[("streamtype", "error"), ("port", "80")], 0).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { id }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_protocol_error_is_answered_before_the_end() {
    let (ours, theirs) = pipe(1024);
    let mut session = PortForward::open(ours, port_forward::Protocol::Spdy, &[], settings()).unwrap();
    let mut client = spdy_client::Client::new(theirs);
    client.write(|buffer| frame::control(buffer, frame::PING, 0, &[])).await;
    assert!(soon(session.accept()).await.is_none());
    assert_eq!(client.next().await, Some(Frame::GoAway));
    assert_eq!(client.next().await, None);
}

/// A socket that always has something to read, within the budget that tokio gives a task.
struct Flood {
    bytes: Vec<u8>,
    at: usize,
    /// Where it goes on after the last byte.
    again: usize,
}

impl AsyncRead for Flood {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        while buffer.remaining() > 0 {
            buffer.put_slice(&[self.bytes[self.at]]);
            self.at = if self.at + 1 < self.bytes.len() { self.at + 1 } else { self.again };
        }
        budget.made_progress();
        Poll::Ready(Ok(()))
    }
}

/// Data that nobody wants never stops coming: what the server has to say goes out all the same.
#[tokio::test]
async fn a_flood_of_data_does_not_hold_up_what_is_sent() {
    let mut bytes = bytes::BytesMut::new();
    frame::ping(&mut bytes, 1);
    let again = bytes.len();
    frame::data(&mut bytes, 9, &[0; 4096], false);
    let (ours, mut theirs) = pipe(64);
    let socket = tokio::io::join(Flood { bytes: bytes.to_vec(), at: 0, again }, ours);
    let _session = PortForward::open(socket, port_forward::Protocol::Spdy, &[], settings()).unwrap();
    let mut answer = vec![0; again];
    tokio::time::timeout(Duration::from_secs(10), theirs.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, bytes[..again]);
}

/// A client that pings and reads nothing: it is not read any more at some point, and nothing gathers.
#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_stands_still() {
    let (ours, theirs) = pipe(1024);
    let _session = PortForward::open(ours, port_forward::Protocol::Spdy, &[], settings()).unwrap();
    let mut theirs = theirs;
    let mut ping = bytes::BytesMut::new();
    frame::ping(&mut ping, 1);
    let mut sent = 0_usize;
    let flood = async {
        loop {
            theirs.write_all(&ping).await.unwrap();
            sent += ping.len();
        }
    };
    tokio::time::timeout(Duration::from_secs(1), flood).await.unwrap_err();
    assert!(sent < 512 * 1024, "{sent} bytes were taken");
}
