//! An API server played by the test: a `kube::Client` whose requests end in a closure.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};

/// What the server answers.
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A client of a server that answers by `answer`; an error is a connection that failed. Requests take a moment, so that
/// concurrent ones meet.
pub fn client(answer: impl Fn(&Parts, Bytes) -> io::Result<Answer> + Send + Sync + 'static) -> kube::Client {
    kube::Client::new(Played(Arc::new(answer)), "default")
}

/// A JSON document.
pub fn reply(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

/// A refusal, as the API server words it.
pub fn failure(code: u16, reason: &str, message: &str) -> Answer {
    reply(code, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}))
}

struct Played<F>(Arc<F>);

impl<F> Clone for Played<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F> tower_service::Service<Request<Body>> for Played<F>
where
    F: Fn(&Parts, Bytes) -> io::Result<Answer> + Send + Sync + 'static,
{
    type Response = Answer;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Answer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            tokio::task::yield_now().await;
            answer(&parts, body)
        })
    }
}
