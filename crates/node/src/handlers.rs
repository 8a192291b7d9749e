//! Probes and lifecycle hooks: one try of one handler, with the messages that the kubelet gives. When to try, what an outcome
//! means and which event tells it is the callers' business.
//!
//! Rules: `pkg/kubelet/prober`, `pkg/probe`, `pkg/kubelet/lifecycle` of Kubernetes 1.37, with its alpha features
//! `H2CContainerProbe` and `GRPCContainerProbeTLS` off.
//!
//! Each try makes a connection of its own, never through a proxy; what is costly (settings of TLS) is made once. HTTP and gRPC
//! are hyper's: the health check of gRPC is one request with one field, for which a framework of services (tonic) and generated
//! code would be more than what they replace.
//!
//! Dropping a future stops the work: connections are closed, and the process of an exec session is killed by a task of its own
//! (see [`Handlers::idle`]).

mod connection;
mod exec;
mod grpc;
mod http;
mod target;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use kube_pet_core::container_env::expand;
use kube_pet_core::ids::ContainerId;
use rustls::ClientConfig;

use crate::exec::Executor;

/// How often a probe is tried that breaks off with an error, which says nothing about the container.
const TRIES: u32 = 3;

/// Bytes of output that are kept: of a response's body, and of an exec session.
const OUTPUT_LIMIT: usize = 10 << 10;

/// What a probe said. The words after "event" are the kubelet's, `{type}` is `Liveness`, `Readiness` or `Startup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It succeeded; with its output.
    Success(String),
    /// It succeeded; event `ProbeWarning`, "{type} probe warning: …".
    Warning(String),
    /// It failed; event `Unhealthy`, "{type} probe failed: …".
    Failure(String),
    /// It ended with an error, which counts as a failure; event `Unhealthy`, "{type} probe errored and resulted in failure
    /// state: …".
    Errored(String),
    /// It could not be tried, which counts as a failure; event `Unhealthy`, "{type} probe errored and resulted in unknown
    /// state: …".
    Unknown(String),
}

/// What a successful hook has to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookDone {
    /// The server of an HTTPS hook speaks HTTP: message of the pod's Warning event `LifecycleHTTPFallback`.
    pub http_fallback: Option<String>,
}

/// What all probes and hooks share.
#[derive(Clone, Debug)]
pub struct Handlers {
    executor: Executor,
    /// `1.37`
    version: Arc<str>,
    tls: Arc<tls::Settings>,
}

/// Who is asked.
#[derive(Clone, Copy)]
struct Subject<'a> {
    pod: &'a Pod,
    container: &'a Container,
    pod_ips: &'a [IpAddr],
    id: &'a ContainerId,
}

impl Subject<'_> {
    /// `name_namespace(uid)`, as the kubelet names a pod in messages.
    fn pod_name(&self) -> String {
        let meta = &self.pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
    }

    /// The pod's primary address; empty when it has none.
    fn pod_ip(&self) -> String {
        self.pod_ips.first().map(IpAddr::to_string).unwrap_or_default()
    }
}

/// Why the settings of TLS cannot be made: a fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("settings of TLS for probes and hooks: {0}")]
pub struct TlsSettingsError(#[from] rustls::Error);

impl Handlers {
    /// `version`: of the kubelet, `v1.37.1+…`; probes name themselves by its major and minor number.
    ///
    /// # Errors
    /// [`TlsSettingsError`]
    pub fn new(executor: Executor, version: &str) -> Result<Self, TlsSettingsError> {
        let numbers: Vec<&str> = version.trim_start_matches('v').splitn(3, '.').take(2).collect();
        Ok(Self { executor, version: numbers.join(".").into(), tls: Arc::new(tls::Settings::new()?) })
    }

    /// Tries a probe once, and again at once (twice at most) when it ends in an error, as the kubelet does. Takes the probe's
    /// `timeoutSeconds` per try; the end of an exec session may take a little longer.
    ///
    /// Dropping the future stops the work.
    pub fn probe<'a>(
        &'a self,
        pod: &'a Pod,
        container: &'a Container,
        probe: &'a Probe,
        pod_ips: &'a [IpAddr],
        container_id: &'a ContainerId,
    ) -> BoxFuture<'a, ProbeOutcome> {
        let subject = Subject { pod, container, pod_ips, id: container_id };
        Box::pin(async move {
            let mut outcome = self.probe_once(subject, probe).await;
            for _ in 1..TRIES {
                if !matches!(outcome, ProbeOutcome::Errored(_) | ProbeOutcome::Unknown(_)) {
                    break;
                }
                outcome = self.probe_once(subject, probe).await;
            }
            outcome
        })
    }

    async fn probe_once(&self, subject: Subject<'_>, probe: &Probe) -> ProbeOutcome {
        let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0).unwrap_or(1);
        let timeout = Duration::from_secs(seconds);
        if let Some(action) = &probe.exec {
            let command = expanded(action.command.as_deref().unwrap_or_default(), subject.container);
            exec::probe(self, subject.id, &command, timeout).await
        } else if let Some(action) = &probe.http_get {
            http::probe(self, subject, action, timeout).await
        } else if let Some(action) = &probe.tcp_socket {
            match target::port(&action.port, subject.container) {
                Ok(port) => {
                    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| subject.pod_ip());
                    connection::probe(&host, port, timeout).await
                }
                Err(error) => ProbeOutcome::Unknown(error),
            }
        } else if let Some(action) = &probe.grpc {
            grpc::probe(self, &subject.pod_ip(), action, timeout).await
        } else {
            ProbeOutcome::Unknown(format!("missing probe handler for {}:{}", subject.pod_name(), subject.container.name))
        }
    }

    /// Runs a postStart or preStop hook to its end, however long that takes: the caller's limit is the grace period.
    ///
    /// Dropping the future stops the work.
    ///
    /// # Errors
    /// The kubelet's words, which may hold output of the container: they belong into the log and a container's state, not into
    /// events (`FailedPostStartHook` and `FailedPreStopHook` say "PostStartHook failed", "PreStopHook failed").
    pub fn hook<'a>(
        &'a self,
        pod: &'a Pod,
        container: &'a Container,
        handler: &'a LifecycleHandler,
        pod_ips: &'a [IpAddr],
        container_id: &'a ContainerId,
    ) -> BoxFuture<'a, Result<HookDone, String>> {
        Box::pin(self.run_hook(pod, container, handler, pod_ips, container_id))
    }

    async fn run_hook(
        &self,
        pod: &Pod,
        container: &Container,
        handler: &LifecycleHandler,
        pod_ips: &[IpAddr],
        container_id: &ContainerId,
    ) -> Result<HookDone, String> {
        let subject = Subject { pod, container, pod_ips, id: container_id };
        let place = || format!("for Container {:?} in Pod {:?} failed - error: ", container.name, subject.pod_name());
        if let Some(action) = &handler.exec {
            let command = action.command.as_deref().unwrap_or_default();
            match exec::hook(self, subject.id, command).await {
                Ok(()) => Ok(HookDone::default()),
                Err(failed) => Err(format!(
                    "Exec lifecycle hook ([{}]) {}{}, message: {}",
                    command.join(" "),
                    place(),
                    failed.error,
                    kube_pet_core::quoting::go_quoted(&failed.output)
                )),
            }
        } else if let Some(action) = &handler.http_get {
            http::hook(self, subject, action)
                .await
                .map_err(|error| format!("HTTP lifecycle hook ({}) {}{error}", action.path.as_deref().unwrap_or_default(), place()))
        } else if let Some(action) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
            Ok(HookDone::default())
        } else {
            // `tcpSocket` is a field of old, which no kubelet has ever run.
            let socket = match &handler.tcp_socket {
                Some(action) => {
                    format!("&TCPSocketAction{{Port:{},Host:{},}}", target::as_go(&action.port), action.host.as_deref().unwrap_or_default())
                }
                None => "nil".to_owned(),
            };
            Err(format!("Cannot run handler: invalid handler: &LifecycleHandler{{Exec:nil,HTTPGet:nil,TCPSocket:{socket},Sleep:nil,}}"))
        }
    }

    /// Returns when no cleanup of a session is under way any more that was given up or took too long. For the end of the agent.
    pub async fn idle(&self) {
        self.executor.idle().await;
    }

    fn tls(&self, use_: tls::Use) -> Arc<ClientConfig> {
        self.tls.of(use_)
    }
}

/// A probe's command: with the values that the container's spec itself gives; a variable from elsewhere is empty.
fn expanded(command: &[String], container: &Container) -> Vec<String> {
    let lookup = |name: &str| {
        // Of several, the last counts.
        let env = container.env.as_ref()?.iter().rev().find(|env| env.name == name)?;
        Some(env.value.clone().unwrap_or_default())
    };
    command.iter().map(|part| expand(part, &lookup)).collect()
}

#[cfg(test)]
mod tests;
