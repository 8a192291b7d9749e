//! Paths straight to other machines of the tunnel's network, beside the way through the gateway. Pure: [`Paths::look`] is told what is
//! seen and says what becomes of each path; [`Paths::peers`] are the peers that follow.
//!
//! ```text
//!                talked to             handshake
//! by the gateway ────────► Trying ───────────────► Direct
//!   ▲  ▲                     │ no handshake          │ silent, idle, gone
//!   │  └─────────────────────┘                       ▼
//!   └───────────────────────── 30 s ───────────── Leaving
//! ```
//! - **Tried** is who was talked to in the last minute, at most [`MOST`] at a time. The other side sees the same packets and tries, too: two
//!   NATs that let only answers in are opened by both sides' first packets. Each endpoint is tried for 7 s, all of them for 21 s at least.
//! - **Promotion**: WireGuard has agreed on keys with that peer. From then on packets go to it, and no longer to the gateway.
//! - **Demotion**: data was sent, and nothing was heard for 12 s: WireGuard answers what it gets after 10 s at the latest, if only by a
//!   keepalive. Whoever has just answered with data does so sooner: then data in two looks and 5 s without an answer are enough. Packets
//!   of a handshake are no such answer: who only listens shakes hands, too.
//!   Keepalives (every 5 s) prove nothing: the kernel's WireGuard sends none after it has received one.
//! - **Questions**: whoever uses a path asks the other side by it once a second, as long as somebody talks. Three seconds without any answer
//!   end it, at both sides, and although packets still come: they may go another way. Only of who has answered before (`echoes`).
//! - **Size**: found as on the way to the gateway ([`crate::mtu`]). A path that takes less has routes of that size.
//! - **Back-off**: 1, 2, 4, 8, 16 minutes, each at full minutes of that number by the wall clock, so that both sides try at the same time. A
//!   clock that is set back ends the wait.
//! - **Receiving**: in every stage, what comes from a path's peer is taken, and so is what comes by the gateway. The two sides need not change
//!   at the same moment, and nothing that is under way is lost. The kernel's WireGuard takes an address from one peer only: there, what
//!   is under way in the moment of a change is lost, until the other side has changed, too, a second later.

mod answers;
mod asker;
mod echoes;
mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube_pet_net::tunnel_links::TunnelLink;
use kube_pet_rules::{Family, Network};

use crate::device::PeerStatus;
use crate::endpoints::{Endpoint, TRY};
use crate::keys::PublicKey;
use crate::mtu::{Change, Way};
use crate::tunnel::Peer;
pub(crate) use answers::Answers;
use answers::SILENT;
pub use asker::{Asker, Heard, Question};
use questions::Questions;

/// How many paths there are at most: each costs a packet every 5 s.
pub const MOST: usize = 64;
/// Seconds between packets that keep a path's way through NAT open.
const KEEPALIVE: u16 = 5;
/// Both sides have seen a packet and tried each other's endpoints in this time.
const TRIED: Duration = Duration::from_secs(21);
/// After the minute for which an address is remembered.
const IDLE: Duration = Duration::from_secs(60);
/// The other side has noticed.
const LEFT: Duration = Duration::from_secs(30);
/// A path that has lasted so long was worth it.
const PROVEN: Duration = Duration::from_secs(60);
const BACK_OFF: Duration = Duration::from_secs(60);
const DOUBLINGS: u32 = 4;

/// Another machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// For the log.
    pub name: String,
    /// Its own addresses in the tunnel's network.
    pub networks: BTreeSet<Network>,
    /// Where it may be reached, the best first.
    pub endpoints: Vec<Endpoint>,
}

/// What is seen in a moment.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The interface's peers.
    pub peers: &'a BTreeMap<PublicKey, PeerStatus>,
    /// Addresses that were talked to in the last minute.
    pub talked_to: &'a BTreeSet<IpAddr>,
    /// What other machines have answered since the last time.
    pub heard: &'a BTreeMap<PublicKey, Heard>,
    /// The size of packets by the gateway, if the paths' are to be found out.
    pub limit: Option<u16>,
    /// Times what is remembered.
    pub now: Instant,
    /// For what both sides do at the same time.
    pub wall: SystemTime,
}

/// What has become of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is used from now on.
    Direct,
    /// No endpoint has answered.
    Unreachable,
    /// What was sent is not answered any more.
    Silent,
    /// Nobody talks.
    Idle,
    /// The other machine is gone, or takes part no more.
    Gone,
    /// It goes on, by packets of another size.
    Resized(Change),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Gateway,
    Trying { since: Instant },
    Direct { since: Instant, answers: Answers },
    Leaving { since: Instant },
}

#[derive(Clone, Debug)]
struct Path {
    /// Endpoints are those that it was tried with: what WireGuard has learnt since is better than news.
    neighbour: Neighbour,
    stage: Stage,
    talked: Instant,
    failures: u32,
    retry: Option<SystemTime>,
    questions: Questions,
}

/// All paths, by the keys of the other sides.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    paths: BTreeMap<PublicKey, Path>,
}

impl Paths {
    /// Paths of an earlier process go on: their other sides still send by them.
    pub fn resume(kept: BTreeMap<PublicKey, Neighbour>, now: Instant) -> Self {
        let stage = Stage::Direct { since: now, answers: Answers::new(&PeerStatus::default(), now) };
        let path = |neighbour| Path { stage, ..Path::new(neighbour, now) };
        Self { paths: kept.into_iter().map(|(key, neighbour)| (key, path(neighbour))).collect() }
    }

    /// What becomes of each path. `neighbours`: all that take part; `None` while that is not known.
    pub fn look(&mut self, neighbours: Option<&BTreeMap<PublicKey, Neighbour>>, look: &Look<'_>) -> Vec<(Neighbour, Turn)> {
        let mut turns = Vec::new();
        if let Some(neighbours) = neighbours {
            self.meet(neighbours, look, &mut turns);
        }
        for path in self.paths.values_mut() {
            let networks = &path.neighbour.networks;
            if look.talked_to.iter().any(|address| networks.iter().any(|network| network.contains(*address))) {
                path.talked = look.now;
            }
        }
        let mut room = MOST.saturating_sub(self.paths.values().filter(|path| path.stage != Stage::Gateway).count());
        for (key, path) in &mut self.paths {
            let known = neighbours.and_then(|neighbours| neighbours.get(key));
            if let Some(turn) = path.turn(*key, known, look, &mut room) {
                turns.push((path.neighbour.clone(), turn));
            }
        }
        // Nothing is remembered of who may be tried at once.
        self.paths.retain(|_, path| path.stage != Stage::Gateway || !path.is_due(look.wall));
        turns
    }

    /// Takes in who is talked to, and gives up who is gone.
    fn meet(&mut self, neighbours: &BTreeMap<PublicKey, Neighbour>, look: &Look<'_>, turns: &mut Vec<(Neighbour, Turn)>) {
        for (_, path) in self.paths.iter_mut().filter(|(key, _)| !neighbours.contains_key(*key)) {
            match path.stage {
                Stage::Direct { .. } => {
                    path.stage = Stage::Leaving { since: look.now };
                    turns.push((path.neighbour.clone(), Turn::Gone));
                }
                Stage::Leaving { .. } => {}
                Stage::Gateway | Stage::Trying { .. } => path.stage = Stage::Gateway,
            }
            path.retry = None;
        }
        for (key, path) in &mut self.paths {
            if let Some(neighbour) = neighbours.get(key) {
                path.neighbour.networks.clone_from(&neighbour.networks);
            }
        }
        for key in spoken_to(neighbours, look.talked_to) {
            let Some(neighbour) = neighbours.get(&key).filter(|neighbour| !neighbour.endpoints.is_empty()) else { continue };
            self.paths.entry(key).or_insert_with(|| Path::new(neighbour.clone(), look.now));
        }
    }

    /// The peers that there are to be besides the gateways.
    pub fn peers(&self) -> BTreeMap<PublicKey, Peer> {
        self.paths.iter().filter_map(|(key, path)| Some((*key, path.peer()?))).collect()
    }

    /// Gives `link` routes for the networks whose path takes less than [`Look::limit`].
    pub fn narrow(&self, link: &mut TunnelLink) {
        for path in self.in_use().map(|(_, path)| path) {
            let Some(size) = path.questions.narrow() else { continue };
            link.routes.extend(&path.neighbour.networks);
            link.mtus.extend(path.neighbour.networks.iter().map(|network| (*network, u32::from(size))));
        }
    }

    /// What other machines are to be asked, each from one of these addresses to its own of the same family: once packets to them go by the
    /// paths in use.
    pub fn questions(&mut self, from: &BTreeSet<IpAddr>) -> BTreeMap<PublicKey, Question> {
        let used = self.paths.iter_mut().filter(|(_, path)| path.is_in_use());
        used.filter_map(|(key, path)| Some((*key, path.ask(from)?))).collect()
    }

    fn in_use(&self) -> impl Iterator<Item = (&PublicKey, &Path)> {
        self.paths.iter().filter(|(_, path)| path.is_in_use())
    }

    /// What [`Paths::resume`] takes: paths that the other side uses, with the endpoint that works.
    pub fn kept(&self, peers: &BTreeMap<PublicKey, PeerStatus>) -> BTreeMap<PublicKey, Neighbour> {
        let kept = self.in_use().map(|(key, path)| {
            let learnt = peers.get(key).and_then(|peer| peer.endpoint).map(Endpoint::from);
            let endpoints = learnt.map_or_else(|| path.neighbour.endpoints.clone(), |endpoint| vec![endpoint]);
            (*key, Neighbour { endpoints, ..path.neighbour.clone() })
        });
        kept.collect()
    }
}

impl Path {
    fn new(neighbour: Neighbour, now: Instant) -> Self {
        Self { neighbour, stage: Stage::Gateway, talked: now, failures: 0, retry: None, questions: Questions::default() }
    }

    fn is_in_use(&self) -> bool {
        matches!(self.stage, Stage::Direct { .. })
    }

    fn turn(&mut self, key: PublicKey, known: Option<&Neighbour>, look: &Look<'_>, room: &mut usize) -> Option<Turn> {
        let Look { peers, talked_to: _, heard, limit, now, wall } = *look;
        let peer = peers.get(&key);
        let due = self.is_due(wall);
        match &mut self.stage {
            Stage::Gateway => {
                if let Some(known) = known.filter(|_| due && self.talked == now && *room > 0) {
                    *room -= 1;
                    self.neighbour.clone_from(known);
                    (self.stage, self.retry) = (Stage::Trying { since: now }, None);
                }
                None
            }
            Stage::Trying { since } => {
                if let Some(peer) = peer.filter(|peer| peer.is_alive(wall)) {
                    self.stage = Stage::Direct { since: now, answers: Answers::new(peer, now) };
                    self.questions.begin(now);
                    return Some(Turn::Direct);
                }
                let endpoints = u32::try_from(self.neighbour.endpoints.len()).unwrap_or(u32::MAX);
                let patience = TRY.saturating_mul(endpoints.saturating_add(1)).max(TRIED);
                if now.duration_since(*since) < patience {
                    return None;
                }
                self.stage = Stage::Gateway;
                self.back_off(wall);
                Some(Turn::Unreachable)
            }
            Stage::Direct { since, answers } => {
                let lasted = now.duration_since(*since);
                // One of an earlier process has no keys yet.
                let without_keys = lasted >= SILENT && !peer.is_some_and(|peer| peer.is_alive(wall));
                let heard = heard.get(&key);
                let unproved = self.questions.hear(heard);
                let unanswered = self.questions.are_unanswered(now) || peer.is_some_and(|peer| answers.are_missing(peer, unproved, now));
                let silent = without_keys || unanswered;
                let proven = lasted >= PROVEN;
                let idle = now.duration_since(self.talked) >= IDLE;
                if !silent && !idle {
                    let way = heard.and_then(|heard| Some(Way { peer: key, endpoint: peer?.endpoint?, source: heard.source? }));
                    return self.questions.look(self.talked == now, limit, way, heard, now).map(Turn::Resized);
                }
                self.stage = Stage::Leaving { since: now };
                if proven || !silent {
                    self.failures = 0;
                }
                if !silent {
                    return Some(Turn::Idle);
                }
                self.back_off(wall);
                Some(Turn::Silent)
            }
            Stage::Leaving { since } => {
                if now.duration_since(*since) >= LEFT {
                    self.stage = Stage::Gateway;
                }
                None
            }
        }
    }

    /// The next full minute, the next but one, and so on: a number of minutes that both sides' clocks have at the same time.
    fn back_off(&mut self, wall: SystemTime) {
        let period = period(self.failures).as_secs();
        self.failures = self.failures.saturating_add(1);
        let seconds = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.retry = UNIX_EPOCH.checked_add(Duration::from_secs((seconds / period + 1) * period));
    }

    /// Whether it may be tried. A moment further away than the period that it was taken from is one of a clock that was ahead.
    fn is_due(&self, wall: SystemTime) -> bool {
        let longest = period(self.failures.saturating_sub(1));
        self.retry.is_none_or(|retry| retry.duration_since(wall).map_or(true, |left| left.is_zero() || left > longest))
    }

    fn ask(&mut self, from: &BTreeSet<IpAddr>) -> Option<Question> {
        let own = self.neighbour.networks.iter().filter(|network| **network == Network::single(network.address));
        let pairs = own.flat_map(|network| from.iter().map(|from| (*from, network.address)));
        let (from, to) = pairs.into_iter().find(|(from, to)| Family::of(*from) == Family::of(*to))?;
        Some(Question { from, to, probes: self.questions.take() })
    }

    fn peer(&self) -> Option<Peer> {
        let Neighbour { name: _, networks, endpoints } = &self.neighbour;
        let peer =
            Peer { endpoints: endpoints.clone(), relay: None, keepalive: KEEPALIVE, allowed: BTreeSet::new(), accepted: networks.clone() };
        match self.stage {
            Stage::Gateway => None,
            Stage::Trying { .. } => Some(peer),
            Stage::Direct { .. } => Some(Peer { allowed: networks.clone(), ..peer }),
            Stage::Leaving { .. } => Some(Peer { keepalive: 0, ..peer }),
        }
    }
}

/// How long a path is left alone that has failed so often before.
fn period(failures: u32) -> Duration {
    BACK_OFF.saturating_mul(1 << failures.min(DOUBLINGS))
}

/// Whose addresses are among them. Machines' networks do not overlap.
fn spoken_to(neighbours: &BTreeMap<PublicKey, Neighbour>, talked_to: &BTreeSet<IpAddr>) -> BTreeSet<PublicKey> {
    if talked_to.is_empty() {
        return BTreeSet::new();
    }
    let ranges = neighbours.iter().flat_map(|(key, neighbour)| neighbour.networks.iter().map(move |network| (network.range(), *key)));
    let by_first: BTreeMap<IpAddr, (IpAddr, PublicKey)> = ranges.map(|((first, last), key)| (first, (last, key))).collect();
    let owner = |address: &IpAddr| {
        let (first, (last, key)) = by_first.range(..=*address).next_back()?;
        (Family::of(*first) == Family::of(*address) && address <= last).then_some(*key)
    };
    talked_to.iter().filter_map(owner).collect()
}

#[cfg(test)]
mod tests;
