//! `/healthz`, on 10250 as the kubelet answers it and on 10248 for supervisors.

use std::fmt::Write;
use std::sync::Arc;

use http::StatusCode;
use tracing::warn;

use super::response::{self, Response};

/// Whether the agent's main loop makes progress; the error says what does not.
pub type HealthFn = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks, in the kubelet's order. `ping` and `log` cannot fail where an answer can be given.
pub(super) const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

/// The outcome of one check.
pub(super) fn check(health: &HealthFn, name: &str) -> Result<(), String> {
    let outcome = match name {
        "syncloop" => health(),
        _ => Ok(()),
    };
    crate::instruments::HEALTHCHECKS.add(&[name, "healthz", if outcome.is_ok() { "success" } else { "error" }]);
    outcome
}

/// `/healthz`: all checks; their names too with `?verbose` or on failure, never their errors.
pub(super) fn all(health: &HealthFn, query: &str) -> Response {
    let asked = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == wanted).map(|(_, value)| value.into_owned()).collect::<Vec<_>>()
    };
    let excluded = asked("exclude");
    let mut details = String::new();
    let mut healthy = true;
    for name in CHECKS {
        let _ = if excluded.iter().any(|e| e == name) {
            writeln!(details, "[+]{name} excluded: ok")
        } else if let Err(error) = check(health, name) {
            warn!(check = name, error, "health check failed");
            healthy = false;
            writeln!(details, "[-]{name} failed: reason withheld")
        } else {
            writeln!(details, "[+]{name} ok")
        };
    }
    if !healthy {
        let text = format!("{details}healthz check failed\n");
        return response::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    if asked("verbose").is_empty() {
        return response::text(StatusCode::OK, "ok");
    }
    response::text(StatusCode::OK, format!("{details}healthz check passed\n"))
}

/// `/healthz/<check>`; `None` where there is no such check.
pub(super) fn single(health: &HealthFn, name: &str) -> Option<Response> {
    CHECKS.contains(&name).then(|| match check(health, name) {
        Ok(()) => response::text(StatusCode::OK, "ok"),
        Err(error) => response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {error}\n")),
    })
}

/// 10248, without authentication on loopback.
pub(super) fn local(health: &HealthFn, path: &str) -> Response {
    if path.trim_end_matches('/') != "/healthz" {
        return response::text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    match health() {
        Ok(()) => response::text(StatusCode::OK, "ok"),
        Err(error) => response::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}
