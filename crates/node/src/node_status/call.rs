//! Calls to the API server: each with a deadline, and failures told once, not every ten seconds.

use std::fmt;
use std::time::Duration;

use tracing::{debug, info, warn};

/// Shorter than a heartbeat's interval.
const DEADLINE: Duration = Duration::from_secs(9);

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// It was answered with an error, or could not be sent.
    #[error("{}", describe(.0))]
    Api(Box<kube::Error>),
    /// It was not answered.
    #[error("no answer from the API server within {} s", DEADLINE.as_secs())]
    Deadline,
}

impl CallError {
    fn has_code(&self, code: u16) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.code == code))
    }
    /// The object is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.has_code(404)
    }
    /// The object is there already, or has changed.
    pub(super) fn is_conflict(&self) -> bool {
        self.has_code(409)
    }
}

/// Of a connection that failed, the last cause says the most.
fn describe(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

/// Makes a call.
pub(super) async fn call<T>(work: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(DEADLINE, Box::pin(work)).await {
        Ok(result) => result.map_err(|error| CallError::Api(Box::new(error))),
        Err(_) => Err(CallError::Deadline),
    }
}

/// Something that goes wrong again and again: the log gets its begin, its changes and its end.
pub(super) struct Complaint {
    about: &'static str,
    last: Option<String>,
}

impl Complaint {
    pub(super) fn new(about: &'static str) -> Self {
        Self { about, last: None }
    }

    pub(super) fn tell(&mut self, error: &dyn fmt::Display) {
        let error = error.to_string();
        if self.last.as_ref() == Some(&error) {
            debug!(error, "{}", self.about);
        } else {
            warn!(error, "{}; retrying", self.about);
            self.last = Some(error);
        }
    }

    pub(super) fn over(&mut self) {
        if self.last.take().is_some() {
            info!("{}: that is over", self.about);
        }
    }
}
