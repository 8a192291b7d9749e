//! From the headers of a request to a protocol, or to a refusal with its reason.
//!
//! A client says what it speaks in its order of preference; the first that is spoken here is taken. Check all that can be wrong with a
//! request before the `101` goes out: afterwards there is only the error stream.

mod websocket;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::port_forward;
use crate::remote_command::{self, Version};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_STREAM_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// The protocol of a session, and the headers of the answer `101 Switching Protocols`.
#[derive(Debug, Clone)]
pub struct Negotiated<P> {
    /// What both sides speak.
    pub protocol: P,
    /// All headers that the `101` needs.
    pub headers: HeaderMap,
}

/// Why a request cannot be upgraded. Answer with the status, the headers and the message as plain text.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// 400 for a request that asks for no upgrade that is known here, or wrongly; 403 when there is no common protocol, as upstream.
    pub status: StatusCode,
    /// Headers that tell the client what it could have asked for.
    pub headers: HeaderMap,
    /// The text for the client.
    pub message: String,
}

impl Refusal {
    fn bad_request(reason: &str) -> Box<Self> {
        let message = format!("unable to upgrade: {reason}");
        Box::new(Self { status: StatusCode::BAD_REQUEST, headers: HeaderMap::new(), message })
    }

    fn no_common_protocol(client: &[&str], server: impl Iterator<Item = &'static str>, header: HeaderName) -> Box<Self> {
        let mut headers = HeaderMap::new();
        let mut accepted = Vec::new();
        for name in server {
            headers.append(header.clone(), HeaderValue::from_static(name));
            accepted.push(name);
        }
        let message = format!("unable to upgrade: unable to negotiate protocol: client supports {client:?}, server accepts {accepted:?}");
        Box::new(Self { status: StatusCode::FORBIDDEN, headers, message })
    }
}

const REMOTE_COMMAND_SPDY: [(&str, remote_command::Protocol); 4] = [
    ("v4.channel.k8s.io", remote_command::Protocol::Spdy(Version::V4)),
    ("v3.channel.k8s.io", remote_command::Protocol::Spdy(Version::V3)),
    ("v2.channel.k8s.io", remote_command::Protocol::Spdy(Version::V2)),
    ("channel.k8s.io", remote_command::Protocol::Spdy(Version::V1)),
];

const fn command(version: Version, base64: bool) -> remote_command::Protocol {
    remote_command::Protocol::WebSocket { version, base64 }
}

/// The first is that of clients that name none.
const REMOTE_COMMAND_WEBSOCKET: [(&str, remote_command::Protocol); 6] = [
    ("", command(Version::V1, false)),
    ("v5.channel.k8s.io", command(Version::V5, false)),
    ("v4.channel.k8s.io", command(Version::V4, false)),
    ("channel.k8s.io", command(Version::V1, false)),
    ("base64.channel.k8s.io", command(Version::V1, true)),
    ("v4.base64.channel.k8s.io", command(Version::V4, true)),
];

const PORT_FORWARD_SPDY: [(&str, port_forward::Protocol); 1] = [("portforward.k8s.io", port_forward::Protocol::Spdy)];

const PORT_FORWARD_WEBSOCKET: [(&str, port_forward::Protocol); 4] = [
    ("", port_forward::Protocol::WebSocket { base64: false }),
    ("SPDY/3.1+portforward.k8s.io", port_forward::Protocol::Tunnel),
    ("v4.channel.k8s.io", port_forward::Protocol::WebSocket { base64: false }),
    ("v4.base64.channel.k8s.io", port_forward::Protocol::WebSocket { base64: true }),
];

/// Negotiates exec or attach.
///
/// # Errors
/// With the answer to give when the request is no upgrade, a malformed one, or speaks nothing that is spoken here.
pub fn remote_command(request: &HeaderMap) -> Result<Negotiated<remote_command::Protocol>, Box<Refusal>> {
    negotiate(request, &REMOTE_COMMAND_SPDY, &REMOTE_COMMAND_WEBSOCKET)
}

/// Negotiates port-forward.
///
/// # Errors
/// With the answer to give when the request is no upgrade, a malformed one, or speaks nothing that is spoken here.
pub fn port_forward(request: &HeaderMap) -> Result<Negotiated<port_forward::Protocol>, Box<Refusal>> {
    negotiate(request, &PORT_FORWARD_SPDY, &PORT_FORWARD_WEBSOCKET)
}

type Known<P> = [(&'static str, P)];

fn negotiate<P: Copy>(request: &HeaderMap, spdy: &Known<P>, websocket: &Known<P>) -> Result<Negotiated<P>, Box<Refusal>> {
    let upgrade = list(request, &UPGRADE);
    if !list(request, &CONNECTION).iter().any(|option| option.eq_ignore_ascii_case("upgrade")) {
        return Err(Refusal::bad_request("missing upgrade headers in request"));
    }
    if upgrade.iter().any(|name| name.eq_ignore_ascii_case("websocket")) {
        return websocket::negotiate(request, websocket);
    }
    if !upgrade.iter().any(|name| name.eq_ignore_ascii_case(SPDY)) {
        return Err(Refusal::bad_request("missing upgrade headers in request"));
    }
    let wanted = list(request, &STREAM_PROTOCOL);
    if wanted.is_empty() {
        return Err(Refusal::bad_request("header X-Stream-Protocol-Version is required"));
    }
    let Some((name, protocol)) = first_common(&wanted, spdy) else {
        return Err(Refusal::no_common_protocol(&wanted, spdy.iter().map(|(name, _)| *name), ACCEPTED_STREAM_PROTOCOLS));
    };
    let headers = [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static(SPDY)),
        (STREAM_PROTOCOL, HeaderValue::from_static(name)),
    ];
    Ok(Negotiated { protocol, headers: headers.into_iter().collect() })
}

/// The client's first that is known here.
fn first_common<P: Copy>(wanted: &[&str], known: &Known<P>) -> Option<(&'static str, P)> {
    wanted.iter().find_map(|wanted| known.iter().find(|(name, _)| name == wanted)).copied()
}

/// The values of a header, one per line or with commas between. What is not text is no value that is known here.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests;
