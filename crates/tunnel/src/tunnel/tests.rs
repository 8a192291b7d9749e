use std::sync::Mutex;

use super::*;
use crate::device::Change;
use crate::keys::PrivateKey;

/// An interface as it is remembered; and how often all of it was asked for.
#[derive(Default)]
struct Remembered {
    peers: BTreeMap<PublicKey, PeerStatus>,
    accepted: BTreeMap<PublicKey, BTreeSet<Network>>,
    looks: usize,
}

struct Fake(Arc<Mutex<Remembered>>);

impl Wireguard for Fake {
    fn implementation(&self) -> Implementation {
        Implementation::Userspace
    }

    fn configure(&mut self, _: &Settings) -> Result<(), DeviceError> {
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), DeviceError> {
        let mut device = self.0.lock().unwrap();
        for change in changes {
            match change {
                Change::Remove(key) => drop((device.peers.remove(key), device.accepted.remove(key))),
                Change::Set { peer, endpoint: _, keepalive, add, replace, all } => {
                    let given = if *replace { all } else { add };
                    device.peers.values_mut().for_each(|other| other.allowed.retain(|network| !given.contains(network)));
                    let of = device.peers.entry(*peer).or_default();
                    of.keepalive = keepalive.unwrap_or(of.keepalive);
                    if *replace {
                        of.allowed.clear();
                    }
                    of.allowed.extend(given);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, peer: &PublicKey, sources: &BTreeSet<Network>) {
        let mut device = self.0.lock().unwrap();
        assert!(device.peers.contains_key(peer));
        device.accepted.insert(*peer, sources.clone());
    }

    fn status(&mut self) -> Result<DeviceStatus, DeviceError> {
        let mut device = self.0.lock().unwrap();
        device.looks += 1;
        Ok(DeviceStatus { peers: device.peers.clone(), ..DeviceStatus::default() })
    }

    fn peers(&mut self, keys: &[PublicKey]) -> Result<BTreeMap<PublicKey, PeerStatus>, DeviceError> {
        let device = self.0.lock().unwrap();
        Ok(keys.iter().filter_map(|key| Some((*key, device.peers.get(key)?.clone()))).collect())
    }
}

fn tunnel() -> (Tunnel, Arc<Mutex<Remembered>>) {
    let settings = Settings { private_key: PrivateKey::generate().unwrap(), listen_port: 0, mark: 1 };
    let device = Arc::new(Mutex::new(Remembered::default()));
    let tunnel = Tunnel {
        device: Box::new(Fake(Arc::clone(&device))),
        config: Config { link: TunnelLink::default(), settings, mode: Mode::Userspace },
        // The link is not looked at in a test.
        looked: Some(Instant::now() + Duration::from_secs(3600)),
        peers: Arc::default(),
        claims: Claims::default(),
        settled: None,
        paths: BTreeMap::new(),
        resolver: Resolver::new(),
    };
    (tunnel, device)
}

fn apply(tunnel: &mut Tunnel, peers: &BTreeMap<PublicKey, Peer>) {
    let Config { link, settings, .. } = tunnel.config.clone();
    tunnel.apply(&link, &settings, &Arc::new(peers.clone())).unwrap();
}

/// What the interface has to have: of two that want a network, the first.
fn allowed(peers: &BTreeMap<PublicKey, Peer>) -> (BTreeMap<PublicKey, BTreeSet<Network>>, bool) {
    let (mut given, mut contested) = (BTreeSet::new(), false);
    let all = peers.iter().map(|(key, peer)| {
        let own: BTreeSet<Network> = peer.allowed.iter().copied().filter(|network| given.insert(*network)).collect();
        contested |= own != peer.allowed;
        (*key, own)
    });
    (all.collect(), contested)
}

#[test]
fn peers_that_change_alone_end_as_if_all_had_been_looked_at() {
    let (mut tunnel, device) = tunnel();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let network = |number: u64| format!("10.{number}.0.0/16").parse::<Network>().unwrap();
    let mut peers: BTreeMap<PublicKey, Peer> = BTreeMap::new();
    let (mut alone, mut with_all, mut contested_before) = (0, 0, false);
    for step in 0..3000 {
        for _ in 0..=below(3) {
            let number = below(24);
            let key = PublicKey::from([u8::try_from(number).unwrap(); 32]);
            if below(4) == 0 {
                peers.remove(&key);
                continue;
            }
            // One in thirty wants what may be another's.
            let wanted = (0..below(3)).map(|_| if below(30) == 0 { network(below(48)) } else { network(number * 2 + below(2)) }).collect();
            let accepted = BTreeSet::from([network(100 + below(3))]);
            peers.insert(key, Peer { keepalive: 25, allowed: wanted, accepted, ..Peer::default() });
        }
        let (expected, contested) = allowed(&peers);
        let looks = device.lock().unwrap().looks;
        let changes = *tunnel.peers != peers;
        apply(&mut tunnel, &peers);
        let device = device.lock().unwrap();
        let actual: BTreeMap<_, _> = device.peers.iter().map(|(key, peer)| (*key, peer.allowed.clone())).collect();
        assert_eq!(actual, expected, "step {step}");
        let accepted: BTreeMap<_, _> = peers.iter().map(|(key, peer)| (*key, peer.accepted.clone())).collect();
        assert_eq!(device.accepted, accepted, "step {step}");
        let looked = device.looks > looks;
        assert_eq!(looked, step == 0 || contested || contested_before || !changes, "step {step}");
        *(if looked { &mut with_all } else { &mut alone }) += 1;
        contested_before = contested;
    }
    assert!(alone > 300 && with_all > 300, "{alone} {with_all}");
}

#[test]
fn changes_that_do_not_end_do_not_keep_all_from_being_looked_at() {
    let (mut tunnel, device) = tunnel();
    let looks = |tunnel: &mut Tunnel, keepalive: u16| {
        let before = device.lock().unwrap().looks;
        let peer = Peer { keepalive, ..Peer::default() };
        apply(tunnel, &BTreeMap::from([(PublicKey::from([1; 32]), peer)]));
        device.lock().unwrap().looks - before
    };
    assert_eq!([looks(&mut tunnel, 1), looks(&mut tunnel, 2), looks(&mut tunnel, 3)], [1, 0, 0]);
    tunnel.settled = tunnel.settled.and_then(|settled| settled.checked_sub(SHORT));
    assert_eq!([looks(&mut tunnel, 4), looks(&mut tunnel, 5)], [1, 0]);
}
