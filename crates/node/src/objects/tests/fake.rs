//! An API server in memory: fixed answers by path, and a record of what was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use kube_pet_testkit::api::{self, Answer};
use serde_json::Value;

use crate::api::ApiHandle;
use crate::objects::ObjectFetcher;

#[derive(Clone, Default)]
pub(crate) struct FakeServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Result<Value, (StatusCode, String)>>,
    requests: Vec<String>,
    bodies: Vec<String>,
}

impl FakeServer {
    pub(crate) fn fetcher(&self) -> ObjectFetcher {
        let state = self.state.clone();
        let client = api::client(move |request, body| {
            let mut state = state.lock().unwrap();
            state.requests.push(format!("{} {}", request.method, request.uri.path()));
            state.bodies.push(String::from_utf8_lossy(&body).into_owned());
            Ok(match state.answers.get(request.uri.path()) {
                Some(Ok(object)) => api::reply(200, object),
                Some(Err((code, message))) => refuse(*code, message),
                None => refuse(StatusCode::NOT_FOUND, "not found"),
            })
        });
        let (_, api) = ApiHandle::new(client);
        ObjectFetcher::new(Some(api))
    }

    pub(crate) fn set(&self, path: &str, object: Value) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), Ok(object));
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().answers.remove(path);
    }

    pub(crate) fn fail(&self, path: &str, code: StatusCode, message: &str) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), Err((code, message.to_owned())));
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.state.lock().unwrap().bodies.clone()
    }
}

fn refuse(code: StatusCode, message: &str) -> Answer {
    api::failure(code.as_u16(), &code.canonical_reason().unwrap_or_default().replace(' ', ""), message)
}
