//! `httpGet`, as Go's HTTP client does it for the kubelet.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::HTTPGetAction;
use kube_pet_core::quoting::go_quoted;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::connection::{FirstBytes, Opening, dial, driven, in_words};
use super::target::Url;
use super::tls::Use;
use super::{Handlers, HookDone, OUTPUT_LIMIT, ProbeOutcome, Subject};

/// Requests in a row, redirects followed.
const MOST_REQUESTS: u32 = 10;

/// Go's words for a server that speaks HTTP where TLS was asked for.
const HTTP_FOR_HTTPS: &str = "http: server gave HTTP response to HTTPS client";

/// An `httpGet` probe.
pub(super) async fn probe(handlers: &Handlers, subject: Subject<'_>, action: &HTTPGetAction, timeout: Duration) -> ProbeOutcome {
    let url = match Url::of(action, subject.container, &subject.pod_ip()) {
        Ok(url) => url,
        Err(error) => return ProbeOutcome::Unknown(error),
    };
    let client = Client { handlers, use_: Use::Probe, deadline: Some(Instant::now() + timeout) };
    let reply = match headers(action, &format!("kube-probe/{}", handlers.version)) {
        Ok(headers) => client.get(url, headers).await,
        Err(error) => Err(format!("Get {}: {error}", go_quoted(&url.to_string()))),
    };
    let Reply { status, body } = match reply {
        Ok(reply) => reply,
        Err(error) => return ProbeOutcome::Failure(error),
    };
    match (status.as_u16(), body) {
        (_, Err(error)) => ProbeOutcome::Errored(error),
        (200..300, Ok(body)) => ProbeOutcome::Success(body),
        (300..400, Ok(body)) => ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {body}")),
        // Without the body, which anybody may read in an event (kubernetes/kubernetes#99425).
        (status, Ok(_)) => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// An `httpGet` hook: any response is success.
pub(super) async fn hook(handlers: &Handlers, subject: Subject<'_>, action: &HTTPGetAction) -> Result<HookDone, String> {
    if action.host.as_deref().unwrap_or_default().is_empty() && subject.pod_ips.is_empty() {
        return Err("failed to find networking container: the pod has no address".to_owned());
    }
    let mut url = Url::of(action, subject.container, &subject.pod_ip())?;
    let mut headers = headers(action, &format!("kube-lifecycle/{}", handlers.version))
        .map_err(|error| format!("Get {}: {error}", go_quoted(&url.to_string())))?;
    let client = Client { handlers, use_: Use::Hook, deadline: None };
    match client.get(url.clone(), headers.clone()).await {
        Ok(_) => Ok(HookDone::default()),
        Err(error) if error.contains(HTTP_FOR_HTTPS) => {
            let place = url.authority();
            url.https = false;
            headers.remove(header::AUTHORIZATION);
            client.get(url, headers).await.map_err(|_| error)?;
            let text = format!("request to HTTPS lifecycle hook {place} got HTTP response, retry with HTTP succeeded");
            Ok(HookDone { http_fallback: Some(text) })
        }
        Err(error) => Err(error),
    }
}

/// The action's headers with the kubelet's defaults; `Host` among them.
fn headers(action: &HTTPGetAction, user_agent: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for given in action.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(given.name.as_bytes())
            .map_err(|_| format!("net/http: invalid header field name {}", go_quoted(&given.name)))?;
        let value = HeaderValue::from_str(given.value.trim())
            .or_else(|_| HeaderValue::from_bytes(given.value.trim().as_bytes()))
            .map_err(|_| format!("net/http: invalid header field value for {}", go_quoted(&given.name)))?;
        // Go's client writes these itself.
        if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER].contains(&name) {
            continue;
        }
        // Of these, the first is taken.
        if [header::HOST, header::USER_AGENT].contains(&name) && headers.contains_key(&name) {
            continue;
        }
        headers.append(name, value);
    }
    for (name, default) in [(header::USER_AGENT, user_agent), (header::ACCEPT, "*/*")] {
        match headers.get(&name) {
            None => {
                headers.insert(name, HeaderValue::from_str(default).map_err(|error| error.to_string())?);
            }
            Some(value) if value.is_empty() => {
                headers.remove(name);
            }
            Some(_) => {}
        }
    }
    Ok(headers)
}

/// A last response.
struct Reply {
    status: StatusCode,
    /// The beginning of it, or why it did not come.
    body: Result<String, String>,
}

/// What one request led to.
enum Answer {
    Reply(Reply),
    /// Go on there; with the `Location` as it was written.
    Redirect(Box<Url>, String),
}

struct Client<'a> {
    handlers: &'a Handlers,
    use_: Use,
    deadline: Option<Instant>,
}

impl Client<'_> {
    /// Gets, following redirects on the same host.
    async fn get(&self, mut url: Url, mut headers: HeaderMap) -> Result<Reply, String> {
        let first_host = url.host.clone();
        let referer = headers.get(header::REFERER).cloned();
        let mut requests = 1;
        loop {
            let failed = |error: String| format!("Get {}: {error}", go_quoted(&url.to_string()));
            let (next, location) = match self.request(&url, &headers, &first_host).await.map_err(failed)? {
                Answer::Reply(reply) => return Ok(reply),
                Answer::Redirect(next, location) => (*next, location),
            };
            if requests == MOST_REQUESTS {
                return Err(format!("Get {}: stopped after {MOST_REQUESTS} redirects", go_quoted(&location)));
            }
            requests += 1;
            if location.contains("://") {
                headers.remove(header::HOST);
            }
            headers.remove(header::REFERER);
            let referer = referer.clone().or_else(|| HeaderValue::from_str(&url.to_string()).ok());
            if let Some(referer) = referer.filter(|_| next.https || !url.https) {
                headers.insert(header::REFERER, referer);
            }
            url = next;
        }
    }

    async fn request(&self, url: &Url, headers: &HeaderMap, first_host: &str) -> Result<Answer, String> {
        let connection = self.before_headers(self.connect(url), |error| error).await?;
        let io = TokioIo::new(connection.io);
        let ends = connection.ends;
        if connection.version == Version::HTTP_2 {
            let request = request_of_2(url, headers)?;
            let (mut sender, driver) =
                self.before_headers(http2::Builder::new(TokioExecutor::new()).handshake(io), |e: hyper::Error| ends.words(&e)).await?;
            driven(carried(driver), async move {
                let response = self.before_headers(sender.send_request(request), |e: hyper::Error| ends.words(&e)).await?;
                self.answer(response, url, first_host).await
            })
            .await
        } else {
            let request = self.request_of_1(url, headers)?;
            let (mut sender, driver) =
                self.before_headers(http1::Builder::new().title_case_headers(true).handshake(io), |e: hyper::Error| ends.words(&e)).await?;
            driven(carried(driver), async move {
                let response = self.before_headers(sender.send_request(request), |e: hyper::Error| ends.words(&e)).await?;
                self.answer(response, url, first_host).await
            })
            .await
        }
    }

    async fn connect(&self, url: &Url) -> Result<Connection, String> {
        let tcp = dial(&url.host, url.port()).await?;
        let ends = (tcp.local_addr().ok(), tcp.peer_addr().ok());
        let (tcp, first) = Opening::new(tcp);
        let ends = Ends { ends, first, tls: url.https };
        if !url.https {
            return Ok(Connection { io: Box::new(tcp), version: Version::HTTP_11, ends });
        }
        let name = ServerName::try_from(url.host.clone()).map_err(|error| format!("tls: {error}"))?;
        let tls = TlsConnector::from(self.handlers.tls(self.use_)).connect(name, tcp).await.map_err(|error| ends.tls_words(&error))?;
        let version = if tls.get_ref().1.alpn_protocol() == Some(b"h2") { Version::HTTP_2 } else { Version::HTTP_11 };
        Ok(Connection { io: Box::new(tls), version, ends })
    }

    fn request_of_1(&self, url: &Url, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::get(url.path_and_query()).body(Empty::new()).map_err(|error| error.to_string())?;
        request.headers_mut().clone_from(headers);
        if !headers.contains_key(header::HOST) {
            let host = HeaderValue::from_str(&url.authority()).map_err(|error| error.to_string())?;
            request.headers_mut().insert(header::HOST, host);
        }
        match self.use_ {
            Use::Probe => {
                request.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
            }
            Use::Hook => {
                request.headers_mut().entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static("gzip"));
            }
        }
        Ok(request)
    }

    /// What the response's headers say, and then its body.
    async fn answer(&self, response: Response<Incoming>, url: &Url, first_host: &str) -> Result<Answer, String> {
        let status = response.status();
        let follow = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().get(header::LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(location) = location.filter(|location| follow && !location.is_empty()) {
            let next = url.join(&location).ok_or_else(|| format!("failed to parse Location header {}", go_quoted(&location)))?;
            if next.host == first_host {
                return Ok(Answer::Redirect(Box::new(next), location));
            }
        }
        let body = match self.deadline {
            None => beginning(response.into_body()).await,
            Some(deadline) => tokio::time::timeout_at(deadline, beginning(response.into_body())).await.unwrap_or_else(|_| {
                Err("context deadline exceeded (Client.Timeout or context cancellation while reading body)".to_owned())
            }),
        };
        Ok(Answer::Reply(Reply { status, body }))
    }

    /// Work that has to be done within the time limit.
    async fn before_headers<T, E>(&self, work: impl Future<Output = Result<T, E>>, words: impl FnOnce(E) -> String) -> Result<T, String> {
        match self.deadline {
            None => work.await.map_err(words),
            Some(deadline) => tokio::time::timeout_at(deadline, work)
                .await
                .map(|done| done.map_err(words))
                .unwrap_or_else(|_| Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())),
        }
    }
}

/// A connection's driver, whatever it is.
fn carried(driver: impl Future + Send + 'static) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        driver.await;
    })
}

fn request_of_2(url: &Url, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, String> {
    let authority = match headers.get(header::HOST) {
        Some(host) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        None => url.authority(),
    };
    let target = format!("{}://{authority}{}", url.scheme(), url.path_and_query());
    let mut request = Request::get(target).version(Version::HTTP_2).body(Empty::new()).map_err(|error| error.to_string())?;
    request.headers_mut().clone_from(headers);
    for name in [header::HOST, header::CONNECTION, header::UPGRADE, HeaderName::from_static("keep-alive")] {
        request.headers_mut().remove(name);
    }
    Ok(request)
}

/// As much of a body as is kept.
async fn beginning(mut body: Incoming) -> Result<String, String> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| if is_cut(&error) { "unexpected EOF".to_owned() } else { chain(&error) })?;
        let Ok(data) = frame.into_data() else { continue };
        let room = OUTPUT_LIMIT - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if kept.len() == OUTPUT_LIMIT {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Connection {
    io: Box<dyn Io>,
    version: Version,
    ends: Ends,
}

/// What is known about a connection when it fails.
struct Ends {
    ends: (Option<SocketAddr>, Option<SocketAddr>),
    first: FirstBytes,
    tls: bool,
}

impl Ends {
    fn words(&self, error: &hyper::Error) -> String {
        if let Some(error) = io_source(error).filter(|error| error.raw_os_error().is_some()) {
            return self.read_failed(error);
        }
        let first = self.first.get();
        if is_cut(error) {
            let begun = !self.tls && !first.is_empty();
            return if begun { "unexpected EOF" } else { "EOF" }.to_owned();
        }
        let broken = "net/http: HTTP/1.x transport connection broken: ";
        match first.split(|byte| *byte == b'\n').next() {
            Some(line) if error.is_parse() && !self.tls && !line.starts_with(b"HTTP/") => {
                format!("{broken}malformed HTTP response {}", go_quoted(String::from_utf8_lossy(line).trim_end_matches('\r')))
            }
            _ if error.is_parse() => format!("{broken}{}", chain(error)),
            _ => chain(error),
        }
    }

    fn tls_words(&self, error: &io::Error) -> String {
        if self.first.get().starts_with(b"HTTP/") {
            return HTTP_FOR_HTTPS.to_owned();
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => "tls: first record does not look like a TLS handshake".to_owned(),
            Some(rustls::Error::AlertReceived(alert)) => format!("remote error: tls: {}", apart(&format!("{alert:?}"))),
            Some(error) => format!("tls: {error}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            None => self.read_failed(error),
        }
    }

    fn read_failed(&self, error: &io::Error) -> String {
        match self.ends {
            (Some(local), Some(peer)) => format!("read tcp {local}->{peer}: read: {}", in_words(error)),
            _ => in_words(error),
        }
    }
}

/// `HandshakeFailure` as "handshake failure".
fn apart(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The connection ended before its time.
fn is_cut(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || io_source(error).is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn io_source(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return Some(error);
        }
        source = inner.source();
    }
    None
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
