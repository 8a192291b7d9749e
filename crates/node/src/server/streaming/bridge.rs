//! Carries a session's streams between its client and a process.

use bytes::BytesMut;
use kube_pet_podman::{Duplex, FrameReader, StreamKind};
use kube_pet_stream::Writer;
use kube_pet_stream::remote_command::{Streams, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf};
use tokio::process::{ChildStderr, ChildStdout};

use crate::exec;

/// Bytes read at once. What a slow client has not taken holds up the process, not memory.
const PIECE: usize = 32 << 10;

/// How Podman's own words on a broken connection to a process begin, and what is in them: it writes them to the process's stderr.
const PODMANS_WORDS: [(&[u8], &[u8]); 2] =
    [(b"Error: write unixpacket ", b"/attach: write: "), (b"Error: read unixpacket ", b"/attach: read: ")];

/// Why carrying ended before the process had closed its output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The process has ended without reading all of its input, or before it had begun. Podman gives up the connection then instead of
    /// closing it (seen from 4.3 on); the process has an exit code all the same.
    Ended,
    /// Something else, in words.
    Other(String),
}

impl Broken {
    /// A connection that is reset while there is input is one of a process that has ended.
    fn reading(error: &std::io::Error, has_input: bool) -> Self {
        if has_input && error.kind() == std::io::ErrorKind::ConnectionReset {
            Self::Ended
        } else {
            Self::Other(format!("reading the process's output: {error}"))
        }
    }
}

/// A process's side of a session: its output and input.
pub(super) struct Process {
    output: Output,
    input: Option<Input>,
}

type Input = Box<dyn AsyncWrite + Send + Unpin>;

enum Output {
    /// Of a terminal.
    Raw(Box<dyn AsyncRead + Send + Unpin>),
    /// Podman's.
    Framed(FrameReader<ReadHalf<Duplex>>),
    /// Pipes.
    Apart { stdout: Option<ChildStdout>, stderr: Option<ChildStderr> },
}

impl Process {
    /// A connection of Podman's.
    pub(super) fn of_podman(podman: Duplex, tty: bool) -> Self {
        let (output, input) = tokio::io::split(podman);
        let output = if tty { Output::Raw(Box::new(output)) } else { Output::Framed(FrameReader::new(output)) };
        Self { output, input: Some(Box::new(input)) }
    }

    /// A command's streams.
    pub(super) fn of(streams: exec::Streams, tty: bool) -> Self {
        match streams {
            exec::Streams::Podman(duplex) => Self::of_podman(duplex, tty),
            exec::Streams::Pipes { stdin, stdout, stderr } => {
                Self { output: Output::Apart { stdout, stderr }, input: stdin.map(|stdin| Box::new(stdin) as Input) }
            }
            exec::Streams::Terminal { input, output } => Self { output: Output::Raw(Box::new(output)), input: Some(Box::new(input)) },
        }
    }

    /// Reads until the output ends, for nobody. Safe to cancel.
    pub(super) async fn drain(&mut self) {
        match &mut self.output {
            Output::Raw(output) => discard(Some(output)).await,
            Output::Framed(frames) => while matches!(frames.next().await, Ok(Some(_))) {},
            Output::Apart { stdout, stderr } => {
                tokio::join!(discard(stdout.as_mut()), discard(stderr.as_mut()));
            }
        }
    }

    /// Nothing more will be written to it.
    pub(super) fn close_input(&mut self) {
        self.input = None;
    }
}

async fn discard(output: Option<&mut (impl AsyncRead + Unpin)>) {
    let Some(output) = output else { return };
    let mut piece = BytesMut::with_capacity(PIECE);
    while output.read_buf(&mut piece).await.is_ok_and(|count| count > 0) {
        piece.clear();
    }
}

/// What the end of a client's input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// The process's input ends with it.
    Passed,
    /// The session ends; the process's input stays open.
    Kept,
}

/// Carries until the process has closed its output, or with [`InputEnd::Kept`] the client its input. `resized` hears of each new size
/// of the terminal. Returns what went wrong on the process's side.
pub(super) async fn carry<F>(
    process: &mut Process,
    streams: Streams,
    end: InputEnd,
    resized: impl Fn(TerminalSize) -> F,
) -> Result<(), Broken>
where
    F: Future<Output = ()>,
{
    let Streams { stdin, mut stdout, mut stderr, resize } = streams;
    let has_input = stdin.is_some();
    let Process { output, input } = process;
    let feed = async {
        if let Some(mut stdin) = stdin {
            // Either end may be gone first: the process that reads no more, or the client.
            if let Some(input) = input {
                let _ = copy(&mut stdin, input).await;
            }
            drop(stdin);
            if end == InputEnd::Kept {
                return;
            }
            // A connection ends by its shutdown, a pipe by being dropped.
            if let Some(mut input) = input.take() {
                let _ = input.shutdown().await;
            }
        }
        std::future::pending().await
    };
    let follow = async {
        if let Some(mut sizes) = resize {
            while let Some(size) = sizes.recv().await {
                resized(size).await;
            }
        }
        std::future::pending().await
    };
    let carried = async {
        match output {
            Output::Raw(output) => raw(output, &mut stdout, has_input).await,
            Output::Framed(frames) => framed(frames, &mut stdout, &mut stderr, has_input).await,
            Output::Apart { stdout: out, stderr: err } => {
                tokio::try_join!(pipe(out.as_mut(), &mut stdout), pipe(err.as_mut(), &mut stderr)).map(|((), ())| ())
            }
        }
    };
    let result = tokio::select! {
        result = carried => result,
        () = feed => Ok(()),
        () = follow => Ok(()),
    };
    for stream in [stdout, stderr].iter_mut().flatten() {
        let _ = stream.shutdown().await;
    }
    result
}

/// Copies to the end, in larger pieces than [`tokio::io::copy`].
pub(super) async fn copy(from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<u64> {
    tokio::io::copy_buf(&mut BufReader::with_capacity(PIECE, from), to).await
}

/// A client that has closed a stream gets nothing more on it; the process is read on, so that it does not block.
async fn give(stream: &mut Option<Writer>, bytes: &[u8]) {
    if let Some(writer) = stream
        && writer.write_all(bytes).await.is_err()
    {
        *stream = None;
    }
}

async fn raw(output: &mut (impl AsyncRead + Unpin), stdout: &mut Option<Writer>, has_input: bool) -> Result<(), Broken> {
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.clear();
        match output.read_buf(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(_) => give(stdout, &piece).await,
            Err(error) => return Err(Broken::reading(&error, has_input)),
        }
    }
}

async fn pipe(output: Option<&mut (impl AsyncRead + Unpin)>, stream: &mut Option<Writer>) -> Result<(), Broken> {
    match output {
        Some(output) => raw(output, stream, false).await,
        None => Ok(()),
    }
}

async fn framed(
    frames: &mut FrameReader<impl AsyncRead + Unpin>,
    stdout: &mut Option<Writer>,
    stderr: &mut Option<Writer>,
    has_input: bool,
) -> Result<(), Broken> {
    let mut result = Ok(());
    while let Some(frame) = frames.next_joined(PIECE).await.map_err(|error| Broken::reading(&error, has_input))? {
        match frame.stream {
            StreamKind::Stdout => give(stdout, &frame.data).await,
            // Whatever else comes is the process's.
            StreamKind::Stderr if is_podmans_own(&frame.data) => result = Err(Broken::Ended),
            StreamKind::Stderr => give(stderr, &frame.data).await,
            StreamKind::System => return Err(Broken::Other(String::from_utf8_lossy(&frame.data).trim().to_owned())),
            StreamKind::Stdin => {}
        }
    }
    result
}

fn is_podmans_own(text: &[u8]) -> bool {
    PODMANS_WORDS.iter().any(|(begin, part)| text.starts_with(begin) && text.windows(part.len()).any(|window| window == *part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_own_words_are_told_from_a_programs() {
        for text in [
            "Error: write unixpacket @->/proc/self/fd/16/attach: write: connection reset by peer\n",
            "Error: read unixpacket @->/proc/self/fd/14/attach: read: connection reset by peer\n",
        ] {
            assert!(is_podmans_own(text.as_bytes()), "{text}");
        }
        for text in ["Error: write unixpacket is a word\n", "Error: no such file\n", "", "an Error: read unixpacket /attach: read: x"] {
            assert!(!is_podmans_own(text.as_bytes()), "{text}");
        }
    }
}
