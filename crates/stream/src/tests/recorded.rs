//! What client-go 1.37.1 sent for `exec -it` with "tty" on stdin, a terminal of 80 × 24, until it had the status and closed. Recorded
//! between it and a server made of this crate; the fixtures begin with the HTTP request.

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{pipe, settings, soon};
use crate::End;
use crate::negotiation;
use crate::remote_command::{Options, Protocol, RemoteCommand, Status, TerminalSize, Version};

const SPDY: &[u8] = include_bytes!("../../fixtures/client-go-1.37-exec-spdy.bin");
const WEBSOCKET: &[u8] = include_bytes!("../../fixtures/client-go-1.37-exec-websocket.bin");

/// The headers of the request, and what follows it.
fn split(recording: &[u8]) -> (HeaderMap, &[u8]) {
    let end = recording.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&recording[..end]).unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    // `collect` would keep the last of several lines of one name.
    let mut headers = HeaderMap::new();
    for (name, value) in head.lines().skip(1).map(header) {
        headers.append(name, value);
    }
    (headers, &recording[end + 4..])
}

#[tokio::test(start_paused = true)]
async fn client_go_is_understood() {
    let table = [(SPDY, Protocol::Spdy(Version::V4)), (WEBSOCKET, Protocol::WebSocket { version: Version::V5, base64: false })];
    for (recording, expected) in table {
        let (headers, bytes) = split(recording);
        let protocol = negotiation::remote_command(&headers).unwrap().protocol;
        assert_eq!(protocol, expected);
        let (ours, mut theirs) = pipe(4096);
        let client = tokio::spawn(async move {
            theirs.write_all(bytes).await.unwrap();
            // client-go closes when it has read all.
            let mut answer = vec![0; 4096];
            let _ = theirs.read(&mut answer).await;
        });
        let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
        let RemoteCommand { streams, session } = soon(RemoteCommand::open(ours, protocol, options, settings())).await.unwrap();
        let mut text = String::new();
        soon(streams.stdin.unwrap().read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "tty", "{protocol:?}");
        assert_eq!(soon(streams.resize.unwrap().recv()).await, Some(TerminalSize { width: 80, height: 24 }), "{protocol:?}");
        assert!(matches!(soon(session.finish(&Status::Success)).await, End::Client), "{protocol:?}");
        client.await.unwrap();
    }
}
