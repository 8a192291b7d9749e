//! The frames in which attach and exec carry standard output and error of a process without a terminal: one byte of stream,
//! three of nothing, four of length (big endian), then the bytes.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Which stream a piece of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Echo of the input; rare.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of Podman's own, in words.
    System,
}

/// A piece of output. A long frame comes in several pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The stream.
    pub stream: StreamKind,
    /// The bytes; never empty.
    pub data: Bytes,
}

/// The bytes are not frames: probably the output of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output has a frame of stream {0}, which does not exist")]
pub struct BadFrame(u8);

/// Takes the bytes as they come and gives the pieces that they contain. Holds back at most an incomplete header.
#[derive(Debug, Default)]
pub struct Demultiplexer {
    header: BytesMut,
    current: Option<(StreamKind, usize)>,
}

impl Demultiplexer {
    /// The next piece within `input`, which is advanced past it; `None` when it needs more input.
    ///
    /// # Errors
    /// [`BadFrame`] when the bytes are no frames; nothing sensible can follow.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
        loop {
            if let Some((stream, left)) = self.current {
                if left == 0 {
                    self.current = None;
                    continue;
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let data = input.split_to(left.min(input.len())).freeze();
                self.current = Some((stream, left - data.len()));
                return Ok(Some(Frame { stream, data }));
            }
            let missing = 8 - self.header.len();
            let part = input.split_to(missing.min(input.len()));
            self.header.extend_from_slice(&part);
            if self.header.len() < 8 {
                return Ok(None);
            }
            let stream = match self.header.get_u8() {
                0 => StreamKind::Stdin,
                1 => StreamKind::Stdout,
                2 => StreamKind::Stderr,
                3 => StreamKind::System,
                other => return Err(BadFrame(other)),
            };
            self.header.advance(3);
            let length = self.header.get_u32();
            self.header.clear();
            self.current = Some((stream, usize::try_from(length).unwrap_or(usize::MAX)));
        }
    }

    /// Whether the input so far ends between two frames.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.header.is_empty() && self.current.is_none_or(|(_, left)| left == 0)
    }
}

/// A piece of a process that writes as fast as it is read.
const LONG: usize = 4 << 10;
/// How long more of such a process is waited for.
const MORE: Duration = Duration::from_millis(1);

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    demultiplexer: Demultiplexer,
    /// What was read after a piece that could not be joined to it.
    ahead: Option<std::io::Result<Option<Frame>>>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::with_capacity(32 << 10), demultiplexer: Demultiplexer::default(), ahead: None }
    }

    /// The next piece of output; of standard output, together with what has come of it by now, some `limit` bytes: conmon sends 8 KiB
    /// at a time, and each piece costs all who pass it on. After a long piece, which more will follow, the next is waited for, for
    /// a millisecond. Standard error stays in the pieces in which it was written: Podman puts words of its own between them. Safe
    /// to cancel, but for what was joined by then.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub async fn next_joined(&mut self, limit: usize) -> std::io::Result<Option<Frame>> {
        let Some(mut first) = self.next().await? else { return Ok(None) };
        let mut joined = BytesMut::new();
        let mut newest = first.data.len();
        while first.stream == StreamKind::Stdout && first.data.len() + joined.len() < limit {
            let next = if newest < LONG { self.next().now_or_never() } else { tokio::time::timeout(MORE, self.next()).await.ok() };
            match next {
                Some(Ok(Some(frame))) if frame.stream == StreamKind::Stdout => {
                    newest = frame.data.len();
                    joined.extend_from_slice(&frame.data);
                }
                Some(other) => {
                    self.ahead = Some(other);
                    break;
                }
                None => break,
            }
        }
        if !joined.is_empty() {
            first.data = [&first.data[..], &joined].concat().into();
        }
        Ok(Some(first))
    }

    /// The next piece of output, or `None` at the end. Safe to cancel.
    ///
    /// # Errors
    /// Of the stream; of kind `InvalidData` for bytes that are no frames; of kind `UnexpectedEof` for an end within one.
    pub async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        use std::io::{Error, ErrorKind};
        if let Some(ahead) = self.ahead.take() {
            return ahead;
        }
        loop {
            let frame = self.demultiplexer.next(&mut self.buffer).map_err(|bad| Error::new(ErrorKind::InvalidData, bad))?;
            if frame.is_some() {
                return Ok(frame);
            }
            self.buffer.reserve(32 << 10);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.demultiplexer.is_complete() {
                    Ok(None)
                } else {
                    Err(Error::new(ErrorKind::UnexpectedEof, "the output ended within a frame"))
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, data: &[u8]) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        out.extend_from_slice(data);
        out
    }

    fn demultiplex(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<u8>, bool) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut demultiplexer = Demultiplexer::default();
        let mut buffer = BytesMut::new();
        for piece in bytes.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = demultiplexer.next(&mut buffer).unwrap() {
                assert!(!frame.data.is_empty());
                match frame.stream {
                    StreamKind::Stdout => out.extend_from_slice(&frame.data),
                    StreamKind::Stderr => err.extend_from_slice(&frame.data),
                    other => panic!("{other:?}"),
                }
            }
            assert!(buffer.is_empty());
        }
        (out, err, demultiplexer.is_complete())
    }

    #[test]
    fn frames_survive_every_way_of_cutting_the_stream() {
        let mut bytes = frame(1, b"hello ");
        bytes.extend(frame(2, b"oops"));
        bytes.extend(frame(1, b""));
        bytes.extend(frame(1, &[7; 300]));
        let mut want = b"hello ".to_vec();
        want.extend([7; 300]);
        for size in 1..=bytes.len() {
            let (out, err, complete) = demultiplex(&bytes, size);
            assert_eq!((&out, &err[..], complete), (&want, &b"oops"[..], true), "pieces of {size}");
        }
        assert!(!demultiplex(&bytes[..bytes.len() - 1], 9).2);
        assert!(!demultiplex(&bytes[..3], 9).2);
    }

    #[test]
    fn a_terminals_output_is_not_taken_for_frames() {
        let mut buffer = BytesMut::from(&b"# ls -l\r\n"[..]);
        assert_eq!(Demultiplexer::default().next(&mut buffer), Err(BadFrame(b'#')));
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error() {
        let bytes = frame(1, b"hello");
        let mut reader = FrameReader::new(&bytes[..10]);
        assert_eq!(reader.next().await.unwrap().unwrap().data, &b"he"[..]);
        assert_eq!(reader.next().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        let mut reader = FrameReader::new(&bytes[..]);
        assert_eq!(reader.next().await.unwrap().unwrap().data, &b"hello"[..]);
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_has_come_of_one_stream_is_joined() {
        use tokio::io::AsyncWriteExt as _;
        let (mut writer, reader) = tokio::io::duplex(1 << 16);
        for piece in [frame(1, b"one "), frame(1, b"two"), frame(2, b"oops"), frame(1, b"three"), frame(1, &[7; 9])] {
            writer.write_all(&piece).await.unwrap();
        }
        let mut frames = FrameReader::new(reader);
        let mut next = async || frames.next_joined(10).await.map(|frame| frame.map(|frame| (frame.stream, frame.data)));
        assert_eq!(next().await.unwrap().unwrap(), (StreamKind::Stdout, "one two".into()));
        assert_eq!(next().await.unwrap().unwrap(), (StreamKind::Stderr, "oops".into()));
        // What is there already is never cut: 14 bytes.
        assert_eq!(next().await.unwrap().unwrap().1.len(), 14);
        writer.write_all(&frame(1, b"last")).await.unwrap();
        writer.write_all(&frame(9, b"no stream")).await.unwrap();
        assert_eq!(next().await.unwrap().unwrap(), (StreamKind::Stdout, "last".into()));
        assert_eq!(next().await.unwrap_err().kind(), std::io::ErrorKind::InvalidData, "after what came before it");
        drop(writer);
    }
}
