use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::websocket_client::{self, FIN};
use super::super::{pattern, pipe, settings, soon};
use super::{ALL, TTY};
use crate::End;
use crate::remote_command::{Options, Protocol, RemoteCommand, Session, Status, Streams, TerminalSize, Version};
use crate::websocket::frame::{OP_BINARY, OP_CLOSE, OP_PING, OP_PONG, OP_TEXT};

async fn websocket(version: Version, base64: bool, options: Options) -> (websocket_client::Client, Streams, Session) {
    let (ours, theirs) = pipe(64 * 1024);
    let protocol = Protocol::WebSocket { version, base64 };
    let RemoteCommand { streams, session } = RemoteCommand::open(ours, protocol, options, settings()).await.unwrap();
    (websocket_client::Client::new(theirs), streams, session)
}

#[tokio::test(start_paused = true)]
async fn websocket_version_5_in_full() {
    let (mut client, streams, session) = websocket(Version::V5, false, ALL).await;
    let (mut stdin, mut stdout, mut stderr) = (streams.stdin.unwrap(), streams.stdout.unwrap(), streams.stderr.unwrap());
    assert_eq!(client.next().await, Some((OP_BINARY, vec![1])), "the sign that the connection is there");
    client.binary(b"\0hello").await;
    client.send(OP_BINARY, b"\0 wo").await;
    client.send(FIN | OP_PING, b"5").await;
    client.send(FIN, b"rld").await;
    client.binary(&[9, 1, 2, 3]).await;
    client.binary(&[255, 0]).await;
    let mut text = String::new();
    soon(stdin.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "hello world");
    assert_eq!(client.next().await, Some((OP_PONG, b"5".to_vec())));
    stdout.write_all(b"out").await.unwrap();
    stderr.write_all(b"err").await.unwrap();
    assert_eq!(client.next().await, Some((OP_BINARY, b"\x01out".to_vec())));
    assert_eq!(client.next().await, Some((OP_BINARY, b"\x02err".to_vec())));
    let finish = tokio::spawn(async move { session.finish(&Status::ExitCode(1)).await });
    let status = [b"\x03", Status::ExitCode(1).to_json().as_bytes()].concat();
    assert_eq!(client.next().await, Some((OP_BINARY, status)));
    assert_eq!(client.next().await, Some((OP_CLOSE, 1000_u16.to_be_bytes().to_vec())));
    client.binary(b"\0too late").await;
    assert!(!finish.is_finished());
    client.close().await;
    assert!(matches!(soon(finish).await.unwrap(), End::Client));
}

#[tokio::test(start_paused = true)]
async fn websocket_base64() {
    let (mut client, streams, _session) = websocket(Version::V4, true, TTY).await;
    let (mut stdin, mut resize) = (streams.stdin.unwrap(), streams.resize.unwrap());
    assert_eq!(client.next().await, Some((OP_TEXT, b"1".to_vec())));
    // "hello", cut where no group of four ends.
    client.send(OP_TEXT, b"0aGV").await;
    client.send(FIN, b"sbG8=").await;
    let mut text = [0; 5];
    soon(stdin.read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"hello");
    client.send(FIN | OP_TEXT, b"4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9").await;
    assert_eq!(soon(resize.recv()).await, Some(TerminalSize { width: 80, height: 24 }));
    streams.stdout.unwrap().write_all(b"out").await.unwrap();
    assert_eq!(client.next().await, Some((OP_TEXT, b"1b3V0".to_vec())));
    // Version 4 has no close signal, and this is no channel.
    client.send(FIN | OP_TEXT, &[255, b'0']).await;
    client.send(FIN | OP_TEXT, b"0aGVsbG8=").await;
    soon(stdin.read_exact(&mut text)).await.unwrap();
}

#[tokio::test]
async fn a_slow_websocket_client_gets_every_byte() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (mut client, streams, session) = websocket(Version::V5, false, Options { stdin: false, stderr: false, ..ALL }).await;
    let mut stdout = streams.stdout.unwrap();
    let server = tokio::spawn(async move {
        stdout.write_all(&pattern(LENGTH)).await.unwrap();
        session.finish(&Status::Success).await
    });
    let mut got = Vec::new();
    while let Some((opcode, payload)) = client.next().await {
        match (opcode, payload.split_first()) {
            (OP_BINARY, Some((1, data))) => got.extend_from_slice(data),
            (OP_BINARY, Some((3, _))) => {}
            (OP_CLOSE, _) => break,
            other => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert!(got == pattern(LENGTH), "{} of {LENGTH} bytes", got.len());
    client.close().await;
    assert!(matches!(soon(server).await.unwrap(), End::Client));
}
