//! Asks a web server under which address it sees this machine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const DEADLINE: Duration = Duration::from_secs(10);
/// An address is short; some servers add a line break or a page around it.
const MAX_ANSWER: usize = 4096;
/// Where distributions keep the certificates of public authorities.
const AUTHORITIES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    #[error("the URL has no host")]
    NoHost,
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("connecting to {host}: {source}")]
    Connect { host: String, source: std::io::Error },
    #[error("none of {} has certificates of public authorities", AUTHORITIES.join(", "))]
    NoAuthorities,
    #[error("TLS with {host}: {source}")]
    Tls { host: String, source: std::io::Error },
    #[error("the request: {0}")]
    Request(#[from] http::Error),
    #[error("the answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the server answers {0}")]
    Status(StatusCode),
    #[error("the answer is no address")]
    NoAddress,
}

/// Asks; the body of the answer is the address.
pub(super) async fn ask(url: &str) -> Result<IpAddr, WebError> {
    let asked = tokio::time::timeout(DEADLINE, Box::pin(exchange(url))).await;
    let body = asked.map_err(|_| WebError::Deadline)??;
    String::from_utf8_lossy(&body).trim().parse().map_err(|_| WebError::NoAddress)
}

async fn exchange(url: &str) -> Result<Bytes, WebError> {
    let uri: Uri = url.parse().map_err(http::Error::from)?;
    let host = uri.host().ok_or(WebError::NoHost)?.trim_matches(['[', ']']).to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let connect = |source| WebError::Connect { host: host.clone(), source };
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(connect)?;
    if !secure {
        return get(stream, &uri, &host).await;
    }
    let tls = |source| WebError::Tls { host: host.clone(), source };
    let name = ServerName::try_from(host.clone()).map_err(|error| tls(std::io::Error::other(error)))?;
    let stream = TlsConnector::from(client()?).connect(name, stream).await.map_err(tls)?;
    get(stream, &uri, &host).await
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri, host: &str) -> Result<Bytes, WebError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(header::HOST, host).header(header::USER_AGENT, "kube-pet").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(WebError::Status(answer.status()));
        }
        Ok(Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(WebError::Body)?.to_bytes())
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection ends before the answer is read where the server closes it; the answer is complete then.
        ended = &mut connection => { ended?; exchange.await }
    }
}

fn client() -> Result<Arc<rustls::ClientConfig>, WebError> {
    let mut roots = rustls::RootCertStore::empty();
    for path in AUTHORITIES {
        if let Ok(certificates) = CertificateDer::pem_file_iter(path) {
            roots.add_parsable_certificates(certificates.flatten());
            break;
        }
    }
    if roots.is_empty() {
        return Err(WebError::NoAuthorities);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| WebError::Body(error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ip", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        url
    }

    #[tokio::test]
    async fn the_answer_is_the_address() {
        let url = server("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n192.0.2.7\n").await;
        assert_eq!(ask(&url).await.unwrap(), "192.0.2.7".parse::<IpAddr>().unwrap());
        let url = server("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n2001:db8::7").await;
        assert_eq!(ask(&url).await.unwrap(), "2001:db8::7".parse::<IpAddr>().unwrap());
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        let url = server("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        assert!(matches!(ask(&url).await, Err(WebError::NoAddress)));
        let url = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(ask(&url).await, Err(WebError::Status(StatusCode::NOT_FOUND))));
        assert!(matches!(ask("http://127.0.0.1:1/").await, Err(WebError::Connect { .. })));
    }
}
