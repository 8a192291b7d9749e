//! What the kernel's WireGuard is told, and what it tells. Pure: see `linux/wireguard.h`.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use kube_pet_rules::Network;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer,
    WireguardPeerAttribute, WireguardPeerFlags, WireguardTimeSpec,
};

use crate::device::{Change, DeviceStatus, PeerStatus, Settings};
use crate::keys::PublicKey;
use crate::plan::first;

/// What is not so already; `None` if all is. A private key that is written again ends sessions, and so does a port.
pub(super) fn configure(name: &str, settings: &Settings, status: &DeviceStatus) -> Option<WireguardMessage> {
    let Settings { private_key, listen_port, mark } = settings;
    let mut attributes = vec![WireguardAttribute::IfName(name.to_owned())];
    if status.public_key != Some(private_key.public()) {
        attributes.push(WireguardAttribute::PrivateKey(private_key.bytes()));
    }
    if *listen_port != 0 && status.listen_port != *listen_port {
        attributes.push(WireguardAttribute::ListenPort(*listen_port));
    }
    if status.mark != *mark {
        attributes.push(WireguardAttribute::Fwmark(*mark));
    }
    (attributes.len() > 1).then_some(WireguardMessage { cmd: WireguardCmd::SetDevice, attributes })
}

/// Makes the kernel speak to all whose place is known: a new private key is told to nobody before the next packet, which may be a whole
/// interval away, or never be sent by us. `None` where there are none.
pub(super) fn wake(name: &str, status: &DeviceStatus) -> Option<WireguardMessage> {
    let woken = status.peers.iter().map(|(key, peer)| match peer.keepalive {
        0 if peer.endpoint.is_none() => Vec::new(),
        // An interval for as long as it takes to send by it.
        0 => vec![update(key, 1), silence(key)],
        seconds => vec![silence(key), WireguardPeer(interval(key, seconds))],
    });
    let peers: Vec<_> = woken.flatten().collect();
    (!peers.is_empty()).then(|| set_peers(name, peers))
}

/// No interval any more, if the peer is there. The kernel sends a packet when an interval follows on none; one that follows on another
/// waits for the end of that.
fn silence(peer: &PublicKey) -> WireguardPeer {
    update(peer, 0)
}

/// Another interval, if the peer is there.
fn update(peer: &PublicKey, seconds: u16) -> WireguardPeer {
    let mut attributes = interval(peer, seconds);
    attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly));
    WireguardPeer(attributes)
}

fn interval(peer: &PublicKey, seconds: u16) -> Vec<WireguardPeerAttribute> {
    vec![WireguardPeerAttribute::PublicKey(peer.bytes()), WireguardPeerAttribute::PersistentKeepalive(seconds)]
}

/// Never with the flag that replaces all peers.
fn set_peers(name: &str, peers: Vec<WireguardPeer>) -> WireguardMessage {
    let attributes = vec![WireguardAttribute::IfName(name.to_owned()), WireguardAttribute::Peers(peers)];
    WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }
}

pub(super) fn change(name: &str, change: &Change) -> WireguardMessage {
    let mut peers = Vec::new();
    let peer = match change {
        Change::Remove(peer) => {
            // Only an update: the request is not to make a peer that is gone already.
            let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
            vec![WireguardPeerAttribute::PublicKey(peer.bytes()), WireguardPeerAttribute::Flags(flags)]
        }
        Change::Set { peer, endpoint, keepalive, add, replace, all } => {
            let mut attributes = vec![WireguardPeerAttribute::PublicKey(peer.bytes())];
            if *replace {
                attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps));
            }
            if keepalive.is_some_and(|seconds| seconds > 0) {
                peers.push(silence(peer));
            }
            attributes.extend(endpoint.map(WireguardPeerAttribute::Endpoint));
            attributes.extend(keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
            let networks = if *replace { all } else { add };
            if !networks.is_empty() {
                attributes.push(WireguardPeerAttribute::AllowedIps(networks.iter().map(allowed).collect()));
            }
            attributes
        }
    };
    peers.push(WireguardPeer(peer));
    set_peers(name, peers)
}

pub(super) fn get(name: &str) -> WireguardMessage {
    WireguardMessage { cmd: WireguardCmd::GetDevice, attributes: vec![WireguardAttribute::IfName(name.to_owned())] }
}

/// From the parts of a dump: a peer with many networks goes on in the next part.
pub(super) fn status(messages: Vec<WireguardMessage>) -> DeviceStatus {
    let mut status = DeviceStatus::default();
    for attribute in messages.into_iter().flat_map(|message| message.attributes) {
        match attribute {
            WireguardAttribute::PublicKey(key) => status.public_key = Some(key.into()),
            WireguardAttribute::ListenPort(port) => status.listen_port = port,
            WireguardAttribute::Fwmark(mark) => status.mark = mark,
            WireguardAttribute::Peers(peers) => peers.into_iter().for_each(|peer| read_peer(peer, &mut status)),
            _ => {}
        }
    }
    status
}

fn read_peer(WireguardPeer(attributes): WireguardPeer, status: &mut DeviceStatus) {
    let key =
        attributes.iter().find_map(|a| if let WireguardPeerAttribute::PublicKey(key) = a { Some(PublicKey::from(*key)) } else { None });
    let Some(key) = key else { return };
    let peer: &mut PeerStatus = status.peers.entry(key).or_default();
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive = seconds,
            WireguardPeerAttribute::RxBytes(bytes) => peer.received = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.sent = bytes,
            WireguardPeerAttribute::AllowedIps(networks) => {
                peer.allowed.extend(networks.iter().filter_map(network).collect::<BTreeSet<_>>())
            }
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec { seconds, nano_seconds }) => {
                let (seconds, nanoseconds) = (u64::try_from(seconds).unwrap_or_default(), u64::try_from(nano_seconds).unwrap_or_default());
                // Zero: never.
                let at = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
                peer.last_handshake = (!at.is_zero()).then_some(UNIX_EPOCH + at);
            }
            _ => {}
        }
    }
}

fn allowed(network: &Network) -> WireguardAllowedIp {
    let Network { address, prefix } = first(network);
    let family = if address.is_ipv4() { WireguardAddressFamily::Ipv4 } else { WireguardAddressFamily::Ipv6 };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(address),
        WireguardAllowedIpAttr::Cidr(prefix),
    ])
}

fn network(WireguardAllowedIp(attributes): &WireguardAllowedIp) -> Option<Network> {
    let address = attributes.iter().find_map(|a| if let WireguardAllowedIpAttr::IpAddr(address) = a { Some(*address) } else { None })?;
    let prefix = attributes.iter().find_map(|a| if let WireguardAllowedIpAttr::Cidr(prefix) = a { Some(*prefix) } else { None })?;
    Some(Network { address, prefix })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable as _, ParseableParametrized as _};
    use netlink_packet_generic::GenlHeader;

    use super::*;
    use crate::keys::PrivateKey;

    fn bytes(message: &WireguardMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn settings() -> Settings {
        Settings { private_key: PrivateKey::generate().unwrap(), listen_port: 51820, mark: 0x4b50_0000 }
    }

    #[test]
    fn an_interface_that_is_right_already_is_told_nothing() {
        let settings = settings();
        let mut status = DeviceStatus {
            public_key: Some(settings.private_key.public()),
            listen_port: 51820,
            mark: 0x4b50_0000,
            ..DeviceStatus::default()
        };
        assert_eq!(configure("kp-tunnel", &settings, &status), None);
        status.listen_port = 1;
        let told = configure("kp-tunnel", &settings, &status).unwrap().attributes;
        assert_eq!(told, [WireguardAttribute::IfName("kp-tunnel".into()), WireguardAttribute::ListenPort(51820)]);
    }

    /// By hand from `linux/wireguard.h` and `linux/netlink.h`, on a machine with the low byte first.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_new_peer_in_the_bytes_of_the_kernels_header() {
        let set = Change::Set {
            peer: [7; 32].into(),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            keepalive: Some(25),
            add: BTreeSet::from(["10.9.0.1/24".parse().unwrap()]),
            replace: false,
            all: BTreeSet::new(),
        };
        let nest = |kind: u16, content: Vec<u8>| {
            let length = u16::try_from(content.len() + 4).unwrap();
            [length.to_le_bytes().to_vec(), (kind | 0x8000).to_le_bytes().to_vec(), content].concat()
        };
        let key = [vec![36, 0, 1, 0], vec![7; 32]].concat(); // WGPEER_A_PUBLIC_KEY
        let silent = [
            key.clone(),
            vec![6, 0, 5, 0, 0, 0, 0, 0], // WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
            vec![8, 0, 3, 0, 4, 0, 0, 0], // WGPEER_A_FLAGS: WGPEER_F_UPDATE_ONLY
        ];
        let network = [
            vec![6, 0, 1, 0, 2, 0, 0, 0],  // WGALLOWEDIP_A_FAMILY: AF_INET
            vec![8, 0, 2, 0, 10, 9, 0, 0], // WGALLOWEDIP_A_IPADDR
            vec![5, 0, 3, 0, 24, 0, 0, 0], // WGALLOWEDIP_A_CIDR_MASK
        ];
        let peer = [
            key,
            vec![20, 0, 4, 0, 2, 0, 0xca, 0x6c, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0], // WGPEER_A_ENDPOINT: sockaddr_in
            vec![6, 0, 5, 0, 25, 0, 0, 0],
            nest(9, nest(0, network.concat())), // WGPEER_A_ALLOWEDIPS, the first of them
        ];
        let peers = [nest(0, silent.concat()), nest(0, peer.concat())].concat();
        let expected = [vec![7, 0, 2, 0, b'w', b'g', 0, 0], nest(8, peers)].concat(); // WGDEVICE_A_IFNAME, WGDEVICE_A_PEERS
        let written = bytes(&change("wg", &set));
        assert_eq!(written, expected);
    }

    #[test]
    fn who_is_not_spoken_to_in_intervals_is_woken_by_one_that_is_taken_back() {
        let peer = PeerStatus { endpoint: Some("192.0.2.1:1".parse().unwrap()), ..PeerStatus::default() };
        let status = DeviceStatus { peers: [([9; 32].into(), peer)].into(), ..DeviceStatus::default() };
        let message = wake("wg", &status).unwrap();
        let only_if_there = WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly);
        let told = [1, 0].map(|seconds| {
            let interval = WireguardPeerAttribute::PersistentKeepalive(seconds);
            WireguardPeer(vec![WireguardPeerAttribute::PublicKey([9; 32]), interval, only_if_there.clone()])
        });
        assert_eq!(message.attributes[1], WireguardAttribute::Peers(told.to_vec()));
    }

    #[test]
    fn only_those_that_are_spoken_to_in_intervals_or_whose_place_is_known_are_woken() {
        let peer = |keepalive| PeerStatus { keepalive, ..PeerStatus::default() };
        let mut status = DeviceStatus { peers: [([7; 32].into(), peer(25)), ([8; 32].into(), peer(0))].into(), ..DeviceStatus::default() };
        let message = wake("wg", &status).unwrap();
        let WireguardAttribute::Peers(peers) = &message.attributes[1] else { panic!("{message:?}") };
        assert_eq!(peers.len(), 2, "{peers:?}");
        assert!(peers.iter().all(|peer| peer.0[0] == WireguardPeerAttribute::PublicKey([7; 32])), "{peers:?}");
        let intervals: Vec<_> = peers.iter().map(|peer| peer.0[1].clone()).collect();
        assert_eq!(intervals, [0, 25].map(WireguardPeerAttribute::PersistentKeepalive));
        status.peers.remove(&[7; 32].into());
        assert_eq!(wake("wg", &status), None);
    }

    #[test]
    fn only_what_is_taken_away_replaces_networks_and_nothing_replaces_peers() {
        let all = BTreeSet::from(["10.9.0.0/24".parse().unwrap()]);
        let set = Change::Set { peer: [7; 32].into(), endpoint: None, keepalive: None, add: BTreeSet::new(), replace: true, all };
        for (change_, flags) in [
            (set, WireguardPeerFlags::ReplaceAllowedIps),
            (Change::Remove([7; 32].into()), WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly),
        ] {
            let message = change("wg", &change_);
            assert!(!message.attributes.iter().any(|a| matches!(a, WireguardAttribute::Flags(_))));
            let WireguardAttribute::Peers(peers) = &message.attributes[1] else { panic!("{message:?}") };
            assert!(peers[0].0.contains(&WireguardPeerAttribute::Flags(flags)), "{message:?}");
        }
    }

    #[test]
    fn a_dump_in_parts_is_put_together() {
        let ip = |text: &str| allowed(&text.parse().unwrap());
        let first = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey([7; 32]),
            WireguardPeerAttribute::Endpoint("[2001:db8::1]:7".parse().unwrap()),
            WireguardPeerAttribute::PersistentKeepalive(25),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec { seconds: 100, nano_seconds: 5 }),
            WireguardPeerAttribute::RxBytes(3),
            WireguardPeerAttribute::TxBytes(4),
            WireguardPeerAttribute::AllowedIps(vec![ip("10.1.0.0/16")]),
        ]);
        let second =
            WireguardPeer(vec![WireguardPeerAttribute::PublicKey([7; 32]), WireguardPeerAttribute::AllowedIps(vec![ip("fd00::/64")])]);
        let never = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey([8; 32]),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec::default()),
        ]);
        let part = |attributes| WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        let parts = [
            part(vec![
                WireguardAttribute::PublicKey([1; 32]),
                WireguardAttribute::ListenPort(9),
                WireguardAttribute::Fwmark(2),
                WireguardAttribute::Peers(vec![first]),
            ]),
            part(vec![WireguardAttribute::Peers(vec![second, never])]),
        ];
        // Through bytes, as the kernel sends them.
        let header = GenlHeader { cmd: 0, version: 1 };
        let read = parts.iter().map(|part| WireguardMessage::parse_with_param(&bytes(part), header).unwrap()).collect();
        let status = status(read);
        assert_eq!((status.public_key, status.listen_port, status.mark), (Some([1; 32].into()), 9, 2));
        let peer = &status.peers[&PublicKey::from([7; 32])];
        assert_eq!((peer.endpoint, peer.keepalive, peer.received, peer.sent), (Some("[2001:db8::1]:7".parse().unwrap()), 25, 3, 4));
        assert_eq!(peer.last_handshake, Some(UNIX_EPOCH + Duration::new(100, 5)));
        assert_eq!(peer.allowed, BTreeSet::from(["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()]));
        assert_eq!(status.peers[&PublicKey::from([8; 32])].last_handshake, None);
    }
}
