//! Sockets: datagrams and connections of clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use crate::cache::Limits;
use crate::message::{self, Request};
use crate::moment::Moment;
use crate::places::Places;
use crate::resolver::{DnsCache, Flight, Lookup, Observation};
use crate::upstream::Upstream;

/// Questions over UDP that wait for the upstream: of all clients, of one. Further ones are told at once that it does not work, and go
/// to their next name server.
const WAITING: (usize, usize) = (1024, 64);
/// Connections of all clients, of one.
const CONNECTIONS: (usize, usize) = (128, 32);
/// Without a whole question for this long, or with an answer that is not taken, a connection ends (RFC 7766, 6.2.3: some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// After an error of a socket, so that one that goes on does not take a processor.
const PAUSE: Duration = Duration::from_millis(100);

/// What a cache is made of.
pub struct Options {
    /// The servers that are asked, in order.
    pub upstream: Vec<SocketAddr>,
    /// A domain whose names come and go: that it has no such name holds for five seconds at most.
    pub changing: Option<String>,
    /// How much is kept, and for how long.
    pub limits: Limits,
    /// Who may ask; others get no answer.
    pub allowed: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// The time, on a clock that only goes forward and does so while the machine sleeps.
    pub clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Is told what happens.
    pub observe: Arc<dyn Fn(Observation) + Send + Sync>,
}

/// What answers clients.
pub struct Server {
    cache: DnsCache,
    flights: mpsc::UnboundedReceiver<Flight>,
    allowed: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

/// A cache, and the server that answers from it.
pub fn new(options: Options) -> (DnsCache, Server) {
    let Options { upstream, changing, limits, allowed, clock, observe } = options;
    let upstream = Upstream::new(upstream, observe.clone());
    let changing = changing.and_then(|domain| Name::from_ascii(domain.trim_end_matches('.').to_owned() + ".").ok());
    let (cache, flights) = DnsCache::new(limits, upstream, changing, clock, observe);
    (cache.clone(), Server { cache, flights, allowed })
}

impl Server {
    /// Answers until it is dropped.
    pub async fn run(&mut self, udp: UdpSocket, tcp: TcpListener) {
        let udp = Arc::new(udp);
        let (waiting, connections) = (Places::new(WAITING.0, WAITING.1), Places::new(CONNECTIONS.0, CONNECTIONS.1));
        let mut work = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                Some(flight) = self.flights.recv() => {
                    let cache = self.cache.clone();
                    work.spawn(async move { cache.fly(flight).await });
                }
                received = udp.recv_from(&mut buffer) => match received {
                    Ok((length, client)) if self.may(client) => {
                        let bytes = buffer.get(..length).unwrap_or_default();
                        datagram(bytes, client, &self.cache, &udp, &waiting, &mut work);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        debug!(%error, "no datagram");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                accepted = tcp.accept() => match accepted {
                    Ok((stream, client)) if self.may(client) => {
                        if let Some(place) = connections.take(client.ip()) {
                            let cache = self.cache.clone();
                            work.spawn(async move {
                                if let Err(error) = connection(stream, &cache).await {
                                    debug!(%client, %error, "a connection has ended");
                                }
                                drop(place);
                            });
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        debug!(%error, "no connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = work.join_next(), if !work.is_empty() => {}
            }
        }
    }

    fn may(&self, client: SocketAddr) -> bool {
        let may = (self.allowed)(client.ip());
        if !may {
            self.cache.observe(Observation::Dropped);
        }
        may
    }
}

fn datagram(bytes: &[u8], client: SocketAddr, cache: &DnsCache, udp: &Arc<UdpSocket>, waiting: &Places, work: &mut JoinSet<()>) {
    let send = |message: &Message, limit: usize| {
        if let Some(bytes) = message::write(message, limit)
            && let Err(error) = udp.try_send_to(&bytes, client)
        {
            debug!(%client, %error, "an answer is not sent");
        }
    };
    let ask = match message::read_request(bytes) {
        Request::Ignore => return,
        Request::Refuse(message) => return send(&message, 512),
        Request::Ask(ask) => ask,
    };
    let (limit, asked) = (ask.datagram(), ask.clone());
    match cache.lookup(ask) {
        Lookup::Done(message) => send(&message, limit),
        Lookup::Wait(wait) => match waiting.take(client.ip()) {
            None => send(&asked.fail(ResponseCode::ServFail, false), limit),
            Some(place) => {
                let udp = udp.clone();
                work.spawn(async move {
                    if let Some(bytes) = message::write(&wait.answer().await, limit)
                        && let Err(error) = udp.send_to(&bytes, client).await
                    {
                        debug!(%client, %error, "an answer is not sent");
                    }
                    drop(place);
                });
            }
        },
    }
}

/// Question by question, as they come (RFC 7766).
async fn connection(mut stream: TcpStream, cache: &DnsCache) -> std::io::Result<()> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        };
        let bytes = match timeout(IDLE, read).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let message = match message::read_request(&bytes) {
            Request::Ignore => return Ok(()),
            Request::Refuse(message) => message,
            Request::Ask(ask) => match cache.lookup(ask) {
                Lookup::Done(message) => message,
                Lookup::Wait(wait) => wait.answer().await,
            },
        };
        let Some(bytes) = message::write(&message, u16::MAX.into()) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await.map_err(|_| late())??;
    }
}

#[cfg(test)]
mod tests;
