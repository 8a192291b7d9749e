//! Interactive requests: exec, attach and port-forward, over SPDY or WebSocket (`kube-pet-stream`), to Podman's sessions and
//! into pods' network namespaces. Everything that can be wrong with a request is answered before the 101; after it, errors
//! go through the protocol's own error stream.

mod attachments;
mod audit;
mod bridge;
mod command;
mod forward;
mod run;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::ContainerId;
use kube_pet_stream::negotiation::Refusal;
use kube_pet_stream::{End, Settings};
use tracing::{Instrument as _, debug_span};

use super::ServerState;
use super::authn::User;
use super::place::Place;
use super::quota::Quota;
use super::response::{self, Response};
use super::routes::Parameter;
use crate::exec::{Command, ExecError, Executor, KillOnDrop, Streams};

use attachments::Attachments;
use audit::{Counted, Record, Subject};
pub(super) use command::{attach, exec};
pub(super) use forward::port_forward;
pub(super) use run::run;

/// What the IDs of containers in statuses begin with.
const RUNTIME: &str = "podman://";

/// The client's connection, once it has its 101.
type Socket = Counted<TokioIo<Upgraded>>;

/// What all sessions have in common.
pub(super) struct Sessions {
    settings: Settings,
    /// Connections into pods.
    forwarded: Arc<Quota>,
    attachments: Arc<Attachments>,
}

impl Sessions {
    pub(super) fn new(idle: Duration, forwarded: Arc<Quota>) -> Self {
        Self { settings: Settings { idle, ..Settings::default() }, forwarded, attachments: Arc::default() }
    }
}

/// A request for a session, authorized already.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) state: &'a ServerState,
    pub(super) user: &'a User,
    pub(super) parameters: &'a [Parameter<'a>],
    pub(super) request: &'a Parts,
}

/// A container whose process can be talked to.
struct Running {
    pod: Arc<Pod>,
    container: String,
    id: ContainerId,
    /// It was given a terminal.
    tty: bool,
    /// It was given an input.
    stdin: bool,
    /// Its input ends with the first client's.
    stdin_once: bool,
    /// It is no container, but the machine itself.
    on_host: bool,
}

impl Running {
    /// Starts a command in it.
    async fn start(&self, executor: &Executor, command: Command<'_>) -> Result<(Streams, KillOnDrop), ExecError> {
        if self.on_host { executor.start_on_host(command) } else { executor.start(command).await }
    }

    /// Whether the container's input stays open when a client leaves that has an input or not. A terminal's always does, as with the
    /// kubelet and containerd.
    fn keeps_input(&self, client: bool) -> bool {
        self.stdin && !(client && self.stdin_once && !self.tty)
    }
}

/// The pod of a request.
struct Named {
    pod: Arc<Pod>,
    /// It stands for the machine. That is so of the agent's own object and of no other, whatever the status of a pod says, which others
    /// may write, too.
    is_host: bool,
}

/// The pod that a path names, the UID included where the path has one.
fn pod(state: &ServerState, namespace: &str, name: &str, uid: Option<&str>) -> Result<Named, Box<Response>> {
    let host = state.host_pod.as_ref().and_then(|host| host.find(namespace, name));
    let named = match host {
        Some(host) => Some(Named { pod: Arc::new(host), is_host: true }),
        None => state.store.by_name(namespace, name).map(|pod| Named { pod, is_host: false }),
    };
    named
        .filter(|named| uid.is_none_or(|uid| named.pod.metadata.uid.as_deref() == Some(uid)))
        .ok_or_else(|| Box::new(response::text(StatusCode::NOT_FOUND, "pod does not exist")))
}

/// The running container that a path names.
fn running(state: &ServerState, parameters: &[Parameter<'_>]) -> Result<Running, Box<Response>> {
    let (namespace, name, uid, container) = match parameters {
        [namespace, name, container] => (namespace, name, None, container),
        [namespace, name, uid, container] => (namespace, name, Some(uid.as_ref()), container),
        _ => return Err(Box::new(response::text(StatusCode::NOT_FOUND, "404: Page Not Found"))),
    };
    let Named { pod, is_host } = pod(state, namespace, name, uid)?;
    let spec = kube_pet_core::pod::find_container(&pod, container).map(|(_, spec)| spec);
    let status = kube_pet_core::pod::container_status(&pod, container);
    let (Some(spec), Some(status)) = (spec, status) else {
        return Err(Box::new(response::text(StatusCode::NOT_FOUND, format!("container not found ({container:?})"))));
    };
    let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = status.container_id.as_deref();
    // The machine has no container, and nobody looks at its ID.
    match if is_host { id } else { id.and_then(|id| id.strip_prefix(RUNTIME)) } {
        Some(id) if runs => {
            let on = |field: Option<bool>| field == Some(true);
            Ok(Running {
                container: container.to_string(),
                id: ContainerId::new(id),
                tty: on(spec.tty),
                stdin: on(spec.stdin),
                stdin_once: on(spec.stdin_once),
                on_host: is_host,
                pod: pod.clone(),
            })
        }
        _ => Err(Box::new(response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("container {container:?} is not running")))),
    }
}

/// The answer that hands the connection over.
fn switching_protocols(headers: HeaderMap) -> Response {
    let mut answer = response::text(StatusCode::SWITCHING_PROTOCOLS, "");
    *answer.headers_mut() = headers;
    answer
}

/// The answer to a request that speaks no protocol of ours.
fn refused(refusal: Refusal) -> Response {
    let Refusal { status, headers, message } = refusal;
    let mut answer = response::text(status, message);
    answer.headers_mut().extend(headers);
    answer
}

/// A connection that can be handed over, and what came with it when it was accepted.
struct Handover {
    upgrade: OnUpgrade,
    place: Place,
}

impl Handover {
    /// Fails if the request came over a connection that cannot be upgraded.
    fn of(request: &Parts) -> Result<Self, Box<Response>> {
        let upgrade = request.extensions.get::<OnUpgrade>().cloned();
        let place = request.extensions.get::<Place>().cloned();
        match (upgrade, place) {
            (Some(upgrade), Some(place)) => Ok(Self { upgrade, place }),
            _ => Err(Box::new(response::text(StatusCode::BAD_REQUEST, "this connection cannot be upgraded"))),
        }
    }

    /// Runs a session on the connection once the answer is on its way; it returns how it ended. It counts as a connection for as
    /// long as it lasts, and ends with the server.
    fn serve<F>(self, subject: Subject, session: impl FnOnce(Socket) -> F + Send + 'static)
    where
        F: Future<Output = String> + Send + 'static,
    {
        let Self { upgrade, place } = self;
        let name = subject.kind;
        let mut record = Record::begin(subject);
        let session = async move {
            let outcome = match upgrade.await {
                Ok(upgraded) => Box::pin(session(record.count(TokioIo::new(upgraded)))).await,
                Err(error) => format!("the client left before it began: {error}"),
            };
            record.ended(outcome);
        };
        place.spawn(session.instrument(debug_span!("session", name)));
    }
}

/// The values of a query, decoded.
fn query(request: &Parts) -> Vec<(String, String)> {
    form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// A flag as the API server writes it (`1`) or a person would (`true`).
fn flag(query: &[(String, String)], names: &[&str]) -> bool {
    query.iter().any(|(name, value)| names.contains(&name.as_str()) && ["1", "true"].contains(&value.as_str()))
}

/// What the log says of a session, as far as every kind has it.
fn subject(kind: &'static str, user: &User, request: &Parts, pod: &Pod) -> Subject {
    Subject {
        kind,
        user: user.name.clone(),
        peer: request.extensions.get::<Place>().map(|place| place.peer().to_string()).unwrap_or_default(),
        pod: name_of(pod),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        container: None,
        command: Vec::new(),
        tty: false,
        protocol: String::new(),
    }
}

/// Why a session's connection is no more, for the log.
fn reason(end: &End) -> String {
    match end {
        End::Client => "the client closed".to_owned(),
        End::Server => "closed".to_owned(),
        End::Idle(limit) => format!("idle for {} s", limit.as_secs()),
        End::Aborted => "the client did not close in time".to_owned(),
        End::Failed(error) => match std::error::Error::source(error.as_ref()) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// Namespace and name, for the log.
fn name_of(pod: &Pod) -> String {
    format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}
