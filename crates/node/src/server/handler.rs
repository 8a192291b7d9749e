//! One request: authenticate, authorize, find, answer.

use std::sync::Arc;

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
use super::{ServerState, health, logs, metrics, pods, streaming, system_logs};

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

    /// Answers one request of a connection whose client presented `certificates`.
    pub(super) async fn answer(&self, certificates: &[CertificateDer<'static>], request: &Parts) -> Response {
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
                logs::serve(&state.store, &state.paths, wanted, query).await
            }
            Endpoint::Metrics => response::metrics(metrics::node(state)),
            Endpoint::MetricsCadvisor => response::metrics(metrics::cadvisor()),
            Endpoint::MetricsResource => response::metrics(metrics::resource()),
            Endpoint::MetricsProbes => response::metrics(metrics::probes()),
            Endpoint::MetricsSlis => response::metrics(metrics::slis(state)),
            Endpoint::Exec => streaming::exec(&self.sessions, state, user, parameters, request),
            Endpoint::Attach => streaming::attach(&self.sessions, state, user, parameters, request),
            Endpoint::PortForward => streaming::port_forward(&self.sessions, state, user, parameters, request),
            Endpoint::Run => streaming::run(state, user, parameters, request).await,
            Endpoint::SystemLogs => {
                let path = parameters.first().map(AsRef::as_ref).unwrap_or_default();
                system_logs::serve(state.system_logs, &state.paths, path, request).await
            }
        }
    }
}

fn not_found() -> Response {
    response::text(StatusCode::NOT_FOUND, "404: Page Not Found")
}
