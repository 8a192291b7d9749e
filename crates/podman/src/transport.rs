//! HTTP/1.1 over the service's Unix socket: a few kept connections for calls, one of its own for each stream.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::capabilities::{Capabilities, Version};
use crate::error::{Error, Operation};

/// Calls in flight at a time, streams and [`Transport::call_unlimited`]'s excepted. Measured on 4.3.1: more than 4 or 5 gain nothing.
pub const MAX_IN_FLIGHT: usize = 5;

const PREFIX: &str = "/v4.0.0/libpod";
const API_VERSION: &str = "libpod-api-version";

type Connection = SendRequest<Full<Bytes>>;

/// Told of every call: what it was, how long it took, and whether it succeeded.
pub type Observer = Box<dyn Fn(Operation, Duration, bool) + Send + Sync>;

/// One request, before it is sent.
pub(crate) struct Call {
    operation: Operation,
    object: String,
    method: Method,
    path: String,
    query: String,
    body: Bytes,
    headers: Vec<(&'static str, String)>,
    deadline: Duration,
    upgrade: bool,
}

impl Call {
    /// A call of `method` on `path` (below the prefix, already encoded) about `object` (for messages).
    pub(crate) fn new(operation: Operation, object: &str, method: Method, path: String) -> Self {
        Self {
            operation,
            object: object.to_owned(),
            method,
            path,
            query: String::new(),
            body: Bytes::new(),
            headers: Vec::new(),
            deadline: operation.deadline(),
            upgrade: false,
        }
    }

    /// Adds a query parameter; `value` is already encoded.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(name);
        self.query.push('=');
        self.query.push_str(value);
        self
    }

    pub(crate) fn json<T: serde::Serialize>(mut self, body: &T) -> Result<Self, Error> {
        self.body = serde_json::to_vec(body)
            .map_err(|source| Error::Encode { operation: self.operation, object: self.object.clone(), source: source.into() })?
            .into();
        self.headers.push(("content-type", "application/json".to_owned()));
        Ok(self)
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(crate) fn upgrade(mut self) -> Self {
        self.upgrade = true;
        self
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Error> {
        let mut builder =
            Request::builder().method(self.method.clone()).uri(format!("{PREFIX}{}{}", self.path, self.query)).header(header::HOST, "d");
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        if self.upgrade {
            builder = builder.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "tcp");
        }
        builder.body(Full::new(self.body.clone())).map_err(|source| Error::Encode {
            operation: self.operation,
            object: self.object.clone(),
            source: source.into(),
        })
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Connection { operation: self.operation, object: self.object.clone(), source: source.into() }
    }

    fn late(&self) -> Error {
        Error::Deadline { operation: self.operation, object: self.object.clone(), after: self.deadline }
    }

    pub(crate) fn decode<T: for<'de> Deserialize<'de>>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|source| Error::Decode { operation: self.operation, object: self.object.clone(), source })
    }

    /// What Podman says in the body of a refused call.
    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Refusal {
            cause: String,
            message: String,
        }
        let refusal: Refusal = serde_json::from_slice(body).unwrap_or_else(|_| Refusal {
            cause: String::new(),
            message: String::from_utf8_lossy(&body[..body.len().min(1024)]).trim().to_owned(),
        });
        let message = if refusal.message.is_empty() { refusal.cause.clone() } else { refusal.message };
        Error::Status { operation: self.operation, object: self.object.clone(), status, cause: refusal.cause, message }
    }
}

/// A reply that was read to its end.
pub(crate) struct Reply {
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) struct Transport {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    capabilities: Mutex<Capabilities>,
    observer: OnceLock<Observer>,
}

impl Transport {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(MAX_IN_FLIGHT),
            capabilities: Mutex::new(Capabilities::default()),
            observer: OnceLock::new(),
        }
    }

    /// The first one stays.
    pub(crate) fn observe(&self, observer: Observer) {
        let _ = self.observer.set(observer);
    }

    /// Tells the observer how a call went that began at `began`.
    fn told<T>(&self, call: &Call, began: Instant, result: Result<T, Error>) -> Result<T, Error> {
        if let Some(observer) = self.observer.get() {
            observer(call.operation, began.elapsed(), result.is_ok());
        }
        result
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a call and reads the whole reply; anything but 2xx and 304 is an error.
    pub(crate) async fn call(&self, call: &Call) -> Result<Reply, Error> {
        // The deadline starts when the call is sent: the wait for a permit ends because every call before it has one.
        let _permit = self.permits.acquire().await.map_err(|closed| call.broken(closed))?;
        self.call_unlimited(call).await
    }

    /// Like [`Transport::call`], outside the limit of calls in flight: for calls that wait for a container, or cannot wait themselves.
    pub(crate) async fn call_unlimited(&self, call: &Call) -> Result<Reply, Error> {
        let began = Instant::now();
        let result = tokio::time::timeout(call.deadline, self.exchange(call)).await.map_err(|_| call.late()).flatten();
        self.told(call, began, result)
    }

    /// Sends a call and decodes the reply's JSON.
    pub(crate) async fn json<T: for<'de> Deserialize<'de>>(&self, call: &Call) -> Result<T, Error> {
        let reply = self.call(call).await?;
        call.decode(&reply.body)
    }

    async fn exchange(&self, call: &Call) -> Result<Reply, Error> {
        let (mut connection, response) = self.send(call).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|source| call.broken(source))?.to_bytes();
        // Only a connection whose reply was read to the end may serve another call.
        if connection.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IN_FLIGHT {
                idle.push(connection);
            }
        }
        if parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED {
            Ok(Reply { headers: parts.headers, body })
        } else {
            Err(call.refused(parts.status, &body))
        }
    }

    async fn send(&self, call: &Call) -> Result<(Connection, Response<Incoming>), Error> {
        let mut request = call.request()?;
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) if connection.is_closed() => continue,
                Some(connection) => connection,
                None => self.connect(call).await?,
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    self.note_version(&response);
                    return Ok((connection, response));
                }
                Err(mut failed) => match failed.take_message() {
                    // The service closed a kept connection before the request was written: it was not carried out.
                    Some(unsent) if reused => request = unsent,
                    // Nobody answered a question on a kept connection: asking again changes nothing.
                    None if reused && call.method == Method::GET => request = call.request()?,
                    _ => return Err(call.broken(failed.into_error())),
                },
            }
        }
    }

    /// Sends a call on a connection of its own and returns as soon as the reply's headers are there.
    pub(crate) async fn stream(&self, call: &Call) -> Result<Response<Incoming>, Error> {
        let open = async {
            let request = call.request()?;
            let mut connection = self.connect(call).await?;
            let response = connection.send_request(request).await.map_err(|source| call.broken(source))?;
            self.note_version(&response);
            let status = response.status();
            if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            let body = response.into_body().collect().await.map_err(|source| call.broken(source))?.to_bytes();
            Err(call.refused(status, &body))
        };
        let began = Instant::now();
        let result = tokio::time::timeout(call.deadline, open).await.map_err(|_| call.late()).flatten();
        self.told(call, began, result)
    }

    async fn connect(&self, call: &Call) -> Result<Connection, Error> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| Error::Connect {
            operation: call.operation,
            object: call.object.clone(),
            socket: self.socket.clone(),
            source,
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|source| call.broken(source))?;
        // Ends with the connection: when the sender and the reply's body are dropped, or the service closes it. Its error
        // reaches the caller through the sender.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the Podman service ended");
            }
        });
        Ok(sender)
    }

    /// Every reply names the version, so a service that was upgraded behind its socket is noticed at once.
    fn note_version(&self, response: &Response<Incoming>) {
        let Some(version) =
            response.headers().get(API_VERSION).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<Version>().ok())
        else {
            return;
        };
        let mut known = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            tracing::info!(%version, before = %known.version, "Podman service version");
            *known = Capabilities::for_version(version);
        }
    }
}
