//! One request: authenticate, authorize, find, answer.

use std::sync::Arc;
use std::time::Instant;

use http::header::{ALLOW, CONNECTION, RETRY_AFTER};
use http::request::Parts;
use http::{Method, StatusCode};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tracing::{debug, warn};

use super::authn::{Authenticator, User};
use super::authz::Authorizer;
use super::place::Place;
use super::quota::Quota;
use super::response::{self, Response};
use super::routes::{Area, Endpoint, Parameter, Target};
use super::streaming::Sessions;
use super::{ServerState, health, logs, metrics, pods, streaming, system_logs, zpages};
use crate::instruments;

/// Everything that answering takes.
pub(super) struct Handler {
    authenticator: Authenticator,
    authorizer: Authorizer,
    /// How many connections one user may have.
    connections: Arc<Quota>,
    sessions: Sessions,
    state: ServerState,
}

impl Handler {
    pub(super) fn new(
        authenticator: Authenticator,
        authorizer: Authorizer,
        connections: Arc<Quota>,
        sessions: Sessions,
        state: ServerState,
    ) -> Self {
        Self { authenticator, authorizer, connections, sessions, state }
    }

    pub(super) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    pub(super) fn state(&self) -> &ServerState {
        &self.state
    }

    /// Answers one request of a connection whose client presented `certificates`, and counts it.
    pub(super) async fn answer(&self, certificates: &[CertificateDer<'static>], request: &Parts) -> Response {
        let began = Instant::now();
        let answer = self.checked(certificates, request).await;
        let area = Area::of(request.uri.path()).name();
        let long_running = matches!(area, "exec" | "attach" | "portForward") || area == "containerLogs" && follows(request);
        let method = match request.method {
            Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::OPTIONS => request.method.as_str(),
            _ => "other",
        };
        let path = match request.uri.path().trim_end_matches('/') {
            "/metrics/cadvisor" => "metrics/cadvisor",
            "/metrics/probes" => "metrics/probes",
            "/metrics/resource" => "metrics/resource",
            _ => area,
        };
        let labels = [method, path, "readwrite", if long_running { "true" } else { "false" }];
        instruments::HTTP_REQUESTS.add(&labels);
        instruments::HTTP_REQUESTS_DURATION.observe(&labels, began.elapsed());
        answer
    }

    async fn checked(&self, certificates: &[CertificateDer<'static>], request: &Parts) -> Response {
        let path = request.uri.path();
        let place = request.extensions.get::<Place>();
        let user = match self.authenticator.authenticate(certificates, &request.headers).await {
            Ok(user) => user,
            Err(cause) => {
                debug!(path, cause = &cause as &dyn std::error::Error, "unauthorized");
                let refusal = response::text(StatusCode::UNAUTHORIZED, "Unauthorized");
                return if place.is_some_and(Place::refuse) { response::with_header(refusal, CONNECTION, "close") } else { refusal };
            }
        };
        if place.is_some_and(|place| !place.admit(&self.connections, &user.name)) {
            warn!(user = user.name, "the user has too many connections; one more was refused");
            let refusal = response::text(StatusCode::TOO_MANY_REQUESTS, format!("too many connections of user {}", user.name));
            return response::with_header(response::with_header(refusal, CONNECTION, "close"), RETRY_AFTER, "1");
        }
        let area = Area::of(path);
        if let Err(refusal) = self.authorize(&user, area, &request.method).await {
            return refusal;
        }
        match area.target(&request.method, path) {
            Target::Endpoint(endpoint, parameters) => self.endpoint(endpoint, &user, &parameters, request).await,
            Target::OtherMethods(methods) => {
                let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
                let refusal = response::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                response::with_header(refusal, ALLOW, &methods.join(", "))
            }
            Target::Nowhere => not_found(),
        }
    }

    async fn authorize(&self, user: &User, area: &'static Area, method: &Method) -> Result<(), Response> {
        let verb = area.verb(method);
        for subresource in area.subresources {
            match self.authorizer.allows(user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(cause) => {
                    warn!(user = user.name, verb, subresource, cause = &cause as &dyn std::error::Error, "authorization error");
                    let text = format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})", user.name);
                    return Err(response::text(StatusCode::INTERNAL_SERVER_ERROR, text));
                }
            }
        }
        let subresources = area.subresources.join(" ");
        debug!(user = user.name, verb, subresources, "forbidden");
        let text = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n", user.name);
        Err(response::text(StatusCode::FORBIDDEN, text))
    }

    async fn endpoint(&self, endpoint: Endpoint, user: &User, parameters: &[Parameter<'_>], request: &Parts) -> Response {
        let state = &self.state;
        let query = request.uri.query().unwrap_or_default();
        match endpoint {
            Endpoint::Healthz => health::all(&state.health, query),
            Endpoint::HealthzCheck => parameters.first().and_then(|name| health::single(&state.health, name)).unwrap_or_else(not_found),
            Endpoint::Pods => pods::bound(&state.store),
            Endpoint::RunningPods => pods::running(&state.store),
            Endpoint::Configz => response::json(&json!({ "kubeletconfig": state.configz })),
            Endpoint::ContainerLogs => {
                let [namespace, pod, container] = parameters else {
                    return not_found();
                };
                let wanted = (namespace.as_ref(), pod.as_ref(), container.as_ref());
                logs::serve(state, wanted, query).await
            }
            Endpoint::StatsSummary => {
                let asked: Vec<_> = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "only_cpu_and_memory").collect();
                let only_cpu_and_memory = matches!(asked.as_slice(), [(_, value)] if value == "true");
                match state.stats.summary(only_cpu_and_memory).await {
                    Ok(summary) => response::json(&summary),
                    Err(error) => {
                        warn!(%error, "no summary");
                        response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}"))
                    }
                }
            }
            Endpoint::Statusz => zpages::statusz(state, &request.headers),
            Endpoint::Flagz => zpages::flagz(state, &request.headers),
            Endpoint::Metrics => response::metrics(metrics::node(state)),
            Endpoint::MetricsCadvisor => response::metrics(state.stats.cadvisor_metrics().await),
            Endpoint::MetricsResource => response::metrics(state.stats.resource_metrics().await),
            Endpoint::MetricsProbes => response::metrics(metrics::probes()),
            Endpoint::MetricsSlis => response::metrics(metrics::slis(state)),
            Endpoint::Exec => streaming::exec(&self.sessions, streaming::Call { state, user, parameters, request }),
            Endpoint::Attach => streaming::attach(&self.sessions, streaming::Call { state, user, parameters, request }),
            Endpoint::PortForward => streaming::port_forward(&self.sessions, streaming::Call { state, user, parameters, request }),
            Endpoint::Run => streaming::run(streaming::Call { state, user, parameters, request }).await,
            Endpoint::SystemLogs => {
                let path = parameters.first().map(AsRef::as_ref).unwrap_or_default();
                system_logs::serve(state.system_logs, &state.paths, path, request).await
            }
        }
    }
}

/// Whether a request for logs goes on with the container.
fn follows(request: &Parts) -> bool {
    logs::follows(request.uri.query().unwrap_or_default())
}

fn not_found() -> Response {
    response::text(StatusCode::NOT_FOUND, "404: Page Not Found")
}
