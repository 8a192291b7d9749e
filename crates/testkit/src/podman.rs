//! A Podman service played by the test, on a Unix socket.

#![allow(clippy::unwrap_used, reason = "part of tests")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// What the fake does with one request.
#[derive(Clone)]
pub enum Answer {
    /// Status, body; the connection stays open.
    Reply(u16, Vec<u8>),
    /// These bytes as they are, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes as they are, then nothing, for ever.
    RawThenHang(Vec<u8>),
    /// These bytes as they are, then whatever comes, back to the sender until it ends its direction.
    Echo(Vec<u8>),
    /// Nothing, for ever.
    Hang,
    /// The end of the connection.
    Close,
    /// A reply after which the connection is closed without having said so.
    ReplyThenClose(u16, Vec<u8>),
}

/// A service on a socket of its own: it answers each request by `respond(path, nth request)`.
pub struct Fake {
    socket: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Starts it; within a tokio runtime, with which it ends.
    pub fn start(respond: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let respond = Arc::new(respond);
        tokio::spawn(async move {
            // The folder lives as long as the test's runtime, also when only the client is kept.
            let _dir = dir;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&respond)));
            }
        });
        Self { socket, requests }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The requests so far, whole.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve<F>(mut stream: UnixStream, seen: Arc<Mutex<Vec<String>>>, respond: Arc<F>)
where
    F: Fn(&str, usize) -> Answer,
{
    while let Some((path, request)) = read_request(&mut stream).await {
        let nth = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len()
        };
        match respond(&path, nth) {
            Answer::Reply(status, body) => {
                stream.write_all(&reply(status, &body)).await.unwrap();
            }
            Answer::ReplyThenClose(status, body) => {
                stream.write_all(&reply(status, &body)).await.unwrap();
                return;
            }
            Answer::Raw(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Answer::RawThenHang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                std::future::pending::<()>().await;
            }
            Answer::Echo(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                return;
            }
            Answer::Hang => std::future::pending::<()>().await,
            Answer::Close => return,
        }
    }
}

/// One request: its path with query, and the whole of it as text.
async fn read_request(stream: &mut UnixStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head).unwrap();
    let length = text.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let path = text.split(' ').nth(1).unwrap().to_owned();
    Some((path, text + &String::from_utf8_lossy(&body)))
}

/// A whole reply with Podman 4.3's version.
pub fn reply(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nLibpod-Api-Version: 4.3.1\r\nContent-Length: {}\r\n\r\n",
        if status == 204 { 0 } else { body.len() }
    );
    let mut out = head.into_bytes();
    if status != 204 {
        out.extend_from_slice(body);
    }
    out
}
