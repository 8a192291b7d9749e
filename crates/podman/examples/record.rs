//! Records the replies of a running Podman service, byte by byte, for the tests of this crate: `fixtures/<version>/`.
//!
//! `cargo run -p kube-pet-podman --example record -- SOCKET LAYER.tar FOLDER`; `scripts/record-podman.sh` makes all that it
//! needs: a service with an empty store, whose `registries.conf` leads `registry.test` to 127.0.0.1:15551 without TLS.
//! `LAYER.tar` holds a static busybox with the names `sh`, `sleep` and `echo` in `bin`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube_pet_podman::{Client, LogConfiguration, Namespace, PodSpecGenerator, SpecGenerator};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, UnixStream};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(socket), Some(layer), Some(out)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: record SOCKET LAYER.tar FOLDER".into());
    };
    let registry = Arc::new(Registry::new(std::fs::read(layer)?)?);
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 15551))).await?;
    tokio::spawn(serve(listener, registry));
    let version = Client::new(&socket).ping().await?.version.to_string();
    let out = out.join(&version);
    std::fs::create_dir_all(&out)?;
    record(&Recorder { socket, out }).await?;
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "recorded Podman {version}")?)
}

/// Everything in the order in which it makes sense: pull, create, look, and all the ways to be refused.
async fn record(podman: &Recorder) -> Outcome<()> {
    let pull = |reference: &str| format!("/images/pull?reference={reference}&policy=always");
    podman.post(&pull("registry.test/busybox:1"), &Value::Null).await?;
    for (file, reference) in [
        ("pull.jsonl", "registry.test/full:1"),
        ("pull_manifest_unknown.jsonl", "registry.test/full:nope"),
        ("pull_name_unknown.jsonl", "registry.test/none:1"),
        ("pull_unauthorized.jsonl", "registry.test/secret/full:1"),
        ("pull_registry_unavailable.jsonl", "127.0.0.1:1/none:1"),
    ] {
        podman.keep(file, "POST", &pull(reference), &Value::Null).await?;
    }

    let mut pod = PodSpecGenerator::new("fx");
    pod.labels.insert("a".into(), "b".into());
    let pod = serde_json::to_value(pod)?;
    podman.keep("pod_create.json", "POST", "/pods/create", &pod).await?;
    podman.keep("error_pod_name_in_use.json", "POST", "/pods/create", &pod).await?;

    let running = container("fxc", "registry.test/busybox:1", "fx", &["/bin/sleep", "1000"])?;
    podman.keep("container_create.json", "POST", "/containers/create", &running).await?;
    podman.post("/containers/fxc/start", &Value::Null).await?;
    let exits = container("fxe", "registry.test/full:1", "fx", &["/bin/sh", "-c", "sleep 0.2; exit 3"])?;
    podman.post("/containers/create", &exits).await?;
    podman.post("/containers/fxe/start", &Value::Null).await?;
    podman.post("/containers/fxe/wait?condition=stopped", &Value::Null).await?;
    let broken = container("fxb", "registry.test/full:1", "", &["/nope"])?;
    podman.post("/containers/create", &broken).await?;
    podman.keep("container_inspect_created.json", "GET", "/containers/fxb/json", &Value::Null).await?;
    podman.keep("container_inspect_running.json", "GET", "/containers/fxc/json", &Value::Null).await?;
    podman.keep("container_inspect_exited.json", "GET", "/containers/fxe/json", &Value::Null).await?;
    podman.keep("container_list.json", "GET", "/containers/json?all=true", &Value::Null).await?;
    podman.keep("pod_list.json", "GET", "/pods/json", &Value::Null).await?;
    podman.keep("image_list.json", "GET", "/images/json", &Value::Null).await?;
    podman.keep("image_inspect.json", "GET", "/images/registry.test%2Ffull%3A1/json", &Value::Null).await?;
    podman.keep("info.json", "GET", "/info", &Value::Null).await?;
    podman.keep("version.json", "GET", "/version", &Value::Null).await?;

    podman.keep("error_name_in_use.json", "POST", "/containers/create", &running).await?;
    let missing = container("fxm", "registry.test/none:1", "fx", &["/bin/sh"])?;
    podman.keep("error_image_unknown.json", "POST", "/containers/create", &missing).await?;
    podman.keep("error_no_such_container.json", "GET", "/containers/zz/json", &Value::Null).await?;
    podman.keep("error_no_such_image.json", "GET", "/images/zz/json", &Value::Null).await?;
    podman.keep("error_start_not_found.json", "POST", "/containers/fxb/start", &Value::Null).await?;
    podman.keep("error_kill_not_running.json", "POST", "/containers/fxe/kill?signal=TERM", &Value::Null).await?;

    let exec = json!({"Cmd": ["/bin/sh", "-c", "echo hi"], "AttachStdout": true});
    let exec = podman.keep("exec_create.json", "POST", "/containers/fxc/exec", &exec).await?;
    let exec: Value = serde_json::from_slice(&exec)?;
    let exec = exec["Id"].as_str().ok_or("no exec session")?;
    // Attached: Podman 4.3 forgets a detached session as soon as it has ended.
    let mut output = Client::new(&podman.socket).start_exec(exec).await?;
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await?;
    podman.keep("exec_inspect.json", "GET", &format!("/exec/{exec}/json"), &Value::Null).await?;

    podman.keep("events.json", "GET", "/events?stream=false", &Value::Null).await?;
    for path in ["/containers/fxc?force=true&timeout=0", "/containers/fxe?force=true", "/containers/fxb?force=true", "/pods/fx?force=true"]
    {
        podman.call("DELETE", path, &Value::Null).await?;
    }
    Ok(())
}

fn container(name: &str, image: &str, pod: &str, command: &[&str]) -> Outcome<Value> {
    let mut spec = SpecGenerator::new(name, image);
    pod.clone_into(&mut spec.pod);
    spec.entrypoint = command[..1].iter().map(ToString::to_string).collect();
    spec.command = command[1..].iter().map(ToString::to_string).collect();
    spec.netns = Some(Namespace::host());
    if !pod.is_empty() {
        spec.labels.insert("io.kubernetes.pod.uid".into(), "u1".into());
        spec.log_configuration = Some(LogConfiguration::k8s_file(format!("/var/lib/lab/{name}.log")));
    }
    Ok(serde_json::to_value(spec)?)
}

struct Recorder {
    socket: PathBuf,
    out: PathBuf,
}

impl Recorder {
    async fn call(&self, method: &str, path: &str, body: &Value) -> Outcome<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v4.0.0/libpod{path}"))
            .header("host", "d")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        Ok((response.status(), response.into_body().collect().await?.to_bytes()))
    }

    /// A step that has to succeed and is not kept.
    async fn post(&self, path: &str, body: &Value) -> Outcome<()> {
        match self.call("POST", path, body).await? {
            (status, _) if status.is_success() => Ok(()),
            (status, body) => Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    /// A step whose reply is kept, whatever it is: only its file's name says what is expected.
    async fn keep(&self, file: &str, method: &str, path: &str, body: &Value) -> Outcome<Bytes> {
        let (status, body) = self.call(method, path, body).await?;
        if status.is_success() == file.starts_with("error_") {
            return Err(format!("{file}: {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        std::fs::write(self.out.join(file), &body)?;
        Ok(body)
    }
}

/// A registry with two images of one layer, and the refusals that real registries give.
struct Registry {
    blobs: BTreeMap<String, Bytes>,
    manifests: BTreeMap<String, String>,
}

impl Registry {
    fn new(layer: Vec<u8>) -> Outcome<Self> {
        let mut registry = Self { blobs: BTreeMap::new(), manifests: BTreeMap::new() };
        let (layer, size) = registry.add(layer);
        let plain = json!({"Env": ["PATH=/bin"]});
        let full = json!({
            "User": "1000:1000", "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin"], "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"],
            "Volumes": {"/data": {}}, "WorkingDir": "/tmp", "Labels": {"a": "b"}, "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"]},
        });
        for (name, config) in [("busybox/manifests/1", plain), ("full/manifests/1", full), ("secret/full/manifests/1", Value::Null)] {
            let (digest, length) = registry.add(serde_json::to_vec(&json!({
                "created": "2026-11-24T03:52:13Z", "architecture": "amd64", "os": "linux", "config": config,
                "rootfs": {"type": "layers", "diff_ids": [layer]}, "history": [{"created": "2026-11-24T03:52:13Z", "created_by": "record"}],
            }))?);
            let (manifest, _) = registry.add(serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest, "size": length},
                "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "digest": layer, "size": size}],
            }))?);
            registry.manifests.insert(name.to_owned(), manifest);
        }
        Ok(registry)
    }

    fn add(&mut self, blob: Vec<u8>) -> (String, usize) {
        let mut digest = "sha256:".to_owned();
        for byte in Sha256::digest(&blob) {
            digest.push_str(&format!("{byte:02x}"));
        }
        let size = blob.len();
        self.blobs.insert(digest.clone(), blob.into());
        (digest, size)
    }

    fn answer(&self, path: &str) -> (StatusCode, &'static str, Bytes) {
        let refuse = |status, code: &str, message: &str| {
            let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
            (status, "application/json", Bytes::from(body))
        };
        let name = path.trim_start_matches("/v2/");
        if name.is_empty() {
            return (StatusCode::OK, "application/json", Bytes::from_static(b"{}"));
        }
        if name.starts_with("secret/") {
            return refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
        }
        let last = name.rsplit('/').next().unwrap_or_default();
        let digest = self.manifests.get(name).map_or(last, String::as_str);
        match self.blobs.get(digest) {
            Some(blob) if name.contains("/manifests/") => (StatusCode::OK, MANIFEST, blob.clone()),
            Some(blob) => (StatusCode::OK, "application/octet-stream", blob.clone()),
            None if name.starts_with("full/") => refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown"),
            None => refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry"),
        }
    }
}

async fn serve(listener: TcpListener, registry: Arc<Registry>) {
    while let Ok((stream, _)) = listener.accept().await {
        let registry = Arc::clone(&registry);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (status, kind, body) = registry.answer(request.uri().path());
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
