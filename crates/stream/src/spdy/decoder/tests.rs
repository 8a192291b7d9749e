use proptest::prelude::*;

use super::super::headers::Deflater;
use super::*;

fn decoder() -> Decoder {
    Decoder::new(Limits::default())
}

/// Decodes until more bytes are needed; the bytes come in pieces of the given size.
fn all(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Result<Vec<Frame>, ProtocolError> {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn control(kind: u16, flags: u8, payload: &[&[u8]]) -> BytesMut {
    let mut buffer = BytesMut::new();
    frame::control(&mut buffer, kind, flags, payload);
    buffer
}

fn syn_stream(id: u32, flags: u8, block: &[u8]) -> BytesMut {
    control(frame::SYN_STREAM, flags, &[&id.to_be_bytes(), &[0; 4], &[0, 0], block])
}

#[test]
fn control_frames() {
    let table: [(&str, BytesMut, Frame); 8] = [
        ("ping", control(frame::PING, 0, &[&7_u32.to_be_bytes()]), Frame::Ping { id: 7 }),
        ("reset", control(frame::RST_STREAM, 0, &[&0x8000_0005_u32.to_be_bytes(), &[0, 0, 0, 5]]), Frame::RstStream { id: 5 }),
        ("go away", control(frame::GOAWAY, 0, &[&[0; 8]]), Frame::GoAway),
        ("settings", control(frame::SETTINGS, 0, &[&[0; 4]]), Frame::Ignored { kind: frame::SETTINGS }),
        ("window update", control(frame::WINDOW_UPDATE, 0, &[&[0; 8]]), Frame::Ignored { kind: frame::WINDOW_UPDATE }),
        ("unknown", control(77, 0, &[&[1, 2, 3]]), Frame::Ignored { kind: 77 }),
        ("unknown, empty", control(78, 0, &[]), Frame::Ignored { kind: 78 }),
        ("reply", control(frame::SYN_REPLY, 0, &[&[0, 0, 0, 9], &Deflater::default().deflate(&[]).unwrap()]), Frame::SynReply { id: 9 }),
    ];
    for (name, bytes, expected) in table {
        for step in [1, 3, bytes.len()] {
            assert_eq!(all(&mut decoder(), &bytes, step).unwrap(), std::slice::from_ref(&expected), "{name}, {step} bytes at a time");
        }
    }
}

#[test]
fn syn_streams_keep_one_compression_context_across_headers_frames() {
    let mut deflater = Deflater::default();
    let mut bytes = syn_stream(1, frame::FLAG_FIN, &deflater.deflate(&[("streamtype", "error")]).unwrap());
    let between = deflater.deflate(&[("x", "y")]).unwrap();
    bytes.extend(control(frame::HEADERS, 0, &[&[0, 0, 0, 1], &between]));
    bytes.extend(syn_stream(3, frame::FLAG_UNIDIRECTIONAL, &deflater.deflate(&[("streamtype", "data")]).unwrap()));
    let frames = all(&mut decoder(), &bytes, 5).unwrap();
    assert!(
        matches!(&frames[0], Frame::SynStream { id: 1, headers, fin: true, unidirectional: false } if headers.get("streamtype") == Some("error"))
    );
    assert_eq!(frames[1], Frame::Ignored { kind: frame::HEADERS });
    assert!(
        matches!(&frames[2], Frame::SynStream { id: 3, headers, fin: false, unidirectional: true } if headers.get("streamtype") == Some("data"))
    );
}

#[test]
fn data_comes_in_pieces_and_its_fin_with_the_last() {
    let mut bytes = BytesMut::new();
    frame::data(&mut bytes, 3, b"hello", true);
    frame::data(&mut bytes, 3, b"", true);
    let chunk = |text: &'static str, fin| Frame::Data { id: 3, chunk: Bytes::from_static(text.as_bytes()), fin };
    assert_eq!(all(&mut decoder(), &bytes, 1000).unwrap(), [chunk("hello", true), chunk("", true)]);
    assert_eq!(all(&mut decoder(), &bytes, 10).unwrap(), [chunk("he", false), chunk("llo", true), chunk("", true)]);
}

#[test]
fn the_longest_data_frame_is_not_gathered() {
    let mut buffer = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff, b'x'][..]);
    let mut decoder = decoder();
    assert_eq!(decoder.decode(&mut buffer).unwrap(), Some(Frame::Data { id: 1, chunk: Bytes::from_static(b"x"), fin: false }));
    assert_eq!(decoder.decode(&mut buffer).unwrap(), None);
}

#[test]
fn what_is_refused() {
    let block = Deflater::default().deflate(&[]).unwrap();
    let table: [(&str, BytesMut); 9] = [
        ("version 2", BytesMut::from(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..])),
        ("too long", BytesMut::from(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..])),
        ("stream 0", syn_stream(0, 0, &block)),
        ("short syn_stream", control(frame::SYN_STREAM, 0, &[&[0, 0, 0, 1, 0]])),
        ("syn_stream without a block", syn_stream(1, 0, &[])),
        ("not zlib", syn_stream(1, 0, b"hello, world")),
        ("short ping", control(frame::PING, 0, &[&[0, 0]])),
        ("short reset", control(frame::RST_STREAM, 0, &[&[0, 0, 0, 1]])),
        ("block cut in two", syn_stream(1, 0, &block[..block.len() - 6])),
    ];
    for (name, bytes) in table {
        assert!(all(&mut decoder(), &bytes, bytes.len()).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_frames_or_an_error(bytes: Vec<u8>, step in 1_usize..64) {
        let _ = all(&mut decoder(), &bytes, step);
    }

    /// Frames with a valid head, so that the payload is reached.
    #[test]
    fn any_control_frame_gives_a_frame_or_an_error(kind in 0_u16..12, flags: u8, payload: Vec<u8>, step in 1_usize..64) {
        let _ = all(&mut decoder(), &control(kind, flags, &[&payload]), step);
    }

    /// A valid block with one byte changed.
    #[test]
    fn a_damaged_header_block_gives_a_frame_or_an_error(at: prop::sample::Index, value: u8) {
        let mut block = Deflater::default().deflate(&[("streamtype", "error"), ("port", "8080")]).unwrap();
        let at = at.index(block.len());
        block[at] = value;
        let _ = all(&mut decoder(), &syn_stream(1, 0, &block), 7);
    }

    #[test]
    fn data_survives_any_split(payload: Vec<u8>, step in 1_usize..64) {
        let mut bytes = BytesMut::new();
        frame::data(&mut bytes, 5, &payload, true);
        let mut got = Vec::new();
        let frames = all(&mut decoder(), &bytes, step).unwrap();
        let count = frames.len();
        for (index, frame) in frames.into_iter().enumerate() {
            let Frame::Data { id: 5, chunk, fin } = frame else { panic!("not data") };
            prop_assert_eq!(fin, index == count - 1);
            got.extend_from_slice(&chunk);
        }
        prop_assert_eq!(got, payload);
    }
}
