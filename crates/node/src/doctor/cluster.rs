//! Whether the API server can be reached, step by step: name, connection, TLS, credentials, clock.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Finding;
use crate::config::NodeConfiguration;
use crate::identity;

const DEADLINE: Duration = Duration::from_secs(10);
/// Tokens and certificates are refused when they are not valid yet.
const BAD_SKEW: SignedDuration = SignedDuration::from_mins(5);
const ODD_SKEW: SignedDuration = SignedDuration::from_secs(30);

pub(super) async fn examine(config: &NodeConfiguration) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(finding) = steps(config, &mut findings).await {
        findings.push(*finding);
    }
    findings
}

type Step<T> = Result<T, Box<Finding>>;

fn stop<T>(id: &'static str, what: String, cause: impl Into<String>, fix: &str) -> Step<T> {
    Err(Box::new(Finding::error(id, what, cause, fix)))
}

async fn steps(config: &NodeConfiguration, findings: &mut Vec<Finding>) -> Step<()> {
    let stored = identity::stored_kubeconfig(&config.paths().pki_dir());
    // As the agent: the bootstrap kubeconfig, whose token may have expired long ago, only counts where there is no certificate
    // that is still good.
    let bootstrap = config.bootstrap_kubeconfig.clone();
    let own = if identity::is_current(&stored).await { [stored, bootstrap] } else { [bootstrap, stored] };
    let files = config.kubeconfig.clone().into_iter().chain(own);
    let Some(path) = files.into_iter().find(|path| path.exists()) else {
        let fix = "put a kubeconfig with a bootstrap token there, or name one with kubeconfig: in node.yaml";
        return stop(
            "credentials",
            format!("there is no {}", config.bootstrap_kubeconfig.display()),
            "the node has never joined a cluster",
            fix,
        );
    };
    let cluster = load(&path).await?;
    let uri = cluster.cluster_url.clone();
    findings.push(Finding::ok("credentials", format!("{} names {uri}", path.display())));

    let address = resolve(&uri).await?;
    findings.push(Finding::ok("api-name", format!("{} is {}", uri.host().unwrap_or_default(), address.ip())));
    let stream = connect(address).await?;
    findings.push(Finding::ok("api-connection", format!("{address} accepts connections")));
    let date = exchange(stream, &uri, &cluster).await?;
    findings.push(Finding::ok("api-tls", "the API server's certificate is the cluster's"));
    findings.extend(date.map(|date| clock(date, Timestamp::now())));
    findings.push(authenticate(cluster, &path).await);
    Ok(())
}

async fn load(path: &PathBuf) -> Step<kube::Config> {
    let loaded = match Kubeconfig::read_from(path) {
        Ok(file) => kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await,
        Err(error) => Err(error),
    };
    loaded.or_else(|_| {
        // The parser's own message quotes lines, which may hold a token.
        let fix = "compare it with what kubectl config view shows";
        stop("credentials", format!("{} is no usable kubeconfig", path.display()), "it cannot be read, or names no cluster and user", fix)
    })
}

async fn resolve(uri: &Uri) -> Step<SocketAddr> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let cause = match tokio::time::timeout(DEADLINE, tokio::net::lookup_host((host.as_str(), port))).await {
        Ok(Ok(mut addresses)) => match addresses.next() {
            Some(address) => return Ok(address),
            None => "the name has no address".to_owned(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the name servers of /etc/resolv.conf do not answer within {} s", DEADLINE.as_secs()),
    };
    stop(
        "api-name",
        format!("the API server's name {host} is not found"),
        cause,
        "correct the name in the kubeconfig, or the machine's name servers",
    )
}

async fn connect(address: SocketAddr) -> Step<TcpStream> {
    use std::io::ErrorKind;
    let (cause, fix) = match tokio::time::timeout(DEADLINE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Err(_) => (
            format!("no answer within {} s: packets are dropped on the way", DEADLINE.as_secs()),
            "open the port in the firewalls between, or use the tunnel's address",
        ),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => (
            "the connection is refused: the machine is there, but nothing listens on the port".to_owned(),
            "start the API server, or correct the port in the kubeconfig",
        ),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => {
            (error.to_string(), "give the machine a route there")
        }
        Ok(Err(error)) => (error.to_string(), "correct the address in the kubeconfig"),
    };
    stop("api-connection", format!("{address} cannot be connected to"), cause, fix)
}

/// A request without credentials: whatever the answer, it has a date. `None` where the server is not asked over TLS.
async fn exchange(stream: TcpStream, uri: &Uri, cluster: &kube::Config) -> Step<Option<Timestamp>> {
    if uri.scheme_str() != Some("https") || cluster.accept_invalid_certs || cluster.proxy_url.is_some() {
        return Ok(None);
    }
    let host = cluster.tls_server_name.clone().unwrap_or_else(|| uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned());
    let handshake = async {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(cluster.root_cert.iter().flatten().map(|der| CertificateDer::from(der.clone())));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = match tokio::time::timeout(DEADLINE, Box::pin(handshake)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let (cause, fix) = explain_tls(&error, &host);
            return stop("api-tls", format!("the API server at {uri} is not trusted"), cause, fix);
        }
        Err(_) => {
            return stop(
                "api-tls",
                format!("{uri} does not speak TLS"),
                format!("no answer within {} s", DEADLINE.as_secs()),
                "correct the port in the kubeconfig",
            );
        }
    };
    let request = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let request = Request::get("/healthz").header(header::HOST, host.as_str()).body(Empty::<Bytes>::new()).ok()?;
        let answer = tokio::select! {
            answer = sender.send_request(request) => answer.ok()?,
            _ = connection => return None,
        };
        let date = answer.headers().get(header::DATE)?.to_str().ok()?;
        jiff::fmt::rfc2822::parse(date).ok().map(|date| date.timestamp())
    };
    Ok(tokio::time::timeout(DEADLINE, Box::pin(request)).await.ok().flatten())
}

fn explain_tls(error: &std::io::Error, host: &str) -> (String, &'static str) {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer => (
                "its certificate is not signed by the kubeconfig's certificate-authority-data".into(),
                "take the CA from the cluster anew (kubectl config view --raw), and make sure that nothing intercepts TLS on the way",
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "its certificate has expired, or this machine's clock is ahead".into(),
                "compare `date` with another clock; else renew the API server's certificate",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                "its certificate is not valid yet: this machine's clock is behind".into(),
                "set the clock: systemctl enable --now systemd-timesyncd",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                format!("its certificate is not for {host}"),
                "use a name of the certificate in the kubeconfig, or set tls-server-name there",
            ),
            other => (format!("its certificate: {other:?}"), "have the cluster's administrator look at the API server's certificate"),
        },
        _ => (error.to_string(), "make sure that the port is the API server's, and that nothing intercepts TLS on the way"),
    }
}

fn clock(server: Timestamp, here: Timestamp) -> Finding {
    let skew = here.duration_since(server);
    let seconds = skew.abs().as_secs();
    let what = if skew.is_negative() {
        format!("the clock is {seconds} s behind the API server's")
    } else {
        format!("the clock is {seconds} s ahead of the API server's")
    };
    let fix = "set it and keep it: systemctl enable --now systemd-timesyncd (or chrony)";
    let cause = "certificates and tokens are valid between two times only, and leases are compared with the other clock";
    if skew.abs() > BAD_SKEW {
        Finding::error("clock", what, cause, fix)
    } else if skew.abs() > ODD_SKEW {
        Finding::warn("clock", what, cause, fix)
    } else {
        Finding::ok("clock", "the clock agrees with the API server's")
    }
}

async fn authenticate(cluster: kube::Config, path: &std::path::Path) -> Finding {
    let what = format!("the API server refuses the credentials of {}", path.display());
    let uri = cluster.cluster_url.to_string();
    let asked = async {
        let client = kube::Client::try_from(cluster)?;
        client.apiserver_version().await
    };
    match tokio::time::timeout(DEADLINE, Box::pin(asked)).await {
        Ok(Ok(version)) => Finding::ok("api-credentials", format!("the API server {} accepts the node's credentials", version.git_version)),
        Ok(Err(kube::Error::Api(status))) if status.code == 401 => Finding::error(
            "api-credentials",
            what,
            "the bootstrap token or certificate has expired, or is of another cluster",
            "make a new token (kubeadm token create) and write it into the bootstrap kubeconfig",
        ),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            // It knows who asks, and that is what matters here.
            Finding::ok("api-credentials", "the API server knows the node's credentials")
        }
        Ok(Err(error)) => Finding::error("api-credentials", what, error.to_string(), "look at the message; the file may be incomplete"),
        Err(_) => Finding::error(
            "api-credentials",
            format!("{uri} does not answer"),
            format!("no answer within {} s", DEADLINE.as_secs()),
            "look at the API server's log",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn clocks_are_compared() {
        let server: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for (here, severity) in [
            ("2026-01-01T12:00:20Z", Severity::Ok),
            ("2026-01-01T11:59:00Z", Severity::Warn),
            ("2026-01-01T12:10:00Z", Severity::Error),
            ("2025-01-01T12:00:00Z", Severity::Error),
        ] {
            assert_eq!(clock(server, here.parse().unwrap()).severity, severity, "{here}");
        }
        assert!(clock(server, "2026-01-01T11:50:00Z".parse().unwrap()).what.contains("600 s behind"));
    }

    async fn ids(kubeconfig: Option<&str>) -> Vec<(&'static str, Severity)> {
        let root = tempfile::tempdir().unwrap();
        let config = NodeConfiguration::defaults(root.path());
        if let Some(text) = kubeconfig {
            std::fs::create_dir_all(config.bootstrap_kubeconfig.parent().unwrap()).unwrap();
            std::fs::write(&config.bootstrap_kubeconfig, text).unwrap();
        }
        examine(&config).await.iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    fn kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: a, user: {{token: abcdef.0123456789abcdef}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        )
    }

    #[tokio::test]
    async fn the_first_step_that_fails_is_named() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        assert_eq!(ids(None).await, [("credentials", Severity::Error)]);
        assert_eq!(ids(Some("a: [")).await, [("credentials", Severity::Error)]);
        assert_eq!(
            ids(Some(&kubeconfig("https://127.0.0.1:1"))).await,
            [("credentials", Severity::Ok), ("api-name", Severity::Ok), ("api-connection", Severity::Error)]
        );
        // Something that is no API server: it closes the connection.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        assert_eq!(ids(Some(&kubeconfig(&server))).await.last(), Some(&("api-tls", Severity::Error)));
    }
}
