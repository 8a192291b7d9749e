//! The opening handshake of WebSocket (RFC 6455, section 4.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue};
use sha1::{Digest, Sha1};

use super::{Known, Negotiated, Refusal, first_common, list};

/// What a server proves with: that it knows the protocol, nothing more.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION: &str = "13";

pub(super) fn negotiate<P: Copy>(request: &HeaderMap, known: &Known<P>) -> Result<Negotiated<P>, Box<Refusal>> {
    if list(request, &SEC_WEBSOCKET_VERSION) != [VERSION] {
        let mut refusal = Refusal::bad_request("the version of WebSocket is not 13");
        refusal.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        return Err(refusal);
    }
    let key = request.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(Refusal::bad_request("header Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let mut wanted = list(request, &SEC_WEBSOCKET_PROTOCOL);
    if wanted.is_empty() {
        wanted.push("");
    }
    let Some((name, protocol)) = first_common(&wanted, known) else {
        let names = known.iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
        return Err(Refusal::no_common_protocol(&wanted, names, SEC_WEBSOCKET_PROTOCOL));
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept(key)?);
    if !name.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Negotiated { protocol, headers })
}

fn accept(key: &[u8]) -> Result<HeaderValue, Box<Refusal>> {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).map_err(|_| Refusal::bad_request("header Sec-WebSocket-Key is not valid"))
}
