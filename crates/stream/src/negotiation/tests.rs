use super::*;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())).collect()
}

fn spdy(protocols: &[&str]) -> HeaderMap {
    let mut headers = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
    for protocol in protocols {
        headers.append(STREAM_PROTOCOL, protocol.parse().unwrap());
    }
    headers
}

fn websocket(protocols: &[&str]) -> HeaderMap {
    let mut headers = headers(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]);
    for protocol in protocols {
        headers.append("sec-websocket-protocol", protocol.parse().unwrap());
    }
    headers
}

#[test]
fn remote_command_over_spdy_takes_the_first_that_both_speak() {
    let table: [(&[&str], Version); 6] = [
        // client-go
        (&["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"], Version::V4),
        (&["v5.channel.k8s.io, v4.channel.k8s.io,v3.channel.k8s.io"], Version::V4),
        (&["v2.channel.k8s.io", "v4.channel.k8s.io"], Version::V2),
        (&["v3.channel.k8s.io"], Version::V3),
        (&["channel.k8s.io"], Version::V1),
        (&["x", "channel.k8s.io"], Version::V1),
    ];
    for (protocols, version) in table {
        let negotiated = remote_command(&spdy(protocols)).unwrap();
        assert_eq!(negotiated.protocol, remote_command::Protocol::Spdy(version), "{protocols:?}");
        assert_eq!(negotiated.headers["connection"], "Upgrade");
        assert_eq!(negotiated.headers["upgrade"], "SPDY/3.1");
    }
    let negotiated = remote_command(&spdy(&["v5.channel.k8s.io", "v4.channel.k8s.io"])).unwrap();
    assert_eq!(negotiated.headers["x-stream-protocol-version"], "v4.channel.k8s.io");
}

#[test]
fn remote_command_over_websocket() {
    let table: [(&[&str], Version, bool, Option<&str>); 7] = [
        (&["v5.channel.k8s.io"], Version::V5, false, Some("v5.channel.k8s.io")),
        (&["v5.channel.k8s.io, v4.channel.k8s.io"], Version::V5, false, Some("v5.channel.k8s.io")),
        (&["v4.channel.k8s.io"], Version::V4, false, Some("v4.channel.k8s.io")),
        (&["channel.k8s.io"], Version::V1, false, Some("channel.k8s.io")),
        (&["base64.channel.k8s.io"], Version::V1, true, Some("base64.channel.k8s.io")),
        (&["v4.base64.channel.k8s.io"], Version::V4, true, Some("v4.base64.channel.k8s.io")),
        (&[], Version::V1, false, None),
    ];
    for (protocols, version, base64, name) in table {
        let negotiated = remote_command(&websocket(protocols)).unwrap();
        assert_eq!(negotiated.protocol, remote_command::Protocol::WebSocket { version, base64 }, "{protocols:?}");
        assert_eq!(negotiated.headers.get("sec-websocket-protocol").map(|value| value.to_str().unwrap()), name);
        // The example of RFC 6455, section 1.3.
        assert_eq!(negotiated.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(negotiated.headers["upgrade"], "websocket");
        assert_eq!(negotiated.headers["connection"], "Upgrade");
    }
}

#[test]
fn port_forward_protocols() {
    assert_eq!(port_forward(&spdy(&["portforward.k8s.io"])).unwrap().protocol, port_forward::Protocol::Spdy);
    let table: [(&[&str], port_forward::Protocol); 4] = [
        (&["SPDY/3.1+portforward.k8s.io"], port_forward::Protocol::Tunnel),
        (&["v4.channel.k8s.io"], port_forward::Protocol::WebSocket { base64: false }),
        (&["v4.base64.channel.k8s.io"], port_forward::Protocol::WebSocket { base64: true }),
        (&[], port_forward::Protocol::WebSocket { base64: false }),
    ];
    for (protocols, expected) in table {
        assert_eq!(port_forward(&websocket(protocols)).unwrap().protocol, expected, "{protocols:?}");
    }
}

#[test]
fn refusals() {
    let without = |mut headers: HeaderMap, name: &str| {
        headers.remove(name);
        headers
    };
    let with = |mut headers: HeaderMap, name: &'static str, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
        headers
    };
    let v4 = &["v4.channel.k8s.io"];
    let table = [
        ("no upgrade", HeaderMap::new(), 400),
        ("no connection header", without(spdy(v4), "connection"), 400),
        ("no upgrade header", without(spdy(v4), "upgrade"), 400),
        ("another upgrade", with(spdy(v4), "upgrade", "h2c"), 400),
        ("no protocol", spdy(&[]), 400),
        ("empty protocol", spdy(&[" , "]), 400),
        ("version 5 is for WebSocket alone", spdy(&["v5.channel.k8s.io"]), 403),
        ("unknown protocol", websocket(&["v6.channel.k8s.io"]), 403),
        ("no version", without(websocket(v4), "sec-websocket-version"), 400),
        ("old version", with(websocket(v4), "sec-websocket-version", "8"), 400),
        ("no key", without(websocket(v4), "sec-websocket-key"), 400),
        ("short key", with(websocket(v4), "sec-websocket-key", "AAAA"), 400),
    ];
    for (name, headers, status) in table {
        let refusal = remote_command(&headers).unwrap_err();
        assert_eq!(refusal.status.as_u16(), status, "{name}");
        assert!(refusal.message.starts_with("unable to upgrade: "), "{name}");
    }
    let refusal = remote_command(&spdy(&["v5.channel.k8s.io"])).unwrap_err();
    let accepted: Vec<_> = refusal.headers.get_all(ACCEPTED_STREAM_PROTOCOLS).iter().collect();
    assert_eq!(accepted, ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]);
    assert_eq!(port_forward(&spdy(&["v4.channel.k8s.io"])).unwrap_err().status, StatusCode::FORBIDDEN);
}
