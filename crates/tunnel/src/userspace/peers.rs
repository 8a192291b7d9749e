//! The peers, by key, by the number in their packets, and by the networks that they have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use boringtun::noise::Tunn;
use boringtun::x25519;
use kube_pet_rules::Network;

use super::socket::Socket;
use super::{Keys, lock, read, write};
use crate::device::{DeviceError, PeerStatus};
use crate::keys::PublicKey;
use crate::plan::first;

/// Numbers of peers have 24 bits: the other 8 count a peer's sessions.
const NUMBERS: u32 = 1 << 24;
/// Milliseconds; two handshakes are further apart.
const SAME_HANDSHAKE: u64 = 500;
/// A session is of no use any more (the protocol's Reject-After-Time).
const USELESS: Duration = Duration::from_secs(180);
/// A clock that is only kept right is moved by less.
const MOVED: Duration = Duration::from_secs(2);

pub(super) struct Peer {
    pub(super) key: PublicKey,
    number: u32,
    pub(super) session: Mutex<Tunn>,
    /// From when on the session counts the time that its handshakes tell.
    began: Mutex<(SystemTime, Instant)>,
    endpoint: RwLock<Option<SocketAddr>>,
    /// Kept here and not in the session, which can be told only once.
    keepalive: AtomicU16,
    kept: Mutex<Option<Instant>>,
    /// Milliseconds since 1970; 0 for never.
    handshake: AtomicU64,
    /// Bytes as they are on the wire, as the kernel's WireGuard counts them: a packet that says nothing counts, too.
    sent: AtomicU64,
    received: AtomicU64,
    /// Sources that are taken from it although they are another's.
    accepted: RwLock<BTreeSet<Network>>,
}

impl Peer {
    fn new(key: PublicKey, number: u32, keys: &Keys) -> Self {
        Self {
            key,
            number,
            session: Mutex::new(new_session(key, number, keys)),
            began: Mutex::new((SystemTime::now(), Instant::now())),
            endpoint: RwLock::new(None),
            keepalive: AtomicU16::new(0),
            kept: Mutex::new(None),
            handshake: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            accepted: RwLock::new(BTreeSet::new()),
        }
    }

    /// Sessions end, and with them what was known of the last handshake.
    pub(super) fn rekey(&self, keys: &Keys) {
        let mut session = lock(&self.session);
        session.set_static_private(keys.private.0.clone(), keys.public, Some(Arc::clone(&keys.limiter)));
        self.handshake.store(0, Ordering::Relaxed);
    }

    /// Whether the session has begun anew, which costs nothing where there is none in use: it told an earlier time than the clock, which was
    /// set forward since, and a peer that has seen later ones refuses that. A machine that keeps no time is off by months until it is told.
    pub(super) fn catch_up(&self, session: &mut Tunn, keys: &Keys, now: (SystemTime, Instant)) -> bool {
        let mut began = lock(&self.began);
        let begins = is_slow(*began, now) && session.time_since_last_handshake().is_none_or(|ago| ago > USELESS);
        if begins {
            *session = new_session(self.key, self.number, keys);
            *began = now;
        }
        begins
    }

    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        *read(&self.endpoint)
    }

    pub(super) fn send(&self, socket: &Socket, sealed: &[u8], to: SocketAddr) {
        self.sent.fetch_add(sealed.len() as u64, Ordering::Relaxed);
        socket.send(sealed, to);
    }

    /// A packet was really the peer's.
    pub(super) fn heard(&self, sealed: &[u8]) {
        self.received.fetch_add(sealed.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn accept(&self, sources: &BTreeSet<Network>) {
        if *read(&self.accepted) != *sources {
            write(&self.accepted).clone_from(sources);
        }
    }

    pub(super) fn accepts(&self, source: IpAddr) -> bool {
        read(&self.accepted).iter().any(|network| network.contains(source))
    }

    /// Told by configuration, or learnt from a packet that was really the peer's.
    pub(super) fn set_endpoint(&self, endpoint: SocketAddr) {
        if self.endpoint() != Some(endpoint) {
            *write(&self.endpoint) = Some(endpoint);
        }
    }

    pub(super) fn set_keepalive(&self, seconds: u16) {
        self.keepalive.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn keeps_alive(&self) -> bool {
        self.keepalive.load(Ordering::Relaxed) != 0
    }

    /// Whether a packet is due that keeps the way open. Asked, it is taken as sent.
    pub(super) fn keepalive_due(&self, now: Instant) -> bool {
        let seconds = self.keepalive.load(Ordering::Relaxed);
        let mut kept = lock(&self.kept);
        let due = seconds != 0 && kept.is_none_or(|kept| now.duration_since(kept) >= Duration::from_secs(seconds.into()));
        if due {
            *kept = Some(now);
        }
        due
    }

    /// Remembers the last handshake: a session forgets it when it ends. The same one, computed by two clocks again, is the same moment.
    pub(super) fn note_handshake(&self, session: &Tunn) {
        let Some(ago) = session.time_since_last_handshake() else { return };
        let at = SystemTime::now().checked_sub(ago).and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or_default();
        if at.abs_diff(self.handshake.load(Ordering::Relaxed)) >= SAME_HANDSHAKE {
            self.handshake.store(at, Ordering::Relaxed);
        }
    }

    pub(super) fn status(&self, allowed: BTreeSet<Network>) -> PeerStatus {
        let session = lock(&self.session);
        self.note_handshake(&session);
        let handshake = self.handshake.load(Ordering::Relaxed);
        PeerStatus {
            endpoint: self.endpoint(),
            keepalive: self.keepalive.load(Ordering::Relaxed),
            allowed,
            last_handshake: (handshake != 0).then(|| UNIX_EPOCH + Duration::from_millis(handshake)),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

fn new_session(key: PublicKey, number: u32, keys: &Keys) -> Tunn {
    Tunn::new(keys.private.0.clone(), x25519::PublicKey::from(key.bytes()), None, None, number, Some(Arc::clone(&keys.limiter)))
}

/// Whether the time is later than what is counted from a beginning.
fn is_slow((wall, at): (SystemTime, Instant), now: (SystemTime, Instant)) -> bool {
    wall.checked_add(now.1.saturating_duration_since(at)).and_then(|told| told.checked_add(MOVED)).is_some_and(|told| told < now.0)
}

pub(super) struct Table {
    by_key: BTreeMap<PublicKey, Arc<Peer>>,
    by_number: HashMap<u32, Arc<Peer>>,
    /// By length of prefix, the longest first.
    by_network: BTreeMap<Reverse<u8>, HashMap<IpAddr, Arc<Peer>>>,
    /// What `by_network` has, by peer: thousands of peers are asked for theirs every second.
    networks: HashMap<PublicKey, BTreeSet<Network>>,
    next: u32,
}

impl Table {
    pub(super) fn new() -> Result<Self, DeviceError> {
        // From a number that nobody can guess, as the protocol has it.
        let mut bytes = [0; 4];
        let failed = |e: rustix::io::Errno| DeviceError::System { doing: "asking for random bytes", source: e.into() };
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
        Ok(Self {
            by_key: BTreeMap::new(),
            by_number: HashMap::new(),
            by_network: BTreeMap::new(),
            networks: HashMap::new(),
            next: u32::from_ne_bytes(bytes) % NUMBERS,
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_key.values()
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    /// The peer that a packet names as its receiver's own number for it.
    pub(super) fn by_receiver(&self, receiver: u32) -> Option<&Arc<Peer>> {
        self.by_number.get(&(receiver >> 8))
    }

    /// The peer that has the address.
    pub(super) fn by_address(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.by_network.iter().find_map(|(Reverse(prefix), peers)| {
            let width = if address.is_ipv4() { 32 } else { 128 };
            (*prefix <= width).then(|| peers.get(&first(&Network { address, prefix: *prefix }).address)).flatten()
        })
    }

    pub(super) fn ensure(&mut self, key: PublicKey, keys: &Keys) -> Arc<Peer> {
        if let Some(peer) = self.by_key.get(&key) {
            return Arc::clone(peer);
        }
        while self.by_number.contains_key(&self.next) {
            self.next = (self.next + 1) % NUMBERS;
        }
        let peer = Arc::new(Peer::new(key, self.next, keys));
        self.by_key.insert(key, Arc::clone(&peer));
        self.by_number.insert(peer.number, Arc::clone(&peer));
        self.next = (self.next + 1) % NUMBERS;
        peer
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        self.take_networks(key);
        if let Some(peer) = self.by_key.remove(key) {
            self.by_number.remove(&peer.number);
        }
    }

    pub(super) fn take_networks(&mut self, key: &PublicKey) {
        for network in self.networks.remove(key).unwrap_or_default() {
            let length = Reverse(network.prefix);
            let Some(peers) = self.by_network.get_mut(&length) else { continue };
            peers.remove(&network.address);
            if peers.is_empty() {
                self.by_network.remove(&length);
            }
        }
    }

    /// Another peer that has it loses it.
    pub(super) fn give_network(&mut self, network: Network, peer: &Arc<Peer>) {
        let network = first(&network);
        let before = self.by_network.entry(Reverse(network.prefix)).or_default().insert(network.address, Arc::clone(peer));
        if let Some(before) = before
            && let Some(networks) = self.networks.get_mut(&before.key)
        {
            networks.remove(&network);
        }
        self.networks.entry(peer.key).or_default().insert(network);
    }

    pub(super) fn networks(&self, key: &PublicKey) -> BTreeSet<Network> {
        self.networks.get(key).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use boringtun::noise::TunnResult;

    use super::*;
    use crate::keys::PrivateKey;

    #[test]
    fn a_session_that_tells_an_earlier_time_begins_anew_unless_it_is_in_use() {
        let (ours, theirs) = (Keys::new(PrivateKey::generate().unwrap()), Keys::new(PrivateKey::generate().unwrap()));
        let peer = Peer::new(theirs.private.public(), 1, &ours);
        let began = *lock(&peer.began);
        let mut session = lock(&peer.session);
        let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
        assert!(!peer.catch_up(&mut session, &ours, (began.0 + hour, began.1 + hour)), "an hour later it is an hour later");
        assert!(!peer.catch_up(&mut session, &ours, (began.0 - hour, began.1 + second)), "what is told is late enough");
        let moved = (began.0 + hour, began.1 + second);
        assert!(peer.catch_up(&mut session, &ours, moved));
        assert!(!peer.catch_up(&mut session, &ours, moved), "once");
        // Two sides that have agreed on keys.
        let other = Peer::new(ours.private.public(), 2, &theirs);
        let mut far = lock(&other.session);
        let (mut there, mut back, mut last) = ([0; 256], [0; 256], [0; 256]);
        let TunnResult::WriteToNetwork(opening) = session.format_handshake_initiation(&mut there, false) else { panic!("no opening") };
        let TunnResult::WriteToNetwork(answer) = far.decapsulate(None, opening, &mut back) else { panic!("no answer") };
        let TunnResult::WriteToNetwork(_) = session.decapsulate(None, answer, &mut last) else { panic!("no session") };
        assert!(!peer.catch_up(&mut session, &ours, (moved.0 + hour, moved.1 + second)), "it is in use");
    }

    #[test]
    fn the_longest_prefix_wins_and_a_network_has_one_peer() {
        let keys = Keys::new(PrivateKey::generate().unwrap());
        let mut table = Table::new().unwrap();
        let (a, b) = (table.ensure([1; 32].into(), &keys), table.ensure([2; 32].into(), &keys));
        table.give_network("10.0.0.0/8".parse().unwrap(), &a);
        table.give_network("10.7.0.0/16".parse().unwrap(), &b);
        table.give_network("0.0.0.0/0".parse().unwrap(), &a);
        table.give_network("fd00::/64".parse().unwrap(), &b);
        let owner = |table: &Table, ip: &str| table.by_address(ip.parse().unwrap()).map(|peer| peer.key);
        assert_eq!(owner(&table, "10.7.1.1"), Some(b.key));
        assert_eq!(owner(&table, "10.8.1.1"), Some(a.key));
        assert_eq!(owner(&table, "192.0.2.1"), Some(a.key));
        assert_eq!(owner(&table, "fd00::9"), Some(b.key));
        assert_eq!(owner(&table, "fd01::9"), None);
        table.give_network("10.7.0.0/16".parse().unwrap(), &a);
        assert_eq!(table.networks(&b.key), BTreeSet::from(["fd00::/64".parse().unwrap()]));
        assert_eq!(table.networks(&a.key), BTreeSet::from(["10.0.0.0/8", "10.7.0.0/16", "0.0.0.0/0"].map(|text| text.parse().unwrap())));
        table.remove(&b.key);
        assert_eq!(owner(&table, "fd00::9"), None);
        assert!(table.by_receiver(b.number << 8 | 3).is_none());
        assert_eq!(table.by_receiver(a.number << 8 | 3).map(|peer| peer.key), Some(a.key));
    }
}
