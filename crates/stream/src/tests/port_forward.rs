use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::spdy_client::{self, data};
use super::websocket_client::{self, FIN};
use super::{pipe, settings, soon};
use crate::End;
use crate::port_forward::{PortForward, Protocol};
use crate::spdy::{Frame, frame};
use crate::websocket::frame::{OP_BINARY, OP_CLOSE, OP_PING, OP_PONG, OP_TEXT};

fn spdy() -> (spdy_client::Client, PortForward) {
    let (ours, theirs) = pipe(1024);
    (spdy_client::Client::new(theirs), PortForward::open(ours, Protocol::Spdy, &[], settings()).unwrap())
}

async fn open_pair(client: &mut spdy_client::Client, request: &str, port: &str) -> (u32, u32) {
    let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
    let error = client.syn(&headers("error"), frame::FLAG_FIN).await;
    let data = client.syn(&headers("data"), 0).await;
    (error, data)
}

#[tokio::test(start_paused = true)]
async fn connections_over_spdy_end_each_direction_alone() {
    let (mut client, mut session) = spdy();
    let (error, stream) = open_pair(&mut client, "0", "8080").await;
    let mut forwarded = soon(session.accept()).await.unwrap();
    assert_eq!((forwarded.port, forwarded.request_id.as_str()), (8080, "0"));
    assert_eq!(client.next().await, Some(Frame::SynReply { id: error }));
    assert_eq!(client.next().await, Some(Frame::SynReply { id: stream }));
    client.data(stream, b"GET /", true).await;
    let mut text = String::new();
    soon(forwarded.data.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "GET /");
    forwarded.data.write_all(b"200 OK").await.unwrap();
    forwarded.data.shutdown().await.unwrap();
    forwarded.finish();
    assert_eq!(client.next().await, data(stream, b"200 OK", false));
    assert_eq!(client.next().await, data(stream, b"", true));
    assert_eq!(client.next().await, data(error, b"", true));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_then_both_streams_are_reset() {
    let (mut client, mut session) = spdy();
    tokio::spawn(async move {
        while let Some(forwarded) = session.accept().await {
            forwarded.fail("connection refused");
        }
    });
    let (error, stream) = open_pair(&mut client, "0", "8080").await;
    assert_eq!(client.next().await, Some(Frame::SynReply { id: error }));
    assert_eq!(client.next().await, Some(Frame::SynReply { id: stream }));
    assert_eq!(client.next().await, data(error, b"connection refused", false));
    assert_eq!(client.next().await, Some(Frame::RstStream { id: stream }));
    assert_eq!(client.next().await, Some(Frame::RstStream { id: error }));
}

/// kubectl resets the data stream when its side has ended, and waits for the end of the error stream: an empty one, or it ends the session.
#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_is_told_no_failure() {
    let (mut client, mut session) = spdy();
    let (error, stream) = open_pair(&mut client, "0", "8080").await;
    let mut forwarded = soon(session.accept()).await.unwrap();
    client.write(|buffer| frame::rst_stream(buffer, stream, frame::RST_CANCEL)).await;
    assert_eq!(soon(forwarded.data.read(&mut [0; 8])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(forwarded.data.write_all(b"x").await.is_err());
    forwarded.fail("connection reset");
    client.next().await;
    client.next().await;
    assert_eq!(client.next().await, data(error, b"", true));
}

#[tokio::test(start_paused = true)]
async fn pairs_are_matched_by_request_in_any_order_and_by_id_for_old_clients() {
    let (mut client, mut session) = spdy();
    let headers = |kind, request, port| [("streamtype", kind), ("port", port), ("requestid", request)];
    client.syn(&headers("data", "1", "81"), 0).await;
    client.syn(&headers("error", "0", "80"), 0).await;
    client.syn(&headers("data", "0", "80"), 0).await;
    client.syn(&headers("error", "1", "81"), 0).await;
    client.syn(&[("streamtype", "error"), ("port", "82")], 0).await;
    client.syn(&[("streamtype", "data"), ("port", "82")], 0).await;
    for (port, request) in [(80, "0"), (81, "1"), (82, "9")] {
        let forwarded = soon(session.accept()).await.unwrap();
        assert_eq!((forwarded.port, forwarded.request_id.as_str()), (port, request));
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_pair_is_given_up_after_a_while() {
    let (mut client, mut session) = spdy();
    let accept = tokio::spawn(async move { session.accept().await.map(|forwarded| forwarded.port) });
    let id = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "7")]).await;
    assert_eq!(client.next().await, data(id, b"(request=7) timed out waiting for streams", false));
    assert_eq!(client.next().await, data(id, b"", true));
    let id = client.syn(&[("streamtype", "data"), ("port", "no")], 0).await;
    assert_eq!(client.next().await, Some(Frame::RstStream { id }), "a wrong port");
    drop(client);
    assert_eq!(soon(accept).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn streams_that_have_ended_make_room_for_others() {
    let (mut client, mut session) = spdy();
    tokio::spawn(async move {
        while let Some(forwarded) = session.accept().await {
            forwarded.finish();
        }
    });
    for request in 0..2 * settings().limits.streams {
        let (error, stream) = open_pair(&mut client, &request.to_string(), "80").await;
        assert_eq!(client.next().await, Some(Frame::SynReply { id: error }));
        assert_eq!(client.next().await, Some(Frame::SynReply { id: stream }));
        client.next().await;
        client.next().await;
        client.write(|buffer| frame::rst_stream(buffer, stream, frame::RST_CANCEL)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_allowed_are_refused() {
    let (mut client, _session) = spdy();
    for _ in 0..settings().limits.streams {
        client.syn(&[("streamtype", "error"), ("port", "80")], 0).await;
    }
    let id = client.syn(&[("streamtype", "error"), ("port", "80")], 0).await;
    assert_eq!(client.next().await, Some(Frame::RstStream { id }));
}

#[tokio::test(start_paused = true)]
async fn the_tunnel_is_spdy_in_a_websocket() {
    let (ours, theirs) = pipe(1024);
    let mut session = PortForward::open(ours, Protocol::Tunnel, &[], settings()).unwrap();
    let (near, far) = pipe(1024);
    let mut spdy = spdy_client::Client::new(near);
    // Carries the SPDY client's bytes in messages of seven bytes, and back.
    let carrier = tokio::spawn(async move {
        let mut client = websocket_client::Client::new(theirs);
        client.send(FIN | OP_PING, b"?").await;
        assert_eq!(client.next().await, Some((OP_PONG, b"?".to_vec())));
        let (mut read, mut write) = tokio::io::split(far);
        let (mut buffer, mut opcode) = ([0; 7], OP_BINARY);
        while opcode == OP_BINARY {
            tokio::select! {
                count = read.read(&mut buffer) => match count.unwrap() {
                    0 => break,
                    count => client.binary(&buffer[..count]).await,
                },
                Some((kind, bytes)) = client.next() => {
                    opcode = kind;
                    if kind == OP_BINARY {
                        write.write_all(&bytes).await.unwrap();
                    }
                }
            }
        }
        opcode
    });
    let headers = |kind| [("streamtype", kind), ("port", "80"), ("requestid", "0")];
    let error = spdy.syn(&headers("error"), frame::FLAG_FIN).await;
    let stream = spdy.syn(&headers("data"), 0).await;
    let mut forwarded = soon(session.accept()).await.unwrap();
    assert_eq!(spdy.next().await, Some(Frame::SynReply { id: error }));
    assert_eq!(spdy.next().await, Some(Frame::SynReply { id: stream }));
    spdy.data(stream, b"through the tunnel", true).await;
    let mut text = String::new();
    soon(forwarded.data.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "through the tunnel");
    forwarded.data.write_all(&[7; 5000]).await.unwrap();
    forwarded.finish();
    assert_eq!(spdy.read_to_end(stream).await, [7; 5000]);
    assert_eq!(spdy.next().await, data(error, b"", true));
    soon(session.close()).await;
    assert_eq!(spdy.next().await, Some(Frame::GoAway));
    assert_eq!(soon(carrier).await.unwrap(), OP_CLOSE);
}

#[tokio::test(start_paused = true)]
async fn ports_over_a_websocket_begin_with_their_number() {
    let (ours, theirs) = pipe(1024);
    let mut client = websocket_client::Client::new(theirs);
    let mut session = PortForward::open(ours, Protocol::WebSocket { base64: false }, &[80, 8080], settings()).unwrap();
    for (channel, port) in [(0, 80_u16), (1, 80), (2, 8080), (3, 8080)] {
        assert_eq!(client.next().await, Some((OP_BINARY, [&[channel][..], &port.to_le_bytes()].concat())));
    }
    let first = soon(session.accept()).await.unwrap();
    let mut second = soon(session.accept()).await.unwrap();
    assert_eq!((first.port, second.port), (80, 8080));
    client.binary(b"\x02ping").await;
    let mut bytes = [0; 4];
    soon(second.data.read_exact(&mut bytes)).await.unwrap();
    second.data.write_all(b"pong").await.unwrap();
    assert_eq!(client.next().await, Some((OP_BINARY, b"\x02pong".to_vec())));
    first.fail("connection refused");
    assert_eq!(client.next().await, Some((OP_BINARY, b"\x01connection refused".to_vec())));
    second.finish();
    assert!(soon(session.accept()).await.is_none(), "every port has ended");
    let close = tokio::spawn(session.close());
    assert_eq!(client.next().await.map(|(opcode, _)| opcode), Some(OP_CLOSE));
    client.close().await;
    assert!(matches!(soon(close).await.unwrap(), End::Client));
}

#[tokio::test(start_paused = true)]
async fn ports_over_a_websocket_in_base64() {
    let (ours, theirs) = pipe(1024);
    let mut client = websocket_client::Client::new(theirs);
    let _session = PortForward::open(ours, Protocol::WebSocket { base64: true }, &[80], settings()).unwrap();
    assert_eq!(client.next().await, Some((OP_TEXT, b"0UAA=".to_vec())));
    assert!(PortForward::open(pipe(1).0, Protocol::WebSocket { base64: false }, &[], settings()).is_err());
}
