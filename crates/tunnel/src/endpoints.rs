//! Where a peer may be reached, and which of the places is tried when.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::device::PeerStatus;
use crate::direct::Answers;
use crate::relay::Place;

/// WireGuard tries a handshake again after 5 s: one and a half tries for each address.
pub(crate) const TRY: Duration = Duration::from_secs(7);
/// Between two questions for the same names.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A name or an address, and a UDP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// A DNS name, or an IPv4 or IPv6 address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Not `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an endpoint: host:port is wanted, with an IPv6 address in brackets")]
pub struct InvalidEndpoint {
    text: String,
}

impl Endpoint {
    /// The address, if the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bare {
            Some(v6) if v6.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => Ok(Self { host: v6.to_owned(), port }),
            None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => Ok(Self { host: host.to_owned(), port }),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What to do for a peer now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Send to this address from now on.
    Write(SocketAddr),
    /// Ask for the addresses of these names.
    Resolve(Vec<Endpoint>),
}

/// The way to one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path {
    wanted: Vec<Endpoint>,
    /// When none of the wanted ones answers.
    relay: Option<SocketAddr>,
    /// One that has answered beside the relay, and whether that was taken up.
    reached: Option<SocketAddr>,
    taken_up: bool,
    /// Whether it goes on answering.
    stay: Option<Answers>,
    /// What is known of each wanted one.
    known: Vec<Vec<SocketAddr>>,
    /// The one that was written last.
    written: Option<SocketAddr>,
    tried: Option<Instant>,
    /// What was written is not wanted any more: another one is due, even if the old one works.
    moved: bool,
    asked: Option<Instant>,
}

impl Path {
    /// What is wanted. If what was written last is not among it any more, another one is due, whatever WireGuard has learnt.
    pub(crate) fn want(&mut self, wanted: &[Endpoint], relay: Option<Place>) {
        self.reached = relay.and_then(|place| place.reached);
        self.taken_up &= self.reached.is_some();
        let relay = relay.map(|place| place.address);
        if self.wanted == wanted && self.relay == relay {
            return;
        }
        self.relay = relay;
        let old = std::mem::take(&mut self.known);
        let before = std::mem::replace(&mut self.wanted, wanted.to_vec());
        let known = |endpoint: &Endpoint| match endpoint.address() {
            Some(address) => vec![address],
            None => before.iter().position(|b| b == endpoint).and_then(|at| old.get(at).cloned()).unwrap_or_default(),
        };
        self.known = wanted.iter().map(known).collect();
        if self.written.is_some_and(|written| self.relay != Some(written) && !self.addresses().contains(&written)) {
            (self.written, self.tried, self.moved) = (None, None, true);
        }
        self.asked = None;
    }

    /// The peer is heard from although nothing was written: it has begun itself, or the interface was taken over. That is left alone.
    pub(crate) fn adopt(&mut self, now: Instant) {
        if self.written.is_none() && self.tried.is_none() && !self.moved {
            self.tried = Some(now);
        }
    }

    /// The answer to [`Step::Resolve`]. Addresses that are gone are not tried any more; one that is in use is left alone.
    pub(crate) fn resolved(&mut self, endpoint: &Endpoint, addresses: Vec<SocketAddr>) {
        if let Some(known) = self.wanted.iter().position(|w| w == endpoint).and_then(|at| self.known.get_mut(at)) {
            *known = addresses;
        }
    }

    /// The relay, if what has answered beside it answers no more.
    pub(crate) fn fall_back(&mut self, peer: &PeerStatus, now: Instant) -> Option<SocketAddr> {
        let relay = self.relay?;
        let is_silent = self.stay.as_mut()?.are_missing(peer, false, now);
        is_silent.then(|| self.write(relay, now))
    }

    /// `alive`: keys were agreed on a short time ago.
    pub(crate) fn step(&mut self, alive: bool, now: Instant) -> Step {
        let by_relay = self.relay.is_some() && self.written == self.relay;
        if let Some(reached) = self.reached.filter(|reached| by_relay && !self.taken_up && self.addresses().contains(reached)) {
            self.taken_up = true;
            self.write(reached, now);
            self.stay = Some(Answers::new(&PeerStatus::default(), now));
            return Step::Write(reached);
        }
        if alive && self.tried.is_some() {
            self.tried = Some(now);
            return Step::Nothing;
        }
        let due = self.tried.is_none_or(|tried| now.duration_since(tried) >= TRY);
        if !due {
            return Step::Nothing;
        }
        let addresses = self.addresses();
        let at = self.written.and_then(|written| addresses.iter().position(|a| *a == written));
        let next = at.map_or(0, |at| at + 1);
        let names: Vec<Endpoint> = self.wanted.iter().filter(|endpoint| endpoint.address().is_none()).cloned().collect();
        let may_ask = !names.is_empty() && self.asked.is_none_or(|asked| now.duration_since(asked) >= ASK_AGAIN);
        // All are tried, or none is known: the names may have other addresses now.
        if may_ask && (next >= addresses.len()) {
            self.asked = Some(now);
            return Step::Resolve(names);
        }
        // The relay comes after all others, which are tried again after it.
        let relay = self.relay.filter(|relay| self.written != Some(*relay));
        match addresses.get(next).copied().or(relay).or(addresses.first().copied()).or(self.relay) {
            Some(address) => Step::Write(self.write(address, now)),
            None => Step::Nothing,
        }
    }

    fn write(&mut self, address: SocketAddr, now: Instant) -> SocketAddr {
        (self.written, self.tried, self.moved, self.stay) = (Some(address), Some(now), false, None);
        address
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.known.iter().flatten().copied().collect()
    }
}

/// Looks names up without holding anybody up.
pub(crate) struct Resolver {
    sender: mpsc::Sender<(Endpoint, Vec<SocketAddr>)>,
    receiver: mpsc::Receiver<(Endpoint, Vec<SocketAddr>)>,
    pending: Vec<Endpoint>,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver, pending: Vec::new() }
    }

    /// One question at a time for each name.
    pub(crate) fn ask(&mut self, endpoint: Endpoint) {
        if self.pending.contains(&endpoint) {
            return;
        }
        self.pending.push(endpoint.clone());
        let sender = self.sender.clone();
        let asked = endpoint.clone();
        let ask = move || {
            let found = (asked.host.as_str(), asked.port).to_socket_addrs();
            let addresses = found.map(Iterator::collect).unwrap_or_else(|error| {
                debug!(host = asked.host, %error, "an endpoint's name has no address");
                Vec::new()
            });
            let _ = sender.send((asked, addresses));
        };
        if let Err(error) = thread::Builder::new().name("tunnel-names".into()).spawn(ask) {
            debug!(%error, "a name is not looked up");
            self.pending.retain(|pending| *pending != endpoint);
        }
    }

    /// What has been answered since the last time.
    pub(crate) fn answers(&mut self) -> Vec<(Endpoint, Vec<SocketAddr>)> {
        let answers: Vec<_> = self.receiver.try_iter().collect();
        self.pending.retain(|pending| !answers.iter().any(|(endpoint, _)| endpoint == pending));
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn place(port: u16, reached: Option<&str>) -> Place {
        Place { address: SocketAddr::from(([127, 0, 0, 1], port)), reached: reached.map(address) }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn endpoints_are_read_as_they_are_written() {
        for text in ["gateway.example:51820", "192.0.2.1:1", "[2001:db8::1]:51820"] {
            assert_eq!(endpoint(text).to_string(), text);
        }
        for text in ["", "gateway", ":1", "2001:db8::1:51820", "[gateway]:1", "host:0", "host:65536", "a b:1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_tried_in_turn_until_one_answers_and_then_left_alone() {
        let mut path = Path::default();
        path.want(&[endpoint("192.0.2.1:1"), endpoint("192.0.2.2:1")], None);
        let start = Instant::now();
        assert_eq!(path.step(false, start), Step::Write(address("192.0.2.1:1")));
        assert_eq!(path.step(false, after(start, 3)), Step::Nothing, "the handshake is under way");
        assert_eq!(path.step(false, after(start, 8)), Step::Write(address("192.0.2.2:1")));
        assert_eq!(path.step(true, after(start, 20)), Step::Nothing);
        assert_eq!(path.step(true, after(start, 900)), Step::Nothing, "WireGuard may have learnt another one by now");
        assert_eq!(path.step(false, after(start, 908)), Step::Write(address("192.0.2.1:1")));
    }

    #[test]
    fn another_wanted_endpoint_is_written_at_once_and_more_of_them_are_not() {
        let mut path = Path::default();
        let start = Instant::now();
        path.want(&[endpoint("192.0.2.1:1")], None);
        path.step(false, start);
        path.want(&[endpoint("192.0.2.9:1"), endpoint("192.0.2.1:1")], None);
        assert_eq!(path.step(true, after(start, 1)), Step::Nothing);
        path.want(&[endpoint("192.0.2.9:1")], None);
        path.adopt(after(start, 2));
        assert_eq!(path.step(true, after(start, 2)), Step::Write(address("192.0.2.9:1")));
    }

    #[test]
    fn names_are_asked_for_first_and_again_when_nothing_answers() {
        let mut path = Path::default();
        let name = endpoint("gateway.example:1");
        path.want(std::slice::from_ref(&name), None);
        let start = Instant::now();
        assert_eq!(path.step(false, start), Step::Resolve(vec![name.clone()]));
        assert_eq!(path.step(false, after(start, 1)), Step::Nothing, "no answer yet");
        path.resolved(&name, vec![address("192.0.2.1:1")]);
        assert_eq!(path.step(false, after(start, 2)), Step::Write(address("192.0.2.1:1")));
        assert_eq!(path.step(true, after(start, 300)), Step::Nothing);
        assert_eq!(path.step(false, after(start, 310)), Step::Resolve(vec![name.clone()]));
        path.resolved(&name, vec![address("192.0.2.7:1")]);
        assert_eq!(path.step(false, after(start, 311)), Step::Write(address("192.0.2.7:1")));
    }

    #[test]
    fn what_an_interface_had_when_it_was_taken_over_is_kept_while_it_works() {
        let mut path = Path::default();
        let start = Instant::now();
        path.want(&[endpoint("192.0.2.1:1")], None);
        path.adopt(start);
        assert_eq!(path.step(true, after(start, 60)), Step::Nothing);
        assert_eq!(path.step(false, after(start, 300)), Step::Write(address("192.0.2.1:1")));
    }

    #[test]
    fn the_relay_is_the_last_resort_and_others_are_tried_again_after_it() {
        let mut path = Path::default();
        let (name, relay) = (endpoint("gateway.example:1"), address("127.0.0.1:7"));
        path.want(&[endpoint("192.0.2.1:1"), name.clone()], Some(place(7, None)));
        let start = Instant::now();
        assert_eq!(path.step(false, start), Step::Write(address("192.0.2.1:1")));
        assert_eq!(path.step(false, after(start, 7)), Step::Resolve(vec![name.clone()]));
        path.resolved(&name, vec![address("192.0.2.9:1")]);
        assert_eq!(path.step(false, after(start, 8)), Step::Write(address("192.0.2.9:1")));
        assert_eq!(path.step(false, after(start, 15)), Step::Write(relay));
        assert_eq!(path.step(true, after(start, 16)), Step::Nothing);
        assert_eq!(path.step(true, after(start, 900)), Step::Nothing, "it answers");
        assert_eq!(path.step(false, after(start, 907)), Step::Write(address("192.0.2.1:1")), "the machine may be somewhere else now");
    }

    #[test]
    fn a_relay_that_has_moved_is_written_anew_and_one_that_comes_later_moves_nothing() {
        let mut path = Path::default();
        let (wanted, start) = ([endpoint("192.0.2.1:1")], Instant::now());
        path.want(&wanted, None);
        path.step(false, start);
        path.want(&wanted, Some(place(7, None)));
        assert_eq!(path.step(true, after(start, 1)), Step::Nothing);
        assert_eq!(path.step(false, after(start, 8)), Step::Write(address("127.0.0.1:7")));
        path.want(&wanted, Some(place(8, None)));
        assert_eq!(path.step(true, after(start, 9)), Step::Write(address("192.0.2.1:1")), "from the beginning");
    }

    #[test]
    fn what_answers_beside_the_relay_is_used_as_long_as_it_answers() {
        let (mut path, start) = (Path::default(), Instant::now());
        let wanted = [endpoint("192.0.2.1:1"), endpoint("192.0.2.2:1")];
        let [first, second] = ["192.0.2.1:1", "192.0.2.2:1"];
        // It is no answer that counts while another one is used.
        path.want(&wanted, Some(place(7, Some(second))));
        assert_eq!(path.step(false, start), Step::Write(address(first)));
        assert_eq!(path.step(true, after(start, 1)), Step::Nothing);
        path.want(&wanted, Some(place(7, None)));
        for (at, expected) in [(8, second), (15, "127.0.0.1:7")] {
            assert_eq!(path.step(false, after(start, at)), Step::Write(address(expected)));
        }
        path.want(&wanted, Some(place(7, Some("192.0.2.9:1"))));
        assert_eq!(path.step(true, after(start, 16)), Step::Nothing, "nobody knows it");
        path.want(&wanted, Some(place(7, Some(second))));
        assert_eq!(path.step(true, after(start, 17)), Step::Write(address(second)));
        let mut peer = PeerStatus::default();
        let mut falls_back_at = |path: &mut Path, from: u64, answers: bool| {
            (from..from + 60).find(|at| {
                peer.sent += 100;
                peer.received += if answers { 100 } else { 0 };
                let back = path.fall_back(&peer, after(start, *at));
                assert_eq!(path.step(true, after(start, *at)), Step::Nothing, "it is not taken up twice");
                back == Some(address("127.0.0.1:7"))
            })
        };
        assert_eq!(falls_back_at(&mut path, 18, true), None);
        assert_eq!(falls_back_at(&mut path, 78, false), Some(82));
        assert_eq!(falls_back_at(&mut path, 83, false), None, "the relay is the last one");
        // The relay has seen it come back, and has another answer.
        path.want(&wanted, Some(place(7, None)));
        path.want(&wanted, Some(place(7, Some(second))));
        assert_eq!(path.step(true, after(start, 200)), Step::Write(address(second)));
    }
}
