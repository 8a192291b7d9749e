mod websocket;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::spdy_client::{self, data};
use super::{pattern, pipe, settings, soon};
use crate::remote_command::{Options, Protocol, RemoteCommand, Session, Status, Streams, TerminalSize, Version};
use crate::spdy::{Frame, frame};
use crate::{End, OpenError};

const ALL: Options = Options { stdin: true, stdout: true, stderr: true, tty: false };
const TTY: Options = Options { stdin: true, stdout: true, stderr: false, tty: true };

/// The ids of the streams that [`spdy`] opens with [`ALL`].
const ERROR: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;
const STDERR: u32 = 7;

async fn spdy(version: Version, options: Options, buffer: usize) -> (spdy_client::Client, Streams, Session) {
    let (ours, theirs) = pipe(buffer);
    let mut client = spdy_client::Client::new(theirs);
    let server = tokio::spawn(RemoteCommand::open(ours, Protocol::Spdy(version), options, settings()));
    let Options { stdin, stdout, stderr, tty } = options;
    for (name, wanted) in [("error", true), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr), ("resize", tty)] {
        if wanted {
            client.open(&[("streamtype", name)]).await;
        }
    }
    let RemoteCommand { streams, session } = soon(server).await.unwrap().unwrap();
    (client, streams, session)
}

#[tokio::test(start_paused = true)]
async fn spdy_streams_carry_bytes_and_stdin_ends_alone() {
    let (mut client, streams, _session) = spdy(Version::V4, ALL, 1024).await;
    let (mut stdin, mut stdout, mut stderr) = (streams.stdin.unwrap(), streams.stdout.unwrap(), streams.stderr.unwrap());
    assert!(streams.resize.is_none());
    client.data(STDIN, b"hello", false).await;
    client.data(STDIN, b" world", true).await;
    let mut text = String::new();
    soon(stdin.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "hello world");
    stdout.write_all(b"out").await.unwrap();
    assert_eq!(client.next().await, data(STDOUT, b"out", false));
    stderr.write_all(b"err").await.unwrap();
    assert_eq!(client.next().await, data(STDERR, b"err", false));
    stdout.shutdown().await.unwrap();
    assert_eq!(client.next().await, data(STDOUT, b"", true));
    assert_eq!(stdout.write_all(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn the_end_is_status_then_fins_then_the_client_closes() {
    let (mut client, streams, session) = spdy(Version::V4, ALL, 1024).await;
    let mut stdout = streams.stdout.unwrap();
    stdout.write_all(b"last words").await.unwrap();
    let status = Status::ExitCode(42);
    let json = status.to_json();
    let finish = tokio::spawn(async move { session.finish(&status).await });
    assert_eq!(client.next().await, data(STDOUT, b"last words", false));
    assert_eq!(client.next().await, Some(Frame::RstStream { id: STDIN }));
    assert_eq!(client.next().await, data(ERROR, json.as_bytes(), false));
    assert_eq!(client.next().await, data(STDOUT, b"", true));
    assert_eq!(client.next().await, data(STDERR, b"", true));
    assert_eq!(client.next().await, data(ERROR, b"", true));
    // The connection stays: pings are answered, what still comes on stdin is swallowed.
    client.data(STDIN, &pattern(100_000), false).await;
    client.write(|buffer| frame::ping(buffer, 9)).await;
    assert_eq!(client.next().await, Some(Frame::Ping { id: 9 }));
    assert!(!finish.is_finished());
    drop(client);
    assert!(matches!(soon(finish).await.unwrap(), End::Client));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_close_is_left_after_the_deadline() {
    let (mut client, streams, session) = spdy(Version::V4, ALL, 1024).await;
    drop(streams);
    let started = tokio::time::Instant::now();
    assert!(matches!(session.finish(&Status::Success).await, End::Aborted));
    assert!(started.elapsed() >= settings().close);
    let mut last = None;
    while let Some(frame) = client.next().await {
        last = Some(frame);
    }
    assert_eq!(last, Some(Frame::GoAway));
}

#[tokio::test(start_paused = true)]
async fn old_versions_have_text_and_nothing_for_success() {
    for (status, expected) in [(Status::Success, ""), (Status::Error("boom".into()), "Internal error occurred: boom")] {
        let options = Options { stdin: false, stderr: false, ..ALL };
        let (mut client, streams, session) = spdy(Version::V3, options, 1024).await;
        let finish = tokio::spawn(async move { session.finish(&status).await });
        if !expected.is_empty() {
            assert_eq!(client.next().await, data(ERROR, expected.as_bytes(), false));
        }
        assert_eq!(client.next().await, data(3, b"", true));
        assert_eq!(client.next().await, data(ERROR, b"", true));
        client.write(|buffer| frame::goaway(buffer, 0, 0)).await;
        assert!(matches!(soon(finish).await.unwrap(), End::Client));
        drop(streams);
    }
}

#[tokio::test(start_paused = true)]
async fn a_terminal_has_sizes_and_no_stderr() {
    let (mut client, streams, _session) = spdy(Version::V4, Options { stderr: true, ..TTY }.checked().unwrap(), 1024).await;
    assert!(streams.stderr.is_none());
    let mut resize = streams.resize.unwrap();
    client.data(7, br#"{"Width":80,"Hei"#, false).await;
    client.data(7, br#"ght":24}"#, false).await;
    assert_eq!(soon(resize.recv()).await, Some(TerminalSize { width: 80, height: 24 }));
    client.data(7, br#"{"Width":81,"Height":25}{"Width":0,"Height":0}"#, true).await;
    assert_eq!(soon(resize.recv()).await, Some(TerminalSize { width: 81, height: 25 }));
    assert_eq!(soon(resize.recv()).await, None);
}

#[tokio::test(start_paused = true)]
async fn streams_that_do_not_come_in_time_are_named() {
    let (ours, theirs) = pipe(1024);
    let mut client = spdy_client::Client::new(theirs);
    let server = tokio::spawn(RemoteCommand::open(ours, Protocol::Spdy(Version::V4), ALL, settings()));
    client.open(&[("streamtype", "error")]).await;
    client.open(&[("streamtype", "stdout")]).await;
    let id = client.syn(&[("streamtype", "stdout")], 0).await;
    assert_eq!(client.next().await, Some(Frame::RstStream { id }), "a second stdout");
    match soon(server).await.unwrap() {
        Err(OpenError::StreamsMissing { missing, .. }) => assert_eq!(missing, "stdin, stderr"),
        other => panic!("{:?}", other.map(|command| command.session)),
    }
    assert_eq!(client.next().await, Some(Frame::GoAway));
    assert_eq!(client.next().await, None);
    assert!(matches!(Options::default().checked(), Err(OpenError::NothingWanted)));
}

/// A reader of 64 KiB/s, as it were: every byte arrives, and the server holds no more than its buffers.
#[tokio::test]
async fn a_slow_client_gets_every_byte() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (mut client, streams, session) = spdy(Version::V4, Options { stdin: false, stderr: false, ..ALL }, 4096).await;
    let mut stdout = streams.stdout.unwrap();
    let (progress, written) = tokio::sync::watch::channel(0_usize);
    let server = tokio::spawn(async move {
        for chunk in pattern(LENGTH).chunks(32 * 1024) {
            stdout.write_all(chunk).await.unwrap();
            progress.send_modify(|count| *count += chunk.len());
        }
        session.finish(&Status::Success).await
    });
    let (mut got, mut most) = (Vec::new(), 0);
    loop {
        match client.next().await {
            Some(Frame::Data { id: 3, chunk, fin }) => {
                got.extend_from_slice(&chunk);
                most = most.max(written.borrow().saturating_sub(got.len()));
                // Lets the server run ahead as far as it can.
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                if fin {
                    break;
                }
            }
            Some(Frame::Data { id: ERROR, chunk, .. }) => assert_eq!(chunk, Status::Success.to_json().as_bytes()),
            other => panic!("{other:?}"),
        }
    }
    assert!(got == pattern(LENGTH), "{} of {LENGTH} bytes", got.len());
    assert!(most <= 256 * 1024, "the server was {most} bytes ahead");
    assert_eq!(client.next().await, data(ERROR, b"", true));
    drop(client);
    assert!(matches!(soon(server).await.unwrap(), End::Client));
}

#[tokio::test]
async fn a_slow_process_gets_every_byte_of_stdin() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (mut client, streams, _session) = spdy(Version::V4, ALL, 4096).await;
    let mut stdin = streams.stdin.unwrap();
    let writer = tokio::spawn(async move {
        for chunk in pattern(LENGTH).chunks(100_000) {
            client.data(STDIN, chunk, false).await;
        }
        client.data(STDIN, b"", true).await;
        client
    });
    // Nothing is read: the client must stand still.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!writer.is_finished());
    let mut got = Vec::new();
    soon(stdin.read_to_end(&mut got)).await.unwrap();
    assert!(got == pattern(LENGTH), "{} of {LENGTH} bytes", got.len());
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_while_the_client_reads_no_output() {
    let (mut client, streams, _session) = spdy(Version::V4, ALL, 4096).await;
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    let output = tokio::spawn(async move { stdout.write_all(&pattern(1_000_000)).await });
    client.data(STDIN, b"still heard", true).await;
    client.write(|buffer| frame::ping(buffer, 1)).await;
    let mut text = String::new();
    soon(stdin.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "still heard");
    let mut before = 0;
    loop {
        match client.next().await {
            Some(Frame::Data { chunk, .. }) => before += chunk.len(),
            Some(Frame::Ping { id: 1 }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(before < 256 * 1024, "{before} bytes before the answer");
    output.abort();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_client_ends_all_streams() {
    let (client, streams, session) = spdy(Version::V4, ALL, 1024).await;
    drop(client);
    assert!(matches!(soon(session.closed()).await, End::Client));
    assert_eq!(soon(streams.stdin.unwrap().read(&mut [0; 8])).await.unwrap(), 0);
    assert!(soon(streams.stdout.unwrap().write_all(b"x")).await.is_err());
    assert!(matches!(soon(session.finish(&Status::Success)).await, End::Client));
}

/// The process has ended and left its stdin full: what the client sends there must not stand before its pings and its close.
#[tokio::test(start_paused = true)]
async fn the_end_frees_a_connection_that_stands_still_for_stdin() {
    let (mut client, streams, session) = spdy(Version::V4, ALL, 4096).await;
    let send = tokio::spawn(async move {
        client.data(STDIN, &pattern(200_000), false).await;
        client.write(|buffer| frame::ping(buffer, 1)).await;
        client
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!send.is_finished());
    let finish = tokio::spawn(async move { session.finish(&Status::Success).await });
    let mut client = soon(send).await.unwrap();
    while client.next().await != Some(Frame::Ping { id: 1 }) {}
    drop(client);
    assert!(matches!(soon(finish).await.unwrap(), End::Client));
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_and_traffic_in_either_direction_does_not() {
    let (mut client, streams, session) = spdy(Version::V4, ALL, 1024).await;
    let (mut stdout, idle) = (streams.stdout.unwrap(), settings().idle);
    for _ in 0..3 {
        tokio::time::sleep(idle * 2 / 3).await;
        // Nothing answers a setting.
        client.write(|buffer| frame::control(buffer, frame::SETTINGS, 0, &[&[0; 4]])).await;
    }
    for _ in 0..3 {
        tokio::time::sleep(idle * 2 / 3).await;
        stdout.write_all(b"x").await.unwrap();
        assert_eq!(client.next().await, data(STDOUT, b"x", false));
    }
    let started = tokio::time::Instant::now();
    assert!(matches!(session.closed().await, End::Idle(time) if time == idle));
    assert_eq!(started.elapsed().as_secs(), idle.as_secs());
}

/// Counts the writes to a socket.
struct Writes {
    socket: tokio::io::DuplexStream,
    sizes: std::sync::Arc<std::sync::Mutex<Vec<usize>>>,
}

impl tokio::io::AsyncRead for Writes {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Writes {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let result = std::pin::Pin::new(&mut self.socket).poll_write(cx, data);
        if let std::task::Poll::Ready(Ok(count)) = result {
            self.sizes.lock().unwrap().push(count);
        }
        result
    }
    fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Python's client would not see the second of two messages that come in one TLS record.
#[tokio::test(start_paused = true)]
async fn every_websocket_message_is_a_write_of_its_own() {
    let (ours, mut theirs) = pipe(1 << 20);
    let sizes = std::sync::Arc::default();
    let socket = Writes { socket: ours, sizes: std::sync::Arc::clone(&sizes) };
    let protocol = Protocol::WebSocket { version: Version::V4, base64: false };
    let options = Options { stdin: false, ..ALL };
    let RemoteCommand { streams, session } = RemoteCommand::open(socket, protocol, options, settings()).await.unwrap();
    let mut stdout = streams.stdout.unwrap();
    // Nothing yields between these, so that all is queued when the writer comes.
    stdout.write_all(b"out").await.unwrap();
    stdout.write_all(&[b'x'; 300]).await.unwrap();
    streams.stderr.unwrap().write_all(b"err").await.unwrap();
    let finish = tokio::spawn(async move { session.finish(&Status::Success).await });
    let mut got = Vec::new();
    while !got.ends_with(&[0x88, 2, 3, 232]) {
        assert_ne!(soon(theirs.read_buf(&mut got)).await.unwrap(), 0);
    }
    drop(theirs);
    soon(finish).await.unwrap();
    let status = 3 + Status::Success.to_json().len();
    // The marker of the beginning, three messages, the status, the close.
    assert_eq!(*sizes.lock().unwrap(), [3, 6, 305, 6, status, 4]);
}
