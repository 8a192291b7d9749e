//! Exec sessions as a client has them: over TLS, to a Podman that the test plays.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::access::podman;
use super::harness::{self, Harness, Identity, Upgrade, eventually};
use crate::server::ServerOptions;

const EXEC: &str = "/exec/ns/p/c?command=sh&command=-c&command=cat&input=1&output=1&tty=1";

/// A shell that echoes, over WebSocket.
struct Shell(TlsStream<TcpStream>);

impl Shell {
    async fn open(harness: &Harness) -> Self {
        harness.put_pod("p", json!([harness::running("c", 0)]));
        let upgrade = Upgrade::WebSocket("v4.channel.k8s.io");
        let (status, head, stream) = harness.upgrade(&Identity::AllowedCertificate, &Method::GET, EXEC, &upgrade).await;
        assert_eq!(status, 101, "{head}");
        Self(stream)
    }

    /// A message on stdin. A mask of zeros changes nothing.
    async fn say(&mut self, text: &str) {
        let length = u8::try_from(text.len() + 1).unwrap();
        self.0.write_all(&[&[0x82, 0x80 | length, 0, 0, 0, 0, 0], text.as_bytes()].concat()).await.unwrap();
    }

    /// Waits until `text` comes back.
    async fn hear(&mut self, text: &str) {
        let mut heard = Vec::new();
        let wait = async {
            while !String::from_utf8_lossy(&heard).contains(text) {
                assert_ne!(self.0.read_buf(&mut heard).await.unwrap(), 0, "ended after {heard:?}");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("nothing comes back");
    }

    async fn end(mut self) {
        let wait = async { while self.0.read_buf(&mut Vec::new()).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the session goes on");
    }
}

/// What is logged while it lives, on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
    fn line(&self, part: &str) -> Option<String> {
        self.text().lines().find(|line| line.contains(part)).map(str::to_owned)
    }
}

async fn harness(change: impl FnOnce(&mut ServerOptions)) -> Harness {
    let fake = podman();
    Harness::with_podman(kube_pet_podman::Client::new(fake.socket()), |options, _| change(options)).await
}

#[tokio::test]
async fn component_the_log_says_who_did_what_and_never_what_was_typed() {
    let (log, _guard) = Log::start();
    let harness = harness(|_| {}).await;
    let mut shell = Shell::open(&harness).await;
    shell.say("hunter2").await;
    shell.hear("hunter2").await;
    drop(shell);
    eventually("the end is logged", || log.line("session ended").is_some()).await;
    let begin = log.line("session begins").unwrap();
    for part in [
        "kind=\"exec\"",
        "user=\"allowed\"",
        "peer=\"127.0.0.1:",
        "pod=\"ns/p\"",
        "uid=\"uid-p\"",
        "container=\"c\"",
        r#"command=["sh", "-c", "cat"]"#,
        "tty=true",
        "protocol=\"WebSocket { version: V4, base64: false }\"",
    ] {
        assert!(begin.contains(part), "{part} in {begin}");
    }
    let end = log.line("session ended").unwrap();
    for part in ["user=\"allowed\"", "pod=\"ns/p\"", "seconds=", "received=14 ", "the process goes on: the client closed"] {
        assert!(end.contains(part), "{part} in {end}");
    }
    assert!(!end.contains("sent=0 "), "{end}");
    assert!(!log.text().contains("hunter2"), "{}", log.text());
}

#[tokio::test]
async fn component_a_silent_session_ends_and_one_that_moves_does_not() {
    let (log, _guard) = Log::start();
    let harness = harness(|options| options.streaming_idle = Duration::from_millis(500)).await;
    let mut shell = Shell::open(&harness).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        shell.say("still here").await;
        shell.hear("still here").await;
    }
    shell.end().await;
    eventually("the end is logged", || log.line("session ended").is_some_and(|line| line.contains("idle for"))).await;
}

#[tokio::test]
async fn component_the_servers_stop_ends_sessions_and_says_so() {
    let (log, _guard) = Log::start();
    let harness = harness(|_| {}).await;
    let shell = Shell::open(&harness).await;
    harness.stop();
    shell.end().await;
    eventually("the end is logged", || log.line("session ended").is_some_and(|line| line.contains("the server stops"))).await;
}

#[derive(Debug)]
struct Certificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

#[tokio::test]
async fn component_sessions_outlive_a_change_of_certificates() {
    let fake = podman();
    let dir = tempfile::tempdir().unwrap();
    let (file, mut certificate) = (dir.path().join("ca.pem"), None);
    let harness = Harness::with_podman(kube_pet_podman::Client::new(fake.socket()), |options, pki| {
        std::fs::write(&file, pki.ca_pem()).unwrap();
        options.client_ca = crate::server::ClientCa::File(file.clone());
        let resolver = Arc::new(Certificate(ArcSwap::from_pointee(pki.serving_key())));
        certificate = Some(resolver.clone());
        options.certificate = resolver;
    })
    .await;
    let mut shell = Shell::open(&harness).await;
    let served = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let before = served(&shell.0);
    // A new serving certificate, and no CA that knows the session's user.
    certificate.unwrap().0.store(Arc::new(harness.pki.serving_key()));
    std::fs::write(&file, harness.pki.other_ca_pem()).unwrap();
    assert!(harness.handler.authenticator().cas().reload().unwrap());
    let after = served(&harness.tls(&Identity::Nobody).await);
    assert_ne!(before, after, "new connections have the new certificate");
    assert_eq!(harness.request(Method::GET, "/healthz", &Identity::AllowedCertificate).await.status, 401, "and the new CA");
    shell.say("still here").await;
    shell.hear("still here").await;
}
