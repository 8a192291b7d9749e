//! `grpc`: the health check of gRPC (grpc.health.v1), with the messages of `grpc-health-probe`, which the kubelet took over.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;
use kube_pet_core::quoting::go_quoted;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{Opening, dial, driven};
use super::exec::go_duration;
use super::target::host_port;
use super::{Handlers, ProbeOutcome};

/// Bytes of a response that is read: the answer has two.
const MOST_BYTES: usize = 4 << 10;

/// The pause after a connection that did not come about; grows by [`PAUSE_GROWTH`] (gRPC's connection backoff).
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_GROWTH: f64 = 1.6;

/// A status of gRPC.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    code: u32,
    message: String,
}

impl Status {
    const DEADLINE_EXCEEDED: u32 = 4;
    const UNIMPLEMENTED: u32 = 12;
    const INTERNAL: u32 = 13;
    const UNAVAILABLE: u32 = 14;

    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        f.write_str("rpc error: code = ")?;
        match NAMES.get(self.code as usize) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "Code({})", self.code)?,
        }
        write!(f, " desc = {}", self.message)
    }
}

/// A `grpc` probe.
pub(super) async fn probe(handlers: &Handlers, host: &str, action: &GRPCAction, timeout: Duration) -> ProbeOutcome {
    let Ok(port) = u16::try_from(action.port) else {
        return ProbeOutcome::Unknown(format!("invalid port number: {}", action.port));
    };
    let place = host_port(host, port);
    let deadline = Instant::now() + timeout;
    let no_connection = || {
        let (place, timeout) = (go_quoted(&place), go_duration(timeout));
        ProbeOutcome::Failure(format!("timeout: failed to connect service {place} within {timeout}: context deadline exceeded"))
    };
    let mut pause = PAUSE;
    // As gRPC's client does, connections are tried until the time is over: a refusal is none of the answers.
    loop {
        let Ok(stream) = timeout_at(deadline, dial(host, port)).await else { return no_connection() };
        if let Ok(stream) = stream {
            let (stream, first) = Opening::new(stream);
            let service = action.service.as_deref().unwrap_or_default();
            let called = timeout_at(deadline, check(stream, &place, service, &handlers.version, deadline)).await;
            // A server of HTTP/2 begins with its settings.
            let connected = first.get().get(3) == Some(&4);
            match called {
                Err(_) if connected => return timed_out(timeout),
                Err(_) => return no_connection(),
                Ok(Ok(serving)) => return judged(serving),
                Ok(Err(status)) if connected => return failed(&status, timeout),
                Ok(Err(_)) => {}
            }
        }
        if timeout_at(deadline, sleep(pause)).await.is_err() {
            return no_connection();
        }
        pause = pause.mul_f64(PAUSE_GROWTH);
    }
}

fn timed_out(timeout: Duration) -> ProbeOutcome {
    ProbeOutcome::Failure(format!("timeout: health rpc did not complete within {}", go_duration(timeout)))
}

fn judged(serving: u64) -> ProbeOutcome {
    let name = match serving {
        1 => return ProbeOutcome::Success("service healthy".to_owned()),
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    };
    ProbeOutcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
}

fn failed(status: &Status, timeout: Duration) -> ProbeOutcome {
    match status.code {
        Status::UNIMPLEMENTED => ProbeOutcome::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message
        )),
        Status::DEADLINE_EXCEEDED => timed_out(timeout),
        _ => ProbeOutcome::Failure(format!("error: health rpc probe failed: {status}")),
    }
}

/// Asks once; gives the serving status.
async fn check(stream: Opening<TcpStream>, place: &str, service: &str, version: &str, deadline: Instant) -> Result<u64, Status> {
    let broken = |error: hyper::Error| Status::new(Status::UNAVAILABLE, format!("connection error: desc = \"transport: {error}\""));
    let left = deadline.saturating_duration_since(Instant::now());
    let request = Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, format!("kube-probe/{version} grpc-go/1.82.1"))
        .header(header::TE, "trailers")
        .header("grpc-timeout", grpc_timeout(left))
        .body(Full::new(question(service)))
        .map_err(|error| Status::new(Status::INTERNAL, error.to_string()))?;
    let (mut sender, driver) = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    driven(driver, async move {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let is_grpc = content_type
            .as_deref()
            .is_some_and(|kind| kind.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';'])));
        if head.status != StatusCode::OK || !is_grpc {
            return Err(not_grpc(head.status, content_type.as_deref().filter(|_| !is_grpc), is_grpc));
        }
        // An answer of headers only.
        if let Some(status) = status_of(&head.headers) {
            return Err(status);
        }
        let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|error| Status::new(Status::UNAVAILABLE, error.to_string()))?;
        let trailers = body.trailers().cloned();
        match trailers.as_ref().map(status_of) {
            Some(Some(Status { code: 0, .. })) => {}
            Some(Some(status)) => return Err(status),
            Some(None) | None => return Err(Status::new(Status::INTERNAL, "server closed the stream without sending trailers")),
        }
        answer(&body.to_bytes()).ok_or_else(|| Status::new(Status::INTERNAL, "grpc: failed to unmarshal the received message"))
    })
    .await
}

/// `HealthCheckRequest { string service = 1 }` in a frame of gRPC.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1 }` out of a frame of gRPC; fields that are not known are skipped.
fn answer(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    // Compression was not offered.
    if head[0] != 0 || message.len() != length as usize {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `None`: no status among these.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message =
        headers.get("grpc-message").map(|value| percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned());
    Some(Status { code, message: message.unwrap_or_default() })
}

/// A response of HTTP that is none of gRPC.
fn not_grpc(status: StatusCode, content_type: Option<&str>, is_grpc: bool) -> Status {
    let code = match status.as_u16() {
        400 => Status::INTERNAL,
        401 => 16,
        403 => 7,
        404 => Status::UNIMPLEMENTED,
        429 | 502..=504 => Status::UNAVAILABLE,
        _ => 2,
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("unexpected HTTP status code received from server: {} ({reason})", status.as_u16());
    match content_type {
        Some(kind) => text.push_str(&format!("; transport: received unexpected content-type {}", go_quoted(kind))),
        None if !is_grpc => text.push_str("; malformed header: missing HTTP content-type"),
        None => {}
    }
    Status::new(code, text)
}

/// At most eight digits.
fn grpc_timeout(left: Duration) -> String {
    match left.as_micros() {
        micros @ ..100_000_000 => format!("{micros}u"),
        _ => format!("{}m", left.as_millis().min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_protobuf() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(answer(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(answer(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        // An unknown string, a fixed32, then the status.
        assert_eq!(answer(&[0, 0, 0, 0, 11, 0x12, 2, 9, 9, 0x1d, 1, 2, 3, 4, 8, 2]), Some(2));
        for bad in [&[0, 0, 0, 0][..], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 2, 0x12, 9], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(answer(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn time_limits_have_at_most_eight_digits() {
        assert_eq!(grpc_timeout(Duration::from_millis(999)), "999000u");
        assert_eq!(grpc_timeout(Duration::from_secs(100)), "100000m");
        assert_eq!(grpc_timeout(Duration::from_secs(1 << 40)), "99999999m");
    }

    #[test]
    fn statuses_are_written_as_go_writes_them() {
        assert_eq!(Status::new(5, "unknown service").to_string(), "rpc error: code = NotFound desc = unknown service");
        assert_eq!(Status::new(77, "").to_string(), "rpc error: code = Code(77) desc = ");
    }
}
