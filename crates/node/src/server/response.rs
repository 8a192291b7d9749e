//! Bodies and small answers.

use std::io;

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame};
use tokio::sync::mpsc;

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer.
pub(crate) type Response = http::Response<Body>;

fn full(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let body = Full::new(body).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    full(status, "text/plain; charset=utf-8", text.into().into())
}

/// A JSON document.
pub(crate) fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => full(StatusCode::OK, "application/json", body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the answer: {error}")),
    }
}

/// Metrics in Prometheus' text format.
pub(crate) fn metrics(body: String) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    full(StatusCode::OK, content_type, body.into())
}

/// What a command wrote. The kubelet calls it JSON, whatever it is; nothing is nothing.
pub(super) fn run_output(output: Vec<u8>) -> Response {
    let mut response = full(StatusCode::OK, "application/json", output.into());
    if response.body().size_hint().exact() == Some(0) {
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

/// An HTML page.
pub(super) fn html(page: String) -> Response {
    full(StatusCode::OK, "text/html; charset=utf-8", page.into())
}

/// A chunked answer of unknown length; each piece goes out at once. An error breaks the connection off, so that the
/// client does not take the part for the whole.
pub(super) fn stream(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Response {
    let frames = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The same answer with one more header.
pub(super) fn with_header(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
