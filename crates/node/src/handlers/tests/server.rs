//! Servers of one test.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server of HTTP/1 that writes what `respond(first line)` gives for each connection, and then closes it.
pub(super) struct Server {
    pub(super) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) async fn start(respond: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::over(None, respond).await
    }

    /// With a certificate that nobody has signed, for a name that nobody asks for.
    pub(super) async fn start_tls(respond: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::over(Some(acceptor(&[])), respond).await
    }

    async fn over(tls: Option<TlsAcceptor>, respond: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, respond) = (requests.clone(), Arc::new(respond));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, respond, tls) = (seen.clone(), respond.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &seen, &*respond).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &seen, &*respond).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    /// The heads of the requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Mutex<Vec<String>>,
    respond: &(dyn Fn(&str) -> String + Send + Sync),
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
        // Not HTTP: a greeting of TLS.
        if head.len() == 1 && byte == 0x16 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let reply = respond(head.lines().next().unwrap_or_default());
    seen.lock().unwrap().push(head);
    if reply == "hang" {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(reply.as_bytes()).await;
    if reply.contains("hang-after-head") {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}

fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A response with this status and body.
pub(super) fn reply(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A response that points elsewhere.
pub(super) fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nthis")
}

/// A server of HTTP/2, with TLS or with prior knowledge.
pub(super) async fn start_2<B, F>(tls: bool, respond: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> u16
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let respond = respond.clone();
            let service = service_fn(move |request| {
                let reply = respond(request);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            tokio::spawn(async move {
                let builder = http2::Builder::new(TokioExecutor::new());
                if tls {
                    let stream = acceptor(&[b"h2"]).accept(stream).await.unwrap();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    });
    port
}
