//! Properties of what parses bytes from outside. Each panics where one does not hold.

#![allow(clippy::expect_used, clippy::panic, reason = "a property that does not hold is a panic")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::remote_command::{Status, sizes};
use crate::spdy::{Decoder as SpdyDecoder, Deflater, Frame, Inflater};
use crate::websocket::frame::{Decoder as WebSocketDecoder, Event, message_length};
use crate::{Limits, Settings};

/// Feeds bytes in pieces whose lengths the input itself chooses.
fn in_pieces(bytes: &[u8], mut feed: impl FnMut(&[u8]) -> bool) {
    let mut rest = bytes;
    while let Some((first, _)) = rest.split_first() {
        let (piece, later) = rest.split_at((usize::from(*first) % 23 + 1).min(rest.len()));
        if !feed(piece) {
            return;
        }
        rest = later;
    }
}

/// What was decoded, with the pieces of data put together, and whether it ended with an error.
type Decoded<T> = (Vec<T>, bool);

/// Decodes bytes, all at once or in pieces, until they are used up; whether they ended with an error. `step` is as a decoder's: it
/// says whether there was something.
fn decode_all<E>(bytes: &[u8], whole: bool, mut step: impl FnMut(&mut BytesMut) -> Result<bool, E>) -> bool {
    let (mut buffer, mut failed) = (BytesMut::new(), false);
    let mut feed = |piece: &[u8]| {
        buffer.extend_from_slice(piece);
        loop {
            match step(&mut buffer) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => {
                    failed = true;
                    return false;
                }
            }
        }
    };
    if whole {
        feed(bytes);
    } else {
        in_pieces(bytes, feed);
    }
    failed
}

fn spdy(bytes: &[u8], whole: bool) -> Decoded<Frame> {
    let (mut decoder, mut frames) = (SpdyDecoder::new(Limits::default()), Vec::new());
    let failed =
        decode_all(bytes, whole, |buffer| decoder.decode(buffer).map(|frame| frame.map(|frame| join(&mut frames, frame)).is_some()));
    (frames, failed)
}

/// Pieces of data of one stream in a row are one: where a data frame ends without FIN is not told.
fn join(frames: &mut Vec<Frame>, frame: Frame) {
    match (frames.last_mut(), frame) {
        (Some(Frame::Data { id, chunk, fin: end @ false }), Frame::Data { id: next, chunk: more, fin }) if *id == next => {
            *chunk = Bytes::from([&chunk[..], &more[..]].concat());
            *end = fin;
        }
        (_, frame) => frames.push(frame),
    }
}

/// SPDY frames: the same ones however the bytes arrive.
pub fn spdy_frames(bytes: &[u8]) {
    assert_eq!(spdy(bytes, true), spdy(bytes, false));
}

/// Header blocks: compressed bytes of the input's own; and names and values that come back as they were.
pub fn spdy_headers(bytes: &[u8]) {
    let limits = Limits::default();
    let mut inflater = Inflater::new();
    in_pieces(bytes, |block| inflater.inflate(block, &limits).is_ok());

    let text = String::from_utf8_lossy(bytes);
    let parts: Vec<&str> = text.split('\n').collect();
    let (mut deflater, mut inflater) = (Deflater::default(), Inflater::new());
    for block in parts.chunks(8) {
        let pairs: Vec<(&str, &str)> = block.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or_default())).collect();
        let Ok(compressed) = deflater.deflate(&pairs) else { panic!("not compressed: {pairs:?}") };
        let length: usize = 4 + pairs.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>();
        match inflater.inflate(&compressed, &limits) {
            Ok(headers) => {
                for (name, value) in &pairs {
                    let first = pairs.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map_or(*value, |(_, value)| value);
                    assert_eq!(headers.get(name), first.split('\0').next(), "{name:?}");
                }
            }
            Err(error) => {
                assert!(length > limits.header_block, "{length} bytes: {error}");
                return;
            }
        }
    }
}

fn websocket(bytes: &[u8], whole: bool) -> Decoded<(&'static str, Vec<u8>, bool)> {
    let (mut decoder, mut events) = (WebSocketDecoder::default(), Vec::new());
    let failed = decode_all(bytes, whole, |buffer| {
        let event = decoder.decode(buffer)?;
        let found = event.is_some();
        match event {
            Some(Event::Data { bytes, start, end }) => {
                if start || !matches!(events.last(), Some(("data", _, false))) {
                    events.push(("data", Vec::new(), false));
                }
                if let Some((_, data, ended)) = events.last_mut() {
                    data.extend_from_slice(&bytes);
                    *ended = end;
                }
            }
            Some(Event::Ping(payload)) => events.push(("ping", payload.to_vec(), true)),
            Some(Event::Pong) => events.push(("pong", Vec::new(), true)),
            Some(Event::Close) => events.push(("close", Vec::new(), true)),
            None => {}
        }
        Ok::<_, crate::ProtocolError>(found)
    });
    // Empty beginnings of messages may or may not have been seen.
    events.retain(|(kind, data, ended)| *kind != "data" || *ended || !data.is_empty());
    (events, failed)
}

/// WebSocket frames: the same ones however the bytes arrive; and the length of own messages is within them.
pub fn websocket_frames(bytes: &[u8]) {
    assert_eq!(websocket(bytes, true), websocket(bytes, false));
    let mut own = BytesMut::new();
    crate::websocket::frame::message(&mut own, crate::websocket::frame::OP_BINARY, &[1], bytes);
    let length = own.len();
    own.extend_from_slice(bytes);
    assert_eq!(message_length(&own), length);
}

/// JSON of the channels: sizes of a terminal, however they are split; a status is JSON whatever its text.
pub fn channel_json(bytes: &[u8]) {
    if let Some((_, used)) = sizes(bytes) {
        assert!(used <= bytes.len());
        // What is done with is not needed again.
        assert!(sizes(&bytes[used..]).is_none_or(|(size, again)| size.is_none() && again <= bytes.len() - used));
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&Status::Error(text.clone()).to_json());
    match parsed {
        Ok(status) => assert_eq!(status["details"]["causes"][0]["message"], text),
        Err(error) => panic!("{error}"),
    }
}

/// A client that sends `bytes`, ends its direction and reads what comes, against `server`: both have to end. Time is simulated.
fn session(bytes: &[u8], server: impl AsyncFnOnce(DuplexStream)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let client = async {
            let _ = theirs.write_all(bytes).await;
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        };
        let both = async { tokio::join!(client, server(ours)) };
        tokio::time::timeout(Duration::from_secs(24 * 3600), both).await.expect("a session that does not end");
    });
}

/// Whole sessions of exec, the protocol chosen by the first byte: whatever a client sends, the session ends.
pub fn remote_command(bytes: &[u8]) {
    use crate::remote_command::{Options, Protocol, RemoteCommand, Version};
    const PROTOCOLS: [Protocol; 4] = [
        Protocol::Spdy(Version::V4),
        Protocol::Spdy(Version::V1),
        Protocol::WebSocket { version: Version::V5, base64: false },
        Protocol::WebSocket { version: Version::V4, base64: true },
    ];
    let Some((first, bytes)) = bytes.split_first() else { return };
    let protocol = PROTOCOLS[usize::from(*first) % PROTOCOLS.len()];
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    session(bytes, async |ours| {
        let Ok(RemoteCommand { streams, session }) = RemoteCommand::open(ours, protocol, options, Settings::default()).await else {
            return;
        };
        let (mut stdin, mut resize) = (streams.stdin.expect("was asked for"), streams.resize);
        let sizes = async {
            while let Some(sizes) = &mut resize
                && sizes.recv().await.is_some()
            {}
        };
        let mut typed = Vec::new();
        let _ = tokio::join!(stdin.read_to_end(&mut typed), sizes);
        assert!(typed.len() <= bytes.len());
        session.finish(&Status::ExitCode(1)).await;
    });
}

/// Whole sessions of port-forward; as [`remote_command`].
pub fn port_forward(bytes: &[u8]) {
    use crate::port_forward::{PortForward, Protocol};
    const PROTOCOLS: [Protocol; 4] =
        [Protocol::Spdy, Protocol::Tunnel, Protocol::WebSocket { base64: false }, Protocol::WebSocket { base64: true }];
    let Some((first, bytes)) = bytes.split_first() else { return };
    let protocol = PROTOCOLS[usize::from(*first) % PROTOCOLS.len()];
    session(bytes, async |ours| {
        let mut session = PortForward::open(ours, protocol, &[80, 443], Settings::default()).expect("ports that can be");
        while let Some(mut forwarded) = session.accept().await {
            tokio::spawn(async move {
                let _ = forwarded.data.write_all(b"hello").await;
                let _ = forwarded.data.read_to_end(&mut Vec::new()).await;
                if forwarded.port == 80 { forwarded.finish() } else { forwarded.fail("no") }
            });
        }
        session.close().await;
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));

    #[test]
    fn the_corpus_holds() {
        let targets: [Target; 6] = [
            ("spdy_frames", super::spdy_frames),
            ("spdy_headers", super::spdy_headers),
            ("websocket_frames", super::websocket_frames),
            ("channel_json", super::channel_json),
            ("remote_command", super::remote_command),
            ("port_forward", super::port_forward),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
            let mut inputs = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs > 10, "{inputs} in {}", folder.display());
        }
    }
}
