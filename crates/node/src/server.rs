//! The node's API: HTTPS on 10250 for the API server, metrics collectors and people; plain health on 10248.
//!
//! Every request passes authentication (401), then authorization by the table in [`routes`] (403), and only then learns
//! whether its path exists (404) and takes its method (405).

mod authn;
mod authz;
mod client_ca;
mod connections;
mod handler;
mod health;
mod logs;
mod metrics;
mod place;
mod pods;
mod quota;
mod response;
mod routes;
mod stall;
mod streaming;
mod system_logs;
mod verdicts;
mod zpages;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::ApiHandle;
use crate::exec::Executor;
use crate::host_pod::HostPod;
use crate::paths::Paths;
use crate::pods::store::PodStore;
use crate::sandboxes::SandboxManager;
use crate::stats::StatsProvider;
use authn::Authenticator;
pub use authz::Authorization;
use authz::Authorizer;
use client_ca::{AskForCertificate, ClientCas};
pub use client_ca::{ClientCa, ClientCaError};
use connections::Limits;
pub(crate) use connections::serve_plain;
use handler::Handler;
pub use health::HealthFn;
use quota::Quota;
pub(crate) use response::{Response, json as plain_json, metrics as plain_metrics, text as plain_text};
use streaming::Sessions;
pub use system_logs::SystemLogs;
pub use zpages::flags;

/// How the server listens and whom it lets in.
#[derive(Clone)]
pub struct ServerOptions {
    /// The HTTPS address, port 10250 by default.
    pub addr: SocketAddr,
    /// The plain health address on loopback, port 10248 by default.
    pub health_addr: Option<SocketAddr>,
    /// The serving certificate, from [`crate::identity::serving`].
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// Whose client certificates count.
    pub client_ca: ClientCa,
    /// Whether requests without credentials come from `system:anonymous` instead of being refused.
    pub anonymous: bool,
    /// How long a reviewed token is remembered; without it tokens are not looked at (`authentication.webhook.enabled: false`).
    pub token_life: Option<Duration>,
    /// Who decides what a user may do.
    pub authorization: Authorization,
    /// Connections served at the same time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Bytes of request line and headers.
    pub max_header_bytes: usize,
    /// Time for the headers of a request to come in, also on an open connection.
    pub header_timeout: Duration,
    /// Connections that one user may have of [`Self::max_connections`]; further ones are answered with 429.
    pub max_connections_per_user: usize,
    /// Connections into pods by port-forward at the same time, and how many of them one user may have.
    pub max_forwarded: usize,
    /// See [`Self::max_forwarded`].
    pub max_forwarded_per_user: usize,
    /// After this time without a byte an exec, attach or port-forward session is closed, and any connection whose client
    /// takes nothing of what is sent to it.
    pub streaming_idle: Duration,
}

impl ServerOptions {
    /// The kubelet's defaults (2 min for tokens, no anonymous users, webhook authorization) for an address and a
    /// certificate.
    pub fn new(addr: SocketAddr, certificate: Arc<dyn ResolvesServerCert>) -> Self {
        Self {
            addr,
            health_addr: None,
            certificate,
            client_ca: ClientCa::None,
            anonymous: false,
            token_life: Some(Duration::from_secs(120)),
            authorization: Authorization::default(),
            max_connections: 512,
            max_header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(32),
            max_connections_per_user: 384,
            max_forwarded: 4096,
            max_forwarded_per_user: 3072,
            streaming_idle: Duration::from_secs(4 * 3600),
        }
    }
}

/// What this build calls itself in metrics.
#[derive(Clone, Debug, Default)]
pub struct BuildVersion {
    /// `v1.37.1+…`, the same as `nodeInfo.kubeletVersion`.
    pub git_version: String,
    /// The commit.
    pub git_commit: String,
    /// The architecture in Go's spelling (`amd64`).
    pub architecture: String,
}

/// What the server answers from.
pub struct ServerState {
    /// The pods of this node.
    pub store: PodStore,
    /// Where their logs are.
    pub paths: Paths,
    /// For attach.
    pub podman: kube_pet_podman::Client,
    /// For exec and run.
    pub executor: Executor,
    /// The machine itself as a pod, where that is turned on.
    pub host_pod: Option<HostPod>,
    /// For port-forward.
    pub sandboxes: SandboxManager,
    /// For reviews; without it only [`Authorization::AlwaysAllow`] lets anybody in.
    pub api: Option<ApiHandle>,
    /// The node's name.
    pub node_name: String,
    /// The configuration in KubeletConfiguration's shape; served as `{"kubeletconfig": …}`.
    pub configz: serde_json::Value,
    /// Whether the machine's own logs are served.
    pub system_logs: SystemLogs,
    /// Whether the agent's main loop makes progress.
    pub health: HealthFn,
    /// What the node and its pods use.
    pub stats: StatsProvider,
    /// The arguments of this process, without what may be secret; served at `/flagz`.
    pub flags: BTreeMap<String, String>,
    /// For `kubernetes_build_info`.
    pub version: BuildVersion,
}

/// Why the server cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address is taken or not ours.
    #[error("listening on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The CAs of client certificates are not usable.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// rustls refused the configuration.
    #[error("configuring TLS")]
    Tls(#[source] rustls::Error),
}

/// A server that is listening, but not yet answering.
pub struct Server {
    listener: TcpListener,
    health_listener: Option<TcpListener>,
    tls: Arc<ServerConfig>,
    handler: Arc<Handler>,
    limits: Limits,
}

impl Server {
    /// Takes the ports. Fails where one is taken, or the client CA file is not usable.
    pub async fn bind(options: ServerOptions, state: ServerState) -> Result<Self, ServerError> {
        let ServerOptions {
            addr,
            health_addr,
            certificate,
            client_ca,
            anonymous,
            token_life,
            authorization,
            max_connections,
            max_header_bytes,
            header_timeout,
            max_connections_per_user,
            max_forwarded,
            max_forwarded_per_user,
            streaming_idle,
        } = options;
        let provider = client_ca::provider();
        let mut tls = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(ServerError::Tls)?
            .with_client_cert_verifier(Arc::new(AskForCertificate(provider)))
            .with_cert_resolver(certificate);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let cas = ClientCas::load(client_ca)?;
        let authenticator = Authenticator::new(cas, state.api.clone(), anonymous, token_life);
        let authorizer = Authorizer::new(authorization, state.node_name.clone(), state.api.clone());
        // The whole is the listener's own limit.
        let connections = Quota::new(usize::MAX, max_connections_per_user);
        let sessions = Sessions::new(streaming_idle, Quota::new(max_forwarded, max_forwarded_per_user));
        Ok(Self {
            listener: listen(addr).await?,
            health_listener: match health_addr {
                Some(addr) => Some(listen(addr).await?),
                None => None,
            },
            tls: Arc::new(tls),
            handler: Arc::new(Handler::new(authenticator, authorizer, connections, sessions, state)),
            limits: Limits { max_connections, max_header_bytes, header_timeout, stall: streaming_idle },
        })
    }

    /// The HTTPS address, with the port that the kernel chose where 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The health address.
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_listener.as_ref()?.local_addr().ok()
    }

    /// Answers until `shutdown`; then finishes what is under way for a moment, and breaks off the rest.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, health_listener, tls, handler, limits } = self;
        let health = handler.state().health.clone();
        let health = async {
            if let Some(listener) = health_listener {
                connections::serve_health(listener, health, shutdown.clone()).await;
            }
        };
        let watch_cas = shutdown.run_until_cancelled(connections::reload_cas(&handler));
        let api = connections::serve_api(listener, tls, handler.clone(), limits, shutdown.clone());
        tokio::join!(health, watch_cas, api);
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(addr).await.map_err(|source| ServerError::Listen { addr, source })
}

#[cfg(test)]
mod tests;
