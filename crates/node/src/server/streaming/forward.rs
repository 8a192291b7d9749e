//! port-forward: connections to a pod's own loopback, made inside its network namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use kube_pet_core::pod::pod_uid;
use kube_pet_stream::Settings;
use kube_pet_stream::negotiation;
use kube_pet_stream::port_forward::{Forwarded, PortForward, Protocol, parse_ports};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::bridge::copy;
use super::{Call, Handover, Named, Sessions, Socket, pod, query, reason, refused, subject, switching_protocols};
use crate::server::quota::Quota;
use crate::server::response::{self, Response};

/// How long a connection inside the pod may take: it is local.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client that cannot end its direction may still say after the pod has ended (containerd's rule).
const LAST_WORDS: Duration = Duration::from_secs(1);

/// `/portForward/{namespace}/{pod}[/{uid}]`
pub(in crate::server) fn port_forward(sessions: &Sessions, call: Call<'_>) -> Response {
    begin(sessions, call).unwrap_or_else(|refusal| *refusal)
}

fn begin(sessions: &Sessions, call: Call<'_>) -> Result<Response, Box<Response>> {
    let Call { state, user, parameters, request } = call;
    let (namespace, name, uid) = match parameters {
        [namespace, name] => (namespace, name, None),
        [namespace, name, uid] => (namespace, name, Some(uid.as_ref())),
        _ => return Err(Box::new(response::text(StatusCode::NOT_FOUND, "404: Page Not Found"))),
    };
    let Named { pod, .. } = pod(state, namespace, name, uid)?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if phase != "Running" {
        let text = format!("unable to forward port because pod is not running. Current status={phase}");
        return Err(Box::new(response::text(StatusCode::INTERNAL_SERVER_ERROR, text)));
    }
    let negotiated = negotiation::port_forward(&request.headers).map_err(|refusal| Box::new(refused(*refusal)))?;
    let query = query(request);
    let ports = match negotiated.protocol {
        // These name the ports per connection.
        Protocol::Spdy | Protocol::Tunnel => Vec::new(),
        Protocol::WebSocket { .. } => {
            parse_ports(query.iter().filter(|(name, _)| name == "port" || name == "ports").map(|(_, value)| value.as_str()))
                .map_err(|error| Box::new(response::text(StatusCode::BAD_REQUEST, error.to_string())))?
        }
    };
    let connection = Handover::of(request)?;
    let uid = pod_uid(&pod);
    let Some(sandbox) = state.sandboxes.get(&uid) else {
        let text = "unable to forward port because the pod has no sandbox at the moment";
        return Err(Box::new(response::text(StatusCode::INTERNAL_SERVER_ERROR, text)));
    };
    let mut subject = subject("port-forward", user, request, &pod);
    subject.protocol = format!("{:?}", negotiated.protocol);
    let open = Open { netns: sandbox.netns, user: user.name.clone(), forwarded: Arc::clone(&sessions.forwarded) };
    let settings = sessions.settings.clone();
    connection.serve(subject, move |socket| serve(socket, negotiated.protocol, ports, settings, open));
    Ok(switching_protocols(negotiated.headers))
}

/// What opening a connection inside the pod takes.
struct Open {
    netns: Option<PathBuf>,
    user: String,
    forwarded: Arc<Quota>,
}

/// One session, to its end in words.
async fn serve(socket: Socket, protocol: Protocol, ports: Vec<u16>, settings: Settings, open: Open) -> String {
    // Channels of a WebSocket have no end of their own.
    let ends = !matches!(protocol, Protocol::WebSocket { .. });
    let mut session = match PortForward::open(socket, protocol, &ports, settings) {
        Ok(session) => session,
        Err(error) => return error.to_string(),
    };
    let mut connections = JoinSet::new();
    let mut count = 0_u64;
    loop {
        tokio::select! {
            forwarded = session.accept() => {
                let Some(forwarded) = forwarded else { break };
                let Some(share) = open.forwarded.take(&open.user) else {
                    warn!(user = open.user, "the user has too many forwarded connections; one more was refused");
                    forwarded.fail("error forwarding port: too many connections are forwarded for this user or on this node");
                    continue;
                };
                count += 1;
                let netns = open.netns.clone();
                connections.spawn(async move {
                    forward(forwarded, netns, ends).await;
                    drop(share);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // The client has left: what is still under way has nobody to go to.
    connections.shutdown().await;
    let end = session.close().await;
    format!("{count} connections; {}", reason(&end))
}

/// Carries one connection to its end. `ends`: the client can end its direction alone.
async fn forward(mut forwarded: Forwarded, netns: Option<PathBuf>, ends: bool) {
    let port = forwarded.port;
    let mut inside = match connect(netns, port).await {
        Ok(inside) => inside,
        Err(error) => {
            forwarded.fail(&format!("error forwarding port {port} to pod: failed to connect to localhost:{port} inside the pod: {error}"));
            return;
        }
    };
    if let Err(error) = carry(&mut forwarded.data, &mut inside, ends).await {
        // One of the two was reset, which the other learns by its own end.
        debug!(port, %error, "a forwarded connection broke off");
    }
    forwarded.finish();
}

/// Copies in both directions until both have ended. A client that cannot end its own is not waited for once the pod has ended.
async fn carry(client: &mut (impl AsyncRead + AsyncWrite + Unpin), inside: &mut TcpStream, ends: bool) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_pod, mut to_pod) = inside.split();
    let up = async {
        copy(&mut from_client, &mut to_pod).await?;
        to_pod.shutdown().await
    };
    let down = async {
        copy(&mut from_pod, &mut to_client).await?;
        to_client.shutdown().await
    };
    if ends {
        return tokio::try_join!(up, down).map(|((), ())| ());
    }
    tokio::pin!(up, down);
    tokio::select! {
        sent = &mut up => {
            sent?;
            down.await
        }
        received = &mut down => {
            received?;
            tokio::time::timeout(LAST_WORDS, up).await.unwrap_or(Ok(()))
        }
    }
}

/// 127.0.0.1 first, then ::1, as the kubelet's runtimes do.
async fn connect(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let attempt = move || {
        let try_both = || {
            let address = |ip: std::net::IpAddr| SocketAddr::new(ip, port);
            std::net::TcpStream::connect_timeout(&address(Ipv4Addr::LOCALHOST.into()), CONNECT_TIMEOUT).or_else(|first| {
                std::net::TcpStream::connect_timeout(&address(Ipv6Addr::LOCALHOST.into()), CONNECT_TIMEOUT).map_err(|_| first)
            })
        };
        match netns {
            None => try_both(),
            Some(netns) => kube_pet_host::namespaces::run_in_netns(&netns, try_both).map_err(io::Error::other)?,
        }
    };
    let connected = tokio::task::spawn_blocking(attempt).await.map_err(io::Error::other)??;
    connected.set_nonblocking(true)?;
    connected.set_nodelay(true)?;
    TcpStream::from_std(connected)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    /// A pod that says goodbye and closes, and the two ends of a client's stream.
    async fn pod() -> (TcpStream, DuplexStream, DuplexStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut pod, _) = listener.accept().await.unwrap();
        pod.write_all(b"bye").await.unwrap();
        let (ours, theirs) = duplex(64);
        (inside, ours, theirs)
    }

    #[tokio::test]
    async fn component_a_client_that_cannot_end_is_not_waited_for() {
        let (mut inside, mut ours, mut theirs) = pod().await;
        tokio::time::timeout(LAST_WORDS * 10, carry(&mut ours, &mut inside, false)).await.expect("waits").unwrap();
        drop(ours);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "bye");
    }

    #[tokio::test]
    async fn component_a_client_that_can_end_is_waited_for() {
        let (mut inside, mut ours, mut theirs) = pod().await;
        let mut carried = Box::pin(carry(&mut ours, &mut inside, true));
        let early = tokio::time::timeout(LAST_WORDS * 2, carried.as_mut()).await;
        assert!(early.is_err(), "{early:?}");
        theirs.shutdown().await.unwrap();
        // The pod has closed: what is left to tell it may fail.
        let _ = tokio::time::timeout(LAST_WORDS * 10, carried).await.expect("waits on");
    }
}
