//! An API server in memory: fixed answers by path, and a record of what was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};

use crate::api::ApiHandle;
use crate::objects::ObjectFetcher;

#[derive(Clone, Default)]
pub(crate) struct FakeServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, (StatusCode, Value)>,
    requests: Vec<String>,
    bodies: Vec<String>,
}

impl FakeServer {
    pub(crate) fn fetcher(&self) -> ObjectFetcher {
        let (_, api) = ApiHandle::new(kube::Client::new(self.clone(), "default"));
        ObjectFetcher::new(Some(api))
    }

    pub(crate) fn set(&self, path: &str, object: Value) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), (StatusCode::OK, object));
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().answers.remove(path);
    }

    pub(crate) fn fail(&self, path: &str, code: StatusCode, message: &str) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), (code, status(code, message)));
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.state.lock().unwrap().bodies.clone()
    }
}

fn status(code: StatusCode, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": message, "reason": code.canonical_reason().unwrap_or_default().replace(' ', ""), "code": code.as_u16()})
}

impl tower_service::Service<Request<Body>> for FakeServer {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let state = self.state.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            // Answers take a moment, so that concurrent readers meet.
            tokio::task::yield_now().await;
            let mut state = state.lock().unwrap();
            state.requests.push(format!("{} {}", parts.method, parts.uri.path()));
            state.bodies.push(String::from_utf8_lossy(&body).into_owned());
            let missing = (StatusCode::NOT_FOUND, status(StatusCode::NOT_FOUND, "not found"));
            let (code, object) = state.answers.get(parts.uri.path()).unwrap_or(&missing);
            let bytes = Bytes::from(object.to_string());
            Ok(Response::builder().status(*code).body(Full::new(bytes)).unwrap())
        })
    }
}
