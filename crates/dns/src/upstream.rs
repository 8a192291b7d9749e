//! Asking: one question at a time, each over a socket of its own, so that neither port nor ID can be foreseen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hickory_proto::ProtoError;
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::cache::Failure;
use crate::message::{self, Ask};
use crate::resolver::{Observation, Observe};

/// After this the next server is asked, too, or the same one again: datagrams get lost. Who answers first, wins.
const PATIENCE: Duration = Duration::from_secs(1);
/// Below the five seconds after which clients ask their next name server.
const LIMIT: Duration = Duration::from_millis(4500);
/// Each server is asked this often at most.
const ROUNDS: usize = 2;

/// Why one server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no socket towards {server}")]
    Socket {
        server: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("asking {server} over {protocol}")]
    Exchange {
        server: SocketAddr,
        protocol: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the answer of {server} is not a message")]
    Unreadable { server: SocketAddr },
    #[error("{server} says {code}")]
    Code { server: SocketAddr, code: ResponseCode },
    #[error("the question cannot be written")]
    Question(#[source] ProtoError),
}

impl AskError {
    fn code(&self) -> Option<ResponseCode> {
        match self {
            Self::Code { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The servers that are asked.
pub(crate) struct Upstream {
    servers: Vec<SocketAddr>,
    /// The one that answered last is asked first.
    first: AtomicUsize,
    observe: Observe,
}

impl Upstream {
    pub(crate) fn new(servers: Vec<SocketAddr>, observe: Observe) -> Self {
        Self { servers, first: AtomicUsize::new(0), observe }
    }

    /// The answer of the first server that has one, `NOERROR` or `NXDOMAIN`: other codes are failures of a server.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Message, Failure> {
        let deadline = Instant::now() + LIMIT;
        let mut running = FuturesUnordered::new();
        let mut refused: Vec<(usize, ResponseCode)> = Vec::new();
        let mut silent: Vec<usize> = Vec::new();
        let mut plan = self.plan();
        let mut next = Instant::now();
        loop {
            let coming = plan.clone().any(|server| refused.iter().all(|(other, _)| *other != server));
            if running.is_empty() && !coming {
                break;
            }
            tokio::select! {
                biased;
                Some((server, result)) = running.next(), if !running.is_empty() => match result {
                    Ok(message) => {
                        self.first.store(server, Ordering::Relaxed);
                        return Ok(message);
                    }
                    Err(error) => {
                        debug!(error = &error as &dyn std::error::Error, "a name server gives no answer");
                        self.failed(server);
                        silent.retain(|other| *other != server);
                        refused.extend(AskError::code(&error).map(|code| (server, code)));
                        next = Instant::now();
                    }
                },
                () = sleep_until(next), if coming => {
                    let Some(server) = plan.find(|server| refused.iter().all(|(other, _)| other != server)) else { continue };
                    if let Some(address) = self.servers.get(server) {
                        silent.push(server);
                        running.push(async move { (server, ask_server(*address, ask).await) });
                    }
                    next = Instant::now() + PATIENCE;
                }
                () = sleep_until(deadline) => {
                    debug!(name = %ask.query.name, "no name server answers in time");
                    break;
                }
            }
        }
        silent.into_iter().for_each(|server| self.failed(server));
        match refused.first() {
            Some((_, code)) => Err(Failure { code: *code, unreachable: false }),
            None => Err(Failure { code: ResponseCode::ServFail, unreachable: true }),
        }
    }

    /// Indices of the servers in the order in which they are asked.
    fn plan(&self) -> impl Iterator<Item = usize> + Clone {
        let (count, first) = (self.servers.len(), self.first.load(Ordering::Relaxed));
        (0..count * ROUNDS).map(move |turn| (first + turn) % count)
    }

    fn failed(&self, server: usize) {
        if let Some(server) = self.servers.get(server) {
            (self.observe)(Observation::UpstreamFailure(*server));
        }
    }
}

/// Over UDP, and over TCP where the answer is longer than a datagram.
async fn ask_server(server: SocketAddr, ask: &Ask) -> Result<Message, AskError> {
    // Of its own, too: two answers to the same ID could be mixed up.
    let asked = ask.forward();
    let bytes = asked.to_vec().map_err(AskError::Question)?;
    let mut reply = over_udp(server, &asked, &bytes).await?;
    if reply.metadata.truncation {
        reply = over_tcp(server, &asked, &bytes).await?;
    }
    match reply.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(reply),
        code => Err(AskError::Code { server, code }),
    }
}

async fn over_udp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> Result<Message, AskError> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|source| AskError::Socket { server, source })?;
    let failed = |source| AskError::Exchange { server, protocol: "UDP", source };
    // Connected: the kernel takes datagrams of this server only, and tells that nobody listens there.
    socket.connect(server).await.map_err(failed)?;
    socket.send(bytes).await.map_err(failed)?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        match message::read_reply(buffer.get(..length).unwrap_or_default(), asked) {
            Some(Ok(reply)) => return Ok(reply),
            Some(Err(_)) => return Err(AskError::Unreadable { server }),
            // Not the answer, whoever has sent it.
            None => {}
        }
    }
}

async fn over_tcp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> Result<Message, AskError> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
        let length = stream.read_u16().await?;
        let mut reply = vec![0; length.into()];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    };
    let failed = |source| AskError::Exchange { server, protocol: "TCP", source };
    let reply = timeout(LIMIT, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    match message::read_reply(&reply, asked) {
        Some(Ok(reply)) => Ok(reply),
        _ => Err(AskError::Unreadable { server }),
    }
}
