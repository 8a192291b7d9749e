//! A server on loopback with CAs of its own, an API server that only reviews, and HTTPS clients.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONNECTION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube_pet_core::ids::PodUid;
use kube_pet_testkit::api;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::client_ca::provider;
use super::super::handler::Handler;
use super::super::*;
use crate::pods::store::PodStoreWriter;

pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"));
}

/// Who a client is.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    Nobody,
    /// User `allowed`, but of another CA.
    WrongCa,
    WrongCaWithToken(&'static str),
    /// User `allowed` of the right CA, but not for client authentication.
    ServerCertificate,
    /// User `allowed` of the right CA, of yesterday.
    ExpiredCertificate,
    /// Another node of the cluster.
    OtherNode,
    DeniedCertificate,
    /// User `reader`: may get, but not create.
    ReaderCertificate,
    AllowedCertificate,
    Token(&'static str),
}

/// What a request asks the connection to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    Nothing,
    Spdy(&'static str),
    WebSocket(&'static str),
}

impl Upgrade {
    fn headers(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Spdy(protocol) => format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"),
            Self::WebSocket(protocol) => format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: {protocol}\r\n"
            ),
        }
    }
}

type Ca = CertifiedIssuer<'static, KeyPair>;

pub(super) struct Pki {
    ca: Ca,
    other: Ca,
}

fn subject(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "testers");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn ca(name: &str) -> Ca {
    let mut params = subject(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

type KeyAndChain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn issue(ca: &Ca, common_name: &str, purpose: ExtendedKeyUsagePurpose) -> KeyAndChain {
    issue_until(ca, common_name, purpose, 2090)
}

fn issue_until(ca: &Ca, common_name: &str, purpose: ExtendedKeyUsagePurpose, year: i32) -> KeyAndChain {
    let mut params = subject(common_name);
    params.not_after = date_time_ymd(year, 1, 1);
    params.extended_key_usages = vec![purpose];
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (vec![certificate.into()], key.into())
}

impl Pki {
    fn new() -> Self {
        // The same subject: only the keys tell them apart.
        Self { ca: ca("test-ca"), other: ca("test-ca") }
    }
    pub(super) fn ca_pem(&self) -> String {
        self.ca.pem()
    }
    pub(super) fn other_ca_pem(&self) -> String {
        self.other.pem()
    }
    fn serving(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.serving_key()))
    }
    pub(super) fn serving_key(&self) -> CertifiedKey {
        let (chain, key) = issue(&self.ca, "server", ExtendedKeyUsagePurpose::ServerAuth);
        let key = provider().key_provider.load_private_key(key).unwrap();
        CertifiedKey::new(chain, key)
    }
    fn connector(&self, identity: &Identity) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let certificate = match identity {
            Identity::Nobody | Identity::Token(_) => None,
            Identity::WrongCa | Identity::WrongCaWithToken(_) => Some(issue(&self.other, "allowed", ClientAuth)),
            Identity::ServerCertificate => Some(issue(&self.ca, "allowed", ServerAuth)),
            Identity::ExpiredCertificate => Some(issue_until(&self.ca, "allowed", ClientAuth, 2024)),
            Identity::OtherNode => Some(issue(&self.ca, "system:node:other", ClientAuth)),
            Identity::ReaderCertificate => Some(issue(&self.ca, "reader", ClientAuth)),
            Identity::DeniedCertificate => Some(issue(&self.ca, "denied", ClientAuth)),
            Identity::AllowedCertificate => Some(issue(&self.ca, "allowed", ClientAuth)),
        };
        let config = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

/// Reviews tokens and access: token `good` is user `allowed`, `denied` and `reader` those of their names; the others are known,
/// but do not count. `allowed` may do everything, `reader` may get.
#[derive(Clone, Default)]
pub(super) struct Reviewer(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    fail: bool,
    token_reviews: usize,
    questions: Vec<Value>,
}

impl Reviewer {
    fn client(self) -> kube::Client {
        api::client(move |request, body| {
            if self.0.lock().unwrap().fail {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(api::reply(200, &self.answer(request.uri.path(), serde_json::from_slice(&body)?)))
        })
    }
    pub(super) fn fail(&self, fail: bool) {
        self.0.lock().unwrap().fail = fail;
    }
    pub(super) fn token_reviews(&self) -> usize {
        self.0.lock().unwrap().token_reviews
    }
    /// The resource attributes of every SubjectAccessReview.
    pub(super) fn questions(&self) -> Vec<Value> {
        self.0.lock().unwrap().questions.clone()
    }
    fn answer(&self, path: &str, mut review: Value) -> Value {
        let mut seen = self.0.lock().unwrap();
        if path.ends_with("/tokenreviews") {
            seen.token_reviews += 1;
            review["status"] = match review["spec"]["token"].as_str().unwrap() {
                "good" => json!({"authenticated": true, "user": {"username": "allowed", "groups": ["testers"]}}),
                "denied" => json!({"authenticated": true, "user": {"username": "denied"}}),
                "reader" => json!({"authenticated": true, "user": {"username": "reader"}}),
                "expired" => json!({"authenticated": false, "error": "[invalid bearer token, token has expired]"}),
                // Names a user all the same: it is not to be believed.
                "other-audience" => {
                    json!({"authenticated": false, "user": {"username": "allowed"}, "error": "token audiences [\"vault\"] is invalid"})
                }
                _ => json!({"authenticated": false, "error": "unknown token"}),
            };
        } else {
            assert!(path.ends_with("/subjectaccessreviews"), "{path}");
            let groups = review["spec"]["groups"].as_array().unwrap();
            let anonymous = review["spec"]["user"] == "system:anonymous";
            assert_eq!(groups.contains(&"system:authenticated".into()), !anonymous);
            seen.questions.push(review["spec"]["resourceAttributes"].clone());
            let reads = review["spec"]["user"] == "reader" && review["spec"]["resourceAttributes"]["verb"] == "get";
            review["status"] = json!({"allowed": reads || review["spec"]["user"] == "allowed"});
        }
        review
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) allow: Option<String>,
    /// The server will close the connection.
    pub(super) closes: bool,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// One connection of a client.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    task: tokio::task::JoinHandle<()>,
    token: Option<&'static str>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Sends a request and returns when the headers of its answer are there.
    pub(super) async fn open(&mut self, path: &str) -> Response<Incoming> {
        self.send(Method::GET, path).await
    }
    async fn send(&mut self, method: Method, path: &str) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", "x");
        if let Some(token) = self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::new()).unwrap();
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }
    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.request(Method::GET, path).await
    }
    async fn request(&mut self, method: Method, path: &str) -> Answer {
        let response = self.send(method, path).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            allow: parts.headers.get(ALLOW).map(|v| v.to_str().unwrap().to_owned()),
            closes: parts.headers.get(CONNECTION).is_some_and(|v| v == "close"),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}

type Health = Arc<Mutex<Result<(), String>>>;

pub(super) struct Harness {
    pub(super) addr: SocketAddr,
    pub(super) pki: Pki,
    pub(super) api: Reviewer,
    pub(super) handler: Arc<Handler>,
    pub(super) pods: PodStoreWriter,
    health_addr: SocketAddr,
    health: Health,
    dir: TempDir,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// `kube-system/host-pet-1`.
fn host_pod() -> HostPod {
    let node = tokio::sync::watch::channel(Arc::default()).1;
    HostPod::new("kube-system".into(), "pet-1".into(), "b1".into(), None, node)
}

fn state(store: PodStore, root: PathBuf, api: Reviewer, health: Health, podman: kube_pet_podman::Client) -> ServerState {
    let paths = Paths::new(root);
    let sandboxes = crate::sandboxes::SandboxManager::new(
        paths.clone(),
        crate::sandboxes::SandboxConfig::default(),
        crate::services::HostPorts::none(),
    );
    let stats = crate::stats::StatsProvider::new(crate::stats::StatsOptions {
        node_name: "pet-1".into(),
        paths: paths.clone(),
        pods_cgroup: "/kubepods-of-no-agent".into(),
        pods: store.clone(),
        sandboxes: sandboxes.clone(),
        volumes: crate::volumes::VolumeManager::new(paths.clone(), crate::objects::ObjectFetcher::new(None)),
        podman: podman.clone(),
        image_store: paths.root().to_owned(),
    });
    ServerState {
        store,
        sandboxes,
        paths,
        executor: crate::exec::Executor::by_podman(podman.clone()),
        podman,
        host_pod: Some(host_pod()),
        stats,
        flags: super::flags(["kube-pet", "node", "--root", "/r"].map(str::to_owned)),
        api: Some(ApiHandle::new(api.client()).1),
        node_name: "pet-1".into(),
        configz: json!({"maxPods": 110}),
        system_logs: SystemLogs { files: true, query: true },
        health: Arc::new(move || health.lock().unwrap().clone()),
        version: BuildVersion { git_version: "v1.37.1+kube-pet.0.1.0".into(), git_commit: "abc".into(), architecture: "amd64".into() },
    }
}

impl Harness {
    pub(super) async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    pub(super) fn root(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(super) async fn with(change: impl FnOnce(&mut ServerOptions, &Pki)) -> Self {
        Self::with_podman(kube_pet_podman::Client::new("/nonexistent"), change).await
    }

    pub(super) async fn with_podman(podman: kube_pet_podman::Client, change: impl FnOnce(&mut ServerOptions, &Pki)) -> Self {
        let pki = Pki::new();
        let mut options = ServerOptions::new(loopback(), pki.serving());
        options.health_addr = Some(loopback());
        options.client_ca = ClientCa::Certificates(vec![pki.ca.der().clone()]);
        change(&mut options, &pki);
        let (pods, store) = PodStoreWriter::new();
        let dir = tempfile::tempdir().unwrap();
        let api = Reviewer::default();
        let health = Health::new(Mutex::new(Ok(())));
        let state = state(store, dir.path().to_owned(), api.clone(), health.clone(), podman);
        let server = Server::bind(options, state).await.unwrap();
        let stop = CancellationToken::new();
        Self {
            addr: server.local_addr().unwrap(),
            health_addr: server.health_addr().unwrap(),
            handler: server.handler.clone(),
            task: tokio::spawn(server.run(stop.clone())),
            pki,
            api,
            pods,
            health,
            dir,
            stop,
        }
    }

    /// What a second server would be started with.
    pub(super) fn another(&self, addr: SocketAddr) -> (ServerOptions, ServerState) {
        let (_, store) = PodStoreWriter::new();
        let root = self.dir.path().to_owned();
        let podman = kube_pet_podman::Client::new("/nonexistent");
        let state = state(store, root, self.api.clone(), self.health.clone(), podman);
        (ServerOptions::new(addr, self.pki.serving()), state)
    }

    pub(super) fn set_health(&self, health: Result<(), String>) {
        *self.health.lock().unwrap() = health;
    }
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
    pub(super) fn has_stopped(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) async fn tls(&self, identity: &Identity) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let name = ServerName::from(self.addr.ip());
        self.pki.connector(identity).connect(name, stream).await.unwrap()
    }

    pub(super) async fn connect(&self, identity: &Identity) -> Connection {
        let io = TokioIo::new(self.tls(identity).await);
        let (sender, connection) = handshake(io).await.unwrap();
        Connection {
            sender,
            task: tokio::spawn(async move { drop(connection.await) }),
            token: match identity {
                Identity::Token(token) | Identity::WrongCaWithToken(token) => Some(token),
                _ => None,
            },
        }
    }

    pub(super) async fn request(&self, method: Method, path: &str, identity: &Identity) -> Answer {
        self.connect(identity).await.request(method, path).await
    }

    /// Asks for an upgrade, and gives the status and the head of the answer with the connection behind it.
    pub(super) async fn upgrade(
        &self,
        identity: &Identity,
        method: &Method,
        path: &str,
        upgrade: &Upgrade,
    ) -> (u16, String, TlsStream<TcpStream>) {
        let mut stream = self.tls(identity).await;
        let token = match identity {
            Identity::Token(token) | Identity::WrongCaWithToken(token) => format!("Authorization: Bearer {token}\r\n"),
            _ => String::new(),
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{token}{}\r\n", upgrade.headers());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        (head[9..12].parse().unwrap(), head, stream)
    }

    /// What comes back for these bytes until the server closes.
    pub(super) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.tls(&Identity::Nobody).await;
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(super) async fn local_health(&self) -> (u16, String) {
        let mut stream = TcpStream::connect(self.health_addr).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// A pod `ns/<name>` with UID `uid-<name>` and these container statuses.
    pub(super) fn put_pod(&self, name: &str, statuses: Value) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": statuses},
        }))
        .unwrap();
        self.pods.put(uid(name), Arc::new(pod));
    }

    pub(super) fn log_path(&self, pod: &str, container: &str, attempt: u32) -> PathBuf {
        Paths::new(self.dir.path()).container_log("ns", pod, &uid(pod), container, attempt)
    }

    pub(super) fn write_log(&self, pod: &str, container: &str, attempt: u32, text: &str) {
        let path = self.log_path(pod, container, attempt);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn uid(pod: &str) -> PodUid {
    PodUid::new(format!("uid-{pod}"))
}

/// The status of a running container.
pub(super) fn running(container: &str, attempt: u32) -> Value {
    json!({"name": container, "image": "i", "imageID": "i", "ready": true, "restartCount": attempt,
    "containerID": format!("podman://{attempt}"), "state": {"running": {}},
    "lastState": match attempt {
        0 => json!({}),
        n => terminated_state(n - 1),
    }})
}

/// The status of a container that has ended.
pub(super) fn terminated(container: &str, attempt: u32) -> Value {
    let mut status = running(container, attempt);
    status["state"] = terminated_state(attempt);
    status
}

fn terminated_state(attempt: u32) -> Value {
    json!({"terminated": {"exitCode": 0, "containerID": format!("podman://{attempt}")}})
}
