//! Counts requests to the API server, below everything else that a client does: retries are requests too.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response, Uri};
use jiff::Timestamp;
use tower_layer::Layer;
use tower_service::Service;

use super::clock;
use crate::instruments::{REST_CLIENT_REQUEST_DURATION, REST_CLIENT_REQUESTS};

/// Wraps a client's service.
#[derive(Clone, Debug)]
pub(super) struct CountRequests {
    host: String,
}

impl CountRequests {
    pub(super) fn new(server: &Uri) -> Self {
        Self { host: server.authority().map(ToString::to_string).unwrap_or_default() }
    }
}

impl<S> Layer<S> for CountRequests {
    type Service = Counting<S>;
    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, host: self.host.clone() }
    }
}

/// A service that counts.
#[derive(Clone, Debug)]
pub(super) struct Counting<S> {
    inner: S,
    host: String,
}

impl<S, A, B> Service<Request<A>> for Counting<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (method, host, began, sent) = (request.method().clone(), self.host.clone(), Instant::now(), Timestamp::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            // The Go client's word for a request without an answer.
            let code = answer.as_ref().map_or_else(|_| "<error>".to_owned(), |answer| answer.status().as_u16().to_string());
            REST_CLIENT_REQUESTS.add(&[&code, method.as_str(), &host]);
            REST_CLIENT_REQUEST_DURATION.observe(&[method.as_str(), &host], began.elapsed());
            if let Ok(answer) = &answer {
                clock::compare(answer.headers(), sent, Timestamp::now());
            }
            answer
        })
    }
}
