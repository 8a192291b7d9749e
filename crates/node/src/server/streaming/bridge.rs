//! Carries a session's streams between its client and Podman.

use bytes::BytesMut;
use kube_pet_podman::{Demultiplexer, Duplex, StreamKind};
use kube_pet_stream::Writer;
use kube_pet_stream::remote_command::{Streams, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes read at once. What a slow client has not taken holds up the process, not memory.
const PIECE: usize = 32 << 10;

/// Carries until the process has closed its output. Its input ends when the client's does; `resized` hears of each new size of
/// the terminal. Returns what went wrong on Podman's side, in words.
pub(super) async fn carry<F>(podman: Duplex, streams: Streams, tty: bool, resized: impl Fn(TerminalSize) -> F) -> Result<(), String>
where
    F: Future<Output = ()>,
{
    let Streams { stdin, mut stdout, mut stderr, resize } = streams;
    let (mut output, mut input) = tokio::io::split(podman);
    let feed = async {
        if let Some(mut stdin) = stdin {
            // Either end may be gone first: the process that reads no more, or the client.
            let _ = tokio::io::copy(&mut stdin, &mut input).await;
            drop(stdin);
            let _ = input.shutdown().await;
        }
    };
    let follow = async {
        if let Some(mut sizes) = resize {
            while let Some(size) = sizes.recv().await {
                resized(size).await;
            }
        }
    };
    let beside = async {
        tokio::join!(feed, follow);
        std::future::pending::<()>().await;
    };
    let carried = async { if tty { raw(&mut output, &mut stdout).await } else { framed(&mut output, &mut stdout, &mut stderr).await } };
    let result = tokio::select! {
        result = carried => result,
        () = beside => Ok(()),
    };
    for stream in [stdout, stderr].iter_mut().flatten() {
        let _ = stream.shutdown().await;
    }
    result
}

/// A client that has closed a stream gets nothing more on it; the process is read on, so that it does not block.
async fn give(stream: &mut Option<Writer>, bytes: &[u8]) {
    if let Some(writer) = stream
        && writer.write_all(bytes).await.is_err()
    {
        *stream = None;
    }
}

async fn raw(output: &mut (impl AsyncRead + Unpin), stdout: &mut Option<Writer>) -> Result<(), String> {
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.clear();
        match output.read_buf(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(_) => give(stdout, &piece).await,
            Err(error) => return Err(format!("reading the process's output: {error}")),
        }
    }
}

async fn framed(output: &mut (impl AsyncRead + Unpin), stdout: &mut Option<Writer>, stderr: &mut Option<Writer>) -> Result<(), String> {
    let mut frames = Demultiplexer::default();
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        match output.read_buf(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(format!("reading the process's output: {error}")),
        }
        while let Some(frame) = frames.next(&mut piece).map_err(|error| error.to_string())? {
            match frame.stream {
                StreamKind::Stdout => give(stdout, &frame.data).await,
                StreamKind::Stderr => give(stderr, &frame.data).await,
                StreamKind::System => return Err(String::from_utf8_lossy(&frame.data).trim().to_owned()),
                StreamKind::Stdin => {}
            }
        }
        piece.reserve(PIECE);
    }
}
