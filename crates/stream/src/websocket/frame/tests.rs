use proptest::prelude::*;

use super::*;

/// Writes a frame as a client does: masked.
pub(crate) fn client_frame(buffer: &mut BytesMut, first: u8, payload: &[u8]) {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut plain = BytesMut::new();
    message(&mut plain, 0, &[], payload);
    let head = plain.len() - payload.len();
    buffer.put_u8(first);
    buffer.put_u8(plain[1] | MASKED);
    buffer.put_slice(&plain[2..head]);
    buffer.put_slice(&mask);
    buffer.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

fn all(bytes: &[u8], step: usize) -> Result<Vec<Event>, ProtocolError> {
    let (mut decoder, mut buffer, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(event) = decoder.decode(&mut buffer)? {
            events.push(event);
        }
    }
    Ok(events)
}

fn data(text: &'static str, start: bool, end: bool) -> Event {
    Event::Data { bytes: Bytes::from_static(text.as_bytes()), start, end }
}

#[test]
fn messages_in_fragments_with_control_frames_between() {
    let mut bytes = BytesMut::new();
    client_frame(&mut bytes, OP_BINARY, b"he");
    client_frame(&mut bytes, FIN | OP_PING, b"are you there");
    client_frame(&mut bytes, OP_CONTINUATION, b"");
    client_frame(&mut bytes, FIN | OP_CONTINUATION, b"llo");
    client_frame(&mut bytes, FIN | OP_PONG, b"");
    client_frame(&mut bytes, FIN | OP_TEXT, b"");
    client_frame(&mut bytes, FIN | OP_CLOSE, &1000_u16.to_be_bytes());
    let expected = [
        data("he", true, false),
        Event::Ping(Bytes::from_static(b"are you there")),
        data("", false, false),
        data("llo", false, true),
        Event::Pong,
        data("", true, true),
        Event::Close,
    ];
    assert_eq!(all(&bytes, 1000).unwrap(), expected);
    let pieces = all(&bytes, 1).unwrap();
    assert_eq!(pieces[0], data("h", true, false));
    assert_eq!(pieces[1], data("e", false, false));
    assert_eq!(pieces.last(), Some(&Event::Close));
}

#[test]
fn what_is_refused() {
    let table: [(&str, &[u8], ProtocolError); 9] = [
        ("not masked", &[0x82, 0x01, b'x'], ProtocolError::WebSocketUnmasked),
        ("reserved bit: compressed", &[0xc2, 0x80], ProtocolError::WebSocketOpcode { opcode: 2 }),
        ("unknown opcode", &[0x83, 0x80], ProtocolError::WebSocketOpcode { opcode: 3 }),
        ("fragmented ping", &[0x09, 0x80], ProtocolError::WebSocketControl),
        ("long ping", &[0x89, 0xfe, 0, 126], ProtocolError::WebSocketControl),
        ("continuation of nothing", &[0x80, 0x80], ProtocolError::WebSocketContinuation),
        ("length of 64 bits", &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], ProtocolError::WebSocketLength),
        ("message within a message", &[0x02, 0x80, 0, 0, 0, 0, 0x02, 0x80], ProtocolError::WebSocketContinuation),
        ("long close", &[0x88, 0xff, 0, 0, 0, 0, 0, 0, 1, 0], ProtocolError::WebSocketControl),
    ];
    for (name, bytes, error) in table {
        assert_eq!(all(bytes, bytes.len()), Err(error.clone()), "{name}");
        assert_eq!(all(bytes, 1), Err(error), "{name}, byte by byte");
    }
}

#[test]
fn lengths_are_written_in_their_shortest_form() {
    for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        let mut buffer = BytesMut::new();
        message(&mut buffer, OP_BINARY, &[], &vec![7; length]);
        assert_eq!(buffer.len(), head + length, "{length}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_events_or_an_error(bytes: Vec<u8>, step in 1_usize..64) {
        let _ = all(&bytes, step);
    }

    /// With heads that are valid, so that payloads are reached.
    #[test]
    fn any_masked_frames_give_events_or_an_error(frames: Vec<(u8, Vec<u8>)>, step in 1_usize..64) {
        let mut bytes = BytesMut::new();
        for (first, payload) in &frames {
            client_frame(&mut bytes, first & 0x8f, payload);
        }
        let _ = all(&bytes, step);
    }

    #[test]
    fn payloads_survive_any_split(payload in prop::collection::vec(any::<u8>(), 0..70_000), step in 1_usize..9000) {
        let mut bytes = BytesMut::new();
        client_frame(&mut bytes, FIN | OP_BINARY, &payload);
        let mut got = Vec::new();
        for event in all(&bytes, step).unwrap() {
            let Event::Data { bytes, .. } = event else { panic!("not data") };
            got.extend_from_slice(&bytes);
        }
        prop_assert_eq!(got, payload);
    }
}
